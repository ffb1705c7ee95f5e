"""Lets the dead letters of several chunks wait for each other, so that one call sends up to ten of them.

The message of a chunk is deleted only after its letters are sent. So a crash while they wait loses none of them: the
chunk is delivered again, and the letters follow from its record.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from penstock.consumer.waiting_chunks import WaitingChunks
from penstock.queue import MESSAGES_IN_CALL, Delivery, Message
from penstock.waiting import happens

WAIT_SECONDS = 1.0


class LetterBox:
    """Chunks whose records are counted wait here before their letters are sent. They hold no slot.

    All of them leave together: when their letters fill a call, when they take much memory, after a second, when the box
    is opened, or when no other chunk is in progress that could bring more letters. `on_wait` is called when a chunk
    starts to wait.
    """

    def __init__(self, on_wait: Callable[[], None] = lambda: None) -> None:
        self._in_progress = 0
        self._waiting = WaitingChunks(MESSAGES_IN_CALL, on_wait)  # its sizes are numbers of letters
        self._departure = asyncio.Event()
        self._is_open = False

    def holds(self, delivery: Delivery) -> bool:
        """Return True if the letters of this delivery wait."""
        return delivery in self._waiting

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
            self._departure = asyncio.Event()
            self._waiting.clear()

    async def wait(self, delivery: Delivery, letters: Sequence[Message]) -> None:
        """Return when it is time to send these letters. Call it while the chunk is in progress."""
        departure = self._departure
        with self._waiting.including(delivery, len(letters)):
            self._depart_if_due()
            if not await happens(departure, WAIT_SECONDS):
                self.depart()

    def _depart_if_due(self) -> None:
        if self._waiting.is_full or self._is_open or len(self._waiting) == self._in_progress:
            self.depart()
