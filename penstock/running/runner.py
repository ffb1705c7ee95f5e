"""Runs handlers: an attempt at an operation becomes a verdict, whatever the handler does; slots bound how many."""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from penstock.chunk import Chunk, Operation
from penstock.clock import Clock
from penstock.context import Context, NoTransaction
from penstock.errors import Misconfigured
from penstock.forwarding.answer import Answer
from penstock.metrics.meter import UNKNOWN_HANDLER, Meter
from penstock.operations import Operations
from penstock.outcome import OutcomeState, Verdict, as_outcome, failed, is_final, succeeded
from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.route import InvalidOperation, Place, Route
from penstock.running.bulk import CallFailed, Lot, neighbours, read_outcomes, tells_of_all, together, validate
from penstock.running.cpu_pool import CpuPool, Job, count_cores
from penstock.running.slots import Room, Slots, Turn, TurnWithRoom
from penstock.running.threads import Threads
from penstock.running.verdict import (
    CancelledItself,
    CancelledWithin,
    TimedOut,
    as_json,
    cancelled_itself,
    invalid,
    judge,
)
from penstock.telemetry import Event, get_log

SLICE_SECONDS = 0.001  # a hundred quick operations; so long is nothing else done in the process
NOTICE_SECONDS = 2.0  # a handler that is cancelled ends in this time, or it is left behind, its operation not ended

SWALLOWED = "The application's transaction swallowed what its handler raised: it is to roll back and let it pass."

T = TypeVar("T")
Transaction = AbstractAsyncContextManager[Any]
OpenTransaction = Callable[[], Transaction]

_NOTHING: Any = object()  # no result: None is one
_PASSING = (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit)  # about the process, or the coroutine as such


class Stop:
    """How far stopping has gone. The stages follow one another and are never taken back; followers stop along."""

    def __init__(self) -> None:
        self.is_spent = False  # nothing new begins, but what was begun together goes on singly
        self.begun = asyncio.Event()  # nothing new begins
        self.cut = asyncio.Event()  # the grace period is over: handlers under way are cancelled
        self._followers: dict[Stop, None] = {}  # in their order, or no run could be replayed

    def spend(self) -> None:
        """The time of what follows this stop is spent. Its followers have their own."""
        self.is_spent = True

    def begin(self) -> None:
        self.begun.set()
        for follower in self._followers:
            follower.begin()

    def cut_off(self) -> None:
        self.cut.set()
        for follower in self._followers:
            follower.cut_off()

    @contextmanager
    def follower(self) -> Iterator["Stop"]:
        """A stop that can come earlier than this one, but not later."""
        follower = Stop()
        self._followers[follower] = None
        if self.begun.is_set():
            follower.begin()
        if self.cut.is_set():
            follower.cut_off()
        try:
            yield follower
        finally:
            del self._followers[follower]


@dataclass(frozen=True, slots=True)
class Source:
    """The batch that an operation is of. `key_prefix` begins the keys of its operations.

    Slots are given by priority, and to the tenants of a priority in turn.
    """

    batch_id: str
    key_prefix: str
    priority: Priority = Priority.NORMAL
    tenant: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # of its request, those that operations take along

    def key_of(self, operation: Operation) -> str:
        return f"{self.key_prefix}/{operation.id}"


@dataclass(slots=True)
class Spent:
    """Handler time: `count` attempts have taken `seconds` together."""

    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Timing:
    """What an attempt at an operation has taken; `None` as long as it has not come to run."""

    seconds: float | None = None


