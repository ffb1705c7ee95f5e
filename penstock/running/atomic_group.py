"""Performs an atomic group: its operations one after the other, in one transaction of the application."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from penstock.chunk import Operation
from penstock.error_ids import see_log
from penstock.outcome import Outcome, OutcomeState, TryAgain, Verdict, Verdicts, failed, undo
from penstock.running.attempt import Attempt, OpenTransaction, Transaction, ends_task
from penstock.running.bulk import Lot
from penstock.running.left_behind import NOTICE_SECONDS, Worker
from penstock.running.source import Source
from penstock.running.verdict import error_id
from penstock.telemetry import Event, get_log

Prepare = Callable[[Operation], Operation | Outcome]
"""Returns an operation as it shall run, or its failure."""


class _RollBack(Exception):
    """Leaves the application's transaction, which rolls back only if an exception passes through it."""


class AtomicGroup:
    """One attempt at a group.

    `perform` returns a verdict for each operation. Either all have succeeded, and the transaction is committed. Or it
    is rolled back: then one operation has its own verdict, and all others have the same kind of verdict. So they fail
    together, or are tried again together.
    """

    def __init__(self, lot: Lot, number: int, worker: Worker) -> None:
        self._lot = lot
        self._number = number
        self._worker = worker
        self.ran: dict[int, Attempt] = {}  # by index. They are counted when the group has its verdicts
        self._running: Operation | None = None
        self._failed: tuple[Operation, Verdict] | None = None  # the operation that is why all are rolled back

    async def perform(
        self,
        open_transaction: OpenTransaction,
        perform_one: Callable[[Operation, OpenTransaction], Awaitable[Verdicts]],
        *,
        seconds: float,
        broke: Callable[[BaseException], Verdict],
        prepare: Prepare,
        note: Callable[[Iterable[Verdict]], None],
    ) -> Verdicts:
        """Perform all operations, or stop at the first that does not succeed.

        `seconds` is the time in which the transaction must be opened, and in which it must be committed or rolled
        back. `broke` returns the verdict on the first operation if one of these fails. `prepare` is called for each
        operation just before it starts, and `note` when it has a verdict. If `prepare` returns a failure, the operation
        does not start.
        """
        verdicts: Verdicts = {}
        try:
            async with _Patience(seconds, self._worker) as patience, open_transaction() as opened:
                patience.pause()
                try:
                    for operation in self._lot:
                        prepared = prepare(operation)
                        if isinstance(prepared, Outcome):
                            self._failed = operation, prepared
                            raise _RollBack
                        self._running = prepared
                        made = await perform_one(prepared, lambda: _given(opened))
                        verdicts |= made
                        self._check(operation, verdicts)
                        note(made.values())
                    self._running = None
                finally:
                    patience.go_on()
        except _RollBack:
            pass
        except BaseException as error:
            if ends_task(error, self._worker.task):
                raise
            if self._failed is None:
                return self.stop_at(self._lot[0], broke(error))
        if self._failed is not None:
            return self.stop_at(*self._failed)
        # The transaction may have swallowed an exception: then nothing is known of the others.
        is_whole = len(verdicts) == len(self._lot) and not self._worker.is_left
        return verdicts if is_whole else {}

    def _check(self, operation: Operation, verdicts: Verdicts) -> None:
        """Raise _RollBack unless the operation has succeeded."""
        verdict = verdicts.get(operation.index)
        if not _has_succeeded(verdict):
            self._failed = None if verdict is None else (operation, verdict)
            raise _RollBack

    def note_run(self, attempt: Attempt) -> None:
        """Note an attempt at one of the operations that has ended. It has none if its handler does not accept it."""
        self.ran.update((operation.index, attempt) for operation, _ in attempt.rows)

    def stop_at_running(self, verdict_on: Callable[[Operation], Verdict]) -> Verdicts:
        """Return the verdicts if the operation that is running must be given up. The transaction is rolled back.

        If one has failed before that, the transaction did not end in time, and the verdict stands.
        """
        if self._failed is not None:
            return self.stop_at(*self._failed)
        running = self._running or self._lot[0]
        self.ran.pop(running.index, None)  # `verdict_on` counts it
        return self.stop_at(running, verdict_on(running))

    def stop_at(self, culprit: Operation, verdict: Verdict) -> Verdicts:
        """Return the verdicts if an operation has not succeeded, so that nothing was committed."""
        undone = {one.index: undo(one, culprit.id, verdict, self._number) for one in self._lot}
        return {**undone, culprit.index: verdict}


class _Patience:
    """Limits the time in which the transaction is opened, and the time in which it ends.

    When it is over, the worker's task is cancelled. The worker is overdue if that has not ended NOTICE_SECONDS later.
    """

    def __init__(self, seconds: float, worker: Worker) -> None:
        self._seconds = seconds
        self._worker = worker
        self._limit = asyncio.timeout(None)
        self._overdue: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        self.go_on()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel()
        await self._limit.__aexit__(kind, error, trace)

    def go_on(self) -> None:
        loop = asyncio.get_running_loop()
        self._limit.reschedule(loop.time() + self._seconds)
        self._overdue = loop.call_later(self._seconds + NOTICE_SECONDS, self._worker.overdue, self._worker)

    def pause(self) -> None:
        self._cancel()
        self._limit.reschedule(None)

    def _cancel(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()


def _has_succeeded(verdict: Verdict | None) -> bool:
    return isinstance(verdict, Outcome) and verdict.state is OutcomeState.SUCCEEDED


def _given(opened: Any) -> Transaction:
    """Return a context manager that yields a transaction that is open, and leaves it open."""

    @asynccontextmanager
    async def given() -> AsyncIterator[Any]:
        yield opened

    return given()


def transaction_broke(
    operation: Operation, source: Source, number: int, error: BaseException, max_attempts: int
) -> Verdict:
    """Return the verdict on the first operation of a group if its transaction could not be opened or committed."""
    id_ = error_id(source.name_of(operation), number)
    get_log().error(Event.OPERATION_BROKE, operation_id=operation.id, error_id=id_, exc_info=error)
    failure = f"The transaction of this group could not be opened or committed: {type(error).__name__}."
    return TryAgain(failed(operation, 503, "Transaction failed", f"{failure} {see_log(id_)}"), max_attempts)
