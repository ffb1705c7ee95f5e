"""Performs an atomic group: its operations one after the other, in one transaction of the application."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from penstock.chunk import Operation
from penstock.error_ids import see_log
from penstock.outcome import (
    Outcome,
    OutcomeState,
    TryAgain,
    Verdict,
    as_outcome,
    failed,
    is_final,
)
from penstock.running.attempt import OpenTransaction, Transaction, ends_task
from penstock.running.bulk import Lot
from penstock.running.left_behind import Worker
from penstock.running.source import Source
from penstock.running.verdict import error_id
from penstock.telemetry import Event, get_log

ROLLED_BACK = "Rolled back"  # the title of the outcome of an operation that was undone with its group
Verdicts = dict[int, Verdict]  # by index


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
        self._running: Operation | None = None

    async def perform(
        self,
        open_transaction: OpenTransaction,
        perform_one: Callable[[Operation, OpenTransaction], Awaitable[Verdicts]],
        seconds: float,
        broke: Callable[[BaseException], Verdict],
    ) -> Verdicts:
        """Perform all operations, or stop at the first that does not succeed.

        `seconds` is the time in which the transaction must be opened, and in which it must be committed. `broke`
        returns the verdict on the first operation if one of these fails.
        """
        verdicts: Verdicts = {}
        culprit: Operation | None = None
        try:
            async with asyncio.timeout(seconds) as limit, open_transaction() as opened:
                limit.reschedule(None)
                for operation in self._lot:
                    self._running = operation
                    verdicts |= await perform_one(operation, lambda: _given(opened))
                    if self._worker.is_left:
                        raise _RollBack
                    if not _has_succeeded(verdicts[operation.index]):
                        culprit = operation
                        raise _RollBack
                self._running = None
                limit.reschedule(asyncio.get_running_loop().time() + seconds)
        except _RollBack:
            pass
        except BaseException as error:
            if ends_task(error, self._worker.task):
                raise
            if culprit is None:
                return self.stop_at(self._lot[0], broke(error))
        if culprit is not None:
            return self.stop_at(culprit, verdicts[culprit.index])
        # The transaction may have swallowed an exception: then nothing is known of the others.
        is_whole = len(verdicts) == len(self._lot) and not self._worker.is_left
        return verdicts if is_whole else {}

    def stop_at_running(self, verdict_on: Callable[[Operation], Verdict]) -> Verdicts:
        """Return the verdicts if the operation that is running must be given up. The transaction is rolled back."""
        running = self._running or self._lot[0]
        return self.stop_at(running, verdict_on(running))

    def stop_at(self, culprit: Operation, verdict: Verdict) -> Verdicts:
        """Return the verdicts if an operation has not succeeded, so that nothing was committed."""
        undone = {one.index: undo(one, culprit.id, verdict, self._number) for one in self._lot if one is not culprit}
        return {**undone, culprit.index: verdict}


def undo(operation: Operation, culprit: str, verdict: Verdict, number: int) -> Verdict:
    """Return the verdict on an operation that was undone because `culprit`, of the same group, has `verdict`."""
    failure = as_outcome(verdict)
    detail = f"Operation {culprit!r} of the same group has failed."
    undone = failed(operation, 424, ROLLED_BACK, detail, rejected=failure.rejected)
    if isinstance(verdict, Outcome) or is_final(verdict, number):
        return undone
    return TryAgain(undone, verdict.max_attempts, verdict.after_seconds, verdict.uses_attempt)


def _has_succeeded(verdict: Verdict) -> bool:
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
