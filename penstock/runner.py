"""Runs handlers: an attempt at an operation becomes a verdict, whatever the handler does; slots bound how many."""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from penstock.chunk import Chunk, Operation
from penstock.context import Context, Reject, Retry
from penstock.errors import Misconfigured
from penstock.operations import Operations
from penstock.outcome import TryAgain, Verdict, failed, succeeded
from penstock.route import InvalidOperation, Route
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
    """The batch that an operation is of, as its handler is told. `key_prefix` begins the keys of its operations."""

    batch_id: str
    key_prefix: str


@dataclass(slots=True)
class Spent:
    """Handler time: `count` attempts have taken `seconds` together."""

    count: int = 0
    seconds: float = 0.0


class Runner:
    """One per process: its slots are the bound on handlers in flight, shared by all that the process works on."""

    def __init__(
        self, operations: Operations[Any], concurrency: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._operations = operations
        self._monotonic = monotonic
        self._spent: dict[str, Spent] = {}
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)

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
        slots = None if has_slot else self._slots

        def attempt(operation: Operation) -> Awaitable[Verdict]:
            return self.run(operation, source, chunk.attempt)

        run = _ChunkRun(attempt, slots=slots, stop=stop, ended=ended, may_begin=may_begin, monotonic=self._monotonic)
        await run.carry_out(chunk.operations)
        return run.verdicts

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        async with self._slots:
            yield

    @asynccontextmanager
    async def all_slots(self) -> AsyncIterator[None]:
        """Waits until nothing else runs and lets nothing else begin. One caller at a time: two would wait for ever."""
        async with AsyncExitStack() as stack:
            for _ in range(self._concurrency):
                await stack.enter_async_context(self._slots)
            yield

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
        transaction = transaction or self._operations.transaction or nullcontext
        result = _NOTHING
        try:
            route = self._operations.match(operation.method, operation.path)
            arguments = route.arguments(operation.path, operation.body)
        except InvalidOperation as error:
            # Validated before it was accepted, so the application has changed since: it is told, not tried again.
            return failed(operation, 422, "Invalid operation", str(error), rejected=True)
        begun_at = self._monotonic()
        try:
            async with asyncio.timeout(route.policy.timeout_seconds) as limit, transaction() as opened:
                key = f"{source.key_prefix}/{operation.id}"
                context = Context(operation.id, source.batch_id, attempt, key, opened)
                result = _to_json(route, await route.call(arguments, context))
            if result is _NOTHING:
                raise asyncio.CancelledError if _is_being_cancelled() else Misconfigured(SWALLOWED)
            return succeeded(operation, route.policy.status, result)
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            return _broke(operation, route, "CancelledError", "The handler was cancelled from within.")
        except (KeyboardInterrupt, GeneratorExit):
            raise  # they are about the process, or the coroutine as such
        except BaseException as error:  # noqa: BLE001 - whatever else a handler raises becomes its operation's outcome
            return _verdict(error, operation, route, timed_out=limit.expired())
        finally:
            self._note_spent(route.name, self._monotonic() - begun_at)

    def _note_spent(self, handler: str, seconds: float) -> None:
        spent = self._spent.get(handler)
        if spent is None:
            spent = self._spent[handler] = Spent()
        spent.count += 1
        spent.seconds += seconds


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

    A worker has its slot for a slice of time and performs one operation after the other in it: a task for each would
    cost as much as all else about a quick one. After its slice the slot goes to whoever has waited longest, this chunk
    or another; so of operations that take longer than a slice each has a worker of its own. So has what comes after
    one that leaves a mark on the task it runs in, a context variable or a cancellation.
    """

    def __init__(
        self,
        attempt: Callable[[Operation], Awaitable[Verdict]],
        *,
        slots: asyncio.Semaphore | None,
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
        self._left: deque[Operation] = deque()  # not taken by a worker yet
        self._workers: dict[asyncio.Task[None], Operation] = {}
        self._feeding: asyncio.Task[None] | None = None
        self._fault: BaseException | None = None

    async def carry_out(self, operations: Sequence[Operation]) -> None:
        """Until all have ended, or they are cut and have had a moment to notice."""
        self._left.extend(operations)
        self._feeding = feeding = asyncio.create_task(self._feed())
        cutting = asyncio.create_task(self._stop.cut.wait())
        try:
            await asyncio.wait((feeding, cutting), return_when=asyncio.FIRST_COMPLETED)
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

    async def _feed(self) -> None:
        """A worker for each slot that can be had, while there are operations left."""
        while self._left:
            if self._slots is not None:
                await self._slots.acquire()
            worker = asyncio.create_task(self._work(operation := self._left.popleft()))
            self._workers[worker] = operation
            worker.add_done_callback(self._end)

    async def _work(self, operation: Operation) -> None:
        task = asyncio.current_task()
        assert task is not None
        unmarked, slice_ends_at = contextvars.copy_context(), self._monotonic() + SLICE_SECONDS
        # Asked before each operation: the process may have been stopped for long, and wake up here.
        while self._may_begin() and not self._stop.begun.is_set():
            self.verdicts[operation.index] = await self._attempt(operation)
            if not self._left or self._monotonic() >= slice_ends_at or task.cancelling() or _is_marked(unmarked):
                return
            self._ended()
            self._workers[task] = operation = self._take()
        self._give_up_rest()

    def _take(self) -> Operation:
        operation = self._left.popleft()
        if not self._left:
            self._stop_feeding()  # it waits for a slot that is not needed any more
        return operation

    def _stop_feeding(self) -> None:
        """And forget the task: what it was cancelled by refers to us, and only the collector would free the chunk."""
        if self._feeding is not None:
            self._feeding.cancel()
            self._feeding = None

    def _give_up_rest(self) -> None:
        """Nothing more begins."""
        self._stop_feeding()
        while self._left:
            self._left.popleft()
            self._ended()

    def _end(self, worker: asyncio.Task[None]) -> None:
        operation = self._workers.pop(worker)
        if self._slots is not None:
            self._slots.release()
        self._ended()
        if not worker.cancelled():
            self._fault = self._fault or worker.exception()  # one of ours: what handlers raise are verdicts
        elif not self._stop.cut.is_set():
            # Its handler cancelled the task it runs in. Without a verdict it would follow for ever.
            self.verdicts[operation.index] = failed(operation, 500, "Broke", "The handler cancelled its own task.")
