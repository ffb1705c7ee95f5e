"""Lets the client of a batch read its end and its results, before the consumer writes the end and deletes the message.

From the last count on, the status tells the end (`penstock/ending.py`). So nobody waits for these calls. If they came
at once, they would compete with the client's own for what both use: a processor, a server, the throughput of a table.
"""

import asyncio
from collections.abc import Callable

from penstock.batch import Batch
from penstock.clock import Clock
from penstock.consumer.waiting_chunks import WaitingChunks
from penstock.queue import Delivery
from penstock.waiting import happens

SECONDS = 0.05  # a client that polls often has the end by then, and a small batch is downloaded
MOST_WAITING = 10  # chunks. If many small batches end, the pace of the consumer must not depend on this wait


class ReadersFirst:
    """The last chunk of a batch waits here for a moment after it was counted. It holds no slot.

    It does not wait if the consumer drains, or if others that wait are many or large. Neither does it if its batch is
    final, may have webhooks, which report the end, has lost a delivery, or is about to reach its deadline. `on_wait` is
    called when a chunk starts to wait.
    """

    def __init__(self, clock: Clock, on_wait: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._waiting = WaitingChunks(MOST_WAITING, on_wait)
        self._opened = asyncio.Event()

    def holds(self, delivery: Delivery) -> bool:
        """Return True if this delivery waits."""
        return delivery in self._waiting

    def open(self) -> None:
        """Let everything go on, and let nothing wait any more. Call it when the consumer starts to drain."""
        self._opened.set()

    async def wait(self, delivery: Delivery, batch: Batch) -> None:
        """Return when the end of the batch may be written."""
        if self._waiting.is_full or self._is_urgent(batch):
            return
        with self._waiting.including(delivery):
            await happens(self._opened, SECONDS)

    def _is_urgent(self, batch: Batch) -> bool:
        """Return True if somebody waits for the final state in the table, or if something else may come before it."""
        is_late = self._clock.now() + SECONDS > batch.deadline_at
        return batch.wants_events or batch.is_final or batch.is_suspect or is_late
