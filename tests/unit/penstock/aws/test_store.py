"""Which calls the store makes. The tests in tests/contract show what they do."""

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest
from types_aiobotocore_dynamodb import DynamoDBClient

from penstock.aws import count_pace
from penstock.aws.store import READS_IN_CALL, DynamoDbStore
from penstock.batch import Batch, Counts, FailureLimit
from tests.support.builders import build_batch, build_record


class Server:
    """A table without items. It keeps the number of keys of each call, in the order in which the calls arrive."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    async def get_item(self, **_: Any) -> Any:
        self.calls.append(("GetItem", 1))
        return {}

    async def batch_get_item(self, **request: Any) -> Any:
        self.calls.append(("BatchGetItem", len(request["RequestItems"]["penstock"]["Keys"])))
        await asyncio.sleep(0)
        return {"Responses": {}}


async def calls_for(chunks: int) -> list[tuple[str, int]]:
    """Read these chunks and their batch in the same turn of the loop. Return the calls."""
    server = Server()
    store = DynamoDbStore(cast("DynamoDBClient", server), "penstock")
    await asyncio.gather(*(store.read_traces("a", str(chunk)) for chunk in range(chunks)), store.read_batch("a"))
    return server.calls


async def test_batch_is_read_in_the_call_of_its_chunks_only_if_it_has_room() -> None:
    assert await calls_for(READS_IN_CALL - 1) == [("BatchGetItem", READS_IN_CALL)]
    full = ("BatchGetItem", READS_IN_CALL)
    assert await calls_for(READS_IN_CALL) == [("GetItem", 1), full]
    assert await calls_for(READS_IN_CALL + 5) == [("GetItem", 1), full, ("BatchGetItem", 5)]


class Counter:
    """A table with one counter. It keeps how many chunks each update has counted."""

    def __init__(self) -> None:
        self.updates: list[int] = []
        self.completed = 0

    async def update_item(self, **request: Any) -> Any:
        values = request["ExpressionAttributeValues"]
        self.updates.append(len(values[":chunks"]["SS"]))
        self.completed += int(values[":completed"]["N"])
        return {"Attributes": {"succeeded": {"N": str(self.completed)}, "completed": {"N": str(self.completed)}}}


async def updates_for_four_chunks(batch: Batch) -> list[int]:
    """Count two chunks, and then two more, one a moment after the other. Return how many each update has counted."""
    counter = Counter()
    store = DynamoDbStore(cast("DynamoDBClient", counter), "penstock")
    for chunk in ("0", "1"):
        await store.count_chunk(batch, build_record(chunk, Counts(10)))
    first = asyncio.create_task(store.count_chunk(batch, build_record("2", Counts(10))))
    await asyncio.sleep(0.005)
    last = await store.count_chunk(batch, build_record("3", Counts(10)))
    await first
    assert last.counts == Counts(40)
    return counter.updates


async def test_counts_wait_for_each_other_while_the_end_of_their_group_is_far_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(count_pace, "MOST_SECONDS", 0.1)
    assert await updates_for_four_chunks(build_batch(1_000_000)) == [1, 1, 2]


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(build_batch(40), id="the last chunks of a group"),
        pytest.param(replace(build_batch(1_000_000), failure_limit=FailureLimit(5)), id="failures stop the batch"),
    ],
)
async def test_counts_do_not_wait_if_something_follows_from_them_soon(batch: Batch) -> None:
    assert await updates_for_four_chunks(batch) == [1, 1, 1, 1]
