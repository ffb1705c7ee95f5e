"""The loop: slots before receiving, trouble without dying, and an end at which nothing is lost."""

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock import Context, Operations
from penstock.backend import Backend
from penstock.batch import BatchState, Counts
from penstock.chunk import Chunk
from penstock.clock import SystemClock
from penstock.consumer import consumer as consuming
from penstock.consumer import count_box, inlets, pacer, readers_first
from penstock.consumer.consumer import Consumer, Held
from penstock.consumer.pacer import ENOUGH_TO_MEASURE
from penstock.errors import (
    HandlersStuck,
    Misconfigured,
    NewerVersion,
    NoAccess,
    PenstockError,
    RejectedCall,
    Unavailable,
)
from penstock.message import decode_chunk, encode_chunk
from penstock.priority import Priority
from penstock.queue import Delivery, Message
from penstock.telemetry import Event
from penstock.testing import MemoryParts, MemoryQueue, MemoryStore
from tests.support.builders import BATCH_ID, build_operations, build_settings, plan, submit
from tests.support.faults import Moment, Watch, watched
from tests.support.rig import Rig, take_turn
from tests.support.waiting import UNIT_SECONDS, eventually, settle


class PolledQueue(MemoryQueue):
    """A poll of it lasts until there is something to receive, or until a test ends it. `limits` are those asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(visibility_seconds=60, name=name)
        self.limits: list[int] = []
        self.is_polled = asyncio.Event()
        self.poll_ends = asyncio.Event()

    async def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        self.limits.append(limit)
        self.is_polled.set()
        while not self.poll_ends.is_set() and not await self.depth():  # noqa: ASYNC110 - no event tells of messages
            await asyncio.sleep(0.001)
        if self.poll_ends.is_set():
            await asyncio.sleep(0.01)  # as in a real poll, or a consumer that waits keeps the core busy
        return await super().receive(limit, 0)


@dataclass
class Toys:
    """Handlers that a test holds up: each tells that it has begun and goes on when `gate` is open."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    thread_gate: threading.Event = field(default_factory=threading.Event)
    begun: Counter[str] = field(default_factory=Counter)
    here: int = 0
    most: int = 0

    @property
    def operations(self) -> Operations[Any]:
        operations = Operations()
        operations.post("/succeed")(self.succeed)
        operations.post("/wait")(self.wait)
        operations.post("/refuse-to-end")(self.refuse_to_end)
        operations.post("/refuse-for-too-long", timeout_seconds=0.01, max_attempts=1)(self.refuse_to_end)
        operations.post("/block")(self.block)
        operations.post("/block-for-too-long", timeout_seconds=0.01, max_attempts=1)(self.block)
        return operations

    async def succeed(self, context: Context) -> int:
        self.begun[context.operation_id] += 1
        return context.attempt

    async def wait(self, context: Context) -> int:
        self.begun[context.operation_id] += 1
        self.here += 1
        self.most = max(self.most, self.here)
        try:
            await self.gate.wait()
        finally:
            self.here -= 1
        return context.attempt

    def block(self, context: Context) -> None:
        self.begun[context.operation_id] += 1
        self.thread_gate.wait(60)

    async def refuse_to_end(self, context: Context) -> None:
        self.begun[context.operation_id] += 1
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                continue


