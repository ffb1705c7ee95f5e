"""The heart of the queue program: it receives chunks if there is room, and processes them. Read this file first."""

import asyncio
import contextlib
import math
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.backend import Backend
from penstock.chunk import Chunk
from penstock.clock import Clock
from penstock.consumer.count_box import CountBox
from penstock.consumer.inlets import Inlet, Load, room_for
from penstock.consumer.journal import Journal
from penstock.consumer.lease import Leases
from penstock.consumer.letter_box import LetterBox
from penstock.consumer.pacer import Pacer
from penstock.consumer.patience import patient
from penstock.consumer.pauses import Pauses
from penstock.consumer.planning.planner import Busy, Left, Planner
from penstock.consumer.processor import Processor
from penstock.consumer.progress import STARTED, WORKED, Progress
from penstock.consumer.queue_switches import QueueSwitches
from penstock.consumer.readers_first import ReadersFirst
from penstock.consumer.sweeper import Sweeper
from penstock.consumer.webhooks.courier import Courier
from penstock.consumer.webhooks.post import Post
from penstock.dependencies import to_run
from penstock.errors import Misconfigured, NewerVersion, PenstockError, Unavailable, UnreadableMessage
from penstock.limit import Limit
from penstock.message import decode_chunk, decode_plan_request
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric
from penstock.operations import Operations
from penstock.priority import Priority
from penstock.queue import Delivery
from penstock.running.limit_gate import LimitGate
from penstock.running.limit_gates import LimitGates
from penstock.running.runner import Runner
from penstock.running.stop import Stop
from penstock.sending import ChunkSender
from penstock.settings import Settings
from penstock.telemetry import Event, get_log

RECORDING_SECONDS = 10.0  # the time for recording and follow-ups after the handlers are cancelled
RELEASING_SECONDS = 5.0  # the time for releasing what the last receives have returned
LEAVING_SECONDS = 1.0
PLANNED_AT_ONCE = 2  # batches. Each takes some megabytes, and shares the loop with the handlers
PLAN_PAUSE_SECONDS = 5, 15  # until another consumer may receive the message, if this one plans enough batches
MOST_PLAN_RECEIVES = 20  # of a message that asks for a plan, while another consumer has the batch
NEWER_VERSION_SECONDS = 60  # until a chunk comes again that only a newer version can run


@dataclass(slots=True)
class Held:
    """A delivery in flight. `waiting` is the number of its operations that have not finished."""

    delivery: Delivery
    waiting: int = 0
    is_plan: bool = False  # the message asks for the plan of a batch
    wakes_at: int = 0  # the number of waiting operations at which there may be room for another chunk

    def start(self, operations: int) -> None:
        self.waiting = self.wakes_at = operations

    def note_ended(self, count: int) -> bool:
        """Note that operations have finished. Return True if the consumer should check whether it has room now.

        A check costs as much as a quick operation. So there is one only when an eighth of the operations has finished
        since the last one.
        """
        self.waiting -= count
        if self.waiting > self.wakes_at:
            return False
        self.wakes_at = self.waiting * 7 // 8
        return True


