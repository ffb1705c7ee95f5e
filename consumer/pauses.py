"""Keeps chunks of paused batches until they are resumed.

A consumer holds some of them, so that they start as soon as their batch is resumed. It hides the others in the queue.
These start later, when they are received again: no program can make a message visible that it does not hold.
"""

import asyncio
from collections.abc import Callable

from penstock.batch import Batch
from penstock.clock import Clock
from penstock.consumer.attempt import Again, ChunkAttempt, Release
from penstock.consumer.batches import Batches
from penstock.queue import LONGEST_HIDDEN_SECONDS, Delivery
from penstock.running.stop import Stop

MOST_HELD = 50  # as many as a consumer holds of a priority that is not paused
HELD_SECONDS = LONGEST_HIDDEN_SECONDS / 2
SHORTEST_SECONDS = 60
LONGEST_SECONDS = 900
MOST_RECEIVES = 50  # SQS moves a message away that was received 100 times


class Pauses:
    """Holds deliveries of paused batches, more of them than this consumer can run together.

    `changed` is called when one is held, since there is room for others then. `has_room` says whether a delivery can
    start here. After the pause, those without room are given back, so that idle consumers take their share.
    """

    def __init__(
        self,
        stop: Stop,
        clock: Clock,
        changed: Callable[[], None] = lambda: None,
        has_room: Callable[[Delivery], bool] = lambda _: True,
    ) -> None:
        self._stop = stop
        self._clock = clock
        self._changed = changed
        self._has_room = has_room
        self._held: set[str] = set()  # by their receipts

    def holds(self, delivery: Delivery) -> bool:
        """Return True if the delivery only waits until its batch is resumed. It is no load then."""
        return delivery.receipt in self._held

    def must_renew(self, delivery: Delivery) -> bool:
        """Return True if a paused chunk must follow as a new message, since SQS counts the receives of each message."""
        return delivery.receive_count >= MOST_RECEIVES and not self._stop.begun.is_set()

    async def wait(self, attempt: ChunkAttempt, batches: Batches) -> Again | Release:
        """Hold the delivery of a paused batch until the batch is resumed or ends, or return how to give it back."""
        if self._stop.begun.is_set():
            return Release(0)
        if len(self._held) >= MOST_HELD:
            return Release(_hidden_seconds(attempt.batch, self._clock.now()))
        self._held.add(attempt.delivery.receipt)
        self._changed()
        try:
            decision = await self._hold(attempt.batch, batches)
            may_run = batches.latest(attempt.batch).may_run(self._clock.now())
            return Release(0) if may_run and not self._has_room(attempt.delivery) else decision
        finally:
            self._held.discard(attempt.delivery.receipt)  # from now on it is a load, so the next one has less room

    async def _hold(self, batch: Batch, batches: Batches) -> Again | Release:
        is_resumed = batches.wait_until(batch.id, lambda now: not now.is_paused(self._clock.now()))
        waiting = [asyncio.create_task(is_resumed), asyncio.create_task(self._stop.begun.wait())]
        try:
            await asyncio.wait(waiting, timeout=HELD_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if not waiting[0].done():
            return Release(0)
        waiting[0].result()  # raises its error, if it has failed
        return Again()


def _hidden_seconds(batch: Batch, now: float) -> int:
    """Return for how long a delivery is hidden: as long as the batch has been paused, within bounds.

    So after a short pause nothing waits for long.
    """
    paused_seconds = now - (batch.paused_at or now)
    return round(min(max(paused_seconds, SHORTEST_SECONDS), LONGEST_SECONDS))
