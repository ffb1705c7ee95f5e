"""What a draft keeps of operations until they are planned, and how large it takes them to be."""

import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import Operations
from penstock.errors import InvalidRequest, LimitPassed
from penstock.message import decode_chunk
from penstock.reading.raw_operation import read_raw_line
from penstock.service.handler_times import HandlerTimes
from penstock.service.intake.draft import Draft
from penstock.settings import Settings
from penstock.testing import FakeClock, MemoryStore
from tests.support.garbage import without_collections

BATCH = "01M8KXJ8PNBF17YSW98VYPX44T"
operations = Operations()


@operations.post("/any")
async def take_any(body: Any = None) -> None: ...


def of(body: Any, **members: Any) -> dict[str, Any]:
    return {"method": "POST", "path": "/any", "body": body, **members}


@pytest.fixture
def draft() -> Iterator[Draft]:
    settings = Settings(sync_max_operations=3, message_bytes=8_000)
    with Draft(BATCH, operations, settings, HandlerTimes(MemoryStore(), [], FakeClock())) as draft:
        yield draft


def test_draft_is_freed_without_a_collection() -> None:
    """The usual operations of a large batch have almost nothing that makes the collector run."""
    with without_collections():
        with Draft(BATCH, operations, Settings(), HandlerTimes(MemoryStore(), [], FakeClock())) as draft:
            draft.add(of(1))
            draft.add(of(2, dependsOn=["0"]))
        freed = weakref.ref(draft)
        del draft
        assert freed() is None


async def test_links_behind_an_operation_that_is_too_large_are_forgotten(draft: Draft) -> None:
    draft.add(of("x" * 9_000))
    for index in range(1, 1_001):
        draft.add(of(1, dependsOn=[str(index - 1)]) if index % 2 == 0 else of(1))
        if index % 100 == 0:
            await draft.plan_added(0.5)
    assert len(draft._links._reach) < 200
    with pytest.raises(LimitPassed, match="1 operation is too large"):
        await draft.finish_plan()


async def test_links_of_a_batch_that_is_invalid_already_are_forgotten(draft: Draft) -> None:
    for index in range(1_000):
        draft.add(of(1, dependsOn=[str(index - 1)]) if index else of(1))
        if index == 200:
            draft.add("no operation")
        if index % 100 == 0:
            await draft.plan_added(0.5)
    assert len(draft._links._reach) < 200
    with pytest.raises(InvalidRequest):
        await draft.check()


NUMBERS = ",".join(["1.1000000000000000000000000"] * 200)
LONG_BODIES = [
    f"[{NUMBERS},{NUMBERS}]",
    "{" + ",".join([f'"a":"{"x" * 1_000}"'] * 20) + "}",
]


def add_as_sent(draft: Draft, body: str, members: str = "") -> None:
    line = f'{{"method":"POST","path":"/any","body":{body}{members}}}'
    operation = read_raw_line(line.encode(), 10**6)
    assert operation is not None
    draft.add(operation)


async def sent(draft: Draft) -> list[int]:
    """Return how many operations there are in each message."""
    await draft.check()
    await draft.finish_plan()
    return [len(decode_chunk(message.decode()).operations) for message in draft.plan.messages(without=())]


@pytest.mark.parametrize("body", LONG_BODIES)
async def test_body_that_is_only_too_large_as_it_was_sent_is_made_shorter(draft: Draft, body: str) -> None:
    add_as_sent(draft, body)
    await draft.plan_added(0.5)
    add_as_sent(draft, "1", ',"dependsOn":["0"]')
    assert await sent(draft) == [2]


async def test_linked_bodies_that_are_together_only_too_large_as_they_were_sent_are_made_shorter(draft: Draft) -> None:
    add_as_sent(draft, f"[{NUMBERS}]")
    add_as_sent(draft, f"[{NUMBERS}]", ',"dependsOn":["0"]')
    assert await sent(draft) == [2]


async def test_neighbours_of_a_linked_body_that_is_only_too_large_as_it_was_sent_wait_for_the_next(
    draft: Draft,
) -> None:
    add_as_sent(draft, "1")
    add_as_sent(draft, "2", ',"dependsOn":["0"]')
    for _ in range(3):
        add_as_sent(draft, f"[{NUMBERS}]")
        await draft.plan_added(0.5)
    add_as_sent(draft, "3", ',"dependsOn":["1"]')
    await draft.plan_added(0.9)
    assert await sent(draft) == [6]


async def test_stream_with_links_may_end_with_operations_that_are_too_large(draft: Draft) -> None:
    draft.add(of(1))
    draft.add(of(1, dependsOn=["0"]))
    draft.add(of("x" * 9_000))
    await draft.plan_added(0.5)
    await draft.plan_added(0.9)  # a piece of the stream that ends within a line brings no operation
    draft.add(of("y" * 9_000))
    with pytest.raises(LimitPassed, match="2 operations are too large"):
        await draft.finish_plan()


async def test_body_that_is_too_large_in_any_form_is_refused_with_its_least_size(draft: Draft) -> None:
    add_as_sent(draft, f'["{"x" * 9_000}",{NUMBERS}]')
    with pytest.raises(LimitPassed) as caught:
        await draft.finish_plan()
    least = len(f'[0,"0","POST","/any",["{"x" * 9_000}",{",".join(["1.1"] * 200)}]],')
    assert f"needs {least:,} bytes" in caught.value.flaws[0].detail
