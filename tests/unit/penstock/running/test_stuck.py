"""How long handlers may block a program."""

import asyncio

from penstock.running.stuck import until_stuck
from penstock.testing import FakeClock


async def test_time_in_which_the_machine_was_suspended_does_not_count() -> None:
    clock, checks, any_left = FakeClock(), 0, asyncio.Event()
    any_left.set()

    def is_blocked() -> bool:
        nonlocal checks
        checks += 1
        clock.advance(3_600)  # the machine is suspended after each check
        return True

    await until_stuck(is_blocked, any_left, 60, clock)
    assert checks == 61  # one second apart
