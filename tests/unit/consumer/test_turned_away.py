"""A large batch before a service that is much slower: what it turns away is repeated until all have succeeded."""

from collections import Counter
from typing import Any

import pytest

from penstock import Context, Throttled
from penstock.batch import BatchState, Counts
from penstock.forwarding.answer import Answer, Received, conclude
from tests.support.builders import build_operation, build_settings
from tests.support.rig import Rig, take_turn

TOTAL = 600
RATE = 20  # operations that the service performs in a second
MOST_SECONDS = 3_600  # with the usual backoff: it grows to five minutes


@pytest.mark.parametrize("headers", [{"Retry-After": "1"}, {}])
async def test_forwarded_batch_before_a_slow_upstream_fails_nothing(headers: dict[str, str]) -> None:
    rig, seconds = Rig(settings=build_settings(backoff_seconds=1)), Counter[int]()

    @rig.operations.post("/orders")
    async def order(context: Context) -> Answer:
        """Answer as a forward does."""
        rig.attempts.append((context.operation_id, context.attempt))
        is_busy = is_too_much(rig, seconds)
        response = Received(429 if is_busy else 201, headers if is_busy else {}, "application/json", "utf-8", b"")
        return conclude(response, rig.clock.now(), context.attempt)

    await succeed_with_all(rig)


async def test_batch_whose_handler_is_throttled_fails_nothing() -> None:
    rig, seconds = Rig(), Counter[int]()

    @rig.operations.post("/orders", status=201, bulk=True)
    async def order(contexts: list[Context]) -> list[Any]:
        rig.attempts += [(context.operation_id, context.attempt) for context in contexts]
        return [Throttled(after_seconds=1) if is_too_much(rig, seconds) else None for _ in contexts]

    await succeed_with_all(rig)


def is_too_much(rig: Rig, seconds: Counter[int]) -> bool:
    second = int(rig.clock.now())
    seconds[second] += 1
    return seconds[second] > RATE


async def succeed_with_all(rig: Rig) -> None:
    begun_at, consumer = rig.clock.now(), rig.consumer()
    await rig.submit([build_operation(index, "/orders") for index in range(TOTAL)])
    while rig.parts.chunks.messages:
        await take_turn(consumer)
        rig.clock.advance(1)
        assert rig.clock.now() < begun_at + MOST_SECONDS

    assert rig.clock.now() >= begun_at + TOTAL / RATE
    assert (await rig.batch()).state is BatchState.COMPLETED
    assert await rig.counts() == Counts(succeeded=TOTAL)
    assert set(rig.statuses().values()) == {201}
    assert {attempt for _, attempt in rig.attempts} == {1}
    assert rig.dead_letters == []
