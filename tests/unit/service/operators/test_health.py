"""Liveness checks nothing, and readiness checks the queue and the table."""

import asyncio

import pytest

from penstock import Operations
from penstock.service.operators import health
from penstock.testing import FakeClock, memory_parts
from tests.support.faults import Moment, Outage
from tests.support.service import Serve, assert_problem


async def test_live_and_ready(serve: Serve) -> None:
    service = await serve(Operations())
    for path in ("/health/live", "/health/ready"):
        answer = await service.get(path)
        assert (answer.status, answer.content_type) == (200, "application/json")


async def test_readiness_asks_the_queues_and_the_table(serve: Serve) -> None:
    asked: set[str] = set()

    def watch(call: str, moment: Moment) -> None:
        asked.add(call)

    service = await serve(Operations(), watch=watch)
    await service.get("/health/live")
    assert asked == set()
    await service.get("/health/ready")
    assert asked == {"chunks-high.depth", "chunks.depth", "chunks-low.depth", "store.check"}


@pytest.mark.parametrize("call", ["chunks.depth", "chunks-low.depth", "store.check"])
async def test_not_ready_while_a_part_does_not_answer_but_live(serve: Serve, call: str) -> None:
    outage = Outage(call)
    service = await serve(Operations(), watch=outage)
    answer = await service.get("/health/ready")
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert (await service.get("/health/live")).status == 200
    outage.times = 0
    assert (await service.get("/health/ready")).status == 200


async def test_many_who_ask_cost_as_many_calls_as_one_in_a_second(serve: Serve) -> None:
    """Anybody may ask, without a key. A check that failed is not remembered."""
    asked: list[str] = []

    def watch(call: str, moment: Moment) -> None:
        if moment == "before":
            asked.append(call)

    clock = FakeClock()
    service = await serve(Operations(), watch=watch, clock=clock)
    answers = await asyncio.gather(*(service.get("/health/ready") for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    clock.advance(health.FRESH_SECONDS - 0.1)
    assert (await service.get("/health/ready")).status == 200
    assert len(asked) == 4
    clock.advance(0.2)
    assert (await service.get("/health/ready")).status == 200
    assert len(asked) == 8


async def test_readiness_does_not_wait_for_ever(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    parts = memory_parts()
    monkeypatch.setattr(health, "READY_SECONDS", 0.05)
    monkeypatch.setattr(parts.store, "check", hang)
    service = await serve(Operations(), parts=parts)
    assert_problem(await service.get("/health/ready"), 503)
