"""Bulk handlers: many operations of one route, performed in one call. Pure.

Such operations of a chunk form *lots*. A lot takes one slot and one transaction; what the handler returns is a list
with an outcome for each operation: a result, or an exception as if it had been raised for that one alone.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from penstock.chunk import Operation
from penstock.context import Retry
from penstock.errors import Misconfigured
from penstock.outcome import Verdict
from penstock.route import InvalidOperation, Route
from penstock.running.verdict import WrongNumber, as_json, invalid

Lot = tuple[Operation, ...]
Row = tuple[Operation, dict[str, Any]]  # with the arguments that are its part of each list


class CallFailed(Exception):
    """A bulk call raised, which tells nothing of the single operations: they are to be tried singly.

    `cut_off`: its time was up, or it cancelled itself, which may have cost the connection of a transaction that others
    share.
    """

    def __init__(self, *, cut_off: bool) -> None:
        super().__init__()
        self.cut_off = cut_off


def together(pairs: Iterable[tuple[Route | None, Operation]]) -> list[Lot]:
    """All operations: those of one bulk handler in lots, as large as it takes them, and each other by itself."""
    members: dict[str | int, tuple[Route | None, list[Operation]]] = {}
    for route, operation in pairs:
        key = route.name if route is not None and route.is_bulk else operation.index
        members.setdefault(key, (route, []))[1].append(operation)
    return [lot for route, operations in members.values() for lot in _cut(route, operations)]


def neighbours(pairs: Iterable[tuple[Route | None, Operation]]) -> list[Lot]:
    """The same in their order: only those that stand beside each other are in a lot."""
    runs = itertools.groupby(pairs, key=lambda pair: pair[0] and pair[0].name)
    return [lot for _, run in runs for lot in together(run)]


def one_by_one(operations: Iterable[Operation]) -> list[Lot]:
    """Put each operation into a lot of its own."""
    return [(operation,) for operation in operations]


def _cut(route: Route | None, operations: Sequence[Operation]) -> Iterator[Lot]:
    size = route.policy.max_size if route is not None else None
    size = size or len(operations)
    for start in range(0, len(operations), size):
        yield tuple(operations[start : start + size])


def validate(route: Route, lot: Lot) -> tuple[list[Row], dict[int, Verdict]]:
    """The rows of a call, and what became of the operations that the handler does not take."""
    rows: list[Row] = []
    verdicts: dict[int, Verdict] = {}
    for operation in lot:
        try:
            rows.append((operation, route.arguments(operation.path, operation.body)))
        except InvalidOperation as error:
            verdicts[operation.index] = invalid(operation, error)
    return rows, verdicts


def read_outcomes(route: Route, returned: Any, count: int) -> list[Any]:
    """For each operation its result as JSON, or an exception.

    Raises WrongNumber; or Unserializable where there are several: then they are tried singly, and only the one at
    fault has failed.
    """
    if not isinstance(returned, list | tuple):
        raise WrongNumber(
            f"Let the bulk handler of {route.name} return a list with an outcome for each of its {count} operations: "
            f"it returned a value of type {type(returned).__name__}."
        )
    if len(returned) != count:
        raise WrongNumber(
            f"Let the bulk handler of {route.name} return an outcome for each operation, in their order: it was given "
            f"{count} and returned {len(returned)}."
        )
    return [outcome if isinstance(outcome, BaseException) else as_json(route, outcome) for outcome in returned]


def is_about_all(error: BaseException) -> bool:
    """Whether what a bulk call raised is about each of its operations, so that trying them singly would not help.

    `Retry` is: the handler asks for another attempt, at all that it was given.
    """
    return isinstance(error, WrongNumber | Retry | Misconfigured)
