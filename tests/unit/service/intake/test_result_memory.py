"""The results of a small batch are limited in memory: what does not fit runs in the background, or fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock import Operations
from penstock.service.intake import small_batch
from penstock.testing import TestBulk


@asynccontextmanager
async def transaction() -> AsyncIterator[None]:
    yield


operations: Operations[Any] = Operations(transaction=transaction, savepoint=lambda _: transaction())
BODY = [{"method": "POST", "path": "/text"} for _ in range(5)]


@operations.post("/text")
async def text() -> str:
    return "x" * 10_000


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
