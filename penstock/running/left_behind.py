"""Tasks of handlers that do not end although they were cancelled, as with a bare `except:` in a loop.

Such a task cannot be stopped, no more than a thread. So it is left behind: nobody waits for it any more, but it keeps a
slot until it ends. It cannot succeed any more, so its transaction is not committed.
"""

import asyncio
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self

from penstock.clock import Clock
from penstock.errors import HandlersStuck
from penstock.running.slots import Slots
from penstock.running.source import Source
from penstock.running.stuck import until_stuck

NOTICE_SECONDS = 2.0  # a cancelled handler that needs longer to end is left behind

AnyTask = asyncio.Task[Any]


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
    def is_current(self) -> bool:
        """Return True if the current task was left behind."""
        return bool(self._tasks) and asyncio.current_task() in self._tasks

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


class TimeLimit:
    """Cancels the current task if the `with` block takes longer than `seconds`, and raises TimeoutError then.

    It does what `asyncio.timeout` does. It also calls `overdue` if the block has not ended NOTICE_SECONDS after that.
    """

    __slots__ = ("_cancelling", "_overdue", "_seconds", "_task", "_timer", "is_over")

    def __init__(self, seconds: float, overdue: Callable[[], None]) -> None:
        self.is_over = False
        self._seconds = seconds
        self._overdue = overdue

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self.is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self.is_over = True
        self._task.cancel()
        self._timer = asyncio.get_running_loop().call_later(NOTICE_SECONDS, self._overdue)
