"""Consumers start and stop in large numbers while there is work, as with scaling. Counts stay exact, nothing is lost.

The programs are the real ones, in virtual time: what `python -m penstock.infra.scaling` takes for granted when it
hands on the chunks of a task that is stopped.
"""

import asyncio
import random

import pytest

from penstock.settings import Settings
from penstock.telemetry import Event
from tests.simulation.mixes import CALM, RandomFates
from tests.simulation.programs import ConsumerProgram
from tests.simulation.stage import Stage
from tests.simulation.truth import Plan, Submission, Toy
from tests.simulation.world import World
from tests.support.full import full

LEAST, MOST = 1, 8
WAVES = 4
BATCHES, OPERATIONS = 3, 120


class Fleet:
    """Keeps the wanted number of consumers. Several at once are stopped by SIGTERM, whatever they are doing."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._started = 0

    async def scale(self, count: int) -> None:
        world, consumers = self._stage.world, self._stage.consumers
        staying = [one for one in consumers if one.terminated_at is None]
        for _ in range(count - len(staying)):
            self._started += 1
            consumers.append(ConsumerProgram(world, f"consumer-{self._started}", self._stage.settings))
        for program in world.chance.sample(staying, max(len(staying) - count, 0)):
            program.terminate()
        await asyncio.sleep(world.chance.uniform(1, 8))


@pytest.mark.parametrize("seed", [0, *full(range(1, 6))])
def test_scaling_in_under_load_keeps_every_count(seed: int) -> None:
    chance = random.Random(seed)
    settings = Settings(
        concurrency=chance.randint(1, 4),
        sync_max_operations=0,
        chunk_operations=chance.randint(2, 10),
        min_chunks=1,
        visibility_seconds=chance.choice([10, 60]),
        receive_wait_seconds=chance.choice([1, 20]),
        grace_seconds=chance.choice([0.0, 1.0, 20.0]),
        backoff_seconds=1.0,
    )
    world = World(seed, RandomFates(CALM, chance), settings.visibility_seconds)
    stage = Stage(world, settings)

    async def play() -> None:
        stage.open(consumers=0)
        fleet = Fleet(stage)
        await fleet.scale(LEAST)
        submissions = [draw_submission(f"s{number}", chance) for number in range(BATCHES)]
        world.truth.submissions.extend(submissions)
        for submission in submissions:
            await stage.client.submit(submission)
        for _ in range(WAVES):
            await fleet.scale(MOST)
            await fleet.scale(LEAST)
        await stage.close(is_gentle=True)

    world.run(play())
    outcomes = sum(facts.counts.completed for facts in world.promises.batches.values())
    handed_on = sum(
        any(one.attempt == 1 for one in recorded.record.follow_ups)
        for facts in world.promises.batches.values()
        for recorded in facts.records.values()
    )
    assert outcomes == BATCHES * OPERATIONS
    assert world.seen[Event.CONSUMER_STOPPED] >= WAVES * (MOST - LEAST)
    assert handed_on > 0


def draw_submission(label: str, chance: random.Random) -> Submission:
    """No operation fails by itself, so a follow-up chunk at its first attempt was handed over."""
    return Submission(label, [Toy("/succeed", Plan(seconds=chance.choice([0.1, 1.0, 4.0]))) for _ in range(OPERATIONS)])
