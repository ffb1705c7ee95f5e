"""Receiving: from which queue how much, and what a queue that does not answer does to the others: nothing."""

import asyncio
from collections.abc import Mapping

import pytest

from penstock.consumer.inlets import (
    BRIEF_SECONDS,
    MOST_AT_ONCE,
    MOST_HELD,
    Inlet,
    Load,
    operations_wanted,
    room,
    room_for,
)
from penstock.errors import Unavailable
from penstock.priority import Priority
from penstock.queue import Delivery, Message
from penstock.testing import FakeClock, MemoryQueue
from tests.support.builders import build_settings
from tests.support.waiting import settle

HIGH, NORMAL, LOW = Priority


@pytest.mark.parametrize(
    ("concurrency", "waiting", "seconds_per_operation", "expected"),
    [
        (10, 0, None, 20),  # not measured yet: every slot has one, and another is at hand
        (10, 19, None, 1),
        (10, 20, None, 0),
        (10, 0, 1.0, 20),
        (10, 15, 1.0, 5),
        (10, 20, 1.0, 0),
        (10, 0, 0.005, 100),  # they take a twentieth of a second
        (10, 99, 0.005, 1),
        (10, 100, 0.005, 0),
        (10, 5_000, 0.005, 0),
        (10, 0, 0.000_001, 5_001),  # quick as it is, the loop takes its own time for each
        (1_000, 0, 0.1, 2_000),
        (1, 1, None, 1),
    ],
)
def test_operations_wanted(concurrency: int, waiting: int, seconds_per_operation: float | None, expected: int) -> None:
    assert operations_wanted(concurrency, waiting, seconds_per_operation) == expected


@pytest.mark.parametrize(
    ("operations", "operations_per_chunk", "chunks_held", "expected"),
    [
        (20, 1.0, 0, MOST_AT_ONCE),  # small chunks: the rest is for another consumer
        (5, 1.0, 15, 5),
        (1, 1.0, 19, 1),
        (0, 1.0, 20, 0),
        (-980, 1.0, 20, 0),
        (20, 100.0, 0, 1),  # one large chunk is plenty
        (1, 100.0, 1, 1),
        (20, 6.0, 0, 4),
        (4, 0.1, 0, 4),  # an average never counts for less than one
        (3_000, 100.0, 0, MOST_AT_ONCE),
        (3_000, 1.0, MOST_HELD - 3, 3),  # chunks cost, however small they are
        (3_000, 1.0, MOST_HELD, 0),
        (3_000, 1.0, MOST_HELD + 1, 0),
    ],
)
def test_room(operations: int, operations_per_chunk: float, chunks_held: int, expected: int) -> None:
    assert room(operations, operations_per_chunk, chunks_held) == expected


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({}, (1, 1, 1)),  # of each, when there is nothing: whichever comes first
        ({NORMAL: (1, 100)}, (1, 0, 1)),  # enough is at hand: what is more urgent still comes, and one that is less
        ({NORMAL: (1, 10)}, (1, 1, 1)),  # not enough
        ({HIGH: (1, 100)}, (0, 1, 1)),  # a share of the slots is theirs, too
        ({HIGH: (1, 100), NORMAL: (1, 100)}, (0, 0, 1)),
        ({HIGH: (1, 100), NORMAL: (1, 1), LOW: (1, 1)}, (0, 0, 0)),
        ({LOW: (5, 500)}, (1, 1, 0)),
        ({LOW: (1, 5)}, (1, 1, 1)),
        ({NORMAL: (1, 15), LOW: (1, 4)}, (1, 1, 1)),
        ({NORMAL: (1, 15), LOW: (1, 5)}, (1, 1, 0)),
        ({LOW: (MOST_HELD, MOST_HELD)}, (1, 1, 0)),
    ],
)
def test_room_for(held: Mapping[Priority, tuple[int, int]], expected: tuple[int, int, int]) -> None:
    loads = {priority: Load(*held.get(priority, (0, 0))) for priority in Priority}
    limits = [
        room_for(priority, loads, concurrency=10, seconds_per_operation=None, operations_per_chunk=100)
        for priority in Priority
    ]
    assert tuple(limits) == expected


