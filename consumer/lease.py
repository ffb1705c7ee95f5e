"""Keeps deliveries invisible to other consumers while we hold them, running or waiting."""

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.queue import Delivery, Queue
from penstock.telemetry import Event, get_log

BEATS_IN_LEASE = 4  # so that two heartbeats in a row may fail, and the next still comes before the lease ends


class Leases:
    """Held from `hold` to `let_go`; `keep` extends all of them, four times in each visibility timeout."""

    def __init__(self, queue: Queue, visibility_seconds: int, clock: Clock) -> None:
        self._queue = queue
        self._visibility_seconds = visibility_seconds
        self._clock = clock
        self._held: dict[str, Delivery] = {}

    def hold(self, delivery: Delivery) -> None:
        self._held[delivery.receipt] = delivery

    def let_go(self, delivery: Delivery) -> None:
        self._held.pop(delivery.receipt, None)

    async def keep(self) -> None:
        """Runs until it is cancelled. Without it every chunk longer than its lease would run twice."""
        while True:
            await self._clock.sleep(self._visibility_seconds / BEATS_IN_LEASE)
            await self.beat()

    async def beat(self) -> None:
        held = list(self._held.values())
        if not held:
            return
        try:
            lost = await self._queue.extend(held, self._visibility_seconds)
        except PenstockError as error:
            get_log().warning(Event.HEARTBEAT_FAILED, deliveries=len(held), error=str(error))
            return
        for delivery in lost:
            # One that was settled while the call was under way is lost on purpose.
            if self._held.pop(delivery.receipt, None) is not None:
                # Its work goes on: whoever commits first wins, and the other's outcomes are dropped.
                get_log().warning(Event.LEASE_LOST, message_id=delivery.message_id)

    async def release(self, delivery: Delivery, *, after_seconds: int = 0) -> None:
        """Give a delivery back before its lease ends."""
        self.let_go(delivery)
        await self._queue.extend([delivery], after_seconds)
