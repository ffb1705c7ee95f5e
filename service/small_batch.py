"""A small batch, run at once: within the request's time, by the same slots as all that this process runs.

Where the application has a transaction, one serves the whole batch: its operations run one after another, since they
share a connection, each in a savepoint of its own. Without one they run side by side, and so do those that are
forwarded.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from penstock.backoff import Backoff
from penstock.chunk import Operation
from penstock.operations import Operations
from penstock.outcome import OutcomeState, TryAgain, Verdict, as_outcome, failed, is_final
from penstock.runner import Runner, Source, Transaction
from penstock.telemetry import Event, get_log


class _RollBack(Exception):
    """Leaves the transaction of an atomic batch of which something failed."""


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
        forwarded = [operation for operation in batch.operations if self._is_forwarded(operation)]
        own = [operation for operation in batch.operations if not self._is_forwarded(operation)]
        if not forwarded:
            return await self._run_in_transaction(batch, deadline)
        if not own:
            return await self._run_side_by_side(batch, deadline)
        of_upstreams, of_handlers = await asyncio.gather(
            self._run_side_by_side(replace(batch, operations=forwarded), deadline),
            self._run_in_transaction(replace(batch, operations=own), deadline),
        )
        return of_upstreams | of_handlers

    def _is_forwarded(self, operation: Operation) -> bool:
        return self._registry.match(operation.method, operation.path).is_forwarded

    async def _run_side_by_side(self, batch: SmallBatch, deadline: float) -> dict[int, Tried]:
        tried = await asyncio.gather(
            *(self._perform(batch, operation, deadline, None) for operation in batch.operations)
        )
        return _by_index(batch.operations, tried)

    async def _run_in_transaction(self, batch: SmallBatch, deadline: float) -> dict[int, Tried]:
        """One transaction for all; anew without those that broke it, for as long as there are any.

        An operation that is cut off in the middle of a statement costs the connection, and with it what the others
        have done: they are run again without it.
        """
        culprits: dict[int, Tried] = {}
        while True:
            others = [operation for operation in batch.operations if operation.index not in culprits]
            tried: dict[int, Tried] = {}
            try:
                await self._run_in_one_transaction(replace(batch, operations=others), deadline, tried)
            except _RollBack:
                break
            except Exception as error:  # noqa: BLE001 - opening or committing failed: nothing of it stands
                found = {index: one for index, one in tried.items() if _was_cut_off(one)}
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

    async def _run_in_one_transaction(self, batch: SmallBatch, deadline: float, tried: dict[int, Tried]) -> None:
        assert self._registry.transaction is not None
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(deadline):
                    transaction = await stack.enter_async_context(self._registry.transaction())
            except TimeoutError:
                return
            for operation in batch.operations:
                one = await self._perform(batch, operation, deadline, self._savepoints(transaction))
                if one is not None:
                    tried[operation.index] = one
            if batch.atomic and not all(_is_success(tried.get(operation.index)) for operation in batch.operations):
                raise _RollBack

    def _transaction_failed(self, batch: SmallBatch, error: Exception) -> dict[int, Tried]:
        get_log().error(Event.OPERATION_BROKE, batch_id=batch.source.batch_id, exc_info=error)
        detail = f"The transaction of this batch could not be opened or committed: {type(error).__name__}."
        return {
            operation.index: Tried(failed(operation, 503, "Transaction failed", detail), 1)
            for operation in batch.operations
        }

    async def _perform(
        self,
        batch: SmallBatch,
        operation: Operation,
        deadline: float,
        transaction: Callable[[], Transaction] | None,
    ) -> Tried | None:
        """Attempts at one operation, as many as it has and the time allows; None if not even one came to an end."""
        clock = asyncio.get_running_loop()
        last: Tried | None = None
        try:
            async with asyncio.timeout_at(deadline):
                for attempt in itertools.count(1):
                    async with self._runner.slot(batch.source):
                        # Nothing begins once time is over: a handler that never waits would run to its end, and a
                        # statement cut short can cost the others the connection that they share.
                        if clock.time() >= deadline:
                            break
                        verdict = await self._runner.run(operation, batch.source, attempt, transaction)
                    last = Tried(verdict, attempt)
                    if transaction is not None and _was_cut_off(last):
                        break  # what it was doing may have cost the connection: no further attempt on that one
                    wait = self._wait_seconds(verdict, attempt)
                    # A wait that time does not allow is not begun: nobody would gain by it, and the next in the
                    # transaction would lose.
                    if is_final(verdict, attempt) or clock.time() + wait >= deadline:
                        break
                    await asyncio.sleep(wait)
        except TimeoutError:
            pass
        return last

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


def _is_success(tried: Tried | None) -> bool:
    return tried is not None and as_outcome(tried.verdict).state is OutcomeState.SUCCEEDED


def _was_cut_off(tried: Tried) -> bool:
    return as_outcome(tried.verdict).status == HTTPStatus.GATEWAY_TIMEOUT


def _rolled_back(batch: SmallBatch, operation: Operation, tried: Tried | None) -> Tried:
    if tried is None:
        detail = f"An atomic batch has {batch.seconds:g} s; nothing of it stands."
        return Tried(failed(operation, 504, "Out of time", detail), 1)
    if _is_success(tried):
        detail = "Another operation of this atomic batch failed."
        return Tried(failed(operation, 424, "Rolled back", detail), tried.attempt)
    return tried
