"""Which chunks wait before the calls that follow the last count, and when they go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from penstock.batch import Batch, BatchState
from penstock.consumer import readers_first
from penstock.consumer.readers_first import MOST_WAITING, ReadersFirst
from penstock.consumer.waiting_chunks import MOST_BYTES
from penstock.queue import Delivery
from penstock.testing import FakeClock
from tests.support.builders import build_batch
from tests.support.waiting import settle

BATCH = build_batch(1)
LONG = 60.0  # seconds: no test waits for so long


@pytest.fixture(autouse=True)
def readers_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_first, "SECONDS", LONG)


@asynccontextmanager
async def waiting(
    place: ReadersFirst, count: int, batch: Batch = BATCH, *, body: str = ""
) -> AsyncIterator[list[Delivery]]:
    """Let chunks wait. Yield those that still wait. Then let all of them go on."""
    left = [Delivery(f"{body}{number}", body, f"{body}{number}", 1) for number in range(count)]

    async def wait(delivery: Delivery) -> None:
        await place.wait(delivery, batch)
        left.remove(delivery)

    tasks = [asyncio.create_task(wait(delivery)) for delivery in list(left)]
    await settle()
    yield left
    place.open()
    await asyncio.gather(*tasks)
    assert left == []


async def test_a_chunk_goes_on_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_first, "SECONDS", 0.01)
    place, told = ReadersFirst(FakeClock(), lambda: told.append(True)), list[bool]()
    delivery = Delivery("0", "", "0", 1)
    task = asyncio.create_task(place.wait(delivery, BATCH))
    await asyncio.sleep(0)
    assert (place.holds(delivery), told) == (True, [True])
    await task
    assert not place.holds(delivery)


async def test_draining_lets_everything_go_on() -> None:
    place = ReadersFirst(FakeClock())
    async with waiting(place, 2) as left:
        assert len(left) == 2
        place.open()
        async with waiting(place, 2) as others:
            assert (left, others) == ([], [])


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(replace(BATCH, has_webhooks=True), id="its tenant may have webhooks"),
        pytest.param(replace(BATCH, callback_url="https://receiver.example/"), id="it has a receiver"),
        pytest.param(replace(BATCH, state=BatchState.COMPLETED), id="it is final, and failures ran again"),
        pytest.param(replace(BATCH, is_suspect=True), id="an operation may kill consumers"),
        pytest.param(replace(BATCH, deadline_at=FakeClock().now() + LONG - 1), id="the deadline is near"),
    ],
)
async def test_nothing_waits_if(batch: Batch) -> None:
    async with waiting(ReadersFirst(FakeClock()), 2, batch) as left:
        assert left == []


async def test_many_chunks_do_not_wait() -> None:
    async with waiting(ReadersFirst(FakeClock()), MOST_WAITING + 2) as left:
        assert len(left) == MOST_WAITING


async def test_large_chunks_do_not_wait() -> None:
    async with waiting(ReadersFirst(FakeClock()), 4, body="x" * (MOST_BYTES // 2)) as left:
        assert len(left) == 2
