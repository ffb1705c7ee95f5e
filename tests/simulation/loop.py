"""An event loop in virtual time: when nothing is ready, time jumps to the next timer.

Every callback that a simulated process schedules, even deep inside asyncio, has that process in its context. Before a
callback runs, the process decides whether it may. So a process can be killed or paused at every await.
"""

import asyncio
from collections import deque
from contextvars import Context, ContextVar
from heapq import heappop
from typing import Any, Protocol


class Gate(Protocol):
    def admits(self, handle: asyncio.Handle) -> bool:
        """Return True if the callback may run now. If not, the gate keeps it."""


GATE: ContextVar[Gate | None] = ContextVar("GATE", default=None)


class Deadlock(Exception):
    """The run is not over, but nothing is ready and no timer is set."""


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop of a run. `tasks` holds every task, so that those of killed processes are not garbage-collected.

    Otherwise their `finally` blocks would run in the middle of a step of another process.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def close(self) -> None:
        """Close the loop, and forget its tasks: aiohttp caches keep the loop, and asyncio lists every living task."""
        super().close()
        self.tasks.clear()

    def put_back(self, handles: list[asyncio.Handle]) -> None:
        """Schedule the callbacks that a gate has kept."""
        self._ready.extend(handles)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, *, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, context=context)
        self.tasks.append(task)
        return task

    def _run_once(self) -> None:
        """Run one turn of the loop, without sockets, in the order that asyncio promises."""
        self._move_due()
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle.cancelled():
                continue
            gate: Gate | None = handle._context.get(GATE)  # type: ignore[attr-defined]
            if gate is None or gate.admits(handle):
                handle._run()
            if self._stopping:
                return

    def _move_due(self) -> None:
        scheduled = self._scheduled
        while scheduled and scheduled[0].cancelled():
            heappop(scheduled)
        if not self._ready and not self._stopping:
            if not scheduled:
                raise Deadlock
            self._now = max(self._now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now:
            self._ready.append(heappop(scheduled))

    def _write_to_self(self) -> None:
        """Do nothing, since there is no selector to wake."""
