"""When chunks leave that wait to be counted."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace

import pytest

from penstock.batch import Batch, Counts, FailureLimit
from penstock.chunk import GROUP_CHUNKS, Chunk
from penstock.consumer import count_box, count_pace
from penstock.consumer.count_box import CountBox
from penstock.consumer.count_pace import CountPaces
from penstock.queue import Delivery
from penstock.store import Group
from penstock.testing import FakeClock
from tests.support.builders import build_batch

LARGE = build_batch(1_000_000, 1_000_000)


def box_of(batch: Batch = LARGE, *, completed: int = 20, on_wait: Callable[[], None] = lambda: None) -> CountBox:
    """Return a box that has seen two counts of the first group, of ten operations in a second."""
    clock = FakeClock()
    box = CountBox(clock, on_wait)
    for counts in (Counts(completed - 10), Counts(completed)):
        clock.advance(1)
        box.note(delivery_of("before"), batch, 0, Group(counts))
    return box


def delivery_of(name: str, body: str = "") -> Delivery:
    return Delivery(name, body, name, 1)


def chunk_of(batch: Batch, group: int) -> Chunk:
    return Chunk(batch.id, str(group * GROUP_CHUNKS), 1, ())


@contextmanager
def another_in_progress(box: CountBox, batch: Batch = LARGE) -> Iterator[Delivery]:
    """Let another chunk of the first group be in progress."""
    delivery = delivery_of("another")
    with box.chunk_in_progress(delivery, chunk_of(batch, 0)):
        yield delivery


@asynccontextmanager
async def waiting(
    box: CountBox, count: int, batch: Batch = LARGE, *, group: int = 0, body: str = ""
) -> AsyncIterator[list[Delivery]]:
    """Let chunks wait. Yield those that still wait."""
    left: list[Delivery] = []

    async def wait(delivery: Delivery) -> None:
        with box.chunk_in_progress(delivery, chunk_of(batch, group)):
            await box.wait(delivery, batch, group)
            left.remove(delivery)

    left += [delivery_of(f"{group}-{number}", body) for number in range(count)]
    tasks = [asyncio.create_task(wait(delivery)) for delivery in list(left)]
    await settle()
    yield left
    await asyncio.gather(*tasks)
    assert left == []


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_chunks_of_a_group_leave_together_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_pace, "MOST_SECONDS", 0.01)
    box = box_of()
    with another_in_progress(box):
        async with waiting(box, 3) as left:
            assert len(left) == 3
            assert all(map(box.holds, left))
    assert not box.holds(delivery_of("0-0"))
    assert box._boxes == {}


async def test_owner_is_told_when_a_chunk_starts_to_wait() -> None:
    told: list[bool] = []
    box = box_of(on_wait=lambda: told.append(True))
    with another_in_progress(box):
        async with waiting(box, 2):
            assert len(told) == 2
            box.open()


@pytest.mark.parametrize(
    ("batch", "completed"),
    [
        pytest.param(build_batch(20), 20, id="the group is at its end"),
        pytest.param(replace(LARGE, failure_limit=FailureLimit(5)), 20, id="failures may stop the batch"),
    ],
)
async def test_nothing_waits_if(batch: Batch, completed: int) -> None:
    box = box_of(batch, completed=completed)
    with another_in_progress(box, batch):
        async with waiting(box, 2, batch) as left:
            assert left == []


async def test_groups_of_which_no_count_is_known_do_not_wait() -> None:
    box = box_of()
    with another_in_progress(box):
        async with waiting(box, 2, group=1) as left:
            assert left == []


async def test_chunks_do_not_wait_for_one_that_does_not_exist() -> None:
    async with waiting(box_of(), 2) as left:
        assert left == []


# What lets the chunks leave that wait for another one, which is in progress.
REASONS: dict[str, Callable[[CountBox, Delivery, ExitStack], None]] = {
    "the other one ends without a count": lambda _box, _other, stack: stack.close(),
    "the other one is counted": lambda box, other, _stack: box.note(other, LARGE, 0, Group(Counts(30))),
    "the consumer drains": lambda box, _other, _stack: box.open(),
}


@pytest.mark.parametrize("reason", REASONS)
async def test_chunks_leave_when(reason: str) -> None:
    box = box_of()
    with ExitStack() as stack:
        other = stack.enter_context(another_in_progress(box))
        async with waiting(box, 2) as left:
            assert len(left) == 2
            REASONS[reason](box, other, stack)
            await settle()
            assert left == []


async def test_nothing_waits_once_the_consumer_drains() -> None:
    box = box_of()
    box.open()
    with another_in_progress(box):
        async with waiting(box, 2) as left:
            assert left == []


async def test_many_chunks_leave_early() -> None:
    box = box_of()
    with another_in_progress(box):
        async with waiting(box, count_box.MOST_CHUNKS) as left:
            assert left == []


async def test_all_leave_when_those_of_several_groups_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_box, "MOST_WAITING", 3)
    box = box_of()
    monkeypatch.setattr(CountPaces, "pause", lambda *_: 60.0)
    other = Chunk(LARGE.id, str(GROUP_CHUNKS), 1, ())
    with another_in_progress(box), box.chunk_in_progress(delivery_of("of the second group"), other):
        async with waiting(box, 2) as first:
            assert len(first) == 2
            async with waiting(box, 1, group=1) as second:
                assert first == second == []


async def test_cancelled_chunk_leaves_nothing_behind() -> None:
    box = box_of()

    async def wait(delivery: Delivery) -> None:
        with box.chunk_in_progress(delivery, chunk_of(LARGE, 0)):
            await box.wait(delivery, LARGE, 0)

    with another_in_progress(box):
        task = asyncio.create_task(wait(delivery_of("cancelled")))
        await settle()
        assert box.holds(delivery_of("cancelled"))
        task.cancel()
        await asyncio.wait([task])
        assert not box.holds(delivery_of("cancelled"))
    assert box._boxes == {}


async def test_large_chunks_leave_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_box, "MOST_BYTES", 1_000)
    box = box_of()
    with another_in_progress(box):
        async with waiting(box, 2, body="x" * 500) as left:
            assert left == []
