"""The outcomes of a record as lines of JSON. They are joined from the bytes of the record, which are not parsed. Pure.

A line is the same as `encode(outcome_body(outcome))`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from pydantic_core import to_json

from penstock.outcome import SUCCEEDED
from penstock.record import OutcomeColumns

_PIECES = 4_096  # that are joined at a time: Python takes 90 bytes for each of them
_LINE_BYTES = 64  # of the names in a line, the id and the status


def outcome_lines(columns: OutcomeColumns, positions: Sequence[int]) -> list[bytes]:
    """Return the lines of the outcomes at these positions of a record in a few texts, with line feeds in each."""
    count = max(1, _PIECES // (2 * len(columns.results) + 5))
    return [_text(columns, positions[start : start + count]) for start in range(0, len(positions), count)]


def _text(columns: OutcomeColumns, positions: Sequence[int]) -> bytes:
    """Return lines as one text. Each column is put between its names as a whole.

    That takes a third of the time of one line after the other.
    """
    pick = _picker(positions)
    states = pick(columns.states)
    succeeded = states.count(SUCCEEDED)
    before_id, before_status, ids = _ids(columns, pick)
    names, values = _results(columns) if succeeded else ([b',"error":', b"}\n"], [columns.errors])
    pieces = _alternate([before_id, before_status, *names], [ids, *map(pick, (columns.statuses, *values))])
    if 0 < succeeded < len(states):
        width = len(pieces) // len(states)
        for row in (row for row, state in enumerate(states) if state != SUCCEEDED):
            line = _failed_line(columns, positions[row])
            pieces[width * row : width * (row + 1)] = [*[b""] * (width - 1), line]
    pieces[-1] = pieces[-1][:-1]  # the line feed
    return b"".join(pieces)


def _alternate(names: Sequence[bytes], columns: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the pieces of all lines: the first name, the value of the first column, the second name, and so on."""
    count, width = len(columns[0]), len(names) + len(columns)
    pieces: list[Any] = [b""] * (count * width)
    for number, name in enumerate(names):
        pieces[2 * number :: width] = [name] * count
    for number, column in enumerate(columns):
        pieces[2 * number + 1 :: width] = column
    return pieces


def _ids(columns: OutcomeColumns, pick: Callable[[Sequence[Any]], Sequence[Any]]) -> tuple[bytes, bytes, Sequence[Any]]:
    """Return what comes before and after an id, and the ids."""
    if columns.ids is not None:
        return b'{"id":', b',"status":', pick(columns.ids)
    indexes = msgspec.json.encode(list(pick(columns.indexes)))
    return b'{"id":"', b'","status":', indexes[1:-1].split(b",")


def _results(columns: OutcomeColumns) -> tuple[list[bytes], Sequence[Sequence[Any]]]:
    """Return the names before each column of the results, with what comes at the end, and the columns."""
    if columns.members is None:
        return [b',"result":', b"}\n"], columns.results
    first, *others = map(bytes, columns.members)
    return [b',"result":{%b:' % first, *(b",%b:" % name for name in others), b"}}\n"], columns.results


def _failed_line(columns: OutcomeColumns, position: int) -> bytes:
    values = _id_at(columns, position), columns.statuses[position], columns.errors[position]
    return b'{"id":%b,"status":%b,"error":%b}\n' % values


def line_with_result(columns: OutcomeColumns, position: int, result: bytes) -> bytes:
    """Return the line of an outcome whose result is not in the record."""
    return b'{"id":%b,"status":%b,"result":%b}' % (_id_at(columns, position), columns.statuses[position], result)


def line_without_result(columns: OutcomeColumns, position: int, why: str) -> bytes:
    """Return the line of an outcome whose result does not exist any more."""
    values = _id_at(columns, position), columns.statuses[position], to_json(why)
    return b'{"id":%b,"status":%b,"result":null,"resultMissing":%b}' % values


def _id_at(columns: OutcomeColumns, position: int) -> bytes:
    return b'"%d"' % columns.indexes[position] if columns.ids is None else bytes(columns.ids[position])


def size_of_lines(columns: OutcomeColumns) -> int:
    """Return about how many bytes all lines of a record have."""
    stored = sum(result.size for result in columns.stored.values())
    return columns.value_bytes + len(columns.states) * _name_bytes(columns) + stored


def line_sizes(columns: OutcomeColumns) -> list[int]:
    """Return about how many bytes each line has."""
    names = _name_bytes(columns)
    values = zip(*(map(len, column) for column in (columns.errors, *columns.results)), strict=True)
    sizes = [names + sum(lengths) for lengths in values]
    for position, result in columns.stored.items():
        sizes[position] += result.size
    return sizes


def _name_bytes(columns: OutcomeColumns) -> int:
    return _LINE_BYTES + sum(map(len, _results(columns)[0]))


def _picker(positions: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return a function that picks these positions from a column. Positions that follow each other are a slice."""
    first, count = positions[0], len(positions)
    if positions == list(range(first, first + count)):
        return lambda column: column[first : first + count]
    return lambda column: [column[position] for position in positions]
