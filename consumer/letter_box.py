"""Lets the dead letters of several chunks wait for each other, so that one call sends up to ten of them.

The message of a chunk is deleted only after its letters are sent. So a crash while they wait loses none of them: the
chunk is delivered again, and the letters follow from its record.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from penstock.queue import MESSAGES_IN_CALL, Delivery, Message
from penstock.waiting import happens

WAIT_SECONDS = 1.0
MOST_BYTES = 2 * 1024 * 1024  # of the chunks whose letters wait: they stay in memory until then


class LetterBox:
    """Chunks whose records are counted wait here before their letters are sent. They hold no slot.

    All of them leave together: when their letters fill a call, when they take much memory, after a second, when the box
    is opened, or when no other chunk is in progress that could bring more letters. `on_wait` is called when a chunk
    starts to wait.
    """

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        self._on_wait = on_wait
        self._in_progress = 0
        self._waiting: dict[str, Delivery] = {}  # by their receipts
        self._letters = 0
        self._departure = asyncio.Event()
        self._is_open = False

    def holds(self, delivery: Delivery) -> bool:
        """Return True if the letters of this delivery wait."""
        return delivery.receipt in self._waiting

    def open(self) -> None:
        """Let everything leave, and let nothing wait any more. Call it when the consumer starts to drain."""
        self._is_open = True
        self.depart()

    @contextmanager
    def chunk_in_progress(self) -> Iterator[None]:
        """Count a chunk in progress inside the block."""
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1
            self._depart_if_due()

    def depart(self) -> None:
        """Let everything leave that waits now."""
        if self._waiting:
            self._departure.set()
            self._departure, self._waiting, self._letters = asyncio.Event(), {}, 0

    async def wait(self, delivery: Delivery, letters: Sequence[Message]) -> None:
        """Return when it is time to send these letters. Call it while the chunk is in progress."""
        departure = self._departure
        self._waiting[delivery.receipt] = delivery
        self._letters += len(letters)
        self._on_wait()
        self._depart_if_due()
        try:
            if not await happens(departure, WAIT_SECONDS):
                self.depart()
        finally:
            if self._waiting.pop(delivery.receipt, None) is not None:  # it was cancelled
                self._letters -= len(letters)

    def _depart_if_due(self) -> None:
        waiting_bytes = sum(len(delivery.body) for delivery in self._waiting.values())
        is_full = self._letters >= MESSAGES_IN_CALL or waiting_bytes >= MOST_BYTES
        if is_full or self._is_open or len(self._waiting) == self._in_progress:
            self.depart()