class Plant:
    """A queue and a store in memory, and a consumer on them that really runs."""

    def __init__(self, watch: Watch | None = None, **settings: Any) -> None:
        self.toys = Toys()
        self.settings = build_settings(**{"receive_wait_seconds": 1, "grace_seconds": 5 * UNIT_SECONDS, **settings})
        self.queues = {priority: PolledQueue(priority) for priority in Priority}
        self.queue = self.queues[Priority.NORMAL]
        self.parts = MemoryParts(self.queues, MemoryQueue(), MemoryStore())
        self.backend: Backend = watched(self.parts, watch) if watch else self.parts.backend
        self.consumer = Consumer(self.backend, self.toys.operations, self.settings, SystemClock())

    async def submit(self, *paths: str, chunk_operations: int = 100) -> None:
        await submit(self.parts, build_operations(*paths), chunk_operations)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["asyncio.Task[None]"]:
        """At the end it is stopped, and has to come to its end."""
        task = asyncio.create_task(self.consumer.run())
        try:
            yield task
        finally:
            self.consumer.stop()
            self.end_polls()
            await asyncio.wait([task], timeout=20 * UNIT_SECONDS)
            assert task.done()

    async def stop(self, task: "asyncio.Task[None]") -> None:
        self.consumer.stop()
        self.end_polls()
        await asyncio.wait_for(task, 20 * UNIT_SECONDS)

    def ask_to_stop(self) -> None:
        """A poll of the queue goes on; those of the others end, since no test sends anything there."""
        self.consumer.stop()
        for queue in self.queues.values():
            if queue is not self.queue:
                queue.poll_ends.set()

    def end_polls(self) -> None:
        for queue in self.queues.values():
            queue.poll_ends.set()

    async def until_begun(self, count: int) -> None:
        async def have_begun() -> bool:
            return sum(self.toys.begun.values()) >= count

        await eventually(have_begun)

    async def until_finished(self) -> None:
        async def is_final() -> bool:
            return self.parts.store._batches[BATCH_ID].is_final

        await eventually(is_final)

    @property
    def chunks(self) -> list[Chunk]:
        return [decode_chunk(message.body) for message in self.queue.messages]

    def recorded(self) -> dict[str, int]:
        records = self.parts.store._records.values()
        return {outcome.id: outcome.status for record in records for outcome in record.outcomes}

    async def counts(self) -> Counts:
        return (await self.parts.store.read_group(BATCH_ID, 0)).counts


async def test_batches_are_worked_off() -> None:
    plant = Plant()
    await plant.submit(*["/succeed"] * 50, chunk_operations=7)
    async with plant.running():
        await plant.until_finished()
    assert plant.recorded() == {f"id-{index}": 200 for index in range(50)}
    assert await plant.counts() == Counts(succeeded=50)
    assert plant.chunks == []


# Slots.


async def test_many_small_chunks_run_no_more_at_once_than_allowed() -> None:
    plant = Plant(concurrency=3)
    await plant.submit(*["/wait"] * 60, chunk_operations=1)
    async with plant.running():
        await plant.until_begun(3)
        plant.toys.gate.set()
        await plant.until_finished()
    assert plant.toys.most == 3
    assert await plant.counts() == Counts(succeeded=60)


async def test_large_chunks_run_no_more_at_once_than_allowed() -> None:
    plant = Plant(concurrency=3)
    await plant.submit(*["/wait"] * 60, chunk_operations=20)
    async with plant.running():
        await plant.until_begun(3)
        plant.toys.gate.set()
        await plant.until_finished()
    assert plant.toys.most == 3


@pytest.mark.parametrize("chunk_operations", [1, 5])
async def test_no_more_is_taken_than_slots_will_need_soon(chunk_operations: int) -> None:
    """With every handler held up, one chunk at most goes beyond two operations for each slot."""
    plant = Plant(concurrency=4, chunk_operations=chunk_operations)
    await plant.submit(*["/wait"] * 100, chunk_operations=chunk_operations)
    async with plant.running():
        await plant.until_begun(4)
        for _ in range(20):
            await asyncio.sleep(0)  # turns as many as it likes
        held = 100 - await plant.queue.depth() * chunk_operations
        assert 4 <= held <= 2 * 4 + chunk_operations - 1
        plant.toys.gate.set()
        await plant.until_finished()


async def test_nothing_is_received_while_no_slot_is_free() -> None:
    plant = Plant(concurrency=1, chunk_operations=1)
    await plant.submit(*["/wait"] * 3, chunk_operations=1)
    async with plant.running():
        await plant.until_begun(1)
        received = len(plant.queue.limits)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(plant.queue.limits) == received
        plant.toys.gate.set()
        await plant.until_finished()


