"""Keeps deliveries invisible to other consumers while this one holds them, whether they run or wait."""

import asyncio
from collections.abc import Mapping

from penstock.clock import Clock
from penstock.consumer.outage import Outage
from penstock.errors import PenstockError
from penstock.priority import Priority
from penstock.queue import Delivery, Queue
from penstock.telemetry import Event, get_log

BEATS_IN_LEASE = 4  # two heartbeats in a row may fail, and the next one still comes before the lease ends


class Leases:
    """Holds the lease of each delivery from `hold` to `let_go`.

    `keep` extends the leases of a queue, four times in each visibility timeout.
    """

    def __init__(self, queues: Mapping[Priority, Queue], visibility_seconds: int, clock: Clock) -> None:
        self._queues = queues
        self._visibility_seconds = visibility_seconds
        self._clock = clock
        self._held: dict[str, Delivery] = {}
        self._until: dict[str, float] = {}
        self._settling: set[str] = set()
        self._outages = {priority: Outage(Event.HEARTBEAT_FAILED) for priority in Priority}
        self._at_rest = {priority: asyncio.Event() for priority in Priority}  # cleared during a heartbeat
        for at_rest in self._at_rest.values():
            at_rest.set()

    def hold(self, delivery: Delivery) -> None:
        """Hold a delivery. Its lease is reckoned from the request, since the answer may have been read much later."""
        self._held[delivery.receipt] = delivery
        asked_at = self._clock.monotonic() if delivery.asked_at is None else delivery.asked_at
        self._until[delivery.receipt] = asked_at + self._visibility_seconds

    def settle(self, delivery: Delivery) -> None:
        """Note that the delivery is about to be deleted. Its lease is still kept, but losing it is no longer logged."""
        self._settling.add(delivery.receipt)

    def let_go(self, delivery: Delivery) -> None:
        self._held.pop(delivery.receipt, None)
        self._until.pop(delivery.receipt, None)
        self._settling.discard(delivery.receipt)

    def is_kept(self, delivery: Delivery) -> bool:
        """Return True if the lease certainly still runs, so that no other consumer can have received the chunk.

        A process that was suspended for longer than its leases wakes up with deliveries that others have finished.
        """
        return self._clock.monotonic() < self._until.get(delivery.receipt, float("-inf"))

    async def keep(self, priority: Priority) -> None:
        """Send heartbeats for one queue until cancelled. The other queues have theirs, since one may not answer.

        Without them, a chunk that takes longer than its lease would run twice.
        """
        while True:
            await self._clock.sleep(self._visibility_seconds / BEATS_IN_LEASE)
            await self.beat(priority)

    async def beat(self, priority: Priority) -> None:
        """Extend all leases of one queue."""
        held = [delivery for delivery in self._held.values() if delivery.priority is priority]
        if not held:
            return
        asked_at = self._clock.monotonic()
        self._at_rest[priority].clear()
        try:
            lost = await self._queues[priority].extend(held, self._visibility_seconds)
        except PenstockError as error:  # the next heartbeat tries again
            self._outages[priority].report(error, priority=priority, deliveries=len(held))
            return
        finally:
            self._at_rest[priority].set()
        self._outages[priority].end()
        for delivery in held:
            if delivery.receipt in self._held:
                self._until[delivery.receipt] = asked_at + self._visibility_seconds
        for delivery in lost:
            self._until.pop(delivery.receipt, None)
            # A delivery that was let go during the call is reported as lost as well, but that is as intended.
            if self._held.pop(delivery.receipt, None) is not None and delivery.receipt not in self._settling:
                # Running operations continue, and no more of them start. The consumer that commits first wins, and the
                # outcomes of the other are dropped.
                get_log().warning(Event.LEASE_LOST, message_id=delivery.message_id)

    async def release(self, delivery: Delivery, *, after_seconds: int = 0) -> None:
        """Return a delivery to the queue before its lease ends.

        First wait for a heartbeat that is on its way, since it may extend this lease, too. If it arrived later than the
        release, the delivery would stay invisible for a whole lease, and nobody would hold it.
        """
        self.let_go(delivery)
        await self._at_rest[delivery.priority].wait()
        await self._queues[delivery.priority].extend([delivery], after_seconds)
