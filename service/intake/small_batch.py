"""A small batch, run at once: within the request's time, by the same slots as all that this process runs.

Where the application has a transaction, one serves the whole batch: its operations run one after another, since they
share a connection, each in a savepoint of its own. Without one they run side by side. So do, beside the transaction,
those that have no part in it: their handlers run in threads and processes, or are another program's.

Operations of a bulk handler are tried together, in one savepoint; in the transaction those that stand side by side.
What is to be tried again, or came to nothing because the call raised, is tried singly.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from penstock.backoff import Backoff
from penstock.chunk import Operation
from penstock.operations import Operations
from penstock.outcome import OutcomeState, TryAgain, Verdict, as_outcome, failed, is_final
from penstock.running.attempt import Transaction
from penstock.running.bulk import CallFailed, Lot
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.verdict import was_cut_off
from penstock.telemetry import Event, get_log


class _RollBack(Exception):
    """Leaves the transaction of an atomic batch of which something failed."""


class _Anew(Exception):
    """Leaves a transaction whose connection may be lost with the bulk call that was cut off."""

    def __init__(self, lot: Lot) -> None:
        super().__init__()
        self.lot = lot


@dataclass(frozen=True, slots=True)
class SmallBatch:
    """`seconds` is what the whole batch may take."""

    source: Source
    operations: Sequence[Operation]
    seconds: float
    atomic: bool = False


@dataclass(frozen=True, slots=True)
class Tried:
    """What the last attempt at an operation came to, and which one it was."""

    verdict: Verdict
    attempt: int


class SmallBatchRunner:
    def __init__(self, registry: Operations[Any], runner: Runner, backoff: Backoff) -> None:
        self._registry = registry
        self._runner = runner
        self._backoff = backoff

    async def run(self, batch: SmallBatch) -> dict[int, Tried]:
        """What each operation came to, by index. Missing is what had not ended when time was over.

        Of an atomic batch none is missing: what time did not allow has failed with the rest.
        """
        deadline = asyncio.get_running_loop().time() + batch.seconds
        if self._registry.transaction is None:
            return await self._run_side_by_side(batch, deadline)
        return await self._run_beside_and_in_transaction(batch, deadline)

    async def _run_side_by_side(self, batch: SmallBatch, deadline: float) -> dict[int, Tried]:
        lots = self._runner.lots(batch.operations)
        return _joined(await asyncio.gather(*(self._perform_lot(batch, lot, deadline, None) for lot in lots)))

    async def _run_beside_and_in_transaction(self, batch: SmallBatch, deadline: float) -> dict[int, Tried]:
        inside = [one for one in batch.operations if self._has_transaction(one)]
        beside = [one for one in batch.operations if not self._has_transaction(one)]
        return _joined(
            await asyncio.gather(
                *([self._run_in_transaction(replace(batch, operations=inside), deadline)] if inside else []),
                self._run_side_by_side(replace(batch, operations=beside), deadline),
            )
        )

    def _has_transaction(self, operation: Operation) -> bool:
        return self._registry.match(operation.method, operation.path).has_transaction

    async def _run_in_transaction(self, batch: SmallBatch, deadline: float) -> dict[int, Tried]:
        """One transaction for all; anew without those that broke it, for as long as there are any.

        An operation that is cut off in the middle of a statement costs the connection, and with it what the others
        have done: they are run again without it. A bulk call that is cut off is told of none of its operations, so all
        are run again, these singly.
        """
        culprits: dict[int, Tried] = {}
        singly: set[int] = set()
        while True:
            others = [operation for operation in batch.operations if operation.index not in culprits]
            tried: dict[int, Tried] = {}
            try:
                await self._run_in_one_transaction(replace(batch, operations=others), deadline, tried, singly)
            except _RollBack:
                break
            except _Anew as lost:
                singly |= {operation.index for operation in lost.lot}
                continue
            except Exception as error:  # noqa: BLE001 - opening or committing failed: nothing of it stands
                found = {index: one for index, one in tried.items() if was_cut_off(one.verdict)}
                if not batch.atomic and asyncio.get_running_loop().time() >= deadline:
                    return culprits | found  # the others have not ended, and time is over
                if not found or batch.atomic:
                    return culprits | self._transaction_failed(replace(batch, operations=others), error)
                culprits |= found
                continue
            if not batch.atomic or all(_is_success(tried.get(operation.index)) for operation in others):
                return culprits | tried
            break
        return {operation.index: _rolled_back(batch, operation, tried.get(operation.index)) for operation in others}

    async def _run_in_one_transaction(
        self, batch: SmallBatch, deadline: float, tried: dict[int, Tried], singly: set[int]
    ) -> None:
        assert self._registry.transaction is not None
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(deadline):
                    transaction = await stack.enter_async_context(self._registry.transaction())
            except TimeoutError:
                return
            for lot in self._lots(batch.operations, singly):
                tried |= await self._perform_lot(batch, lot, deadline, self._savepoints(transaction))
            if batch.atomic and not all(_is_success(tried.get(operation.index)) for operation in batch.operations):
                raise _RollBack

    def _transaction_failed(self, batch: SmallBatch, error: Exception) -> dict[int, Tried]:
        get_log().error(Event.OPERATION_BROKE, batch_id=batch.source.batch_id, exc_info=error)
        detail = f"The transaction of this batch could not be opened or committed: {type(error).__name__}."
        return {
            operation.index: Tried(failed(operation, 503, "Transaction failed", detail), 1)
            for operation in batch.operations
        }

    def _lots(self, operations: Sequence[Operation], singly: set[int]) -> list[Lot]:
        lots = self._runner.lots(operations, in_order=True)
        return [part for lot in lots for part in (_one_by_one(lot) if singly & {one.index for one in lot} else [lot])]

    async def _perform_lot(
        self, batch: SmallBatch, lot: Lot, deadline: float, transaction: Callable[[], Transaction] | None
    ) -> dict[int, Tried]:
        """What operations came to, without those that did not come to an end."""
        first_tries = await self._perform_together(batch, lot, deadline, transaction) if len(lot) > 1 else {}
        if first_tries is None:
            return {}
        tried: list[Tried | None] = []
        performing = [self._perform(batch, one, deadline, transaction, first_tries.get(one.index)) for one in lot]
        if transaction is None:
            tried += await asyncio.gather(*performing)
        else:
            for one in performing:
                tried.append(await one)
        return _by_index(lot, tried)

    async def _perform_together(
        self, batch: SmallBatch, lot: Lot, deadline: float, transaction: Callable[[], Transaction] | None
    ) -> dict[int, Tried] | None:
        """The first attempt at each of a lot; empty if the call raised, None if it did not come to its end in time."""
        try:
            async with asyncio.timeout_at(deadline), self._runner.slot(lot[0], batch.source):
                if asyncio.get_running_loop().time() >= deadline:
                    return None
                verdicts = await self._runner.run_apart(lot, batch.source, 1, transaction)
        except TimeoutError:
            return None
        except CallFailed as error:
            if error.cut_off and transaction is not None:
                raise _Anew(lot) from error
            return {}
        return {index: Tried(verdict, 1) for index, verdict in verdicts.items()}

    async def _perform(
        self,
        batch: SmallBatch,
        operation: Operation,
        deadline: float,
        transaction: Callable[[], Transaction] | None,
        last: Tried | None = None,
    ) -> Tried | None:
        """Attempts at one operation, as many as it has and the time allows; None if not even one came to an end.

        `last` is the attempt that was made already.
        """
        try:
            async with asyncio.timeout_at(deadline):
                while last is None or await self._comes_another(last, deadline, transaction):
                    attempt = 1 if last is None else last.attempt + 1
                    async with self._runner.slot(operation, batch.source):
                        # Nothing begins once time is over: a handler that never waits would run to its end, and a
                        # statement cut short can cost the others the connection that they share.
                        if asyncio.get_running_loop().time() >= deadline:
                            break
                        verdicts = await self._runner.run_apart((operation,), batch.source, attempt, transaction)
                    last = Tried(verdicts[operation.index], attempt)
        except TimeoutError:
            pass
        return last

    async def _comes_another(self, last: Tried, deadline: float, transaction: Callable[[], Transaction] | None) -> bool:
        """Whether there is to be another attempt; then it is time for it."""
        if transaction is not None and was_cut_off(last.verdict):
            return False  # what it was doing may have cost the connection: no further attempt on that one
        wait = self._wait_seconds(last.verdict, last.attempt)
        # A wait that time does not allow is not begun: nobody would gain by it, and the next in the transaction would
        # lose.
        if is_final(last.verdict, last.attempt) or asyncio.get_running_loop().time() + wait >= deadline:
            return False
        await asyncio.sleep(wait)
        return True

    def _wait_seconds(self, verdict: Verdict, attempt: int) -> float:
        if isinstance(verdict, TryAgain) and verdict.after_seconds is not None:
            return verdict.after_seconds
        return self._backoff.delay_seconds(attempt, random.random())  # noqa: S311 - spreads retries, keeps no secret

    def _savepoints(self, transaction: Any) -> Callable[[], Transaction]:
        @asynccontextmanager
        async def savepoint() -> AsyncIterator[Any]:
            async with self._registry.savepoint(transaction):
                yield transaction

        return savepoint


def _by_index(operations: Sequence[Operation], tried: Sequence[Tried | None]) -> dict[int, Tried]:
    return {operation.index: one for operation, one in zip(operations, tried, strict=True) if one is not None}


def _joined(parts: Iterable[dict[int, Tried]]) -> dict[int, Tried]:
    return {index: tried for part in parts for index, tried in part.items()}


def _one_by_one(lot: Lot) -> list[Lot]:
    return [(operation,) for operation in lot]


def _is_success(tried: Tried | None) -> bool:
    return tried is not None and as_outcome(tried.verdict).state is OutcomeState.SUCCEEDED


def _rolled_back(batch: SmallBatch, operation: Operation, tried: Tried | None) -> Tried:
    if tried is None:
        detail = f"An atomic batch has {batch.seconds:g} s; nothing of it stands."
        return Tried(failed(operation, 504, "Out of time", detail), 1)
    if _is_success(tried):
        detail = "Another operation of this atomic batch failed."
        return Tried(failed(operation, 424, "Rolled back", detail), tried.attempt)
    return tried
