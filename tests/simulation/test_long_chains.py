"""Chunks that are followed by thousands of others: ids, counters and messages stay small, and nothing multiplies."""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from penstock.aws.store import DynamoDbStore
from penstock.batch import Batch
from penstock.chunk import follow_up_id
from penstock.outcome import ChunkRecord
from penstock.settings import Settings
from tests.simulation.dynamodb import Key, Table, _size, refusal
from tests.simulation.expressions import Item
from tests.simulation.mixes import CALM, RandomFates
from tests.simulation.stage import Stage
from tests.simulation.truth import Plan, Submission, Toy
from tests.simulation.world import World
from tests.support.builders import build_batch
from tests.support.full import full

Write = Callable[[Mapping[str, Any]], dict[str, Any]]

pytestmark = pytest.mark.timeout(1_200)

LARGEST_COUNTER_BYTES = 6_000
LONGEST_ID = 40
CHAINS, HOPS = 3, 4
REJECTED_SECONDS = 120.0


@pytest.mark.parametrize(("chains", "hops"), [(8, 40), *full([(1, 600), (32, 50)])])
def test_counter_stays_small_however_often_chunks_are_followed(chains: int, hops: int) -> None:
    world, largest = play(chains, hops)
    records = [recorded.record for facts in world.promises.batches.values() for recorded in facts.records.values()]
    assert len(records) == chains * (hops + 1)
    assert max(len(record.chunk_id) for record in records) <= LONGEST_ID
    assert largest <= LARGEST_COUNTER_BYTES


@pytest.mark.full
def test_counter_is_measured_after_ten_thousand_hops() -> None:
    """The adapter alone, on the simulated table: the programs need minutes for this."""
    sizes = [0]
    table = Table(random.Random(0), watch=lambda _key, _before, after: sizes.append(_size(after or {})))

    class Client:
        async def update_item(self, **request: Any) -> Any:
            return table.update_item(request)

        async def get_item(self, **request: Any) -> Any:
            return table.get_item(request)

    client: Any = Client()
    store, batch = DynamoDbStore(client, "table"), build_batch(1)

    async def count_all() -> None:
        chunk_id = "0"
        for _ in range(10_000):
            group = await store.count_chunk(batch, ChunkRecord(chunk_id))
            chunk_id = follow_up_id(chunk_id, 0)
        assert len(group.done) == 10_000
        for late in ("0", "0.0.1.0", "0.0.5000.0", "0.0.9999.0"):
            assert await store.count_chunk(batch, ChunkRecord(late, redelivered=1)) == group

    asyncio.run(count_all())
    assert max(sizes) < 3_000
    assert sizes[-1] < 2_000


@pytest.mark.parametrize("notes", [True, *full([False])])
def test_follow_ups_of_what_cannot_be_counted_do_not_multiply(notes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a while AWS rejects every count of one batch. Another batch finishes meanwhile, and this one after that."""
    if not notes:
        monkeypatch.setattr(DynamoDbStore, "note_follow_ups", _forget)
    settings = Settings(concurrency=10, sync_max_operations=0, chunk_operations=1, visibility_seconds=10)
    world = World(0, RandomFates(CALM, random.Random(0)), settings.visibility_seconds)
    world.expects_rejections = True
    toys = [Toy("/poll", Plan(times=HOPS, after=0))] * CHAINS
    rejected, healthy = Submission("s0", toys), Submission("s1", toys)
    most = [0]

    def rejecting(name: str, write: Write) -> Write:
        def reject(request: Mapping[str, Any]) -> dict[str, Any]:
            most.append(len(world.messages))
            key = request.get("Key") or request["Item"]
            pk, is_count = key["pk"]["S"].split("#"), key["sk"]["S"] == "count"
            if is_count and world.truth.labels.get(pk[1]) == "s0" and world.loop.time() < REJECTED_SECONDS:
                raise refusal("ValidationException", name, "Item size to update has exceeded the maximum")
            return write(request)

        return reject

    monkeypatch.setattr(world.table, "update_item", rejecting("UpdateItem", world.table.update_item))
    monkeypatch.setattr(world.table, "put_item", rejecting("PutItem", world.table.put_item))
    stage = Stage(world, settings)

    async def run() -> None:
        stage.open()
        world.truth.submissions += [rejected, healthy]
        await stage.client.submit(rejected)
        await stage.client.submit(healthy)
        await asyncio.sleep(REJECTED_SECONDS / 2)
        states = {world.truth.labels[batch_id]: facts.state for batch_id, facts in world.promises.batches.items()}
        assert states == {"s0": "processing", "s1": "completed"}
        await stage.close()

    world.run(run())
    assert (max(most) <= 2 * CHAINS * (HOPS + 1)) is notes
    assert {facts.state for facts in world.promises.batches.values()} == {"completed"}


async def _forget(_store: DynamoDbStore, _batch: Batch, _chunk_id: str) -> None: ...


def play(chains: int, hops: int) -> tuple[World, int]:
    """Play a batch whose chunks are each followed by `hops` chunks. Return the largest size that its counter had."""
    settings = Settings(
        concurrency=64, sync_max_operations=0, chunk_operations=1, min_chunks=64, receive_wait_seconds=20
    )
    world = World(0, RandomFates(CALM, random.Random(0)), settings.visibility_seconds)
    sizes = [0]
    on_write = world.promises.on_write

    def watch(key: Key, before: Item | None, after: Item | None) -> None:
        if key[1] == "count" and after is not None:
            sizes.append(_size(after))
        on_write(key, before, after)

    world.table._watch = watch
    stage = Stage(world, settings)

    async def run() -> None:
        stage.open()
        submission = Submission("s0", [Toy("/poll", Plan(times=hops, after=0, seconds=0.01)) for _ in range(chains)])
        world.truth.submissions.append(submission)
        await stage.client.submit(submission)
        await stage.close(is_gentle=True)

    world.run(run())
    return world, max(sizes)
