"""Waits for an event, but not for ever. Raises the first error of calls that were made at the same time."""

import asyncio
from typing import Any


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Return True as soon as the event has happened, or False if it has not happened after this time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def raise_first(results: list[Any]) -> None:
    """Raise the first error in a list, which is empty after that. Only errors matter in the other results.

    No variable here has the error then, and the caller should have it in none, either. Otherwise its traceback would
    lead back to it: it would stay in memory, with all that its callers had, until a collection, which may never come.
    """
    errors = [result for result in results if isinstance(result, BaseException)]
    results.clear()
    if errors:
        del errors[1:]
        raise errors.pop()
