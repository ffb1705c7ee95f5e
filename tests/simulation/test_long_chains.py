"""Chunks that are followed by thousands of others: ids, counters and messages stay small, and nothing multiplies."""

import random

import pytest

from penstock.settings import Settings
from tests.simulation.dynamodb import Key, _size
from tests.simulation.expressions import Item
from tests.simulation.mixes import CALM, RandomFates
from tests.simulation.stage import Stage
from tests.simulation.truth import Plan, Submission, Toy
from tests.simulation.world import World
from tests.support.full import full

pytestmark = pytest.mark.timeout(1_200)

LARGEST_COUNTER_BYTES = 6_000
LONGEST_ID = 40


@pytest.mark.parametrize(("chains", "hops"), [(8, 100), (1, 600), *full([(64, 200), (1, 10_000)])])
def test_counter_stays_small_however_often_chunks_are_followed(chains: int, hops: int) -> None:
    world, largest = play(chains, hops)
    records = [recorded.record for facts in world.promises.batches.values() for recorded in facts.records.values()]
    assert len(records) == chains * (hops + 1)
    assert max(len(record.chunk_id) for record in records) <= LONGEST_ID
    assert largest <= LARGEST_COUNTER_BYTES


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
