"""The results of a small batch are limited in memory: what does not fit runs in the background, or fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from penstock import Operations
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


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_batch, "MOST_RESULT_BYTES", 25_000)


async def test_a_batch_with_large_results_continues_in_the_background() -> None:
    async with TestBulk(operations) as bulk:
        answer = await bulk.post(BODY, headers={"Prefer": "wait=30"})
        assert answer.status == 202
        assert [outcome.result for outcome in answer.outcomes] == ["x" * 10_000] * 5


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