class Runner:
    """One per process: its slots are the bound on handlers in flight, shared by all that the process works on.

    Handlers run where they belong: on the loop, in a thread, or in another process. `close` it in the end.
    """

    def __init__(
        self,
        operations: Operations[Any],
        concurrency: int,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        meter: Meter | None = None,
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
        cpu_processes: int | None = None,
    ) -> None:
        """Raises Misconfigured when a handler cannot run where it is to run."""
        self._operations = operations
        self._monotonic = monotonic
        self._meter = meter or Meter()
        self._spent: dict[str, Spent] = {}
        self._slots = Slots(concurrency, weights, monotonic)
        self._threads = Threads(concurrency, weights, monotonic)
        self._cpu = CpuPool(cpu_processes or count_cores(), operations.routes, weights, monotonic)
        self._rooms: dict[Place, Room] = {Place.THREAD: self._threads, Place.PROCESS: self._cpu}

    async def run_chunk(
        self,
        chunk: Chunk,
        source: Source,
        stop: Stop,
        ended: Callable[[], None],
        *,
        may_begin: Callable[[], bool] = lambda: True,
        has_slot: bool = False,
    ) -> dict[int, Verdict]:
        """Run a chunk's operations, each as soon as a slot is free; return the verdicts of those that came to an end.

        What is missing from the verdicts was not run, or was cut short. `ended` is called once for each operation. With
        `has_slot` the caller has taken the slot already, for a chunk of a single operation. `may_begin` is asked once
        there is a slot: when it is no, nothing more of the chunk begins.
        """

        def may_begin_new() -> bool:
            return not stop.is_spent and may_begin()

        def attempt(operation: Operation) -> Awaitable[Verdict]:
            return self.run(operation, source, chunk.attempt)

        def one_by_one(turn: Turn | TurnWithRoom | None, may_begin: Callable[[], bool]) -> _ChunkRun:
            own = self._cancelled_itself
            return _ChunkRun(attempt, own, turn, self._monotonic, stop=stop, ended=ended, may_begin=may_begin)

        async def run_singly(operations: Sequence[Operation], turn: Turn | TurnWithRoom | None) -> dict[int, Verdict]:
            run = one_by_one(turn, may_begin_new)
            await run.carry_out(operations)
            return run.verdicts

        async def run_in_lots(lots: Sequence[Lot], turn: Turn | TurnWithRoom) -> dict[int, Verdict]:
            run = _LotRun(lots, lambda lot: self.run_lot(lot, source, chunk.attempt), ended)
            calls = _ChunkRun(
                run.begin,
                _call_failed,
                turn,
                self._monotonic,
                stop=stop,
                ended=lambda: None,
                may_begin=may_begin_new,
            )
            await run.carry_out(calls)
            # What a call has begun goes on, whatever time is left: a call that took it all would be made for ever.
            rest = one_by_one(turn, may_begin)
            if run.failed:
                await rest.carry_out(run.failed)
            return run.verdicts | rest.verdicts

        if has_slot:
            return await run_singly(chunk.operations, None)
        singly, lots = self._sort(chunk.operations)
        return await _gather(
            [run_singly(operations, self._turn(place, source)) for place, operations in singly.items()]
            + [run_in_lots(of_place, self._turn(place, source)) for place, of_place in lots.items()]
        )

    def _sort(self, operations: Sequence[Operation]) -> tuple[dict[Place, list[Operation]], dict[Place, list[Lot]]]:
        """Where they run: those that run singly, and those that run together."""
        if all(route.place is Place.LOOP and not route.is_bulk for route in self._operations.routes):
            return {Place.LOOP: list(operations)}, {}
        singly: dict[Place, list[Operation]] = {}
        lots: dict[Place, list[Lot]] = {}
        for lot in self.lots(operations):
            place = self.place_of(lot[0])
            if len(lot) == 1:
                singly.setdefault(place, []).append(lot[0])
            else:
                lots.setdefault(place, []).append(lot)
        return singly, lots

    def lots(self, operations: Iterable[Operation], *, in_order: bool = False) -> list[Lot]:
        """What is to run together, as bulk handlers take it; `in_order` only what stands side by side."""
        pairs = [(self._route(operation), operation) for operation in operations]
        return neighbours(pairs) if in_order else together(pairs)

    def _route(self, operation: Operation) -> Route | None:
        try:
            return self._operations.match(operation.method, operation.path)
        except InvalidOperation:
            return None

    def place_of(self, operation: Operation) -> Place:
        """Where its handler runs; what no handler takes is refused on the loop."""
        route = self._route(operation)
        return route.place if route else Place.LOOP

    def _turn(self, place: Place, source: Source) -> Turn | TurnWithRoom:
        turn = Turn(self._slots, source.priority, source.tenant)
        room = self._rooms.get(place)
        return turn if room is None else TurnWithRoom(room, turn)

    @asynccontextmanager
    async def slot(self, operation: Operation, source: Source) -> AsyncIterator[None]:
        """For an operation, or a lot that begins with it."""
        turn = self._turn(self.place_of(operation), source)
        await turn.acquire()
        try:
            yield
        finally:
            turn.release()

    @asynccontextmanager
    async def all_slots(self, operation: Operation, source: Source) -> AsyncIterator[None]:
        """For an operation beside which nothing else is to run, nor a thread that was left behind.

        Waits until it is so and lets nothing else begin. One caller at a time: two would wait for ever.
        """
        room = self._rooms.get(self.place_of(operation))
        async with _taken(room, source) if room is not None else nullcontext(), self._slots.all():
            await self._threads.quiet()
            yield

    def take_spent(self) -> dict[str, Spent]:
        """What the handlers have taken since this was last asked for, by their names."""
        spent, self._spent = self._spent, {}
        return spent

    async def watch(self, stall_seconds: float, clock: Clock) -> None:
        """Runs until it is cancelled. Raises ThreadsStuck when handlers hold up for so long what needs a thread."""
        await self._threads.watch(stall_seconds, clock)

    def let_go(self) -> None:
        """After the stop has cut: whoever waits for a slot that a thread left behind keeps is to wait no longer."""
        self._threads.let_go()

    async def close(self) -> None:
        """End the processes; threads that are left behind end with this one."""
        self._threads.close()
        await self._cpu.close()

    async def run(
        self,
        operation: Operation,
        source: Source,
        attempt: int,
        transaction: OpenTransaction | None = None,
    ) -> Verdict:
        """One attempt, in what `transaction` opens; without it in a transaction of its own, where there are any.

        The transaction is left clean when the attempt succeeded, by an exception otherwise. Takes no slot by itself.
        """
        try:
            route = self._operations.match(operation.method, operation.path)
            if route.is_bulk:
                return (await self.run_lot((operation,), source, attempt, transaction))[operation.index]
            timing = Timing()
            if route.place is Place.PROCESS:
                verdict = await self._run_in_process(route, operation, source, attempt, timing=timing)
            else:
                verdict = await self._run_here(route, operation, source, attempt, transaction, timing=timing)
        except InvalidOperation as error:
            self._meter.failed(UNKNOWN_HANDLER, None)
            return invalid(operation, error)
        self._count(route.name, verdict, attempt, timing.seconds)
        return verdict

    async def run_apart(
        self, operation: Operation, source: Source, attempt: int, transaction: OpenTransaction | None = None
    ) -> Verdict:
        """As `run`, in a task of its own: a handler that cancels that takes nothing else along."""
        try:
            return await _apart(self.run(operation, source, attempt, transaction))
        except CancelledItself:
            return self._cancelled_itself(operation)

    async def run_lot_apart(
        self, lot: Lot, source: Source, attempt: int, transaction: OpenTransaction | None = None
    ) -> dict[int, Verdict]:
        """As `run_lot`, in a task of its own."""
        try:
            return await _apart(self.run_lot(lot, source, attempt, transaction))
        except CancelledItself as error:
            raise CallFailed(cut_off=True) from error

    def _cancelled_itself(self, operation: Operation) -> Verdict:
        """For good: without a verdict it would follow for ever."""
        route = self._route(operation)
        self._meter.failed(UNKNOWN_HANDLER if route is None else route.name, None)
        return cancelled_itself(operation)

    async def _run_here(
        self,
        route: Route,
        operation: Operation,
        source: Source,
        attempt: int,
        transaction: OpenTransaction | None,
        *,
        timing: Timing,
    ) -> Verdict:
        """On the loop, or in a thread. Raises InvalidOperation."""
        arguments = route.arguments(operation.path, operation.body)

        async def perform(opened: Any) -> Any:
            key = source.key_of(operation)
            context = Context(operation.id, source.batch_id, attempt, key, opened, source.headers)
            if route.place is Place.THREAD:
                return await self._threads.run(lambda: as_json(route, route.call(arguments, context)), source.priority)
            returned = await route.call(arguments, context)
            return returned if isinstance(returned, Answer) else as_json(route, returned)

        try:
            result = await self._attempt(route, perform, timing, transaction)
        except _PASSING:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises becomes its operation's outcome
            return judge(error, operation, route)
        if isinstance(result, Answer):
            return result.verdict(operation, route.policy.max_attempts)
        return succeeded(operation, route.policy.status, result)

    async def run_lot(
        self, lot: Lot, source: Source, attempt: int, transaction: OpenTransaction | None = None
    ) -> dict[int, Verdict]:
        """One attempt at all of a lot in one call of their bulk handler, and in one transaction.

        Raises CallFailed when it came to nothing that could be told of each, and there are several.
        """
        route = self._operations.match(lot[0].method, lot[0].path)
        rows, verdicts = validate(route, lot)
        for _ in verdicts:
            self._meter.failed(UNKNOWN_HANDLER, None)
        if not rows:
            return verdicts

        def call(opened: Any) -> Any:
            contexts = [
                Context(one.id, source.batch_id, attempt, source.key_of(one), opened, source.headers) for one, _ in rows
            ]
            return route.call_bulk([arguments for _, arguments in rows], contexts)

        async def perform(opened: Any) -> list[Any]:
            if route.place is Place.LOOP:
                return read_outcomes(route, await call(opened), len(rows))
            return await self._threads.run(lambda: read_outcomes(route, call(opened), len(rows)), source.priority)

        timing = Timing()
        try:
            outcomes = await self._attempt(route, perform, timing, transaction, count=len(rows))
        except _PASSING:
            raise
        except BaseException as error:
            if len(rows) > 1 and not tells_of_all(error):
                get_log().warning(Event.BULK_CALL_BROKE, handler=route.name, operations=len(rows), exc_info=error)
                raise CallFailed(cut_off=isinstance(error, TimedOut)) from error
            outcomes = [error] * len(rows)
        for (operation, _), outcome in zip(rows, outcomes, strict=True):
            verdicts[operation.index] = verdict = (
                judge(outcome, operation, route)
                if isinstance(outcome, BaseException)
                else succeeded(operation, route.policy.status, outcome)
            )
            self._count(route.name, verdict, attempt, timing.seconds)
        return verdicts

    async def _run_in_process(
        self, route: Route, operation: Operation, source: Source, attempt: int, *, timing: Timing
    ) -> Verdict:
        """Raises InvalidOperation."""
        job = Job(
            route.name,
            operation,
            source.batch_id,
            attempt,
            source.key_of(operation),
            has_transaction=self._operations.transaction is not None,
            fields=_log_fields(),
            headers=dict(source.headers),
        )
        try:
            async with self._cpu.worker(route) as worker:
                answer: Verdict | InvalidOperation = await self._attempt(route, lambda _: worker.perform(job), timing)
        except _PASSING:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            return judge(error, operation, route)
        if isinstance(answer, InvalidOperation):
            raise answer
        return answer

    async def _attempt(
        self,
        route: Route,
        perform: Callable[[Any], Awaitable[Any]],
        timing: Timing,
        transaction: OpenTransaction | None = None,
        *,
        count: int = 1,
    ) -> Any:
        """What `perform` returns, within the handler's time and the transaction. Raises whatever went wrong instead.

        It is of so many operations, and `timing` is set to what each has taken.
        """
        result = _NOTHING
        begun_at = self._monotonic()
        try:
            async with (
                asyncio.timeout(route.policy.timeout_seconds) as limit,
                self._open_for(route, transaction) as opened,
            ):
                result = await perform(opened)
            if result is _NOTHING:
                raise asyncio.CancelledError if _is_being_cancelled() else Misconfigured(SWALLOWED)
            return result
        except asyncio.CancelledError as error:
            if _is_being_cancelled():
                raise
            raise CancelledWithin from error
        except TimeoutError as error:
            if limit.expired():
                raise TimedOut from error
            raise
        finally:
            seconds = self._monotonic() - begun_at
            timing.seconds = seconds / count
            self._note_spent(route.name, seconds, count)

    def _open_for(self, route: Route, transaction: OpenTransaction | None) -> Transaction:
        """The transaction is the loop's: its connection cannot be used in a thread, and less so in a process."""
        if route.is_forwarded:
            return nullcontext()
        if route.place is Place.LOOP:
            return (transaction or self._operations.transaction or nullcontext)()
        return nullcontext(None if self._operations.transaction is None else NoTransaction(route.name))

    def _note_spent(self, handler: str, seconds: float, count: int) -> None:
        spent = self._spent.get(handler)
        if spent is None:
            spent = self._spent[handler] = Spent()
        spent.count += count
        spent.seconds += seconds

    def _count(self, handler: str, verdict: Verdict, attempt: int, seconds: float | None) -> None:
        """The one place where attempts are counted for the metrics."""
        if not is_final(verdict, attempt):
            self._meter.retried(handler, seconds)
        elif as_outcome(verdict).state is OutcomeState.SUCCEEDED:
            assert seconds is not None
            self._meter.succeeded(handler, seconds)
        else:
            self._meter.failed(handler, seconds)


