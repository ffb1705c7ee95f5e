"""Lets requests with much to read take turns, so that all of them together never block the event loop for long."""

import asyncio
from collections import deque


class Turns:
    """One request at a time takes a step. Between two steps the loop does everything else that is ready.

    With `asyncio.sleep(0)` instead, every request would take a step before the loop gets to anything else.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next(self) -> None:
        """Wait for the turn of the caller. Its step ends when it waits again, for whatever."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._give)
        await turn

    def _give(self) -> None:
        """Give the turn to the first that waits. Its step runs in the next iteration of the loop."""
        turn = self._waiting.popleft()
        if not turn.done():  # cancelled
            turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._give)