def test_room_is_checked_after_each_eighth_of_a_chunk() -> None:
    held = Held(Delivery("1", "", "", 1))
    held.start(800)
    checked_at = [held.waiting for _ in range(800) if held.note_ended(1)]
    assert len(checked_at) < 60
    assert all(later >= earlier * 7 // 8 for earlier, later in itertools.pairwise(checked_at))
    assert checked_at[-8:] == [7, 6, 5, 4, 3, 2, 1, 0]


async def test_what_is_being_recorded_takes_room_too() -> None:
    """The table takes no writes while handlers go on ending: the consumer does not gather chunks without end."""
    is_down = True
    most = 0

    def refuse(call: str, moment: Moment) -> None:
        nonlocal most
        if is_down:
            most = max(most, len(plant.consumer._held))
            if call == "store.commit_chunk":
                raise Unavailable("AWS does not answer.")

    plant = Plant(refuse, concurrency=2, chunk_operations=1)
    await plant.submit(*["/succeed"] * 50, chunk_operations=1)
    async with plant.running():
        await plant.until_begun(4)
        for _ in range(100):
            await asyncio.sleep(0)
        assert sum(plant.toys.begun.values()) == 4
        is_down = False
        await plant.until_finished()
    assert most == 4
    assert set(plant.toys.begun.values()) == {1}


async def test_first_guess_is_what_the_front_end_plans_and_then_it_learns() -> None:
    rig = Rig(Toys().operations, build_settings(concurrency=10, chunk_operations=100))
    limits: list[int] = []
    receive = rig.parts.chunks.receive

    async def note_limit(limit: int, wait_seconds: int) -> list[Delivery]:
        limits.append(limit)
        return await receive(limit, wait_seconds)

    rig.parts.chunks.receive = note_limit  # type: ignore[method-assign]
    await rig.submit(build_operations(*["/succeed"] * 100), chunk_operations=1)
    await rig.work_off()
    assert limits[0] == 1
    assert limits == sorted(limits)
    assert limits[-1] == inlets.MOST_AT_ONCE


# Priorities.


async def test_first_measurement_does_not_wait_for_the_end_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacer, "PUBLISH_SECONDS", 60 * UNIT_SECONDS)
    plant = Plant(concurrency=2)
    await plant.submit(*["/succeed"] * ENOUGH_TO_MEASURE, "/wait")

    async def is_published() -> bool:
        return bool(await plant.parts.store.read_handler_seconds(["POST /succeed"]))

    async with plant.running():
        await eventually(is_published)
        assert plant.recorded() == {}
        plant.toys.gate.set()


async def test_each_queue_is_polled_at_the_same_time_while_there_is_nothing() -> None:
    plant = Plant()
    async with plant.running():
        for queue in plant.queues.values():
            await queue.is_polled.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert [len(queue.limits) for queue in plant.queues.values()] == [1, 1, 1]


async def test_urgent_chunk_is_taken_at_once_while_less_urgent_ones_take_all_slots() -> None:
    plant = Plant(concurrency=2, chunk_operations=4)
    operations = build_operations(*["/wait"] * 12, *["/succeed"] * 4)
    batch, (*low, high) = plan(operations, 4)
    await plant.parts.store.create_batch(batch)
    await plant.queues[Priority.LOW].send([Message(encode_chunk(chunk)) for chunk in low])
    async with plant.running():
        await plant.until_begun(2)
        await plant.queues[Priority.HIGH].send([Message(encode_chunk(high))])

        async def is_taken() -> bool:
            return not await plant.queues[Priority.HIGH].depth()

        await eventually(is_taken)
        assert await plant.queues[Priority.LOW].depth() == 2  # of those no more than is needed soon
        plant.toys.gate.set()
        await plant.until_finished()
    urgent = [list(plant.toys.begun).index(f"id-{index}") for index in range(12, 16)]
    assert max(urgent) <= 7  # the next after what was under way, but for a turn of the others


async def test_queue_that_does_not_answer_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inlets, "FIRST_PAUSE_SECONDS", 0.1)

    def fail(call: str, moment: Moment) -> None:
        if call == "chunks-high.receive":
            raise Unavailable("AWS does not answer.")

    plant = Plant(fail)
    await plant.submit(*["/succeed"] * 30, chunk_operations=5)
    async with plant.running():
        await plant.until_finished()
        assert plant.consumer.trouble == "The queue of high priority does not answer."


