"""Lets the records of several chunks of a group wait for each other, so that one call counts them.

A record is committed before it waits here. So a crash in that time loses nothing: the chunk is delivered again, and is
counted from its record.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from penstock.batch import Batch
from penstock.chunk import Chunk
from penstock.clock import Clock
from penstock.consumer.waiting_chunks import WaitingChunks
from penstock.queue import Delivery
from penstock.waiting import happens

MOST_SECONDS = 0.5  # progress is visible this much later, and the message is deleted as much later
MOST_WAITING = 10  # chunks. More would keep the consumer from receiving others: it holds a limited number


@dataclass(slots=True)
class _Box:
    """The chunks of one group that will be counted, and those of them that wait, by their receipts."""

    left_at: float  # when one of its chunks left, by the monotonic clock. Before that, when the first one came
    expected: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    departure: asyncio.Event = field(default_factory=asyncio.Event)

    def depart(self) -> None:
        self.departure.set()
        self.departure, self.waiting = asyncio.Event(), set()

    def depart_if_due(self) -> None:
        if self.waiting >= self.expected:  # one that was cancelled while it waited is not expected any more
            self.depart()


class CountBox:
    """Chunks whose records are committed wait here before they are counted. They hold no slot.

    Those of a group leave together: half a second after others of it have left, or as soon as no other chunk of it is
    in progress here. So no batch ends later: it cannot end before the chunk that they wait for, unless another consumer
    has a copy of that. If chunks take half a second each, none of them waits.

    All leave when all together are many or large, or when the consumer drains. If failures may stop their batch, if it
    has lost a delivery, or if its deadline is near, chunks do not wait. `on_wait` is called when one starts to wait.
    """

    def __init__(self, clock: Clock, on_wait: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._boxes: dict[tuple[str, int], _Box] = {}  # by batch and group
        self._waiting = WaitingChunks(MOST_WAITING, on_wait)
        self._is_open = False

    def holds(self, delivery: Delivery) -> bool:
        """Return True if this delivery waits."""
        return delivery in self._waiting

    def open(self) -> None:
        """Let everything leave, and let nothing wait any more. Call it when the consumer starts to drain."""
        self._is_open = True
        self._depart_all()

    @contextmanager
    def chunk_in_progress(self, delivery: Delivery, chunk: Chunk) -> Iterator[None]:
        """Expect a chunk, until it is counted or the block ends."""
        key = (chunk.batch_id, chunk.group)
        box = self._boxes.get(key)
        if box is None:
            box = self._boxes[key] = _Box(self._clock.monotonic())
        box.expected.add(delivery.receipt)
        try:
            yield
        finally:
            self._forget(key, delivery)

    async def wait(self, delivery: Delivery, batch: Batch, group: int) -> None:
        """Return when it is time to count a chunk of a group. Call it while the chunk is in progress."""
        box = self._boxes[batch.id, group]
        pause = box.left_at + MOST_SECONDS - self._clock.monotonic()
        if pause > 0 and not self._is_open and not self._is_urgent(batch):
            await self._wait_in(box, delivery, pause)
        box.left_at = self._clock.monotonic()

    def note(self, delivery: Delivery, chunk: Chunk) -> None:
        """Note that a chunk has just been counted."""
        self._forget((chunk.batch_id, chunk.group), delivery)

    async def _wait_in(self, box: _Box, delivery: Delivery, seconds: float) -> None:
        departure = box.departure
        box.waiting.add(delivery.receipt)
        with self._waiting.including(delivery):
            box.depart_if_due()
            if self._waiting.is_full:
                self._depart_all()
            if not await happens(departure, seconds):
                box.depart()

    def _forget(self, key: tuple[str, int], delivery: Delivery) -> None:
        """Expect a chunk no longer. Nothing of its group waits for it any more."""
        if (box := self._boxes.get(key)) is None:
            return
        box.expected.discard(delivery.receipt)
        if box.expected:
            box.depart_if_due()
        else:
            del self._boxes[key]

    def _is_urgent(self, batch: Batch) -> bool:
        """Return True if what is not counted soon may be counted in vain, too late to stop the batch, or after a crash.

        A batch that has lost a delivery may have an operation that kills consumers.
        """
        is_late = self._clock.now() + MOST_SECONDS > batch.deadline_at
        return batch.failure_limit is not None or batch.is_suspect or is_late

    def _depart_all(self) -> None:
        for box in self._boxes.values():
            box.depart()
