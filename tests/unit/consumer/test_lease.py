"""Leases are kept for all that is held and for nothing else, whatever the queue answers."""

import asyncio
import random
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import pytest

from penstock.consumer.lease import BEATS_IN_LEASE, Leases
from penstock.errors import Unavailable
from penstock.priority import Priority
from penstock.queue import Delivery, Message
from penstock.telemetry import Event
from penstock.testing import FakeClock, MemoryQueue, memory_parts
from tests.support.builders import NOW
from tests.support.faults import Moment, Outage, Watch, watched
from tests.support.waiting import UNIT_SECONDS, eventually

LEASE = 30


class Held:
    """A queue of which some messages are received and held, and the leases on them."""

    def __init__(self, watch: Watch = lambda call, moment: None) -> None:
        self.clock = FakeClock(NOW)
        parts = memory_parts(self.clock, LEASE)
        self.queue: MemoryQueue = parts.chunks
        self.leases = Leases(watched(parts, watch).queues, LEASE, self.clock)

    async def receive(self, count: int) -> list[Delivery]:
        await self.queue.send([Message("x")] * count)
        deliveries = await self.queue.receive(count, 0)
        for delivery in deliveries:
            self.leases.hold(delivery)
        return deliveries

    async def pass_leases(self, leases: float, beats: bool = True) -> None:
        for _ in range(int(leases * BEATS_IN_LEASE)):
            self.clock.advance(LEASE / BEATS_IN_LEASE)
            if beats:
                await self.leases.beat(Priority.NORMAL)


async def test_all_that_is_held_stays_ours() -> None:
    held = Held()
    await held.receive(10)
    await held.pass_leases(5)
    assert await held.queue.depth() == 0


async def test_lease_is_reckoned_from_the_request() -> None:
    """A process may be paused after SQS has answered, and read the answer when the lease is over."""
    held = Held()
    [delivery] = await held.receive(1)
    held.leases.hold(replace(delivery, asked_at=held.clock.monotonic() - LEASE + 1))
    assert held.leases.is_kept(delivery)
    held.clock.advance(1)
    assert not held.leases.is_kept(delivery)
    await held.leases.beat(Priority.NORMAL)
    assert held.leases.is_kept(delivery)


@pytest.mark.parametrize("away", Priority)
async def test_queue_that_does_not_answer_costs_only_its_own_leases(away: Priority) -> None:
    clock = FakeClock(NOW)
    parts = memory_parts(clock, LEASE)
    outage = Outage(f"chunks-{away}.extend" if away is not Priority.NORMAL else "chunks.extend")
    leases = Leases(watched(parts, outage).queues, LEASE, clock)
    for priority, queue in parts.queues.items():
        await queue.send([Message("x")])
        [delivery] = await queue.receive(1, 0)
        leases.hold(replace(delivery, priority=priority))
    for _ in range(2 * BEATS_IN_LEASE):
        clock.advance(LEASE / BEATS_IN_LEASE)
        await asyncio.gather(*map(leases.beat, Priority))
    assert {priority: await queue.depth() for priority, queue in parts.queues.items()} == {
        priority: int(priority is away) for priority in Priority
    }


@pytest.mark.parametrize("hangs", Priority)
async def test_queue_that_hangs_does_not_delay_the_heartbeats_of_the_others(hangs: Priority) -> None:
    parts = memory_parts(FakeClock(NOW), LEASE)
    beats = Counter[str]()
    names = {priority: f"chunks-{priority}.extend" for priority in Priority} | {Priority.NORMAL: "chunks.extend"}

    async def hang_or_count(call: str, moment: Moment) -> None:
        beats[call] += 1
        if call == names[hangs]:
            await asyncio.Event().wait()

    leases = Leases(watched(parts, hang_or_count).queues, LEASE, FakeClock(NOW))
    for priority, queue in parts.queues.items():
        await queue.send([Message("x")])
        [delivery] = await queue.receive(1, 0)
        leases.hold(replace(delivery, priority=priority))
    keeping = [asyncio.create_task(leases.keep(priority)) for priority in Priority]

    async def beat_often() -> bool:
        return all(beats[names[priority]] > BEATS_IN_LEASE for priority in Priority if priority is not hangs)

    await eventually(beat_often)
    assert beats[names[hangs]] == 1
    for task in keeping:
        task.cancel()
    await asyncio.gather(*keeping, return_exceptions=True)