# Trouble.


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not JSON"),
        ("hello", "not JSON"),
        ("[]", "not a chunk"),
        ("{}", "not a chunk"),
        ('{"v": 6, "batch": "b"}', "version 6"),
        ('{"v":1,"batch":"b","chunk":"x","attempt":1,"operations":[[0,"a","POST","/"]]}', "chunk"),
        ("zstd:damaged", "cannot be decompressed"),
    ],
)
async def test_unreadable_message_is_set_aside_and_the_others_run(body: str, reason: str) -> None:
    rig = Rig(Toys().operations)
    await rig.parts.chunks.send([Message(body, tenant="acme")])
    await rig.submit(build_operations("/succeed"))
    await rig.work_off()
    [letter] = rig.dead_letters
    assert (letter.body, letter.tenant) == (body, "acme")
    assert letter.reason is not None
    assert reason in letter.reason
    assert await rig.counts() == Counts(succeeded=1)
    assert rig.parts.chunks.messages == []


async def test_setting_aside_is_repeated_until_it_is_done() -> None:
    outages = iter(["dead_letters.send", "chunks.delete", None])
    due = next(outages)

    def fail_each_once(call: str, moment: Moment) -> None:
        nonlocal due
        if (call, moment) == (due, "before"):
            due = next(outages)
            raise Unavailable("AWS does not answer.")

    rig = Rig(Toys().operations)
    await rig.parts.chunks.send([Message("hello")])
    await rig.work_off(rig.consumer(fail_each_once))
    assert due is None
    assert len(rig.dead_letters) == 1


async def test_failing_receives_back_off_and_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, logs: list[MutableMapping[str, Any]]
) -> None:
    monkeypatch.setattr(inlets, "FIRST_PAUSE_SECONDS", 0.5)
    failures = iter([True] * 8 + [False] + [True] * 2 + [False] * 100)
    pauses: list[float] = []

    def fail_for_a_while(call: str, moment: Moment) -> None:
        if (call, moment) == ("chunks.receive", "before") and next(failures):
            raise Unavailable("AWS does not answer.")

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    rig = Rig(Toys().operations)
    await rig.submit(build_operations("/succeed", "/succeed"), chunk_operations=1)
    consumer = rig.consumer(fail_for_a_while)
    consumer._inlets[Priority.NORMAL]._pause = note  # type: ignore[method-assign]
    for _ in range(40):
        await take_turn(consumer)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5, 1]
    events = [line["event"] for line in logs]
    assert [events.count(Event.RECEIVE_FAILED), events.count(Event.WORKS_AGAIN)] == [2, 2]  # each outage is told once
    assert await rig.counts() == Counts(succeeded=2)


async def test_stop_ends_the_pause_after_a_failed_receive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inlets, "FIRST_PAUSE_SECONDS", inlets.LONGEST_PAUSE_SECONDS)
    failed = asyncio.Event()

    def fail(call: str, moment: Moment) -> None:
        failed.set()
        raise Unavailable("AWS does not answer.")

    plant = Plant(fail)
    async with plant.running() as task:
        await failed.wait()
        assert not task.done()
        async with asyncio.timeout(20 * UNIT_SECONDS):
            await plant.stop(task)


async def test_fault_of_ours_leaves_the_chunk_to_its_lease_and_the_others_go_on(
    logs: list[MutableMapping[str, Any]],
) -> None:
    faults = iter([True])

    def break_once(call: str, moment: Moment) -> None:
        if call == "store.read_traces" and next(faults, False):
            raise RuntimeError("a fault of ours")

    rig = Rig(Toys().operations, build_settings(chunk_operations=2))
    await rig.submit(build_operations(*["/succeed"] * 6), chunk_operations=2)
    consumer = rig.consumer(break_once)
    await take_turn(consumer)  # it receives one chunk
    await take_turn(consumer)  # and now both others
    assert [line["event"] for line in logs].count(Event.CHUNK_BROKE) == 1
    assert (await rig.counts(), len(rig.chunks)) == (Counts(succeeded=4), 1)
    rig.clock.advance(0.9 * rig.settings.visibility_seconds)
    await consumer._leases.beat(Priority.NORMAL)
    rig.clock.advance(0.2 * rig.settings.visibility_seconds)
    assert await rig.parts.chunks.depth() == 1
    await rig.work_off(consumer)
    assert await rig.counts() == Counts(succeeded=6)
    logs.clear()


