"""When chunks leave that wait to be counted."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace

import pytest

from penstock.batch import Batch, FailureLimit
from penstock.chunk import GROUP_CHUNKS, Chunk
from penstock.consumer import count_box, waiting_chunks
from penstock.consumer.count_box import MOST_SECONDS, CountBox
from penstock.queue import Delivery
from penstock.testing import FakeClock
from tests.support.builders import build_batch
from tests.support.waiting import settle

LARGE = build_batch(1_000_000, 1_000_000)


def box_at(clock: FakeClock | None = None, on_wait: Callable[[], None] = lambda: None) -> CountBox:
    return CountBox(clock or FakeClock(), on_wait)


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


async def test_chunks_of_a_group_leave_together_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_box, "MOST_SECONDS", 0.01)
    box = box_at()
    with another_in_progress(box):
        async with waiting(box, 3) as left:
            assert len(left) == 3
            assert all(map(box.holds, left))
    assert not box.holds(delivery_of("0-0"))
    assert box._boxes == {}


async def test_owner_is_told_when_a_chunk_starts_to_wait() -> None:
    told: list[bool] = []
    box = box_at(on_wait=lambda: told.append(True))
    with another_in_progress(box):
        async with waiting(box, 2):
            assert len(told) == 2
            box.open()


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(replace(LARGE, failure_limit=FailureLimit(5)), id="failures may stop the batch"),
        pytest.param(replace(LARGE, is_suspect=True), id="an operation may kill consumers"),
        pytest.param(replace(LARGE, deadline_at=FakeClock().now() + 0.4), id="the deadline is near"),
    ],
)
async def test_nothing_waits_if(batch: Batch) -> None:
    box = box_at()
    with another_in_progress(box, batch):
        async with waiting(box, 2, batch) as left:
            assert left == []


async def test_chunk_does_not_wait_half_a_second_after_the_first_one_came() -> None:
    clock = FakeClock()
    box = box_at(clock)
    with another_in_progress(box):
        clock.advance(MOST_SECONDS)
        async with waiting(box, 1) as left:
            assert left == []


async def test_chunk_waits_if_others_have_just_left() -> None:
    clock = FakeClock()
    box = box_at(clock)
    with another_in_progress(box):
        clock.advance(MOST_SECONDS)
        async with waiting(box, 1):
            pass
        clock.advance(MOST_SECONDS / 2)
        async with waiting(box, 1) as left:
            assert len(left) == 1
            box.open()


async def test_chunk_leaves_when_the_count_before_it_has_returned() -> None:
    """It waits for that, since a group is counted by one call at a time."""
    clock = FakeClock()
    box = box_at(clock)
    with another_in_progress(box) as counting:
        clock.advance(MOST_SECONDS)
        await box.wait(counting, LARGE, 0)
        async with waiting(box, 1) as left:
            assert len(left) == 1
            box.note(counting, chunk_of(LARGE, 0))
            await settle()
            assert left == []


async def test_chunk_waits_for_the_count_of_those_that_have_left_together() -> None:
    box = box_at()
    chunk, counting = chunk_of(LARGE, 0), [delivery_of("counting"), delivery_of("counting, too")]
    with box.chunk_in_progress(counting[0], chunk), box.chunk_in_progress(counting[1], chunk):
        await asyncio.gather(*(box.wait(delivery, LARGE, 0) for delivery in counting))
        async with waiting(box, 1) as left:
            assert len(left) == 1
            for delivery in counting:
                box.note(delivery, chunk)
            await settle()
            assert left == []


async def test_chunks_do_not_wait_for_one_that_does_not_exist() -> None:
    async with waiting(box_at(), 2) as left:
        assert left == []


# What lets the chunks leave that wait for another one, which is in progress.
REASONS: dict[str, Callable[[CountBox, Delivery, ExitStack], None]] = {
    "the other one ends without a count": lambda _box, _other, stack: stack.close(),
    "the other one is counted": lambda box, other, _stack: box.note(other, chunk_of(LARGE, 0)),
    "the consumer drains": lambda box, _other, _stack: box.open(),
}


@pytest.mark.parametrize("reason", REASONS)
async def test_chunks_leave_when(reason: str) -> None:
    box = box_at()
    with ExitStack() as stack:
        other = stack.enter_context(another_in_progress(box))
        async with waiting(box, 2) as left:
            assert len(left) == 2
            REASONS[reason](box, other, stack)
            await settle()
            assert left == []


async def test_nothing_waits_once_the_consumer_drains() -> None:
    box = box_at()
    box.open()
    with another_in_progress(box):
        async with waiting(box, 2) as left:
            assert left == []


async def test_many_chunks_leave_early() -> None:
    box = box_at()
    with another_in_progress(box):
        async with waiting(box, count_box.MOST_WAITING) as left:
            assert left == []


async def test_all_leave_when_those_of_several_groups_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_box, "MOST_WAITING", 3)
    box = box_at()
    other = Chunk(LARGE.id, str(GROUP_CHUNKS), 1, ())
    with another_in_progress(box), box.chunk_in_progress(delivery_of("of the second group"), other):
        async with waiting(box, 2) as first:
            assert len(first) == 2
            async with waiting(box, 1, group=1) as second:
                assert first == second == []


async def cancel_one_that_waits(box: CountBox) -> None:
    """Let a chunk start to wait, and cancel it."""
    delivery = delivery_of("cancelled")

    async def wait() -> None:
        with box.chunk_in_progress(delivery, chunk_of(LARGE, 0)):
            await box.wait(delivery, LARGE, 0)

    task = asyncio.create_task(wait())
    await settle()
    assert box.holds(delivery)
    task.cancel()
    await asyncio.wait([task])


async def test_cancelled_chunk_leaves_nothing_behind() -> None:
    box = box_at()

    with another_in_progress(box):
        await cancel_one_that_waits(box)
        assert not box.holds(delivery_of("cancelled"))
    assert box._boxes == {}


async def test_others_wait_as_if_a_cancelled_chunk_had_never_been_there() -> None:
    box = box_at()
    with ExitStack() as stack:
        stack.enter_context(another_in_progress(box))
        await cancel_one_that_waits(box)
        async with waiting(box, 1) as left:
            assert len(left) == 1
            stack.close()
            await settle()
            assert left == []


async def test_large_chunks_leave_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_chunks, "MOST_BYTES", 1_000)
    box = box_at()
    with another_in_progress(box):
        async with waiting(box, 2, body="x" * 500) as left:
            assert left == []
