"""The clock of the programs: wall time for timestamps that others read, monotonic time for durations."""

import asyncio
import time
from functools import partial
from typing import Protocol

SKEW_SECONDS = 30  # by which the wall time of two programs differs at most

# Linux's usual monotonic clock stands still while a machine is suspended. Leases go on, so this one must go on, too.
_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What the programs need of a clock. Tests and the simulation use a clock of their own."""

    def now(self) -> float:
        """Return the wall time in seconds since the epoch."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start. They never run backwards, and include the time of a suspend."""

    async def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""


class SystemClock:
    """The clock of the operating system."""

    def now(self) -> float:
        return time.time()

    monotonic = staticmethod(partial(time.clock_gettime, _MONOTONIC))  # a `def` would take three times as long

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