def test_what_all_queues_may_bring_is_bounded() -> None:
    """However small the chunks are: even if the less urgent come first, and each queue brings all it was asked for."""
    loads = {priority: Load() for priority in Priority}
    for priority in reversed(list(Priority)):
        for _ in range(100):
            limit = room_for(priority, loads, concurrency=1_000, seconds_per_operation=1e-6, operations_per_chunk=1)
            assert limit <= MOST_AT_ONCE
            loads[priority] = Load(loads[priority].chunks + limit, loads[priority].operations + limit)
    assert {load.chunks for load in loads.values()} == {MOST_HELD}


class HeldUpQueue(MemoryQueue):
    """A receive of it lasts until `gate` is open; it fails while `is_down`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.is_down = False

    async def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        await self.gate.wait()
        if self.is_down:
            raise Unavailable("AWS does not answer.")
        return await super().receive(limit, 0)


async def test_inlet_tells_when_something_has_come_and_from_where() -> None:
    queue, told = HeldUpQueue(), asyncio.Event()
    inlet = Inlet(LOW, queue, build_settings(), asyncio.Event(), told.set)
    await queue.send([Message("a")])
    inlet.open(1)
    await asyncio.sleep(0)
    assert (inlet.is_open, inlet.is_done, inlet.take()) == (True, False, [])
    queue.gate.set()
    await told.wait()
    assert inlet.is_done
    [delivery] = inlet.take()
    assert (delivery.body, delivery.priority) == ("a", LOW)
    assert (inlet.is_open, inlet.take()) == (False, [])


async def test_long_poll_asks_for_one_chunk_and_the_next_ones_for_more_while_there_are_enough() -> None:
    """Whatever a long poll brings, no other consumer can run. So it must not bring a whole batch of long chunks."""
    queue, asked = MemoryQueue(), []
    receive = queue.receive

    async def note(limit: int, wait_seconds: int) -> list[Delivery]:
        asked.append((limit, wait_seconds))
        return await receive(limit, 0)

    queue.receive = note  # type: ignore[method-assign]
    await queue.send([Message(str(number)) for number in range(11)])
    inlet = Inlet(LOW, queue, build_settings(receive_wait_seconds=20), asyncio.Event(), lambda: None)
    received = []
    for _ in range(6):
        inlet.open(5)
        await inlet.finish()
        received.append(len(inlet.take()))
    assert received == [1, 2, 4, 4, 0, 0]
    assert asked == [(1, 20), (2, BRIEF_SECONDS), (4, BRIEF_SECONDS), (5, BRIEF_SECONDS), (1, 20), (1, 20)]


async def test_deliveries_say_when_they_were_asked_for() -> None:
    queue, clock = HeldUpQueue(), FakeClock()
    inlet = Inlet(LOW, queue, build_settings(), asyncio.Event(), lambda: None, monotonic=clock.monotonic)
    await queue.send([Message("a")])
    asked_at = clock.monotonic()
    inlet.open(1)
    await asyncio.sleep(0)
    clock.advance(15)
    queue.gate.set()
    await inlet.finish()
    assert [delivery.asked_at for delivery in inlet.take()] == [asked_at]


async def test_inlet_in_trouble_pauses_until_it_is_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.consumer.inlets.FIRST_PAUSE_SECONDS", 3_600)
    monkeypatch.setattr("penstock.consumer.inlets.LONGEST_PAUSE_SECONDS", 3_600)
    queue, stopping = HeldUpQueue(), asyncio.Event()
    queue.is_down = True
    queue.gate.set()
    inlet = Inlet(HIGH, queue, build_settings(), stopping, lambda: None)
    inlet.open(1)
    await settle()
    assert (inlet.is_done, inlet.is_in_trouble) == (False, True)
    stopping.set()
    async with asyncio.timeout(1):
        await inlet.finish()
    assert inlet.take() == []


async def test_receive_that_is_not_answered_is_given_up_after_a_long_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's client alone would wait for a minute and a half."""
    monkeypatch.setattr("penstock.consumer.inlets.SPARE_SECONDS", 0.001)
    inlet = Inlet(HIGH, HeldUpQueue(), build_settings(receive_wait_seconds=0), asyncio.Event(), lambda: None)
    inlet.open(1)
    async with asyncio.timeout(1):
        await inlet.finish()
    assert (inlet.is_open, inlet.take()) == (False, [])