async def test_what_is_let_go_is_not_extended() -> None:
    held = Held()
    _, settled = await held.receive(2)
    held.leases.let_go(settled)
    await held.pass_leases(2)
    assert await held.queue.depth() == 1


async def test_nothing_is_asked_while_nothing_is_held() -> None:
    def refuse(call: str, moment: Moment) -> None:
        raise AssertionError(call)

    await Held(refuse).leases.beat(Priority.NORMAL)


async def test_heartbeats_come_four_times_in_a_lease() -> None:
    beats: list[float] = []
    keeping: asyncio.Task[None]

    def note(call: str, moment: Moment) -> None:
        beats.append(held.clock.now() - NOW)
        if len(beats) == 4:
            keeping.cancel()

    held = Held(note)
    await held.receive(1)
    keeping = asyncio.create_task(held.leases.keep(Priority.NORMAL))
    await asyncio.wait([keeping], timeout=UNIT_SECONDS)
    assert keeping.cancelled()
    assert sorted(set(beats)) == [LEASE / 4, 2 * LEASE / 4]


@pytest.mark.parametrize("failures", [1, 2])
async def test_two_heartbeats_in_a_row_may_fail(failures: int, logs: list[MutableMapping[str, Any]]) -> None:
    outage = Outage("chunks.extend", times=0)
    held = Held(outage)
    await held.receive(3)
    await held.pass_leases(1)
    outage.times = failures
    await held.pass_leases(1)
    assert await held.queue.depth() == 0
    assert [line["event"] for line in logs] == [Event.HEARTBEAT_FAILED, Event.WORKS_AGAIN]


async def test_failing_heartbeats_do_not_end_the_keeping() -> None:
    outage = Outage("chunks.extend", times=3)
    held = Held(outage)
    await held.receive(1)
    keeping = asyncio.create_task(held.leases.keep(Priority.NORMAL))

    async def is_over() -> bool:
        return outage.times == 0

    await eventually(is_over)
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_lost_lease_is_noticed_once_and_the_others_are_kept(logs: list[MutableMapping[str, Any]]) -> None:
    held = Held()
    first, *_ = await held.receive(3)
    await held.queue.delete(first)  # as if another had received and settled it
    await held.pass_leases(2)
    lost = [line for line in logs if line["event"] == Event.LEASE_LOST]
    assert [line["message_id"] for line in lost] == [first.message_id]
    assert await held.queue.depth() == 0


async def test_what_is_settled_during_a_heartbeat_is_not_called_lost(logs: list[MutableMapping[str, Any]]) -> None:
    held: Held

    def settle(call: str, moment: Moment) -> None:
        if (call, moment) == ("chunks.extend", "before"):
            held.leases.let_go(delivery)
            del held.queue._kept[delivery.message_id]

    held = Held(settle)
    [delivery] = await held.receive(1)
    await held.leases.beat(Priority.NORMAL)
    assert logs == []


async def test_what_is_found_deleted_while_it_is_being_settled_is_not_called_lost(
    logs: list[MutableMapping[str, Any]],
) -> None:
    """The answer to its deletion is still on its way."""
    held = Held()
    [delivery] = await held.receive(1)
    held.leases.settle(delivery)
    await held.queue.delete(delivery)
    await held.leases.beat(Priority.NORMAL)
    assert Event.LEASE_LOST not in [line["event"] for line in logs]


