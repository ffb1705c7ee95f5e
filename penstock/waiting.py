"""Waits for an event, but not for ever, for work under a lease, and for calls that are made at the same time.

The traceback of an error refers to each function that the error has passed, with its variables. If one of these refers
to the error, or to a task that has failed with it, the error stays in memory with all that its callers had, until a
collection, which may never come. So no function here has such a variable when it raises an error.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Return True as soon as the event has happened, or False if it has not happened after this time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def under_lease(work: Coroutine[Any, Any, T], keep_lease: Coroutine[Any, Any, None]) -> T:
    """Return the result of some work, or raise its error. If `keep_lease` fails first, cancel the work and raise why."""
    working, keeping = asyncio.create_task(work), asyncio.create_task(keep_lease)
    try:
        await asyncio.wait((working, keeping), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            keeping.result()
        return await working
    finally:
        working.cancel()
        keeping.cancel()
        await asyncio.gather(working, keeping, return_exceptions=True)
        del working, keeping


def raise_first(results: list[Any]) -> None:
    """Raise the first error in a list, and empty the list before. Do nothing if no result is an error.

    The caller should have the errors nowhere else.
    """
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        results.clear()
        del errors[1:]
        raise errors.pop()
