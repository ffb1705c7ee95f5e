"""The outcomes of a record as lines of JSON. They are joined from the bytes of the record, which are not parsed. Pure.

A line is the same as `encode(outcome_body(outcome))`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic_core import to_json

from penstock.outcome import OutcomeState
from penstock.record import OutcomeColumns

_LINE_BYTES = 64  # of the names in a line, the id and the status


def outcome_lines(columns: OutcomeColumns, positions: Sequence[int]) -> list[bytes]:
    """Return the lines of the outcomes at these positions of a record."""
    pick = _picker(positions)
    ids: Sequence[Any] = columns.indexes if columns.ids is None else columns.ids
    id_ = b'"%d"' if columns.ids is None else b"%b"
    line = b'{"id":%b,"status":%%b,"result":%b}' % (id_, _result_template(columns))
    rows = zip(*map(pick, (ids, columns.statuses, *columns.results)), strict=True)
    lines = [line % row for row in rows]
    states = pick(columns.states)
    if states.count(OutcomeState.SUCCEEDED) < len(states):
        failed_line = b'{"id":%b,"status":%%b,"error":%%b}' % id_
        for row, position in enumerate(positions):
            if states[row] != OutcomeState.SUCCEEDED:
                lines[row] = failed_line % (ids[position], columns.statuses[position], columns.errors[position])
    return lines


def line_with_result(columns: OutcomeColumns, position: int, result: bytes) -> bytes:
    """Return the line of an outcome whose result is not in the record."""
    return b'{"id":%b,"status":%b,"result":%b}' % (_id_at(columns, position), columns.statuses[position], result)


def line_without_result(columns: OutcomeColumns, position: int, why: str) -> bytes:
    """Return the line of an outcome whose result does not exist any more."""
    values = _id_at(columns, position), columns.statuses[position], to_json(why)
    return b'{"id":%b,"status":%b,"result":null,"resultMissing":%b}' % values


def _id_at(columns: OutcomeColumns, position: int) -> bytes:
    return b'"%d"' % columns.indexes[position] if columns.ids is None else bytes(columns.ids[position])


def line_sizes(columns: OutcomeColumns) -> list[int]:
    """Return about how many bytes each line has."""
    names = _LINE_BYTES + len(_result_template(columns))
    values = zip(*(map(len, column) for column in (columns.errors, *columns.results)), strict=True)
    sizes = [names + sum(lengths) for lengths in values]
    for position, result in columns.stored.items():
        sizes[position] += result.size
    return sizes


def _result_template(columns: OutcomeColumns) -> bytes:
    if columns.members is None:
        return b"%b"
    return b"{%b}" % b",".join(bytes(name).replace(b"%", b"%%") + b":%b" for name in columns.members)


def _picker(positions: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return a function that picks these positions from a column. Positions that follow each other are a slice."""
    first, count = positions[0], len(positions)
    if positions == list(range(first, first + count)):
        return lambda column: column[first : first + count]
    return lambda column: [column[position] for position in positions]
