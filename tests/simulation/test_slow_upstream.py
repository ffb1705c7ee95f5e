"""A batch of 600 before an upstream that lets 20 operations a second through. The programs are real, in virtual time.

`tests/unit/consumer/test_turned_away.py` has the same without a limit.
"""

import asyncio
import random

from penstock.batch import BatchState
from penstock.settings import Settings
from tests.simulation.mixes import CALM, RandomFates
from tests.simulation.stage import Stage
from tests.simulation.truth import Plan, Submission, Toy
from tests.simulation.world import World

TOTAL = 600
RATE = 20.0
MOST_SECONDS = 1.5 * TOTAL / RATE  # a learnt limit takes a while to be found


def test_all_of_a_batch_before_a_slow_upstream_succeed_under_a_learnt_limit() -> None:
    settings = Settings(concurrency=20, sync_max_operations=0, visibility_seconds=30)
    world = World(1, RandomFates(CALM, random.Random(1)), settings.visibility_seconds)
    stage, upstream = Stage(world, settings, CALM.skew_seconds), world.truth.upstream
    upstream.rate = RATE
    submission = Submission("s0", [Toy("/limited", Plan(after=1.0))] * TOTAL)
    world.truth.submissions.append(submission)

    async def play() -> None:
        stage.open(consumers=2)
        await asyncio.sleep(1)
        await stage.client.submit(submission)
        await stage.close()

    world.run(play())

    [batch] = world.promises.batches.values()
    assert (batch.state, batch.counts.succeeded, batch.counts.failed) == (BatchState.COMPLETED, TOTAL, 0)
    assert upstream.passed[-1] - upstream.passed[0] < MOST_SECONDS
    assert len(upstream.turned_away) < TOTAL / 4  # without a limit, it would be thousands
