"""An event loop in virtual time: when nothing is ready, time jumps to the next timer.

Every callback that a simulated process schedules, even deep inside asyncio, has that process in its context. Before a
callback runs, the process decides whether it may. So a process can be killed or paused at every await.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from typing import Any, Protocol, TypeVarTuple

Ts = TypeVarTuple("Ts")


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
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._timers: list[tuple[float, asyncio.TimerHandle]] = []  # a heap; numbers are compared faster than handles
        self.tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, timer))
        return timer

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
        ready = self._ready
        for _ in range(len(ready)):
            handle: Any = ready.popleft()
            if handle._cancelled:
                continue
            gate: Gate | None = handle._context.get(GATE)
            if gate is None or gate.admits(handle):
                handle._run()
            if self._stopping:
                return

    def _move_due(self) -> None:
        timers, ready = self._timers, self._ready
        while timers and timers[0][1].cancelled():
            heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise Deadlock
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heappop(timers)[1])

    def _write_to_self(self) -> None:
        """Do nothing, since there is no selector to wake."""
