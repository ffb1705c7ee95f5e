"""The queue program's heart: receive where there is room, process; on request, drain. The first file to read."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.backend import Backend
from penstock.clock import Clock
from penstock.consumer.inlets import Inlet, Load, room_for
from penstock.consumer.lease import Leases
from penstock.consumer.pacer import Pacer
from penstock.consumer.processor import Processor
from penstock.consumer.progress import STARTED, WORKED, Progress
from penstock.consumer.sweeper import Sweeper
from penstock.errors import UnreadableMessage
from penstock.message import decode_chunk
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric
from penstock.operations import Operations
from penstock.priority import Priority
from penstock.queue import Delivery
from penstock.running.runner import Runner
from penstock.running.stop import Stop
from penstock.settings import Settings
from penstock.telemetry import Event, get_log

RECORDING_SECONDS = 10.0  # what recording and handing on may take once handlers are cut
LEAVING_SECONDS = 1.0


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

    def __init__(
        self,
        backend: Backend,
        operations: Operations[Any],
        settings: Settings,
        clock: Clock,
        progress: Progress | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._progress = progress or Progress()
        self._stop = Stop()
        self.meter = Meter()
        self._runner = Runner(
            operations,
            settings.concurrency,
            clock.monotonic,
            meter=self.meter,
            observer=backend.spans,
            weights=settings.weights,
            cpu_processes=settings.cpu_processes,
        )
        self._leases = Leases(backend.queues, settings.visibility_seconds, clock)
        self._processor = Processor(
            backend,
            operations,
            runner=self._runner,
            leases=self._leases,
            stop=self._stop,
            settings=settings,
            clock=clock,
            meter=self.meter,
        )
        self._pacer = Pacer(self._runner, backend.store, clock)
        self._sweeper = Sweeper(backend.store, settings.sweep_seconds, clock, self.meter)
        self._held: dict[asyncio.Task[None], Held] = {}
        self._moved = asyncio.Event()  # something has come, or room may have come free, or we are to stop
        self._inlets = {
            priority: Inlet(priority, queue, settings, self._stop.begun, self._moved.set)
            for priority, queue in backend.queues.items()
        }
        self.meter.watch(Metric.IN_FLIGHT, lambda: len(self._held))

    def stop(self) -> None:
        """Begin to drain. May be called twice."""
        self._stop.begin()
        self._moved.set()

    @property
    def trouble(self) -> str | None:
        """Why it receives nothing, or not from every queue."""
        if self._stop.begun.is_set():
            return "It drains."
        silent = [priority for priority, inlet in self._inlets.items() if inlet.is_in_trouble]
        return f"No answer from the queue of {' and '.join(silent)} priority." if silent else None

    async def run(self) -> None:
        chores = [
            asyncio.create_task(self._leases.keep(), name="leases"),
            asyncio.create_task(self._sweeper.keep(), name="sweeper"),
            asyncio.create_task(self._pacer.keep(), name="pacer"),
            asyncio.create_task(self._runner.watch(self._settings.stall_seconds, self._clock), name="threads"),
        ]
        for chore in chores:
            chore.add_done_callback(lambda _: self.stop())  # without heartbeats, say, nothing may go on
        self._progress.report(STARTED)
        get_log().info(Event.CONSUMER_READY, concurrency=self._settings.concurrency)
        try:
            while not self._stop.begun.is_set():
                await self.turn()
            await self._drain()
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            await self._runner.close()
        get_log().info(Event.CONSUMER_STOPPED)
        for chore in chores:
            if not chore.cancelled():
                chore.result()  # it died of something: say so, and end with an error

    async def turn(self) -> None:
        """Receive where there is room, wait until something moves, begin to process what has come."""
        self._moved.clear()
        self._open_inlets()
        if not any(inlet.is_done for inlet in self._inlets.values()):
            await self._moved.wait()
        if self._take_in():
            await asyncio.sleep(0)  # now each is decoded: the next turn knows how many operations wait

    def _open_inlets(self) -> None:
        closed = [inlet for inlet in self._inlets.values() if not inlet.is_open]
        loads = self._loads() if closed else {}
        for inlet in closed:
            limit = self._room_for(inlet, loads)
            if limit:
                inlet.open(limit)

    def _room_for(self, inlet: Inlet, loads: Mapping[Priority, Load]) -> int:
        return room_for(
            inlet.priority,
            loads,
            concurrency=self._settings.concurrency,
            seconds_per_operation=self._pacer.overall.seconds,
            operations_per_chunk=inlet.operations_per_chunk,
        )

    def _take_in(self) -> int:
        """How many have come. More, perhaps, than there is room for: each queue may bring what it was asked for."""
        deliveries = [delivery for inlet in self._inlets.values() for delivery in inlet.take()]
        for delivery in deliveries:
            self._begin(delivery)
        return len(deliveries)

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
            await self._processor.move_to_dead_letters(held.delivery, str(error))
            return
        if self._stop.begun.is_set():
            await self._processor.release(held.delivery, chunk)
            return
        self._progress.report(WORKED)
        held.waiting = len(chunk.operations)
        # Of one that was held back only the time since it could be received; clocks differ, so never less than none.
        ready_at = max(held.delivery.sent_at, chunk.not_before or 0)
        self.meter.observe(Metric.CHUNK_AGE_SECONDS, max(0.0, self._clock.now() - ready_at))
        self._inlets[held.delivery.priority].learn_size(len(chunk.operations))

        def ended() -> None:
            held.waiting -= 1
            self._moved.set()

        await self._processor.process(held.delivery, chunk, ended)

    def _loads(self) -> dict[Priority, Load]:
        """A chunk whose operations have ended counts for one while it is recorded, or memory would have no bound."""
        loads = {priority: Load() for priority in Priority}
        for held in self._held.values():
            load = loads[held.delivery.priority]
            load.chunks += 1
            load.operations += max(held.waiting, 1)
        return loads

    async def _drain(self) -> None:
        get_log().info(Event.CONSUMER_DRAINING, chunks=len(self._held))
        giving_back = asyncio.gather(*map(self._give_back, self._inlets.values()))
        await self._wait_for_held(self._settings.grace_seconds)
        self._stop.cut_off()
        self._runner.let_go()
        await self._wait_for_held(RECORDING_SECONDS)
        await giving_back
        await self._wait_for_held(RECORDING_SECONDS)
        for task, held in list(self._held.items()):
            get_log().error(Event.CHUNK_BROKE, message_id=held.delivery.message_id, error="It could not be recorded.")
            task.cancel()
        await self._wait_for_held(LEAVING_SECONDS)  # not for ever: a handler may refuse to be cancelled

    async def _give_back(self, inlet: Inlet) -> None:
        """What a receive under way still brings, as soon as it does: processing gives it back, now that we stop."""
        await inlet.finish()
        self._take_in()

    async def _wait_for_held(self, seconds: float) -> None:
        if self._held:
            await asyncio.wait(list(self._held), timeout=seconds)
