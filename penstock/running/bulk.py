"""Lots: operations that run together. Pure.

A bulk handler performs many operations of one route in one call; these form a *lot*. Every other operation is a lot of
one. A lot takes one slot and one transaction. A bulk handler returns a list with an outcome for each operation: a
result, or an exception that counts as raised for that operation alone.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from penstock.chunk import Operation
from penstock.context import Retry, Throttled
from penstock.errors import Misconfigured
from penstock.outcome import Verdict
from penstock.route import InvalidOperation, Route
from penstock.running.verdict import WrongNumber, as_json, invalid

Lot = tuple[Operation, ...]
Row = tuple[Operation, dict[str, Any]]  # an operation and the arguments for its handler


class CallFailed(Exception):
    """A bulk call failed as a whole, which tells nothing about its single operations. Run them one by one."""


def together(pairs: Iterable[tuple[Route | None, Operation]]) -> list[Lot]:
    """Group the operations of each bulk handler into lots, as large as it accepts them. Others are lots of one."""
    members: dict[str | int, tuple[Route | None, list[Operation]]] = {}
    for route, operation in pairs:
        key = route.name if route is not None and route.is_bulk else operation.index
        members.setdefault(key, (route, []))[1].append(operation)
    return [lot for route, operations in members.values() for lot in _cut(route, operations)]


def neighbours(pairs: Iterable[tuple[Route | None, Operation]]) -> list[Lot]:
    """Group neighbouring operations of a bulk handler into lots, and keep the order of all operations."""
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


def validate(route: Route, lot: Lot, *, shows_errors: bool) -> tuple[list[Row], dict[int, Verdict]]:
    """Return the rows of a call, and the verdicts on the operations that are invalid for its handler."""
    rows: list[Row] = []
    verdicts: dict[int, Verdict] = {}
    for operation in lot:
        try:
            rows.append((operation, route.arguments(operation.path, operation.body, shows_errors=shows_errors)))
        except InvalidOperation as error:
            verdicts[operation.index] = invalid(operation, error)
    return rows, verdicts


def read_outcomes(route: Route, returned: Any, count: int) -> list[Any]:
    """Return for each operation its result as JSON, or an exception.

    Raise WrongNumber, or Unserializable. If there are several operations, each of them then runs alone, so that only
    the one with the bad result fails.
    """
    if not isinstance(returned, list | tuple):
        raise WrongNumber(
            f"The bulk handler of {route.name} returned a value of type {type(returned).__name__}. "
            f"Return a list with an outcome for each of its {count} operations."
        )
    if len(returned) != count:
        raise WrongNumber(
            f"The bulk handler of {route.name} was given {count} operations and returned {len(returned)} outcomes. "
            "Return an outcome for each operation, in their order."
        )
    return [outcome if isinstance(outcome, BaseException) else as_json(route, outcome) for outcome in returned]


def is_about_all(error: BaseException) -> bool:
    """Return True if the exception of a bulk call applies to all its operations. Then running each alone cannot help.

    `Retry` and `Throttled` are such exceptions: the handler asks for another try of everything it was given.
    """
    return isinstance(error, WrongNumber | Retry | Throttled | Misconfigured)
