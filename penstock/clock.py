"""The clock of the programs: wall time for timestamps that others read, monotonic time for durations."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the programs need of a clock. Tests and the simulation use a clock of their own."""

    def now(self) -> float:
        """Return the wall time in seconds since the epoch."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start. They never run backwards."""

    async def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""


class SystemClock:
    """The clock of the operating system."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
