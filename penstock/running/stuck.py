"""Finds out that handlers which do not return have blocked a program for too long."""

import asyncio
from collections.abc import Callable

from penstock.clock import Clock

CHECK_SECONDS = 1.0


async def until_stuck(
    is_blocked: Callable[[], bool], any_left: asyncio.Event, stall_seconds: float, clock: Clock
) -> None:
    """Return when `is_blocked` has been true for `stall_seconds`. It is only called while `any_left` is set.

    The checks are counted. A difference of two times would include the time in which the machine was suspended.
    """
    checks = 0
    while True:
        await any_left.wait()
        await clock.sleep(CHECK_SECONDS)
        checks = checks + 1 if is_blocked() else 0
        if (checks - 1) * CHECK_SECONDS >= stall_seconds:
            return
