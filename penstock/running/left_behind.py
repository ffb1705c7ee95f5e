"""Tasks of handlers that do not end although they were cancelled, as with a bare `except:` in a loop.

Such a task cannot be stopped, no more than a thread. So it is left behind: nobody waits for it any more, but it keeps a
slot until it ends. It cannot succeed any more, so its transaction is not committed.
"""

import asyncio
import math
import types
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from penstock.clock import Clock
from penstock.errors import HandlersStuck
from penstock.running.slots import Slots
from penstock.running.source import Source
from penstock.running.stuck import until_stuck
from penstock.running.verdict import TimedOut

NOTICE_SECONDS = 2.0  # a cancelled handler that needs longer to end is left behind

AnyTask = asyncio.Task[Any]

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Worker:
    """A task that performs attempts, one after the other."""

    task: AnyTask = field(init=False)  # set before the task runs
    overdue: Callable[["Worker"], None] = lambda _: None  # called if a handler does not end after its time limit
    has_waited: bool = False  # True if a handler has waited, so that the event loop could run other tasks
    is_left: bool = False  # True if it was left behind: nobody waits for its attempt any more
    is_profiled: bool = False  # True if a profiler must see what a handler awaits first

    @classmethod
    def current(cls, *, is_profiled: bool = False) -> "Worker":
        """Return a worker for the current task."""
        worker, task = cls(is_profiled=is_profiled), asyncio.current_task()
        assert task is not None
        worker.task = task
        return worker


class LeftTasks:
    """The tasks that were left behind. Each holds one of `slots`."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._tasks: set[AnyTask] = set()  # the event loop itself would not keep them from being garbage-collected
        self._any_left = asyncio.Event()

    def leave(self, task: AnyTask) -> None:
        """Leave a task behind that releases its slot itself."""
        self._tasks.add(task)
        self._any_left.set()
        task.add_done_callback(self._come_back)

    def leave_without_slot(self, task: AnyTask, source: Source) -> None:
        """Leave a task behind that runs in the slot of its caller, who is about to release it.

        Until the task ends, it holds another slot. The slot of the caller pays for it.
        """
        self._slots.overdraw(source.priority, source.tenant)
        task.add_done_callback(lambda _: self._slots.release(source.priority, source.tenant))
        self.leave(task)

    @property
    def hold_all_slots(self) -> bool:
        return len(self._tasks) >= self._slots.count

    async def watch(self, stall_seconds: float, clock: Clock) -> None:
        """Run until cancelled. Raise HandlersStuck if tasks left behind block all slots for `stall_seconds`."""
        await until_stuck(self._block, self._any_left, stall_seconds, clock)
        raise HandlersStuck("async def", len(self._tasks))

    def _block(self) -> bool:
        return self.hold_all_slots or bool(self._tasks and self._slots.are_all_wanted)

    def _come_back(self, task: AnyTask) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody else reads it
        if not self._tasks:
            self._any_left.clear()


async def end_soon(cancelled: Collection[AnyTask]) -> bool:
    """Wait a moment for tasks that were cancelled. Return True if all have ended."""
    await asyncio.wait(list(cancelled), timeout=NOTICE_SECONDS)
    return all(task.done() for task in cancelled)


@types.coroutine
def _resume(started: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Do what `yield from` does, for a coroutine that was started and has yielded what it awaits."""
    while True:
        try:
            yield awaited
        except GeneratorExit:
            started.close()
            raise
        except BaseException as error:  # noqa: BLE001 - the coroutine gets it
            try:
                awaited = started.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
        else:
            return (yield from started.__await__())