async def test_what_is_being_settled_is_still_extended() -> None:
    held = Held()
    [delivery] = await held.receive(1)
    held.leases.settle(delivery)
    await held.pass_leases(3)
    assert await held.queue.depth() == 0


async def test_release_gives_back_and_stops_holding() -> None:
    held = Held()
    [delivery] = await held.receive(1)
    await held.leases.release(delivery)
    assert await held.queue.depth() == 1
    await held.pass_leases(2)
    assert await held.queue.depth() == 1


async def test_release_may_hold_back_for_a_while() -> None:
    held = Held()
    [delivery] = await held.receive(1)
    await held.leases.release(delivery, after_seconds=5)
    assert await held.queue.depth() == 0
    held.clock.advance(5)
    assert await held.queue.depth() == 1


@pytest.mark.parametrize("lost_answers", [0, 1])
async def test_release_does_not_overtake_a_heartbeat_that_extends_the_same_lease(lost_answers: int) -> None:
    """If the heartbeat arrived last, the message would stay invisible for a whole lease, and nobody would hold it."""
    under_way, may_arrive = asyncio.Event(), asyncio.Event()
    outage = Outage("chunks.extend", "after", lost_answers)

    async def delay_the_first(call: str, moment: Moment) -> None:
        if not under_way.is_set():
            under_way.set()
            await may_arrive.wait()
        outage(call, moment)

    held = Held(delay_the_first)
    [delivery] = await held.receive(1)
    beating = asyncio.create_task(held.leases.beat(Priority.NORMAL))
    await under_way.wait()
    releasing = asyncio.create_task(held.leases.release(delivery, after_seconds=5))
    for _ in range(10):
        await asyncio.sleep(0)  # time for the release to arrive, if it does not wait
    may_arrive.set()
    await asyncio.gather(beating, releasing)
    held.clock.advance(5)
    assert await held.queue.depth() == 1


async def test_letting_go_twice_is_harmless() -> None:
    held = Held()
    [delivery] = await held.receive(1)
    held.leases.let_go(delivery)
    held.leases.let_go(delivery)
    assert not held.leases.is_kept(delivery)


class Calls:
    """Each heartbeat takes a random time to reach the queue and to return. Some of them fail."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.clock: FakeClock
        self.is_over = False

    def __call__(self, call: str, moment: Moment) -> None:
        if call != "chunks.extend" or self.is_over:
            return
        self.clock.advance(self._draw.choice([0, 0, 1, LEASE / 4, LEASE / 2]))
        if self._draw.random() < 0.1:
            raise Unavailable("AWS does not answer.")


@pytest.mark.parametrize("seed", range(20))
async def test_lease_counts_as_kept_only_while_nobody_else_can_receive_the_message(seed: int) -> None:
    """If it counted for longer, handlers would start that another consumer has already run."""
    draw = random.Random(seed)
    calls = Calls(draw)
    held = Held(calls)
    calls.clock = held.clock
    deliveries: list[Delivery] = []

    def taken_for_kept() -> list[Delivery]:
        return [delivery for delivery in deliveries if held.leases.is_kept(delivery)]

    for _ in range(30):
        if len(deliveries) < 25 and draw.random() < 0.3:
            deliveries += await held.receive(draw.randint(1, 10))
        held.clock.advance(draw.choice([0, 1, LEASE / 4, LEASE / 2]))
        if draw.random() < 0.2:
            await held.queue.receive(1, 0)  # another consumer
        if draw.random() < 0.5:
            await held.leases.beat(Priority.NORMAL)
        assert all(map(held.queue._held, taken_for_kept()))
    calls.is_over = True
    await held.leases.beat(Priority.NORMAL)
    assert taken_for_kept() == [delivery for delivery in deliveries if held.queue._held(delivery)]


async def test_all_leases_are_extended_however_many_there_are() -> None:
    held = Held()
    deliveries = [delivery for _ in range(3) for delivery in await held.receive(10)]
    await held.pass_leases(2)
    assert all(map(held.leases.is_kept, deliveries))
