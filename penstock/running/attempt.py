"""One attempt: a handler is called with the operations of a lot, and each of them gets a verdict."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from penstock.context import Context
from penstock.errors import Misconfigured
from penstock.forwarding.answer import Answer
from penstock.outcome import Verdict
from penstock.route import InvalidOperation, Place, Route
from penstock.running.bulk import CallFailed, Lot, Row, is_about_all, read_outcomes, validate
from penstock.running.source import Source
from penstock.running.verdict import CancelledWithin, TimedOut, as_json, as_verdict, invalid
from penstock.telemetry import Event, get_log

Transaction = AbstractAsyncContextManager[Any]
OpenTransaction = Callable[[], Transaction]

SWALLOWED = "The application's transaction swallowed the exception of its handler. Let it roll back and raise it again."

T = TypeVar("T")

_NOTHING: Any = object()  # marks a missing result, since None is a result


@dataclass(slots=True)
class Attempt:
    """An attempt at the operations of a lot, in one call of their handler."""

    route: Route
    source: Source
    number: int
    transaction: OpenTransaction | None
    rows: list[Row]  # the operations that the handler accepts
    invalid: dict[int, Verdict]  # the verdicts of those that it does not accept
    seconds: float | None = None  # what each operation has taken; None if none has run

    def call(self, opened: Any) -> Any:
        """Call the handler. On the event loop the result must be awaited."""
        contexts = [self._context(operation, opened) for operation, _ in self.rows]
        if self.route.is_bulk:
            return self.route.call_bulk([arguments for _, arguments in self.rows], contexts)
        return self.route.call(self.rows[0][1], contexts[0])

    async def call_on_loop(self, opened: Any) -> list[Any]:
        return self.read(await self.call(opened))

    def read(self, returned: Any) -> list[Any]:
        """Turn what the handler returned into an outcome for each row."""
        if self.route.is_bulk:
            return read_outcomes(self.route, returned, len(self.rows))
        return [returned if isinstance(returned, Answer) else as_json(self.route, returned)]

    def share(self, error: BaseException) -> Sequence[BaseException]:
        """Make what the call raised the outcome of each row. Raise CallFailed if it tells nothing about single rows."""
        if len(self.rows) > 1 and not is_about_all(error):
            get_log().warning(Event.BULK_CALL_BROKE, handler=self.route.name, operations=len(self.rows), exc_info=error)
            raise CallFailed(cut_off=isinstance(error, TimedOut)) from error
        return [error] * len(self.rows)

    def refuse(self, error: InvalidOperation) -> None:
        """Note that the handler does not accept the only operation: its process has validated it."""
        [(operation, _)] = self.rows
        self.rows = []
        self.invalid[operation.index] = invalid(operation, error)

    def judge(self, outcomes: Sequence[Any]) -> dict[int, Verdict]:
        """Turn the outcomes of the rows into verdicts."""
        return {
            operation.index: as_verdict(outcome, operation, self.route)
            for (operation, _), outcome in zip(self.rows, outcomes, strict=True)
        }

    def _context(self, operation: Any, opened: Any) -> Context[Any]:
        source = self.source
        return Context(operation.id, source.batch_id, self.number, source.key_of(operation), opened, source.headers)


def prepare(route: Route, lot: Lot, source: Source, number: int, transaction: OpenTransaction | None = None) -> Attempt:
    """Validate the operations of a lot. Those for another process are validated there, to spare the event loop."""
    if route.place is Place.PROCESS:
        return Attempt(route, source, number, transaction, [(operation, {}) for operation in lot], {})
    rows, verdicts = validate(route, lot)
    return Attempt(route, source, number, transaction, rows, verdicts)


async def within_limits(seconds: float, transaction: OpenTransaction, perform: Callable[[Any], Awaitable[T]]) -> T:
    """Await `perform` in a transaction, for at most `seconds`. Raise what went wrong.

    The transaction ends cleanly only if `perform` returned. Otherwise it is left by an exception.
    """
    result = _NOTHING
    try:
        async with asyncio.timeout(seconds) as limit, transaction() as opened:
            result = await perform(opened)
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        raise CancelledWithin from error
    except TimeoutError as error:
        if limit.expired():
            raise TimedOut from error
        raise
    if result is _NOTHING:
        raise asyncio.CancelledError if is_being_cancelled() else Misconfigured(SWALLOWED)
    return result


def is_being_cancelled() -> bool:
    """Return True if somebody has asked to cancel the current task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