class Consumer:
    """Receives and processes chunks: `run` does this until `stop` is called, then it drains and returns.

    Draining means that nothing new is received. A running receive is not cancelled unless SQS does not answer, because
    the messages that it is about to return would be stranded: these messages are released. Handlers may continue for
    the grace period, then they are cancelled. Finished operations are recorded, and the remaining ones follow as
    another chunk. All of it has time limits, because AWS may not answer at all.
    """

    def __init__(
        self,
        backend: Backend,
        operations: Operations[Any],
        settings: Settings,
        clock: Clock,
        progress: Progress | None = None,
        *,
        journal: Journal | None = None,
        post: Post | None = None,
        keeps_limits: bool = True,
        lets_readers_first: bool = True,
    ) -> None:
        """Create a consumer. `post` sends events to their receivers; without it none are delivered.

        Without `keeps_limits`, the limits of the fleet do not apply, nor does the concurrency of a batch. Without
        `lets_readers_first`, it writes the end of a batch as soon as everything is counted.
        """
        self._settings = settings
        self._clock = clock
        self._progress = progress or Progress()
        self._journal = journal or Journal()
        self._stop = Stop()
        self.meter = Meter()
        self.process = secrets.token_hex(8)  # identifies this process in what it leaves in the table
        self._moved = asyncio.Event()  # set when messages have arrived, when there may be room, or when it must stop
        operations.surroundings.has_bucket = backend.bucket is not None
        limits = self._new_gates(backend, operations) if keeps_limits else None
        self._runner = self._new_runner(backend, operations, limits)
        self._count_box = CountBox(clock, self._moved.set)
        self._letter_box = LetterBox(self._moved.set)
        self._readers_first = ReadersFirst(clock, self._moved.set)
        if not lets_readers_first:
            self._readers_first.open()
        self._pauses = Pauses(self._stop, clock, self._moved.set, self._has_room_for)
        self._switches = QueueSwitches(backend.store, clock, self._moved.set)
        self._courier = self._new_courier(backend, post)
        on_event = None if self._courier is None else self._courier.expand_soon
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
            process=self.process,
            journal=self._journal,
            count_box=self._count_box,
            letter_box=self._letter_box,
            readers_first=self._readers_first,
            pauses=self._pauses,
            switches=self._switches,
            on_event=on_event,
        )
        self._planner = Planner(
            backend,
            operations,
            settings,
            clock,
            stop=self._stop,
            meter=self.meter,
            process=self.process,
            on_event=on_event,
        )
        self._planning = 0  # batches that are planned now
        self._pacer = Pacer(self._runner, backend.store, clock)
        self._sweeper = Sweeper(
            backend.store,
            settings.sweep_seconds,
            clock,
            self.meter,
            owner=self.process,
            on_event=on_event,
            ask_to_plan=ChunkSender(backend, settings, clock).ask_to_plan,
        )
        self._held: dict[asyncio.Task[None], Held] = {}
        self._inlets = {
            priority: Inlet(priority, queue, settings, self._stop.begun, self._moved.set, monotonic=clock.monotonic)
            for priority, queue in backend.queues.items()
        }
        self._runner.result_memory.when_free(self._moved.set)
        self.meter.watch(Metric.IN_FLIGHT, lambda: len(self._held))

    def _new_runner(self, backend: Backend, operations: Operations[Any], limits: LimitGates | None) -> Runner:
        return Runner(
            operations,
            self._settings.concurrency,
            self._clock.monotonic,
            meter=self.meter,
            observer=backend.spans,
            weights=self._settings.weights,
            cpu_processes=self._settings.cpu_processes,
            shows_errors=self._settings.show_errors,
            limits=limits,
        )

    def _new_courier(self, backend: Backend, post: Post | None) -> Courier | None:
        secrets_ = self._settings.webhook_secrets
        if post is None or secrets_ is None:
            return None
        return Courier(
            backend.store,
            post,
            secrets_,
            self._clock,
            self.meter,
            may_poll=lambda: self._sweeper.is_in_charge,
            base_url=(self._settings.public_url or "").rstrip("/"),
        )

    def _new_gates(self, backend: Backend, operations: Operations[Any]) -> LimitGates:
        store = patient(backend.store, self._clock)

        def new_gate(name: str, limit: Limit) -> LimitGate:
            return LimitGate(
                name,
                limit,
                store,
                self._clock,
                weights=self._settings.weights,
                pauses=operations.pauses,
                when_waiting=self._moved.set,
            )

        return LimitGates(operations.limits, new_gate)

    def stop(self) -> None:
        """Start to drain. It may be called twice."""
        self._stop.begin()
        self._moved.set()

    @property
    def trouble(self) -> str | None:
        """Return why this consumer does not receive from every queue, or cannot run anything. Otherwise return None."""
        if self._stop.begun.is_set():
            return "Draining."
        if (trouble := self._runner.trouble) is not None:
            return trouble
        silent = [priority for priority, inlet in self._inlets.items() if inlet.is_in_trouble]
        return f"The queue of {' and '.join(silent)} priority does not answer." if silent else None

    async def run(self) -> None:
        chores = [
            *(asyncio.create_task(self._leases.keep(one), name=f"leases of {one} priority") for one in Priority),
            asyncio.create_task(self._sweeper.keep(), name="sweeper"),
            asyncio.create_task(self._pacer.keep(), name="pacer"),
            asyncio.create_task(self._switches.keep(), name="queue switches"),
            asyncio.create_task(self._runner.watch(self._settings.stall_seconds, self._clock), name="handlers"),
        ]
        if self._courier is not None:
            chores.append(asyncio.create_task(self._courier.keep(), name="webhooks"))
        for chore in chores:
            chore.add_done_callback(lambda _: self.stop())  # for instance, nothing may run without heartbeats
        self._journal.open(self.process)
        self._progress.report(STARTED)
        get_log().info(Event.CONSUMER_READY, concurrency=self._settings.concurrency)
        try:
            failure = await self._take_turns()
            failure = await self._drain() or failure
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            await self._runner.close()
        get_log().info(Event.CONSUMER_STOPPED)
        if failure is not None:
            raise failure
        for chore in chores:
            if not chore.cancelled():
                chore.result()  # if it failed, raise its error

    async def _take_turns(self) -> BaseException | None:
        """Take turns until the consumer is asked to stop. Return the error if a turn fails.

        That is a bug in Penstock. The consumer still drains, so that its operations do not look as if they killed it.
        """
        try:
            while not self._stop.begun.is_set():
                await self.turn()
        except Exception as error:  # noqa: BLE001 - raised again after the consumer has drained
            self.stop()
            return error
        return None

    async def turn(self) -> None:
        """Receive from queues that have room, wait for a change, and start to process what has arrived."""
        self._moved.clear()
        self._open_inlets()
        if not any(inlet.is_done for inlet in self._inlets.values()):
            await self._moved.wait()
        if self._take_in():
            await asyncio.sleep(0)  # lets each be decoded, so that the next turn knows how many operations wait

    async def take_turn(self) -> None:
        """Take one turn, and wait until everything that it has started is finished. This is for tests."""
        await self.turn()
        while self._held:
            await asyncio.wait(list(self._held))

    def _open_inlets(self) -> None:
        closed = [inlet for inlet in self._inlets.values() if not inlet.is_open]
        loads = self._loads() if closed else {}
        for inlet in closed:
            limit = self._room_for(inlet, loads)
            if limit:
                inlet.open(limit)

    def _room_for(self, inlet: Inlet, loads: Mapping[Priority, Load]) -> int:
        if self._runner.result_memory.is_full or self._switches.is_paused(inlet.priority):
            return 0  # no operation could start
        return room_for(
            inlet.priority,
            loads,
            concurrency=self._settings.concurrency,
            seconds_per_operation=self._pacer.overall.seconds,
            operations_per_chunk=inlet.operations_per_chunk,
        )

    def _has_room_for(self, delivery: Delivery) -> bool:
        return self._room_for(self._inlets[delivery.priority], self._loads()) > 0

    def _take_in(self) -> int:
        """Start to process what the inlets have received, and return the number of deliveries.

        There may be more than there is room for, since every queue may return as many as it was asked for.
        """
        taken = 0
        for inlet in self._inlets.values():
            for delivery in inlet.take():
                self._begin(delivery)
                taken += 1
        return taken

    def _begin(self, delivery: Delivery) -> None:
        self._leases.hold(delivery)
        held = Held(delivery)
        task = asyncio.create_task(self._process(held))
        self._held[task] = held
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        held = self._held.pop(task)
        self._leases.let_go(held.delivery)
        self._journal.settle(held.delivery)
        self._moved.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # This is a bug in Penstock. The lease ends and the chunk is delivered again, until the redrive policy of
            # the queue moves it to the dead letter queue.
            get_log().error(Event.CHUNK_BROKE, message_id=held.delivery.message_id, exc_info=error)

    async def _process(self, held: Held) -> None:
        batch_id = decode_plan_request(held.delivery.body)
        if batch_id is not None:
            await self._plan(held, batch_id)
            return
        try:
            chunk = decode_chunk(held.delivery.body)
        except UnreadableMessage as error:
            await self._processor.move_to_dead_letters(held.delivery, str(error))
            return
        held.delivery = replace(held.delivery, batch_id=chunk.batch_id)
        try:
            await self._process_chunk(held, chunk)
        except NewerVersion as error:
            get_log().warning(Event.NEWER_VERSION, batch_id=chunk.batch_id, chunk_id=chunk.id, error=str(error))
            await self._release(held.delivery, NEWER_VERSION_SECONDS)

    async def _plan(self, held: Held, batch_id: str) -> None:
        """Plan a batch. If that is not finished here, let another consumer receive the message."""
        delivery = held.delivery = replace(held.delivery, batch_id=batch_id)
        left: Left | Busy = Left.STOPPED
        if self._planning >= PLANNED_AT_ONCE:
            left = Busy(random.uniform(*PLAN_PAUSE_SECONDS))  # noqa: S311 - spreads messages, keeps no secret
        elif not self._stop.begun.is_set():
            self._planning += 1
            held.is_plan = True
            try:
                left = await self._planner.plan(batch_id)
            finally:
                self._planning -= 1
        match left:
            case Left.STOPPED:
                await self._release(delivery)
            case Busy(seconds) if delivery.receive_count < MOST_PLAN_RECEIVES:
                await self._release(delivery, math.ceil(seconds))
            case _:  # if another planner has the batch, and dies, a sweep asks again
                await self._processor.acknowledge(delivery)

    async def _release(self, delivery: Delivery, after_seconds: int = 0) -> None:
        with contextlib.suppress(PenstockError):  # then the lease ends by itself
            await self._leases.release(delivery, after_seconds=after_seconds)

    async def _process_chunk(self, held: Held, chunk: Chunk) -> None:
        self._journal.receive(held.delivery, chunk)
        if self._stop.begun.is_set():
            with contextlib.suppress(Unavailable, Misconfigured):  # then the lease ends by itself
                await self._processor.release(held.delivery, chunk)
            return
        self._progress.report(WORKED)
        held.start(len(to_run(chunk)))
        # The age of a delayed chunk starts when it could first be received. It is never negative, though clocks differ.
        ready_at = max(held.delivery.sent_at, chunk.not_before or 0)
        self.meter.observe(Metric.CHUNK_AGE_SECONDS, max(0.0, self._clock.now() - ready_at))
        self._inlets[held.delivery.priority].learn_size(len(chunk.operations))

        def ended(count: int) -> None:
            self._pacer.count(count)
            if held.note_ended(count):
                self._moved.set()

        await self._processor.process(held.delivery, chunk, ended)

    def _loads(self) -> dict[Priority, Load]:
        """Return what is held of each priority.

        A chunk whose operations have finished counts as one operation while it is recorded: otherwise the number of
        chunks in memory would have no limit. While it waits to be counted, or its dead letters wait, it counts as no
        operation. Neither does an operation that waits because of a limit of the fleet: others must run meanwhile. A
        chunk that waits because its batch is paused, or because readers come first, does not count at all. Neither does
        the plan of a batch.
        """
        loads = {priority: Load() for priority in Priority}
        for held in self._held.values():
            if self._is_left_out(held):
                continue
            load = loads[held.delivery.priority]
            load.chunks += 1
            load.operations += 0 if self._waits_for_others(held.delivery) else max(held.waiting, 1)
        waiting = self._runner.waiting_for_tokens()
        excess = 0  # they wait with the priority of their batch, and it may have changed since they were sent
        for priority, load in loads.items():
            excess += load.spare(waiting[priority])
        for load in loads.values():
            excess = load.spare(excess)
        return loads

    def _waits_for_others(self, delivery: Delivery) -> bool:
        return self._count_box.holds(delivery) or self._letter_box.holds(delivery)

    def _is_left_out(self, held: Held) -> bool:
        """Return True if something is held that does not count. There is never much of it."""
        return held.is_plan or self._pauses.holds(held.delivery) or self._readers_first.holds(held.delivery)

    async def _drain(self) -> BaseException | None:
        """Stop as the docstring of this class says. Return the error of a receive that failed unexpectedly."""
        get_log().info(Event.CONSUMER_DRAINING, chunks=len(self._held))
        releasing = asyncio.gather(*map(self._release_received, self._inlets.values()), return_exceptions=True)
        self._count_box.open()
        self._letter_box.open()
        self._readers_first.open()
        self._runner.let_go()  # what waits for a slot is handed over now: the handlers in flight may hold it for long
        await self._wait_for_held(self._settings.grace_seconds)
        self._stop.cut_off()
        await self._wait_for_held(RECORDING_SECONDS)
        failures = [failure for failure in await releasing if failure is not None]
        await self._wait_for_held(RELEASING_SECONDS)
        for task, held in list(self._held.items()):
            get_log().error(
                Event.CHUNK_BROKE, message_id=held.delivery.message_id, error="It could not be recorded in time."
            )
            task.cancel()
        await self._wait_for_held(LEAVING_SECONDS)  # a handler may ignore its cancellation
        return next(iter(failures), None)

    async def _release_received(self, inlet: Inlet) -> None:
        """Take what the last receive returns. Since the consumer is stopping, processing releases it immediately."""
        await inlet.finish()
        self._take_in()

    async def _wait_for_held(self, seconds: float) -> None:
        if self._held:
            await asyncio.wait(list(self._held), timeout=seconds)
