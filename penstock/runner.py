"""Runs handlers: an attempt at an operation becomes a verdict, whatever the handler does; slots bound how many."""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from penstock.answer import Answer
from penstock.chunk import Chunk, Operation
from penstock.context import Context, Reject, Retry
from penstock.errors import Misconfigured
from penstock.meter import UNKNOWN_HANDLER, Meter
from penstock.operations import Operations
from penstock.outcome import OutcomeState, TryAgain, Verdict, as_outcome, failed, is_final, succeeded
from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.route import InvalidOperation, Route
from penstock.slots import Slots, Turn
from penstock.telemetry import Event, get_log

SLICE_SECONDS = 0.001  # a hundred quick operations; so long is nothing else done in the process
NOTICE_SECONDS = 2.0  # a handler that is cancelled ends in this time, or it is left behind, its operation not ended
MAX_DETAIL_CHARACTERS = 2_000  # so that errors never outgrow the operations they travel with

SWALLOWED = "The application's transaction swallowed what its handler raised: it is to roll back and let it pass."

Transaction = AbstractAsyncContextManager[Any]

_NOTHING: Any = object()  # no result: None is one


class _Unserializable(Exception):
    """The handler returned what JSON cannot hold."""


class Stop:
    """How far stopping has gone. The stages follow one another and are never taken back; followers stop along."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()  # nothing new begins
        self.cut = asyncio.Event()  # the grace period is over: handlers under way are cancelled
        self._followers: dict[Stop, None] = {}  # in their order, or no run could be replayed

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


@dataclass(slots=True)
class Spent:
    """Handler time: `count` attempts have taken `seconds` together."""

    count: int = 0
    seconds: float = 0.0


class Runner:
    """One per process: its slots are the bound on handlers in flight, shared by all that the process works on."""

    def __init__(
        self,
        operations: Operations[Any],
        concurrency: int,
        monotonic: Callable[[], float] = time.monotonic,
        meter: Meter | None = None,
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
    ) -> None:
        self._operations = operations
        self._monotonic = monotonic
        self._meter = meter or Meter()
        self._spent: dict[str, Spent] = {}
        self._slots = Slots(concurrency, weights, monotonic)

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
        slots = None if has_slot else self._slots.turn(source.priority, source.tenant)

        def attempt(operation: Operation) -> Awaitable[Verdict]:
            return self.run(operation, source, chunk.attempt)

        run = _ChunkRun(attempt, slots=slots, stop=stop, ended=ended, may_begin=may_begin, monotonic=self._monotonic)
        await run.carry_out(chunk.operations)
        return run.verdicts

    def slot(self, source: Source) -> AbstractAsyncContextManager[None]:
        return self._slots.one(source.priority, source.tenant)

    def all_slots(self) -> AbstractAsyncContextManager[None]:
        """Waits until nothing else runs and lets nothing else begin. One caller at a time: two would wait for ever."""
        return self._slots.all()

    def take_spent(self) -> dict[str, Spent]:
        """What the handlers have taken since this was last asked for, by their names."""
        spent, self._spent = self._spent, {}
        return spent

    async def run(
        self,
        operation: Operation,
        source: Source,
        attempt: int,
        transaction: Callable[[], Transaction] | None = None,
    ) -> Verdict:
        """One attempt, in what `transaction` opens; without it in a transaction of its own, where there are any.

        The transaction is left clean when the attempt succeeded, by an exception otherwise. Takes no slot by itself.
        """
        result = _NOTHING
        try:
            route = self._operations.match(operation.method, operation.path)
            arguments = route.arguments(operation.path, operation.body)
        except InvalidOperation as error:
            # Validated before it was accepted, so the application has changed since: it is told, not tried again.
            self._meter.failed(UNKNOWN_HANDLER, None)
            return failed(operation, 422, "Invalid operation", str(error), rejected=True)
        if route.is_forwarded:
            transaction = nullcontext
        transaction = transaction or self._operations.transaction or nullcontext
        begun_at = self._monotonic()
        verdict: Verdict | None = None  # none: cut short
        try:
            async with asyncio.timeout(route.policy.timeout_seconds) as limit, transaction() as opened:
                key = f"{source.key_prefix}/{operation.id}"
                context = Context(operation.id, source.batch_id, attempt, key, opened, source.headers)
                returned = await route.call(arguments, context)
                if isinstance(returned, Answer):
                    return returned.verdict(operation, route.policy.max_attempts)
                result = _to_json(route, returned)
            if result is _NOTHING:
                raise asyncio.CancelledError if _is_being_cancelled() else Misconfigured(SWALLOWED)
            verdict = succeeded(operation, route.policy.status, result)
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            verdict = _broke(operation, route, "CancelledError", "The handler was cancelled from within.")
        except (KeyboardInterrupt, GeneratorExit):
            raise  # they are about the process, or the coroutine as such
        except BaseException as error:  # noqa: BLE001 - whatever else a handler raises becomes its operation's outcome
            verdict = _verdict(error, operation, route, timed_out=limit.expired())
        finally:
            seconds = self._monotonic() - begun_at
            self._note_spent(route.name, seconds)
            if verdict is not None:
                self._count(route.name, verdict, attempt, seconds)
        return verdict

    def _note_spent(self, handler: str, seconds: float) -> None:
        spent = self._spent.get(handler)
        if spent is None:
            spent = self._spent[handler] = Spent()
        spent.count += 1
        spent.seconds += seconds

    def _count(self, handler: str, verdict: Verdict, attempt: int, seconds: float) -> None:
        """The one place where attempts are counted for the metrics."""
        if not is_final(verdict, attempt):
            self._meter.retried(handler, seconds)
        elif as_outcome(verdict).state is OutcomeState.SUCCEEDED:
            self._meter.succeeded(handler, seconds)
        else:
            self._meter.failed(handler, seconds)


def _verdict(error: BaseException, operation: Operation, route: Route, *, timed_out: bool) -> Verdict:
    """The one place where what went wrong in a handler becomes a verdict."""
    try:
        return _judge(error, operation, route, timed_out=timed_out)
    except Exception:  # noqa: BLE001 - not even its text can be had, or it skipped the constructor of its base class
        return _broke(operation, route, type(error).__name__, "")


def _judge(error: BaseException, operation: Operation, route: Route, *, timed_out: bool) -> Verdict:
    match error:
        case Reject():
            return failed(operation, error.status, "Rejected", error.detail, rejected=True)
        case Retry():
            failure = failed(operation, 503, "Not performed", error.detail)
            return TryAgain(failure, route.policy.max_attempts, error.after_seconds)
        case _Unserializable():
            get_log().error(Event.OPERATION_BROKE, operation_id=operation.id, handler=route.name, error=str(error))
            return failed(operation, 500, "Result is not JSON", str(error))
        case TimeoutError() if timed_out:
            seconds = route.policy.timeout_seconds
            failure = failed(operation, 504, "Timed out", f"The operation was not done within {seconds:g} s.")
            return TryAgain(failure, route.policy.max_attempts)
        case Misconfigured():
            return failed(operation, 500, "Misconfigured", str(error))
        case _:
            get_log().error(Event.OPERATION_BROKE, operation_id=operation.id, handler=route.name, exc_info=error)
            return _broke(operation, route, type(error).__name__, str(error))


def _broke(operation: Operation, route: Route, kind: str, message: str) -> TryAgain:
    detail = f"{kind}: {message}"[:MAX_DETAIL_CHARACTERS] if message else kind
    return TryAgain(failed(operation, 500, "Broke", detail), route.policy.max_attempts)


def _to_json(route: Route, result: Any) -> Any:
    """The result as plain JSON values, by way of its bytes: so nothing is kept that could not be written later.

    Nor read: a parser goes only so deep, and in a chunk record up to three brackets stand around a result or its
    members.
    """
    try:
        return from_json(b"[[[%b]]]" % to_json(result))[0][0][0]
    except (PydanticSerializationError, ValueError) as error:
        raise _Unserializable(f"{route.name} returned what JSON cannot hold: {error}") from error


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
        *,
        slots: Turn | None,
        stop: Stop,
        ended: Callable[[], None],
        may_begin: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        self.verdicts: dict[int, Verdict] = {}
        self._attempt = attempt
        self._slots = slots
        self._stop = stop
        self._ended = ended
        self._may_begin = may_begin
        self._monotonic = monotonic
        self._left: deque[Operation] = deque()  # not begun
        self._workers: dict[asyncio.Task[None], Operation | None] = {}  # and what each is at
        self._waiting: set[asyncio.Task[None]] = set()  # those that have no slot
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
        self._waiting.add(worker)
        try:
            await self._slots.acquire()
        finally:
            self._waiting.discard(worker)

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
            if operation is not None and not self._stop.cut.is_set():
                # Its handler cancelled the task it runs in. Without a verdict it would follow for ever.
                self.verdicts[operation.index] = failed(operation, 500, "Broke", "The handler cancelled its own task.")
        if self._left:
            self._begin_worker()
