"""Runs a small batch immediately: within the time of its request, in the slots that the whole process shares.

If the application has a transaction, the batch runs in one transaction. Its operations share a connection, so they run
one after another, each in a savepoint. Operations that cannot take part run concurrently with the transaction: their
handlers run in threads, in other processes, or in another program. Without a transaction, all operations run
concurrently.

If operations depend on others, none shares a transaction: what one depends on must be committed before it starts. They
run as soon as what they depend on has succeeded.

The operations of a bulk handler are first tried in one call; in a transaction, only neighbours are. An operation that
needs another attempt is then tried alone, and so are all operations of a call that raised.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from penstock.backoff import Backoff
from penstock.chunk import Operation, has_links
from penstock.dependencies import Unit, components, is_group
from penstock.error_ids import see_log
from penstock.operations import Operations
from penstock.outcome import (
    ROLLED_BACK,
    Outcome,
    OutcomeState,
    Verdict,
    as_outcome,
    dependency_failures,
    failed,
    size_of,
    states_of,
)
from penstock.route import UnknownOperation
from penstock.running.attempt import Transaction, ends_task
from penstock.running.bulk import Lot
from penstock.running.in_order import run_component
from penstock.running.left_behind import end_soon
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.verdict import error_id
from penstock.service.intake.attempts import AnyTurn, Attempts, Tried
from penstock.service.memory import Share
from penstock.settings import MIB
from penstock.telemetry import Event, get_log

MOST_RESULT_BYTES = 16 * MIB  # of the results; once a batch holds so much, nothing more of it starts here
ENDING_SECONDS = 5.0  # for rolling back or committing after the time of the batch is over

_left: set[asyncio.Task[Any]] = set()  # transactions left behind; the event loop would not keep them


@dataclass(frozen=True, slots=True)
class SmallBatch:
    """A batch that is answered with its results. `seconds` is the time that the whole batch may take.

    An atomic batch cannot continue in the background.
    """

    source: Source
    operations: Sequence[Operation]
    seconds: float
    atomic: bool = False


@dataclass(frozen=True, slots=True)
class _Committed:
    """The transaction was committed, or could not be opened in time; nothing ran."""

    tried: Mapping[int, Tried]


@dataclass(frozen=True, slots=True)
class _RolledBack:
    """The transaction of an atomic batch was rolled back, because not every operation succeeded."""

    tried: Mapping[int, Tried]


@dataclass(frozen=True, slots=True)
class _CallCutOff:
    """A bulk call was cut off and the transaction was rolled back, because its connection may be lost.

    There is no verdict for any operation of the call, so nobody knows which of them was too slow. `tried` holds
    the last attempts at the operations before the call.
    """

    lot: Lot
    tried: Mapping[int, Tried]


@dataclass(frozen=True, slots=True)
class _LeftBehind:
    """A handler was left behind in the transaction, which was rolled back.

    `tried` holds the last attempts at the operations before it, and `culprit` the attempt that timed out. There is no
    culprit if the time of the batch was over.
    """

    tried: Mapping[int, Tried]
    culprit: Mapping[int, Tried]


@dataclass(frozen=True, slots=True)
class _TransactionFailed:
    """The transaction could not be opened or committed. `cut_off` are the operations that may have caused that."""

    error: BaseException
    cut_off: Mapping[int, Tried]


_Result = _Committed | _RolledBack | _CallCutOff | _LeftBehind


class _NotOpened(Exception):
    """The application's transaction could not be opened in time, so no operation was started."""


class _RollBack(Exception):
    """Leaves the application's transaction, which rolls back only if an exception passes through it."""


