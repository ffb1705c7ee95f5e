"""Simulated processes: they share a loop, have separate clocks, and can be killed or paused between any two steps."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from enum import Enum, auto
from typing import Any

from tests.simulation.loop import GATE, VirtualLoop

EPOCH = 1_700_000_000.0


class State(Enum):
    RUNNING = auto()
    PAUSED = auto()  # SIGSTOP: its timers expire and its answers arrive, but it notices nothing
    DEAD = auto()  # SIGKILL: it runs no further step and no `finally`
    BURIED = auto()  # the run is over, and its remaining tasks may unwind


class Process:
    """A simulated process. `steps` counts its steps: to die at step n is to die at one certain await.

    `strike_in` makes something happen to it at one of its calls to AWS, just before or just after the effect.
    """

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name = name
        self.state = State.RUNNING
        self.steps = 0
        self.dies_at_step: int | None = None
        self.paused_at: float | None = None
        self.on_death: list[Callable[[], None]] = []
        self._moments_left = 0
        self._strike: Callable[[], None] = lambda: None
        self._loop = loop
        self._kept: list[asyncio.Handle] = []

    @property
    def is_alive(self) -> bool:
        return self.state is State.RUNNING or self.state is State.PAUSED

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a task in this process. Everything that the task starts belongs to the process, too."""
        context = copy_context()
        context.run(GATE.set, self)
        return self._loop.create_task(coroutine, name=f"{self.name}: {name}", context=context)

    def call(self, what: Callable[[], None]) -> None:
        """Call a function in this process from outside, like a signal handler."""
        context = copy_context()
        context.run(GATE.set, self)
        self._loop.call_soon(what, context=context)

    def admits(self, handle: asyncio.Handle) -> bool:
        if self.state is State.RUNNING:
            self.steps += 1
            if self.steps == self.dies_at_step:
                self.kill()
        if self.state is State.RUNNING or self.state is State.BURIED:
            return True
        self._kept.append(handle)
        return False

    def strike_in(self, moments: int, strike: Callable[[], None]) -> None:
        """Call `strike` after this number of moments. Every call has two: just before and just after its effect."""
        self._moments_left, self._strike = moments, strike

    def pass_moment(self) -> None:
        self._moments_left -= 1
        if self._moments_left == 0:
            self._strike()

    def spare(self) -> None:
        """Cancel everything that was going to happen to this process."""
        self.dies_at_step = None
        self._moments_left = 0

    def kill(self) -> None:
        if not self.is_alive:
            return
        self.state = State.DEAD
        for tell in self.on_death:
            tell()

    def pause(self) -> None:
        if self.state is State.RUNNING:
            self.state = State.PAUSED
            self.paused_at = self._loop.time()

    def resume(self) -> None:
        if self.state is State.PAUSED:
            self.state = State.RUNNING
            self._release_kept()

    def bury(self) -> None:
        self.state = State.BURIED
        self._release_kept()

    def _release_kept(self) -> None:
        kept, self._kept = self._kept, []
        self._loop.put_back(kept)


class ProcessClock:
    """The Clock port of one process. Durations are exact. Wall time is off by `skew_seconds`, which may change."""

    def __init__(self, loop: VirtualLoop, skew_seconds: float = 0.0) -> None:
        self._loop = loop
        self.skew_seconds = skew_seconds

    def now(self) -> float:
        return EPOCH + self._loop.time() + self.skew_seconds

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
