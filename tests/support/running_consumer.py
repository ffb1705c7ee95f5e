"""Runs a consumer on queues in memory while a test uses real time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock.clock import SystemClock
from penstock.consumer.consumer import Consumer


class QueueClock(SystemClock):
    """The clock of the queues. With `is_late`, every receive has waited long enough, so the consumer stops quickly."""

    is_late = False

    def monotonic(self) -> float:
        return super().monotonic() + 60 * self.is_late


@asynccontextmanager
async def running_consumer(consumer: Consumer, queue_clock: QueueClock) -> AsyncIterator[None]:
    """Run a consumer. At the end, stop it without waiting for its last receive."""
    running = asyncio.create_task(consumer.run())
    try:
        yield
    finally:
        consumer.stop()
        queue_clock.is_late = True
        await running