class _Limit:
    """What a time limit for one attempt and those for several have in common: they cancel the task of their worker."""

    __slots__ = ("_cancelling", "_monotonic", "_timer", "is_over", "worker")

    def __init__(self, monotonic: Callable[[], float], worker: Worker, cancelling: int = 0) -> None:
        """Create a limit by the clock `monotonic`.

        `cancelling` is what `cancelling()` of the worker's task returned before the handler was called. A handler may
        cancel its own task before it waits for the first time.
        """
        self.is_over = False
        self.worker = worker
        self._timer: asyncio.TimerHandle | None = None
        self._monotonic = monotonic
        self._cancelling = cancelling

    @property
    def has_cancelled(self) -> bool:
        """Return True if nobody else has cancelled the task since the handler was called."""
        return self.is_over and self.worker.task.cancelling() - 1 <= self._cancelling

    def _expire(self) -> None:
        self.is_over = True
        self.worker.task.cancel()
        self._timer = asyncio.get_running_loop().call_later(NOTICE_SECONDS, self.worker.overdue, self.worker)


class TimeLimit(_Limit):
    """The time limit of one attempt. If it is over, the worker's task is cancelled and `run` raises TimeoutError.

    It does what `asyncio.timeout` does. It also calls the worker's `overdue` if the attempt has not ended
    NOTICE_SECONDS after that. The timer starts when the attempt waits for the first time: nothing could interrupt it
    before that, and most attempts that never wait end long before their time limit.
    """

    __slots__ = ("_seconds", "begun_at")

    def __init__(
        self, begun_at: float, seconds: float, monotonic: Callable[[], float], worker: Worker, cancelling: int
    ) -> None:
        """Create a limit that is over `seconds` after the clock `monotonic` showed `begun_at`."""
        super().__init__(monotonic, worker, cancelling)
        self.begun_at = begun_at
        self._seconds = seconds

    async def run(self, attempt: Coroutine[Any, Any, T]) -> T:
        """Await the attempt."""
        if self.worker.is_profiled:
            return await self._limit(attempt)
        try:
            awaited = attempt.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        return await self._limit(_resume(attempt, awaited))

    async def _limit(self, rest: Awaitable[T]) -> T:
        self.worker.has_waited = True
        seconds = max(0.0, self.begun_at + self._seconds - self._monotonic())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)
        try:
            return await rest
        except asyncio.CancelledError as error:
            if self.has_cancelled:
                raise TimeoutError from error
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self.is_over:
                self.worker.task.uncancel()


class TimeLimits(_Limit):
    """The time limits of the attempts that a worker performs one after the other.

    They share a timer, because one for each attempt would take longer than some handlers. It stays when an attempt ends
    in time. When it goes off, it is set again, for the limit of the attempt that waits then.
    """

    __slots__ = ("_due_at", "_set_for")

    def __init__(self, monotonic: Callable[[], float], worker: Worker) -> None:
        super().__init__(monotonic, worker)
        self._due_at = math.inf  # the end of the limit of the attempt that waits, if any does
        self._set_for = math.inf  # the end for which the timer is set

    def start(self, begun_at: float, seconds: float) -> None:
        """Limit an attempt from the moment when it waits for the first time."""
        self._due_at = due_at = begun_at + seconds
        if due_at < self._set_for:
            self._set_timer()

    def end(self) -> None:
        """Note that the attempt has ended."""
        self._due_at = math.inf
        if self.is_over:
            self.is_over = False
            self.close()
            self.worker.task.uncancel()

    def end_by(self, error: BaseException) -> BaseException:
        """End the limit of an attempt that has raised `error`. Return TimedOut if it was over."""
        cancelled = isinstance(error, asyncio.CancelledError) and self.has_cancelled
        is_due = cancelled or (isinstance(error, TimeoutError) and self.is_over)
        self.end()
        return TimedOut() if is_due else error

    def close(self) -> None:
        """Cancel the timer. Call this when the worker ends."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._set_for = None, math.inf

    def _set_timer(self) -> None:
        self.close()
        self._set_for = self._due_at
        seconds = max(0.0, self._due_at - self._monotonic())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._go_off)

    def _go_off(self) -> None:
        is_due = self._due_at <= self._set_for
        self._timer, self._set_for = None, math.inf
        if is_due:
            self._expire()
        elif self._due_at < math.inf:
            self._set_timer()
