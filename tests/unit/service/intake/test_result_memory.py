"""The results of a small batch are limited in memory: what does not fit runs in the background, or fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from penstock import Operations
from penstock.errors import Unavailable
from penstock.service.intake import small_batch
from penstock.settings import Settings
from penstock.testing import MemoryBucket, TestBulk
from penstock.testing.memory import FakeClock


@asynccontextmanager
async def transaction() -> AsyncIterator[None]:
    yield


operations: Operations[Any] = Operations(transaction=transaction, savepoint=lambda _: transaction())
ACCEPT_SECONDS = Settings.model_fields["accept_seconds"].default
BODY = [{"method": "POST", "path": "/text"} for _ in range(5)]


@operations.post("/text")
async def text() -> str:
    return "x" * 10_000


@operations.post("/text/{letter}")
async def text_of(letter: str) -> str:
    return letter * 10_000


@operations.post("/small")
async def small() -> str:
    return "s"


@operations.post("/slow-together", bulk=True, timeout_seconds=0.1)
async def work_alone(numbers: list[int]) -> list[Any]:
    if len(numbers) > 1:
        await asyncio.Event().wait()
    return numbers


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_batch, "MOST_RESULT_BYTES", 25_000)


async def test_a_batch_with_large_results_continues_in_the_background() -> None:
    async with TestBulk(operations) as bulk:
        answer = await bulk.post(BODY, headers={"Prefer": "wait=30"})
        assert answer.status == 202
        assert [outcome.result for outcome in answer.outcomes] == ["x" * 10_000] * 5


async def test_what_was_rolled_back_takes_no_memory() -> None:
    """The call of a bulk handler times out. All of it runs again, one by one, in another transaction."""
    slow = [{"method": "POST", "path": "/slow-together", "body": number} for number in range(2)]
    async with TestBulk(operations) as bulk:
        answer = await bulk.post([*BODY[:2], *slow], atomic=True)
        assert [one["status"] for one in answer.body["results"]] == [200] * 4


async def test_an_atomic_batch_with_large_results_is_rolled_back() -> None:
    async with TestBulk(operations) as bulk:
        answer = await bulk.post(BODY, atomic=True)
        statuses = [one["status"] for one in answer.body["results"]]
        assert statuses == [424, 424, 424, 413, 413]
        assert "MiB together" in answer.body["results"][3]["error"]["detail"]


class SlowBucket(MemoryBucket):
    """Takes more than half of the time in which a batch must be accepted for each file."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    async def write(self, key: str, content: bytes, content_type: str) -> None:
        self._clock.advance(0.6 * ACCEPT_SECONDS)
        await super().write(key, content, content_type)


async def test_a_batch_is_accepted_although_its_large_results_are_stored_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock.large_results.LARGE_BYTES", 1_000)
    bulk = TestBulk(operations)
    bulk._parts = replace(bulk._parts, bucket=SlowBucket(bulk.clock))
    async with bulk:
        answer = await bulk.post(
            [{"method": "POST", "path": f"/text/{letter}"} for letter in "abcde"], headers={"Prefer": "wait=30"}
        )
        assert answer.status == 202
        assert [outcome.status for outcome in answer.outcomes] == [200] * 5


class DownBucket(MemoryBucket):
    async def write(self, key: str, content: bytes, content_type: str) -> None:
        raise Unavailable("down")


class SilentBucket(MemoryBucket):
    async def write(self, key: str, content: bytes, content_type: str) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("bucket", [DownBucket(), SilentBucket()])
async def test_large_results_are_recorded_without_a_bucket_that_does_not_work(
    bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operations have run, so they must not run again because their request was answered with an error."""
    monkeypatch.setattr("penstock.large_results.LARGE_BYTES", 1_000)
    monkeypatch.setattr("penstock.large_results.MOST_BYTES_WITHOUT_BUCKET", 15_000)
    bulk = TestBulk(operations, accept_seconds=1.0)
    bulk._parts = replace(bulk._parts, bucket=bucket)
    async with bulk:
        paths = ["/text/a", "/text/bb", "/small"]
        answer = await bulk.post([{"method": "POST", "path": path} for path in paths], headers={"Prefer": "wait=30"})
        fits, too_large, later = answer.outcomes
    assert answer.status == 202
    assert (fits.status, fits.result, later.status) == (200, "a" * 10_000, 200)
    assert too_large.error is not None
    assert (too_large.status, too_large.error["title"]) == (503, "Result could not be stored")
