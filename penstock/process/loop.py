"""The event loop that the programs run on: uvloop's, or asyncio's own where uvloop does not exist, as on Windows."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on the fastest event loop that is installed, and return its result."""
    try:
        import uvloop  # noqa: PLC0415 - not installed on Windows
    except ModuleNotFoundError:
        return asyncio.run(main)
    return uvloop.run(main)
