"""A small batch, run at once: within the request's time, by the same slots as all that this process runs.

Where the application has a transaction, one serves the whole batch: its operations run one after another, since they
share a connection, each in a savepoint of its own. Without one they run side by side.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from penstock.backoff import Backoff
from penstock.chunk import Operation
from penstock.operations import Operations
from penstock.outcome import Outcome, OutcomeState, TryAgain, as_outcome, failed, is_final
from penstock.runner import Runner, Transaction
from penstock.telemetry import Event, get_log


class _RollBack(Exception):
    """Leaves the transaction of an atomic batch of which something failed."""


@dataclass(frozen=True, slots=True)
class SmallBatch:
    """`seconds` is what the whole batch may take; what is not done by then fails with 504."""

    id: str
    operations: Sequence[Operation]
    seconds: float
    atomic: bool = False


class SmallBatchRunner:
    def __init__(self, registry: Operations[Any], runner: Runner, backoff: Backoff) -> None:
        self._registry = registry
        self._runner = runner
        self._backoff = backoff

    async def run(self, batch: SmallBatch) -> list[Outcome]:
        """An outcome for each operation, in their order."""
        deadline = asyncio.get_running_loop().time() + batch.seconds
        if self._registry.transaction is None:
            return await self._run_side_by_side(batch, deadline)
        return await self._run_in_transaction(batch, deadline)

    async def _run_side_by_side(self, batch: SmallBatch, deadline: float) -> list[Outcome]:
        attempts = [self._perform(batch, operation, deadline, None) for operation in batch.operations]
        return list(await asyncio.gather(*attempts))

    async def _run_in_transaction(self, batch: SmallBatch, deadline: float) -> list[Outcome]:
        assert self._registry.transaction is not None
        outcomes: list[Outcome] = []
        opening = asyncio.timeout_at(deadline)
        try:
            async with AsyncExitStack() as stack:
                async with opening:
                    transaction = await stack.enter_async_context(self._registry.transaction())
                for operation in batch.operations:
                    outcomes.append(await self._perform(batch, operation, deadline, self._savepoints(transaction)))
                if _is_to_roll_back(batch, outcomes):
                    raise _RollBack
        except _RollBack:
            pass  # told below, where it also arrives if the application's transaction keeps the exception to itself
        except Exception as error:  # noqa: BLE001 - opening or committing failed: nothing of the batch stands, and each is told
            if opening.expired():
                return [_out_of_time(batch, operation) for operation in batch.operations]
            get_log().error(Event.OPERATION_BROKE, batch_id=batch.id, exc_info=error)
            detail = f"The transaction of this batch could not be opened or committed: {type(error).__name__}."
            return [failed(operation, 503, "Transaction failed", detail) for operation in batch.operations]
        if _is_to_roll_back(batch, outcomes):
            return [
                _rolled_back(operation, outcome) for operation, outcome in zip(batch.operations, outcomes, strict=True)
            ]
        return outcomes

    async def _perform(
        self,
        batch: SmallBatch,
        operation: Operation,
        deadline: float,
        transaction: Callable[[], Transaction] | None,
    ) -> Outcome:
        """Attempts at one operation, as many as it has and the time allows."""
        clock = asyncio.get_running_loop()
        last: Outcome | None = None
        try:
            async with asyncio.timeout_at(deadline):
                for attempt in itertools.count(1):
                    async with self._runner.slot():
                        # Nothing begins once time is over: a handler that never waits would run to its end, and a
                        # statement cut short can cost the others the connection that they share.
                        if clock.time() >= deadline:
                            break
                        verdict = await self._runner.run(operation, batch.id, attempt, transaction)
                    last = as_outcome(verdict)
                    wait = self._wait_seconds(verdict, attempt)
                    # A wait that time does not allow is not begun: nobody would gain by it, and the next in the
                    # transaction would lose.
                    if is_final(verdict, attempt) or clock.time() + wait >= deadline:
                        break
                    await asyncio.sleep(wait)
        except TimeoutError:
            pass
        return last or _out_of_time(batch, operation)

    def _wait_seconds(self, verdict: Outcome | TryAgain, attempt: int) -> float:
        if isinstance(verdict, TryAgain) and verdict.after_seconds is not None:
            return verdict.after_seconds
        return self._backoff.delay_seconds(attempt, random.random())  # noqa: S311 - spreads retries, keeps no secret

    def _savepoints(self, transaction: Any) -> Callable[[], Transaction]:
        @asynccontextmanager
        async def savepoint() -> AsyncIterator[Any]:
            async with self._registry.savepoint(transaction):
                yield transaction

        return savepoint


def _is_success(outcome: Outcome) -> bool:
    return outcome.state is OutcomeState.SUCCEEDED


def _is_to_roll_back(batch: SmallBatch, outcomes: Sequence[Outcome]) -> bool:
    return batch.atomic and not all(map(_is_success, outcomes))


def _out_of_time(batch: SmallBatch, operation: Operation) -> Outcome:
    detail = f"A batch answered at once has {batch.seconds:g} s; send it with more operations to run it later."
    return failed(operation, 504, "Out of time", detail)


def _rolled_back(operation: Operation, outcome: Outcome) -> Outcome:
    if not _is_success(outcome):
        return outcome
    return failed(operation, 424, "Rolled back", "Another operation of this atomic batch failed.")
