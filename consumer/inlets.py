"""Receiving: from which queue how much, and a receive of each under way at the same time.

A receive that waits costs one request in twenty seconds, and brings what comes at once. So each queue has one under way
whenever there is room for what it may bring; one that has nothing is not asked over and over.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from penstock.errors import PenstockError
from penstock.priority import Priority
from penstock.queue import MESSAGES_IN_CALL, Delivery, Queue
from penstock.settings import Settings
from penstock.telemetry import Event, get_log

MOST_HELD = 50  # chunks of a priority, however small: each is a task, and a lease to extend
MOMENT_SECONDS = 0.05  # several times what a receive takes
MOMENTS_AT_ONCE = 3
OWN_SECONDS = 30e-6  # what an operation takes of the event loop, however quick its handler: measured, see bench
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
SMOOTHING = 0.3
_ORDER = tuple(Priority)


@dataclass(slots=True)
class Load:
    """What is held of one priority."""

    chunks: int = 0
    operations: int = 0  # that have not come to their end


def room_for(
    priority: Priority,
    loads: Mapping[Priority, Load],
    *,
    concurrency: int,
    seconds_per_operation: float | None,
    operations_per_chunk: float,
) -> int:
    """How many chunks to ask this queue for. What is less urgent is not in its way.

    Of every queue there is one chunk at hand, however much is held of more urgent ones: or it would have no share.
    """
    ahead = [loads[other] for other in _ORDER[: _ORDER.index(priority) + 1]]
    waiting = sum(load.operations for load in ahead)
    wanted = operations_wanted(concurrency, waiting, seconds_per_operation)
    chunks = room(wanted, operations_per_chunk, sum(load.chunks for load in ahead))
    return chunks or int(loads[priority].chunks == 0)


def operations_wanted(concurrency: int, waiting: int, seconds_per_operation: float | None) -> int:
    """How many more operations to ask for, while so many wait here: none, as long as they last for a moment.

    Then for some moments at once, so that quick chunks come together and not one by one. Of what takes long, one for
    every slot and another at hand for it is enough: what is held here nobody else can take.
    """
    enough = few = 2 * concurrency
    if seconds_per_operation is not None:
        in_a_moment = math.ceil(MOMENT_SECONDS / max(seconds_per_operation / concurrency, OWN_SECONDS))
        few, enough = max(few, in_a_moment), max(enough, MOMENTS_AT_ONCE * in_a_moment)
    return enough - waiting if waiting < few else 0


def room(operations: int, operations_per_chunk: float, chunks_held: int) -> int:
    """How many chunks to ask for when so many more operations are wanted. Small chunks come ten at a time."""
    if operations <= 0:
        return 0
    chunks = math.ceil(operations / max(operations_per_chunk, 1.0))
    return max(0, min(chunks, MESSAGES_IN_CALL, MOST_HELD - chunks_held))


class Inlet:
    """Of one queue. Its life: `open`, and once it `is_done` `take` what has come, again and again.

    At most one receive is under way. It is never cancelled: what it was about to return would be stranded.
    """

    def __init__(
        self,
        priority: Priority,
        queue: Queue,
        settings: Settings,
        stopping: asyncio.Event,
        when_done: Callable[[], None],
    ) -> None:
        self.priority = priority
        self.operations_per_chunk = float(settings.chunk_operations)  # a moving average
        self._queue = queue
        self._wait_seconds = settings.receive_wait_seconds
        self._stopping = stopping
        self._when_done = when_done
        self._receiving: asyncio.Task[list[Delivery]] | None = None
        self._pause_seconds = 0.0

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
        self._receiving = asyncio.create_task(self._receive(limit))
        self._receiving.add_done_callback(lambda _: self._when_done())

    def take(self) -> list[Delivery]:
        """What has come, if anything has."""
        if self._receiving is None or not self._receiving.done():
            return []
        received, self._receiving = self._receiving.result(), None
        return received

    async def finish(self) -> None:
        """Until a receive under way has come back."""
        if self._receiving is not None:
            await asyncio.wait([self._receiving])

    def learn_size(self, operations: int) -> None:
        self.operations_per_chunk += SMOOTHING * (operations - self.operations_per_chunk)

    async def _receive(self, limit: int) -> list[Delivery]:
        """A queue that does not answer is not an empty queue: say so, and wait longer each time."""
        try:
            deliveries = await self._queue.receive(limit, self._wait_seconds)
        except PenstockError as error:
            self._pause_seconds = min(max(2 * self._pause_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            get_log().error(
                Event.RECEIVE_FAILED, priority=self.priority, error=str(error), pause_seconds=self._pause_seconds
            )
            await self._pause(self._pause_seconds)
            return []
        self._pause_seconds = 0.0
        return [replace(delivery, priority=self.priority) for delivery in deliveries]

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not through a request to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
