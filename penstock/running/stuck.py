"""Finds out that handlers which do not return have blocked a program for too long."""

import asyncio
from collections.abc import Callable

from penstock.clock import Clock

CHECK_SECONDS = 1.0


async def until_stuck(
    is_blocked: Callable[[], bool], any_left: asyncio.Event, stall_seconds: float, clock: Clock
) -> None:
    """Return when `is_blocked` has been true for `stall_seconds`. It is only asked while `any_left` is set."""
    blocked_since: float | None = None
    while True:
        await any_left.wait()
        await clock.sleep(CHECK_SECONDS)
        if not is_blocked():
            blocked_since = None
        elif blocked_since is None:
            blocked_since = clock.monotonic()
        elif clock.monotonic() - blocked_since >= stall_seconds:
            return
