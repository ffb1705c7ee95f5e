"""Receives chunks: decides how many to request from which queue, and keeps one receive running for each queue.

A receive that waits (a long poll) costs one request in 20 seconds and returns as soon as a message arrives. So each
queue always has one running if there is room for what it may return, and an empty queue is not polled again and again.

Nobody knows what a queue that was empty will return. It may be a batch of long chunks, and no other consumer can run
those that are received here. So a long poll asks for one chunk, and each receive after it for twice as many, as long as
all return as many as they asked for.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from penstock.consumer.outage import Outage
from penstock.errors import PenstockError
from penstock.priority import Priority
from penstock.queue import Delivery, Queue
from penstock.settings import Settings
from penstock.telemetry import Event
from penstock.waiting import happens

MOST_HELD = 50  # chunks of a priority, even if they are small: each is a task, and a lease to extend
MOST_AT_ONCE = (
    5  # chunks in a receive. SQS allows ten, but then one consumer could get a whole batch of ten full chunks
)
MOMENT_SECONDS = 0.05  # a receive takes a fraction of this
MOMENTS_AT_ONCE = 3
BRIEF_SECONDS = 1  # the wait time of a receive that asks for several chunks
OWN_SECONDS = 30e-6  # the time of the event loop that any operation takes besides its handler, as measured in bench/
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
SMOOTHING = 0.3
SPARE_SECONDS = 5  # a long poll that takes this much longer than its wait time is not answered any more
_ORDER = tuple(Priority)


@dataclass(slots=True)
class Load:
    """The chunks of one priority that this consumer holds."""

    chunks: int = 0
    operations: int = 0  # those that have not finished

    def spare(self, operations: int) -> int:
        """Leave out operations that wait, as far as there are any. Return how many are left."""
        spared = min(self.operations, operations)
        self.operations -= spared
        return operations - spared


def room_for(
    priority: Priority,
    loads: Mapping[Priority, Load],
    *,
    concurrency: int,
    seconds_per_operation: float | None,
    operations_per_chunk: float,
) -> int:
    """Return how many chunks to request from the queue of a priority. Less urgent chunks take no room from it.

    One chunk of every queue is always held, even if many more urgent ones are: otherwise its priority would get no
    share of the slots.
    """
    ahead = [loads[other] for other in _ORDER[: _ORDER.index(priority) + 1]]
    waiting = sum(load.operations for load in ahead)
    wanted = operations_wanted(concurrency, waiting, seconds_per_operation)
    chunks = room(wanted, operations_per_chunk, sum(load.chunks for load in ahead))
    return chunks or int(loads[priority].chunks == 0)


def operations_wanted(concurrency: int, waiting: int, seconds_per_operation: float | None) -> int:
    """Return how many more operations to request: none, while those that wait here are enough for a moment.

    If handlers take hardly any time, request enough for several moments, so that chunks arrive together and not one by
    one. Otherwise enough for one moment, or two operations for each slot: no other consumer can run what is held here.
    """
    enough = few = 2 * concurrency
    if seconds_per_operation is not None:
        seconds = seconds_per_operation / concurrency
        in_a_moment = math.ceil(MOMENT_SECONDS / max(seconds, OWN_SECONDS))
        moments = 1 if seconds > OWN_SECONDS else MOMENTS_AT_ONCE
        few, enough = max(few, in_a_moment), max(enough, moments * in_a_moment)
    return enough - waiting if waiting < few else 0


def room(operations: int, operations_per_chunk: float, chunks_held: int) -> int:
    """Return how many chunks to request to get this many operations, if they are as large as those before them."""
    if operations <= 0:
        return 0
    chunks = math.ceil(operations / max(operations_per_chunk, 1.0))
    return max(0, min(chunks, MOST_AT_ONCE, MOST_HELD - chunks_held))


class Inlet:
    """Receives from one queue. Call `open`, wait until it `is_done`, call `take`, and start again.

    At most one receive runs at a time. It is not cancelled as long as SQS may still answer: the messages that it was
    about to return would stay invisible until their visibility timeout ends.
    """

    def __init__(
        self,
        priority: Priority,
        queue: Queue,
        settings: Settings,
        stopping: asyncio.Event,
        when_done: Callable[[], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.priority = priority
        self.operations_per_chunk = float(settings.chunk_operations)  # a moving average
        self._queue = queue
        # Half of the lease remains after the longest poll, although leases are reckoned from the request.
        self._wait_seconds = min(settings.receive_wait_seconds, settings.visibility_seconds // 2)
        self._stopping = stopping
        self._when_done = when_done
        self._monotonic = monotonic
        self._receiving: asyncio.Task[list[Delivery]] | None = None
        self._most = 1  # chunks in the next receive
        self._pause_seconds = 0.0
        self._outage = Outage(Event.RECEIVE_FAILED, is_error=True)

    @property
    def is_open(self) -> bool:
        return self._receiving is not None

    @property
    def is_done(self) -> bool:
        return self._receiving is not None and self._receiving.done()

    @property
    def is_in_trouble(self) -> bool:
        return self._pause_seconds > 0

    def open(self, limit: int) -> None:
        """Start a receive of at most this many chunks."""
        self._receiving = asyncio.create_task(self._receive(min(limit, self._most)))
        self._receiving.add_done_callback(lambda _: self._when_done())

    def take(self) -> list[Delivery]:
        """Return the deliveries of the last receive, or an empty list if it has not returned yet."""
        if self._receiving is None or not self._receiving.done():
            return []
        receiving, self._receiving = self._receiving, None
        return receiving.result()

    async def finish(self) -> None:
        """Wait until the running receive, if there is one, has returned.

        Give it up if it takes longer than a long poll. Then SQS does not answer, and the client would try again for a
        minute and a half.
        """
        receiving = self._receiving
        if receiving is None:
            return
        await asyncio.wait([receiving], timeout=self._wait_seconds + SPARE_SECONDS)
        if not receiving.done():
            receiving.cancel()
            self._receiving = None

    def learn_size(self, operations: int) -> None:
        self.operations_per_chunk += SMOOTHING * (operations - self.operations_per_chunk)

    async def _receive(self, limit: int) -> list[Delivery]:
        """Receive once. If the queue does not answer, it is not empty: log the error, and wait longer each time.

        Whatever AWS reports is repeated. Only a bug of ours leaves this, and ends the consumer after it has drained.
        """
        asked_at = self._monotonic()
        try:
            wait_seconds = self._wait_seconds if limit == 1 else min(BRIEF_SECONDS, self._wait_seconds)
            deliveries = await self._queue.receive(limit, wait_seconds)
        except PenstockError as error:
            self._pause_seconds = min(max(2 * self._pause_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._outage.report(error, priority=self.priority)
            await self._pause(self._pause_seconds)
            return []
        self._pause_seconds = 0.0
        self._outage.end()
        self._most = 2 * limit if len(deliveries) == limit else 1
        return [replace(delivery, priority=self.priority, asked_at=asked_at) for delivery in deliveries]

    async def _pause(self, seconds: float) -> None:
        """Sleep, but wake up as soon as the consumer is asked to stop."""
        await happens(self._stopping, seconds)
