"""Waits for a condition with a deadline, or for tasks that need no time, so that no test sleeps and hopes."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

# All deadlines are multiples of this. Raise it on a slow machine.
UNIT_SECONDS = float(os.environ.get("TEST_UNIT_SECONDS", "1"))
POLL_SECONDS = 0.02


async def eventually(
    condition: Callable[[], Awaitable[T]], units: float = 60, *, poll_seconds: float = POLL_SECONDS
) -> T:
    """Return the first true answer of a condition. After `units`, fail and show the last answer."""
    deadline = asyncio.get_running_loop().time() + units * UNIT_SECONDS
    while True:
        answer = await condition()
        if answer:
            return answer
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"It did not come true within {units * UNIT_SECONDS:g} s; the last answer: {answer!r}")
        await asyncio.sleep(poll_seconds)


async def settle() -> None:
    """Let the other tasks run for a few turns of the event loop. After that, short ones are finished or wait."""
    for _ in range(5):
        await asyncio.sleep(0)