@asynccontextmanager
async def _taken(room: Room, source: Source) -> AsyncIterator[None]:
    await room.acquire(source.priority, source.tenant)
    try:
        yield
    finally:
        room.release(source.priority)


async def _gather(runs: Sequence[Coroutine[Any, Any, dict[int, Verdict]]]) -> dict[int, Verdict]:
    """The verdicts of all; when one of them raises, the others are cancelled, and that is what is raised."""
    if len(runs) == 1:
        return await runs[0]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run) for run in runs]
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None
    return {index: verdict for task in tasks for index, verdict in task.result().items()}


def _log_fields() -> dict[str, Any]:
    """Of the lines about what runs here, as far as they can be sent to another process."""
    fields = structlog.contextvars.get_contextvars().items()
    return {name: value for name, value in fields if isinstance(value, str | int) and name != "program"}


async def _apart(attempt: Coroutine[Any, Any, T]) -> T:
    """Raises CancelledItself when its task was cancelled, and nobody had asked for that out here."""
    try:
        return await asyncio.create_task(attempt)
    except asyncio.CancelledError as error:
        if _is_being_cancelled():
            raise
        raise CancelledItself from error


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_marked(unmarked: contextvars.Context) -> bool:
    """Whether a handler has left a context variable changed, which the next one in this task would find."""
    try:
        return contextvars.copy_context() != unmarked
    except Exception:  # noqa: BLE001 - there are values that cannot be compared, and these have changed
        return True