class SmallBatchRun:
    """One run of a small batch. Its time starts when it is created."""

    def __init__(
        self, batch: SmallBatch, registry: Operations[Any], runner: Runner, backoff: Backoff, share: Share
    ) -> None:
        self._share = share  # the results are part of it as soon as they are made
        self._result_bytes = 0
        self._batch = batch
        self._registry = registry
        self._runner = runner
        self._backoff = backoff
        self._deadline = asyncio.get_running_loop().time() + batch.seconds
        self._turn_of: Callable[[Operation], AnyTurn]

    async def run(self) -> dict[int, Tried]:
        """Run the batch and return the last attempt at each operation, by index.

        Operations that were not finished in time are missing. A batch that cannot continue in the background always
        returns all operations: those that were not finished in time have failed.
        """
        tried = await self._run()
        if not self._batch.atomic:
            return tried
        return {one.index: tried.get(one.index) or self._unfinished(one) for one in self._batch.operations}

    async def _run(self) -> dict[int, Tried]:
        batch = self._batch
        # If a batch cannot continue in the background, its operations wait for their tokens to the end.
        turns = self._runner.turns(batch.operations, batch.source, may_be_postponed=not batch.atomic)
        with turns as self._turn_of:
            if has_links(batch.operations):
                return await self._run_in_order_of_links(batch.operations)
            if self._registry.transaction is None:
                return await self._run_concurrently(batch.operations)
            inside = [operation for operation in batch.operations if self._has_transaction(operation)]
            outside = [operation for operation in batch.operations if not self._has_transaction(operation)]
            return _join(await asyncio.gather(self._run_in_transactions(inside), self._run_concurrently(outside)))

    def _has_transaction(self, operation: Operation) -> bool:
        """Return True if the operation runs in the transaction. An unknown one fails outside of it."""
        try:
            return self._registry.match(operation.method, operation.path).has_transaction
        except UnknownOperation:
            return False

    async def _run_concurrently(self, operations: Sequence[Operation]) -> dict[int, Tried]:
        attempts = self._attempts()
        lots = self._runner.lots(operations)
        return _join(await asyncio.gather(*(self._run_lot(lot, attempts) for lot in lots)))

    async def _run_in_order_of_links(self, operations: Sequence[Operation]) -> dict[int, Tried]:
        """Run each operation when all that it depends on has succeeded. What depends on a failure has failed, too."""
        tried: dict[int, Tried] = {}

        async def run_ready(ready: Sequence[Unit]) -> dict[int, Verdict]:
            alone = [unit[0] for unit in ready if not is_group(unit)]
            groups = [unit for unit in ready if is_group(unit)]
            runs = [self._run_group(group) for group in groups]
            made = _join(await asyncio.gather(self._run_concurrently(alone), *runs))
            tried.update(made)
            return {index: one.verdict for index, one in made.items()}

        def attempt_of(index: int) -> int:
            return tried[index].attempt if index in tried else 1

        parts = components(operations)
        ran = await asyncio.gather(*(run_component(part, attempt_of, run_ready) for part in parts))
        verdicts = {index: verdict for of_part in ran for index, verdict in of_part.items()}
        failures = verdicts | dependency_failures(operations, verdicts, states_of(verdicts, attempt_of))
        return {index: Tried(failure, 1) for index, failure in failures.items()} | tried

    async def _run_group(self, group: Lot) -> dict[int, Tried]:
        """Run an atomic group until all of it has succeeded or failed, as far as the time allows."""
        tried = await self._attempts().try_group_until_final(group)
        for one in tried.values():
            self._hold(one)
        return dict(tried)

    def _hold(self, tried: Tried) -> None:
        size = size_of(tried.verdict)
        self._result_bytes += size
        self._share.add(size)

    def _release(self, rolled_back: Mapping[int, Tried]) -> None:
        """Count results no longer that were rolled back: their operations run again."""
        size = sum(size_of(one.verdict) for one in rolled_back.values())
        self._result_bytes -= size
        self._share.add(-size)

    def _has_room(self) -> bool:
        return self._result_bytes < MOST_RESULT_BYTES

    def _attempts(self, open_savepoint: Callable[[], Transaction] | None = None) -> Attempts:
        return Attempts(
            self._runner,
            self._backoff,
            self._batch.source,
            self._deadline,
            turn_of=self._turn_of,
            may_start=self._has_room,
            open_savepoint=open_savepoint,
        )

    async def _run_lot(self, lot: Lot, attempts: Attempts) -> dict[int, Tried]:
        first = await attempts.try_together(lot)
        tried = await asyncio.gather(*(self._try_until_final(one, attempts, first.tried.get(one.index)) for one in lot))
        return {operation.index: last for operation, last in zip(lot, tried, strict=True) if last is not None}

    async def _try_until_final(self, operation: Operation, attempts: Attempts, first: Tried | None) -> Tried | None:
        last = await attempts.try_until_final(operation, first)
        if last is not None:
            self._hold(last)
        return last

    async def _run_in_transactions(self, operations: Sequence[Operation]) -> dict[int, Tried]:
        """Run the operations in one transaction, and again without those that broke it, until one is committed.

        An operation that is cut off in the middle of a statement costs the connection, and with it the work of all
        others. They run again without it.
        """
        culprits: dict[int, Tried] = {}
        alone: set[int] = set()  # operations that are not part of a bulk call any more
        while left := [operation for operation in operations if operation.index not in culprits]:
            match await self._run_in_one_transaction(left, alone):
                case _Committed(tried):
                    return culprits | dict(tried)
                case _RolledBack(tried):
                    return self._all_rolled_back(left, tried)
                case _CallCutOff(lot, tried):
                    self._release(tried)
                    alone |= {operation.index for operation in lot}
                case _LeftBehind(tried, culprit):
                    if self._batch.atomic:
                        return self._all_rolled_back(left, {**tried, **culprit})
                    self._release(tried)
                    culprits |= culprit
                case _TransactionFailed(error, cut_off):
                    if self._is_time_over() and not self._batch.atomic:
                        return culprits | dict(cut_off)  # the other operations were not finished in time
                    if self._batch.atomic or not cut_off:
                        return culprits | self._all_failed(left, error)
                    culprits |= cut_off
        return culprits

    def _all_rolled_back(self, operations: Iterable[Operation], tried: Mapping[int, Tried]) -> dict[int, Tried]:
        if not self._has_room() and not self._is_time_over():
            tried = {one.index: Tried(_too_large(one), 1) for one in operations} | dict(tried)
        seconds = self._batch.seconds if self._is_time_over() else None
        return {one.index: _rolled_back(one, tried.get(one.index), seconds) for one in operations}

    async def _run_in_one_transaction(
        self, operations: Sequence[Operation], alone: Collection[int]
    ) -> _Result | _TransactionFailed:
        """Run the operations in a transaction. Leave it behind if it does not end soon after the time is over."""
        task = asyncio.create_task(self._run_in_transaction(operations, alone))
        try:
            await asyncio.wait((task,), timeout=self._seconds_left() + ENDING_SECONDS)
        finally:
            task.cancel()
        if not await end_soon([task]):
            _left.add(task)
            task.add_done_callback(_left.discard)
        if not task.done() or task.cancelled():
            return _TransactionFailed(TimeoutError(), {})  # nobody knows whether it will be committed
        return task.result()

    async def _run_in_transaction(
        self, operations: Sequence[Operation], alone: Collection[int]
    ) -> _Result | _TransactionFailed:
        result: _Result = self._conclude(operations, {})
        task = asyncio.current_task()
        try:
            async with self._open_in_time() as transaction:
                result = await self._run_in_order(operations, alone, transaction)
                if not isinstance(result, _Committed):
                    raise _RollBack
        except (_NotOpened, _RollBack):
            pass
        except BaseException as error:  # opening or committing failed: no work of this transaction remains
            if ends_task(error, task):
                raise
            if isinstance(result, _LeftBehind):
                return result  # its connection is still in use, so perhaps it could not be rolled back cleanly
            cut_off = {index: one for index, one in result.tried.items() if one.cut_off}
            self._release({index: one for index, one in result.tried.items() if index not in cut_off})
            return _TransactionFailed(error, cut_off)
        finally:
            del task  # has the error in its result then, and would keep it in memory: see `penstock.waiting`
        return result

    @asynccontextmanager
    async def _open_in_time(self) -> AsyncIterator[Any]:
        """Open the application's transaction. Raise _NotOpened if that takes longer than the batch may."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(self._deadline):
                    transaction = await stack.enter_async_context(self._transaction())
            except TimeoutError as error:
                if self._batch.atomic and not self._is_time_over():
                    raise  # the application's own error, such as that of a pool. It is why the batch fails
                raise _NotOpened from error
            yield transaction

    async def _run_in_order(self, operations: Sequence[Operation], alone: Collection[int], transaction: Any) -> _Result:
        attempts = self._attempts(lambda: self._savepoint(transaction))
        tried: dict[int, Tried] = {}
        for lot in self._lots_in_order(operations, alone):
            first = await attempts.try_together(lot)
            if first.cut_off or attempts.has_left_savepoint:
                return _CallCutOff(lot, tried)
            for operation in lot:
                last = await self._try_until_final(operation, attempts, first.tried.get(operation.index))
                if attempts.has_left_savepoint:
                    return _LeftBehind(tried, {} if last is None else {operation.index: last})
                if last is not None:
                    tried[operation.index] = last
        return self._conclude(operations, tried)

    def _conclude(self, operations: Sequence[Operation], tried: Mapping[int, Tried]) -> _Committed | _RolledBack:
        """Decide whether the transaction may be committed."""
        if self._batch.atomic and not all(_is_success(tried.get(operation.index)) for operation in operations):
            return _RolledBack(tried)
        return _Committed(tried)

    def _lots_in_order(self, operations: Sequence[Operation], alone: Collection[int]) -> Iterable[Lot]:
        for lot in self._runner.lots(operations, in_order=True):
            if any(operation.index in alone for operation in lot):
                yield from ((operation,) for operation in lot)
            else:
                yield lot

    def _unfinished(self, operation: Operation) -> Tried:
        if not self._has_room() and not self._is_time_over():
            return Tried(_too_large(operation), 1)
        detail = f"The batch was not finished within {self._batch.seconds:g} s. This operation may have run."
        return Tried(failed(operation, 504, "Out of time", detail), 1)

    def _transaction(self) -> Transaction:
        assert self._registry.transaction is not None
        return self._registry.transaction()

    @asynccontextmanager
    async def _savepoint(self, transaction: Any) -> AsyncIterator[Any]:
        async with self._registry.savepoint(transaction):
            yield transaction

    def _all_failed(self, operations: Iterable[Operation], error: BaseException) -> dict[int, Tried]:
        batch_id = self._batch.source.batch_id
        id_ = error_id(batch_id, 1)
        get_log().error(Event.OPERATION_BROKE, batch_id=batch_id, error_id=id_, exc_info=error)
        failure = f"The transaction of this batch could not be opened or committed: {type(error).__name__}."
        detail = f"{failure} {see_log(id_)}"
        return {one.index: Tried(failed(one, 503, "Transaction failed", detail), 1) for one in operations}

    def _is_time_over(self) -> bool:
        return self._seconds_left() <= 0

    def _seconds_left(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()


def _join(parts: Iterable[Mapping[int, Tried]]) -> dict[int, Tried]:
    return {index: tried for part in parts for index, tried in part.items()}


def _is_success(tried: Tried | None) -> bool:
    return tried is not None and as_outcome(tried.verdict).state is OutcomeState.SUCCEEDED


def _too_large(operation: Operation) -> Outcome:
    detail = (
        f"The results of this batch take more than {MOST_RESULT_BYTES // MIB} MiB together, so this operation was not "
        "started. Send fewer operations at once."
    )
    return failed(operation, 413, "Results too large", detail)


def _rolled_back(operation: Operation, tried: Tried | None, seconds: float | None) -> Tried:
    """Return the outcome of an operation of an atomic batch. `seconds` is the time of the batch, if that is over."""
    if tried is None and seconds is not None:
        detail = f"The atomic batch was not finished within {seconds:g} s, and was rolled back."
        return Tried(failed(operation, 504, "Out of time", detail), 1)
    if tried is None or _is_success(tried):
        detail = "Another operation of this atomic batch failed."
        return Tried(failed(operation, 424, ROLLED_BACK, detail), 1 if tried is None else tried.attempt)
    return tried
