"""Lets one suspect of this process run at a time, and sends suspects that would wait long to other consumers."""

import asyncio
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock.backoff import Backoff
from penstock.queue import Delivery

SHORT_WAIT_SECONDS = 2.0
RELEASE = Backoff(base_seconds=2, max_seconds=10)
MOST_RECEIVES = 20  # after that a suspect waits here: SQS moves a message after 100 receives to the dead letters


class Quarantine:
    """Suspects take turns here. If they run long, most of those that wait are released, and idle consumers get them."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0

    @asynccontextmanager
    async def turn(self, delivery: Delivery) -> AsyncIterator[bool]:
        """Wait for the turn, and hold it inside the block. Yield False if the delivery must be released instead.

        The last one that waits is kept, so that the next turn starts immediately.
        """
        self._waiting += 1
        try:
            while not (has_turn := await self._comes_soon()):
                if self._waiting > 1 and may_be_released(delivery):
                    break
        finally:
            self._waiting -= 1
        try:
            yield has_turn
        finally:
            if has_turn:
                self._turn.release()

    async def _comes_soon(self) -> bool:
        try:
            async with asyncio.timeout(SHORT_WAIT_SECONDS):
                return await self._turn.acquire()
        except TimeoutError:
            return False


def may_be_released(delivery: Delivery) -> bool:
    """Return True if a suspect that must wait may be released. It has not been received too often yet."""
    return delivery.receive_count < MOST_RECEIVES


def release_seconds(delivery: Delivery) -> int:
    """Return how long a suspect is hidden that is released, at least."""
    return math.ceil(RELEASE.delay_seconds(delivery.receive_count, random.random()))  # noqa: S311 - spreads receives
