"""Waits for an event, but not for ever, for work under a lease, and for calls that are made at the same time.

The traceback of an error refers to each function that the error has passed, with its variables. If one of these refers
to the error, or to a task that has failed with it, the error stays in memory with all that its callers had, until a
collection, which may never come. So no function here has such a variable when it raises an error.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar, cast

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
    """Return the result of some work, during which `keep_lease` keeps its lease.

    If `keep_lease` raises an error first, the work is cancelled, and that error is raised.
    """
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


async def wait_for_all(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Make calls at the same time. Raise the first error only when all have ended, so that none goes on alone."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    raise_first(results)
    return cast("list[T]", results)


def raise_first(results: list[Any]) -> None:
    """Raise the first error in a list, and empty the list before. Do nothing if no result is an error.

    The caller should have the errors nowhere else.
    """
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        results.clear()
        del errors[1:]
        raise errors.pop()