@pytest.mark.parametrize("error", [Unavailable("no answer"), NoAccess("denied")])
@pytest.mark.parametrize("call", ["store.read_batch", "store.note_release", "chunks.extend"])
async def test_chunk_that_cannot_be_released_at_the_end_is_left_to_its_lease_and_no_fault(
    call: str, error: PenstockError, logs: list[MutableMapping[str, Any]]
) -> None:
    def fail(made: str, moment: Moment) -> None:
        if made == call:
            raise error

    rig = Rig(Toys().operations)
    await rig.submit(build_operations("/succeed"))
    consumer = rig.consumer(fail)
    consumer.stop()
    await take_turn(consumer)
    assert [line["event"] for line in logs] == []
    assert await rig.parts.chunks.depth() == 0
    rig.clock.advance(rig.settings.visibility_seconds + 1)
    await rig.work_off()
    assert await rig.counts() == Counts(succeeded=1)


async def test_unforeseen_fault_of_receiving_ends_the_program_loudly() -> None:
    def break_(call: str, moment: Moment) -> None:
        raise RuntimeError("a fault of ours")

    plant = Plant(break_)
    async with asyncio.timeout(20 * UNIT_SECONDS):
        with pytest.raises(RuntimeError, match="a fault of ours"):
            await plant.consumer.run()


async def test_unforeseen_fault_of_receiving_ends_it_only_after_what_is_held() -> None:
    """Otherwise its operations would look as if they had killed it."""
    plant = Plant()
    receive = plant.queue.receive

    async def something_runs() -> bool:
        return bool(plant.toys.begun)

    async def break_once_something_runs(limit: int, wait_seconds: int) -> list[Delivery]:
        if await plant.queue.depth():
            return await receive(limit, 0)
        await eventually(something_runs)
        plant.queue.receive = receive  # type: ignore[method-assign]
        plant.end_polls()
        asyncio.get_running_loop().call_later(0.05, plant.toys.gate.set)
        raise RuntimeError("a fault of ours")

    plant.queue.receive = break_once_something_runs  # type: ignore[method-assign]
    await plant.submit("/wait")
    async with asyncio.timeout(20 * UNIT_SECONDS):
        with pytest.raises(RuntimeError, match="a fault of ours"):
            await plant.consumer.run()
    assert plant.recorded() == {"id-0": 200}


@pytest.mark.parametrize(
    "error",
    [Unavailable("throttled"), NoAccess("expired"), Misconfigured("no such queue"), RejectedCall("invalid")],
    ids=lambda error: type(error).__name__,
)
async def test_nothing_that_aws_says_ends_a_consumer(
    monkeypatch: pytest.MonkeyPatch, error: PenstockError, logs: list[MutableMapping[str, Any]]
) -> None:
    """One receive in three fails, and so do heartbeats, sweeps and what is published."""
    monkeypatch.setattr(inlets, "FIRST_PAUSE_SECONDS", 0.001)
    calls = Counter[str]()

    def fail(call: str, moment: Moment) -> None:
        calls[call] += 1
        if "receive" in call and calls[call] % 3 == 0:
            raise error
        if call.rpartition(".")[2] in {"extend", "take_sweep", "write_handler_seconds"} and calls[call] < 5:
            raise error

    plant = Plant(fail, sweep_seconds=5)
    plant.consumer = Consumer(plant.backend, plant.toys.operations, plant.settings, QuickClock())
    await plant.submit(*["/succeed"] * 20, chunk_operations=1)
    async with plant.running() as task:
        await plant.until_finished()

        async def has_swept() -> bool:
            return calls["store.take_sweep"] >= 6

        await eventually(has_swept)
        assert not task.done()
    assert [line["event"] for line in logs].count(Event.SWEEP_FAILED) == 1


