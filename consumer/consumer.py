"""The queue program's heart: take a slot, receive, process; on request, drain. The first file to read."""

import asyncio
import math
from dataclasses import dataclass
from typing import Any

from consumer.lease import Leases
from consumer.pacer import Pacer
from consumer.processor import Processor
from consumer.sweeper import Sweeper
from penstock.backend import Backend
from penstock.chunk import Chunk
from penstock.clock import Clock
from penstock.errors import PenstockError, UnreadableMessage
from penstock.message import decode_chunk
from penstock.operations import Operations
from penstock.queue import MESSAGES_IN_CALL, Delivery
from penstock.runner import Stop
from penstock.settings import Settings
from penstock.telemetry import Event, get_log
from penstock.tracing import runner_kind

MOST_HELD = 50  # chunks, however small: each is a task, and a lease to extend
MOMENT_SECONDS = 0.05  # several times what a receive takes
MOMENTS_AT_ONCE = 3
OWN_SECONDS = 30e-6  # what an operation takes of the event loop, however quick its handler: measured, see bench
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
RECORDING_SECONDS = 10.0  # what recording and handing on may take once handlers are cut
LEAVING_SECONDS = 1.0
SMOOTHING = 0.3


@dataclass(slots=True)
class Held:
    """A delivery in flight. `waiting` is how many of its operations have not come to their end."""

    delivery: Delivery
    waiting: int = 0


class Consumer:
    """Its life: `run` receives and processes until `stop` is called, then drains and returns.

    Draining: nothing new is received; a receive under way is finished, since cancelling it would strand what it was
    about to return, and its deliveries are given back. Handlers go on for the grace period, then they are cancelled.
    What they finished is recorded; the rest follows as a chunk of its own.
    """

    def __init__(self, backend: Backend, operations: Operations[Any], settings: Settings, clock: Clock) -> None:
        self._queue = backend.chunks
        self._settings = settings
        self._clock = clock
        self._stop = Stop()
        self._runner = runner_kind(backend.spans)(operations, settings.concurrency, clock.monotonic)
        self._leases = Leases(backend.chunks, settings.visibility_seconds, clock)
        self._processor = Processor(
            backend,
            operations,
            runner=self._runner,
            leases=self._leases,
            stop=self._stop,
            settings=settings,
            clock=clock,
        )
        self._pacer = Pacer(self._runner, backend.store, clock)
        self._sweeper = Sweeper(backend.store, settings.sweep_seconds, clock)
        self._held: dict[asyncio.Task[None], Held] = {}
        self._moved = asyncio.Event()  # room may have come free, or we are to stop
        self._operations_per_chunk = float(settings.chunk_operations)  # a moving average
        self._pause_seconds = 0.0

    def stop(self) -> None:
        """Begin to drain. May be called twice."""
        self._stop.begin()
        self._moved.set()

    @property
    def trouble(self) -> str | None:
        """Why it receives nothing, if it does not."""
        if self._stop.begun.is_set():
            return "It drains."
        return "The queue does not answer." if self._pause_seconds else None

    async def run(self) -> None:
        chores = [
            asyncio.create_task(self._leases.keep(), name="leases"),
            asyncio.create_task(self._sweeper.keep(), name="sweeper"),
            asyncio.create_task(self._pacer.keep(), name="pacer"),
        ]
        for chore in chores:
            chore.add_done_callback(lambda _: self.stop())  # without heartbeats, say, nothing may go on
        get_log().info(Event.CONSUMER_READY, concurrency=self._settings.concurrency)
        try:
            while not self._stop.begun.is_set():
                await self.turn()
            await self._drain()
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
        get_log().info(Event.CONSUMER_STOPPED)
        for chore in chores:
            if not chore.cancelled():
                chore.result()  # it died of something: say so, and end with an error

    async def turn(self) -> None:
        """Wait for a slot, receive once, begin to process what came."""
        self._moved.clear()
        wanted = operations_wanted(self._settings.concurrency, self._waiting(), self._pacer.overall.seconds)
        limit = room(wanted, self._operations_per_chunk, len(self._held))
        if limit == 0:
            await self._moved.wait()
            return
        for delivery in await self._receive(limit):
            self._begin(delivery)
        await asyncio.sleep(0)  # now each is decoded: the next turn knows how many operations wait

    async def _receive(self, limit: int) -> list[Delivery]:
        """A queue that does not answer is not an empty queue: say so, and wait longer each time."""
        try:
            deliveries = await self._queue.receive(limit, self._settings.receive_wait_seconds)
        except PenstockError as error:
            self._pause_seconds = min(max(2 * self._pause_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            get_log().error(Event.RECEIVE_FAILED, error=str(error), pause_seconds=self._pause_seconds)
            await self._pause(self._pause_seconds)
            return []
        self._pause_seconds = 0.0
        return deliveries

    def _begin(self, delivery: Delivery) -> None:
        self._leases.hold(delivery)
        held = Held(delivery)
        task = asyncio.create_task(self._process(held))
        self._held[task] = held
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        held = self._held.pop(task)
        self._leases.let_go(held.delivery)
        self._moved.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # A fault of ours. The lease runs out and the chunk comes again; the queue's own redrive policy is the end.
            get_log().error(Event.CHUNK_BROKE, message_id=held.delivery.message_id, exc_info=error)

    async def _process(self, held: Held) -> None:
        try:
            chunk = decode_chunk(held.delivery.body)
        except UnreadableMessage as error:
            await self._processor.set_aside(held.delivery, str(error))
            return
        if self._stop.begun.is_set():
            await self._processor.release(held.delivery, chunk)
            return
        held.waiting = len(chunk.operations)
        self._learn_size(chunk)

        def ended() -> None:
            held.waiting -= 1
            self._moved.set()

        await self._processor.process(held.delivery, chunk, ended)

    def _waiting(self) -> int:
        """A chunk whose operations have ended counts for one while it is recorded, or memory would have no bound."""
        return sum(max(held.waiting, 1) for held in self._held.values())

    def _learn_size(self, chunk: Chunk) -> None:
        self._operations_per_chunk += SMOOTHING * (len(chunk.operations) - self._operations_per_chunk)

    async def _drain(self) -> None:
        get_log().info(Event.CONSUMER_DRAINING, chunks=len(self._held))
        await self._wait_for_held(self._settings.grace_seconds)
        self._stop.cut_off()
        await self._wait_for_held(RECORDING_SECONDS)
        for task, held in list(self._held.items()):
            get_log().error(Event.CHUNK_BROKE, message_id=held.delivery.message_id, error="It could not be recorded.")
            task.cancel()
        await self._wait_for_held(LEAVING_SECONDS)  # not for ever: a handler may refuse to be cancelled

    async def _wait_for_held(self, seconds: float) -> None:
        if self._held:
            await asyncio.wait(list(self._held), timeout=seconds)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not through a request to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.begun.wait()
        except TimeoutError:
            pass


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