class _ChunkRun:
    """A chunk's operations under way, each begun when there is a slot for it.

    A worker waits for a slot, has it for a slice of time, and performs one operation after the other in it: a task for
    each would cost as much as all else about a quick one. Then the slot goes to whoever is next, this chunk or another,
    and the worker waits again; so of operations that take longer than a slice it performs one at a time. After one that
    leaves a mark on the task it runs in, a context variable or a cancellation, another worker takes its place. There
    are as many as there are slots: when several come free at once, each may be this chunk's.
    """

    def __init__(
        self,
        attempt: Callable[[Operation], Awaitable[Verdict]],
        cancelled: Callable[[Operation], Verdict],
        slots: Turn | TurnWithRoom | None,
        monotonic: Callable[[], float],
        *,
        stop: Stop,
        ended: Callable[[], None],
        may_begin: Callable[[], bool],
    ) -> None:
        self.verdicts: dict[int, Verdict] = {}
        self._attempt = attempt
        self._cancelled = cancelled  # what an attempt has come to that cancelled its own task
        self._slots = slots
        self._stop = stop
        self._ended = ended
        self._may_begin = may_begin
        self._monotonic = monotonic
        self._left: deque[Operation] = deque()  # not begun
        self._workers: dict[asyncio.Task[None], Operation | None] = {}  # and what each is at
        self._waiting: dict[asyncio.Task[None], None] = {}  # those that have no slot, in their order
        self._fault: BaseException | None = None

    async def carry_out(self, operations: Sequence[Operation]) -> None:
        """Until all have ended, or they are cut and have had a moment to notice."""
        self._left.extend(operations)
        for _ in range(min(len(operations), self._slots.count if self._slots else 1)):
            self._begin_worker()
        cutting = asyncio.create_task(self._stop.cut.wait())
        try:
            while self._workers and not cutting.done():
                await asyncio.wait((*self._workers, cutting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            cutting.cancel()
            self._give_up_rest()
            for worker in self._workers:
                worker.cancel()
        if self._workers:
            await asyncio.wait(list(self._workers), timeout=NOTICE_SECONDS)
        if self._fault is not None:
            raise self._fault

    def _begin_worker(self) -> None:
        worker = asyncio.create_task(self._work())
        self._workers[worker] = None
        worker.add_done_callback(self._end)

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        unmarked = contextvars.copy_context()
        while self._left and not _is_marked(unmarked):
            await self._take_slot(worker)
            try:
                await self._work_for_a_slice(worker, unmarked)
            finally:
                if self._slots is not None:
                    self._slots.release()
            if worker.cancelling():
                return
            await asyncio.sleep(0)  # where nobody waits for the slot, others have their turn on the loop

    async def _take_slot(self, worker: asyncio.Task[None]) -> None:
        if self._slots is None:
            return
        self._waiting[worker] = None
        try:
            await self._slots.acquire()
        finally:
            self._waiting.pop(worker, None)

    async def _work_for_a_slice(self, worker: asyncio.Task[None], unmarked: contextvars.Context) -> None:
        ends_at = self._monotonic() + SLICE_SECONDS
        while self._left:
            # Asked before each operation: the process may have been stopped for long, and wake up here.
            if not self._may_begin() or self._stop.begun.is_set():
                self._give_up_rest()
                return
            self._workers[worker] = operation = self._take()
            self.verdicts[operation.index] = await self._attempt(operation)
            if worker.cancelling():
                return  # by its handler, perhaps: how it ended is seen when the task has
            self._workers[worker] = None
            self._ended()
            if self._monotonic() >= ends_at or _is_marked(unmarked):
                return

    def _take(self) -> Operation:
        operation = self._left.popleft()
        if not self._left:
            self._dismiss()
        return operation

    def _dismiss(self) -> None:
        """Those who wait for a slot need none any more."""
        for worker in self._waiting:
            worker.cancel()

    def _give_up_rest(self) -> None:
        """Nothing more begins."""
        self._dismiss()
        while self._left:
            self._left.popleft()
            self._ended()

    def _end(self, worker: asyncio.Task[None]) -> None:
        operation = self._workers.pop(worker)
        if operation is not None:
            self._ended()
        try:
            self._fault = self._fault or worker.exception()  # one of ours: what handlers raise are verdicts
        except asyncio.CancelledError:
            if operation is not None and not self._stop.cut.is_set():  # by the handler it ran
                self.verdicts[operation.index] = self._cancelled(operation)
        if self._left:
            self._begin_worker()


def _call_failed(first: Operation) -> Verdict:
    """For the run that begins calls: this one's operations have no verdicts yet."""
    return failed(first, 500, "Broke")


class _LotRun:
    """A chunk's lots under way. For the run that begins them each is represented by its first operation."""

    def __init__(
        self,
        lots: Sequence[Lot],
        attempt: Callable[[Lot], Awaitable[dict[int, Verdict]]],
        ended: Callable[[], None],
    ) -> None:
        self.verdicts: dict[int, Verdict] = {}
        self.failed: list[Operation] = []  # of calls that raised: to be tried singly
        self._lots = {lot[0].index: lot for lot in lots}  # that have not ended
        self._attempt = attempt
        self._ended = ended

    async def carry_out(self, run: _ChunkRun) -> None:
        try:
            await run.carry_out([lot[0] for lot in self._lots.values()])
        finally:
            for first, lot in list(self._lots.items()):
                if first in run.verdicts:
                    self.failed += lot
                else:  # not begun, or cut
                    self._end(lot)

    async def begin(self, first: Operation) -> Verdict:
        lot = self._lots[first.index]
        try:
            verdicts = await self._attempt(lot)
        except CallFailed:
            return _call_failed(first)
        self.verdicts |= verdicts
        self._end(lot)
        return verdicts[first.index]

    def _end(self, lot: Lot) -> None:
        """Once: a handler that would not be cancelled comes to its end when its lot has been given up."""
        for _ in self._lots.pop(lot[0].index, ()):
            self._ended()