class QuickClock(SystemClock):
    """Whoever sleeps is woken at once."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0.001)


async def test_leases_are_kept_while_handlers_run_and_no_longer(
    logs: list[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(count_box, "MOST_SECONDS", 0.0)
    plant = Plant()
    plant.consumer = Consumer(plant.backend, plant.toys.operations, plant.settings, QuickClock())
    extended: Counter[str] = Counter()
    extend = plant.queue.extend

    async def note(deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        assert seconds == plant.settings.visibility_seconds
        extended.update(delivery.message_id for delivery in deliveries)
        return await extend(deliveries, seconds)

    plant.queue.extend = note  # type: ignore[method-assign]
    await plant.submit("/wait", "/succeed", chunk_operations=1)
    async with plant.running():

        async def is_extended_often() -> bool:
            return extended["normal1"] > 10

        await eventually(is_extended_often)
        assert extended["normal2"] < 5  # settled long since
        plant.toys.gate.set()
        await plant.until_finished()
    assert Event.LEASE_LOST not in [line["event"] for line in logs]  # settled is not lost


async def test_death_of_the_heartbeats_ends_the_program_after_what_is_held() -> None:
    plant = Plant()
    plant.consumer = Consumer(plant.backend, plant.toys.operations, plant.settings, QuickClock())

    async def break_(deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        if not plant.toys.begun:
            return []  # the consumer would give back a chunk of which nothing runs yet
        plant.end_polls()
        plant.toys.gate.set()
        raise RuntimeError("a fault of ours")

    plant.queue.extend = break_  # type: ignore[method-assign]
    await plant.submit("/wait")
    async with asyncio.timeout(20 * UNIT_SECONDS):
        with pytest.raises(RuntimeError, match="a fault of ours"):
            await plant.consumer.run()
    assert plant.recorded() == {"id-0": 200}


async def test_chunk_of_a_newer_version_is_left_to_it(logs: list[MutableMapping[str, Any]]) -> None:
    def read_unknown_state(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_batch", "after"):
            raise NewerVersion("state", "paused")

    plant = Plant(read_unknown_state)
    await plant.submit("/succeed")
    async with plant.running() as task:
        await eventually(lambda: asyncio.sleep(0, Event.NEWER_VERSION in [line["event"] for line in logs]))
        assert not task.done()
    assert plant.toys.begun == {}
    assert [chunk.id for chunk in plant.chunks] == ["0"]
    assert plant.parts.dead_letters.messages == []


# Stopping.


async def test_stop_before_it_runs() -> None:
    plant = Plant()
    plant.consumer.stop()
    plant.consumer.stop()
    await asyncio.wait_for(plant.consumer.run(), 20 * UNIT_SECONDS)
    assert plant.queue.limits == []


async def test_receive_under_way_is_finished_and_what_it_brings_is_given_back() -> None:
    plant = Plant()
    async with plant.running() as task:
        await plant.queue.is_polled.wait()
        plant.ask_to_stop()
        await settle()
        assert not task.done()  # cancelling the poll would strand what it was about to return
        await plant.submit(*["/succeed"] * 5, chunk_operations=1)
        await asyncio.wait_for(task, 10 * UNIT_SECONDS)
    assert plant.toys.begun == {}
    assert await plant.queue.depth() == 5
    received = [chunk_id for chunk_id in "01234" if plant.parts.store._released.get((BATCH_ID, chunk_id))]
    assert received  # with a note for each that it was no death
    assert len(plant.queue.limits) == 1


async def test_next_consumer_runs_whole_what_was_given_back() -> None:
    plant = Plant()
    async with plant.running() as task:
        await plant.queue.is_polled.wait()
        plant.ask_to_stop()
        await plant.submit("/succeed", "/succeed")
        await asyncio.wait_for(task, 10 * UNIT_SECONDS)
    successor = Consumer(plant.backend, plant.toys.operations, plant.settings, SystemClock())
    plant.consumer = successor
    async with plant.running():
        await plant.until_finished()
    assert plant.toys.begun == {"id-0": 1, "id-1": 1}
    assert set(plant.parts.store._records) == {(BATCH_ID, "0")}


async def test_running_handlers_finish_within_the_grace_period() -> None:
    plant = Plant(concurrency=2)
    await plant.submit("/wait", "/wait")
    async with plant.running() as task:
        await plant.until_begun(2)
        plant.ask_to_stop()
        plant.queue.poll_ends.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        plant.toys.gate.set()
        await asyncio.wait_for(task, 10 * UNIT_SECONDS)
    assert plant.recorded() == {"id-0": 200, "id-1": 200}
    assert plant.parts.store._batches[BATCH_ID].state is BatchState.COMPLETED
    assert plant.chunks == []


async def test_what_has_not_begun_is_handed_on_at_once() -> None:
    """One slot: the running one finishes, those waiting behind it follow as a chunk, at the same attempt."""
    plant = Plant(concurrency=1)
    await plant.submit("/wait", "/succeed", "/succeed")
    async with plant.running() as task:
        await plant.until_begun(1)
        plant.ask_to_stop()
        plant.toys.gate.set()
        await plant.stop(task)
    assert plant.recorded() == {"id-0": 200}
    [rest] = plant.chunks
    assert (rest.attempt, [operation.id for operation in rest.operations]) == (1, ["id-1", "id-2"])
    assert await plant.queue.depth() == 1


async def test_after_the_grace_period_handlers_are_cut_and_nothing_is_lost() -> None:
    plant = Plant(concurrency=3, grace_seconds=0)
    await plant.submit("/succeed", "/wait", "/wait", "/succeed", "/wait")
    async with plant.running() as task:
        await plant.until_begun(5)
        await plant.stop(task)
    assert plant.recorded() == {"id-0": 200, "id-3": 200}
    assert await plant.counts() == Counts(succeeded=2)
    [rest] = plant.chunks
    assert (rest.attempt, [operation.id for operation in rest.operations]) == (1, ["id-1", "id-2", "id-4"])
    assert plant.toys.here == 0
    plant.toys.gate.set()
    plant.consumer = Consumer(plant.backend, plant.toys.operations, plant.settings, SystemClock())
    async with plant.running():
        await plant.until_finished()
    assert await plant.counts() == Counts(succeeded=5)


async def test_handler_that_refuses_to_be_cancelled_cannot_keep_the_program(
    monkeypatch: pytest.MonkeyPatch, logs: list[MutableMapping[str, Any]]
) -> None:
    monkeypatch.setattr(consuming, "RECORDING_SECONDS", 0.05)
    monkeypatch.setattr(consuming, "RELEASING_SECONDS", 0.05)
    monkeypatch.setattr(consuming, "LEAVING_SECONDS", 0.05)
    plant = Plant(grace_seconds=0)
    await plant.submit("/succeed", "/refuse-to-end", chunk_operations=1)
    async with plant.running() as task:
        await plant.until_begun(2)
        await plant.stop(task)
    assert plant.recorded() == {"id-0": 200}
    assert [chunk.id for chunk in plant.chunks] == ["1"]  # comes again when its lease ends
    assert [line["event"] for line in logs].count(Event.CHUNK_BROKE) == 1
    plant.toys.gate.set()
    await asyncio.gather(*plant.consumer._held, return_exceptions=True)
    logs.clear()


async def test_stop_while_aws_is_in_trouble_comes_to_an_end(
    monkeypatch: pytest.MonkeyPatch, logs: list[MutableMapping[str, Any]]
) -> None:
    monkeypatch.setattr(consuming, "RECORDING_SECONDS", 0.05)
    monkeypatch.setattr(consuming, "RELEASING_SECONDS", 0.05)

    def refuse(call: str, moment: Moment) -> None:
        if call == "store.commit_chunk":
            raise Unavailable("AWS does not answer.")

    plant = Plant(refuse, grace_seconds=0)
    await plant.submit("/succeed")
    async with plant.running() as task:
        await plant.until_begun(1)
        await plant.stop(task)
    assert plant.recorded() == {}
    assert [chunk.id for chunk in plant.chunks] == ["0"]
    logs.clear()


# Threads, which cannot be stopped


async def test_thread_that_does_not_return_cannot_keep_the_program() -> None:
    plant = Plant(concurrency=2, grace_seconds=0)
    await plant.submit("/block", "/block", "/block", "/succeed")
    async with plant.running() as task:
        await plant.until_begun(2)
        await plant.stop(task)
    plant.toys.thread_gate.set()
    [rest] = plant.chunks
    assert rest.attempt == 1
    assert {"id-0", "id-1", "id-2"} <= {operation.id for operation in rest.operations}
    assert await plant.queue.depth() == 1  # at once


async def test_consumer_whose_threads_do_not_return_hands_on_what_waits_for_them_and_ends() -> None:
    plant = Plant(concurrency=1, grace_seconds=60, stall_seconds=2)
    await plant.submit("/block-for-too-long", "/block", chunk_operations=1)
    async with plant.running() as task:
        plant.end_polls()
        with pytest.raises(HandlersStuck):
            await asyncio.wait_for(task, 20 * UNIT_SECONDS)
    assert plant.recorded() == {"id-0": 504}
    assert plant.toys.begun == {"id-0": 1}
    [rest] = plant.chunks
    assert (rest.attempt, [operation.id for operation in rest.operations]) == (1, ["id-1"])
    assert await plant.queue.depth() == 1
    plant.toys.thread_gate.set()


# Handlers that ignore their cancellation


async def test_consumer_whose_handlers_do_not_end_hands_on_what_waits_and_ends(
    logs: list[MutableMapping[str, Any]],
) -> None:
    plant = Plant(concurrency=1, grace_seconds=60, stall_seconds=2)
    await plant.submit("/refuse-for-too-long", "/succeed", chunk_operations=1)
    async with plant.running() as task:
        plant.end_polls()
        await eventually(lambda: asyncio.sleep(0, plant.consumer.trouble is not None))
        with pytest.raises(HandlersStuck, match="async def"):
            await asyncio.wait_for(task, 20 * UNIT_SECONDS)
    assert plant.recorded() == {"id-0": 504}
    [rest] = plant.chunks
    assert (rest.attempt, [operation.id for operation in rest.operations]) == (1, ["id-1"])
    assert await plant.queue.depth() == 1
    plant.toys.gate.set()
    logs.clear()


async def test_chunk_that_waits_to_be_counted_is_no_load_and_leaves_when_the_consumer_drains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(count_box, "MOST_SECONDS", 60 * UNIT_SECONDS)
    plant = Plant(concurrency=2)

    async def one_waits() -> bool:
        return any(map(plant.consumer._count_box.holds, (held.delivery for held in plant.consumer._held.values())))

    async def it_is_counted() -> bool:
        return await plant.counts() == Counts(1)

    await plant.submit("/wait", "/succeed", chunk_operations=1)
    async with plant.running():
        await eventually(one_waits)
        load = plant.consumer._loads()[Priority.NORMAL]
        assert (load.chunks, load.operations) == (2, 1)
        plant.ask_to_stop()
        await eventually(it_is_counted)
        plant.toys.gate.set()


async def test_last_chunk_of_a_batch_is_no_load_while_readers_come_first_and_goes_on_when_the_consumer_drains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readers_first, "SECONDS", 60 * UNIT_SECONDS)
    plant = Plant()

    async def it_waits() -> bool:
        held = [held.delivery for held in plant.consumer._held.values()]
        return len(held) == 1 and all(map(plant.consumer._readers_first.holds, held))

    await plant.submit("/succeed")
    async with plant.running():
        await eventually(it_waits)
        load = plant.consumer._loads()[Priority.NORMAL]
        assert (load.chunks, load.operations) == (0, 0)
        assert await plant.counts() == Counts(1)
        plant.ask_to_stop()
    ended = await plant.parts.store.read_batch(BATCH_ID)
    assert ended is not None
    assert ended.is_final
    assert plant.chunks == []
