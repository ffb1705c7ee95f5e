"""Poison in a small batch: its key costs at most one front end, and the batches beside it end well."""

import asyncio
import random

import pytest

from penstock.settings import Settings
from tests.simulation.mixes import CALM, RandomFates
from tests.simulation.promises import ACCEPTED, ANSWERED
from tests.simulation.stage import Stage
from tests.simulation.truth import Plan, Submission, Toy
from tests.simulation.world import World
from tests.support.full import full

INNOCENT = 20
MOST_SECONDS = 300.0


class Neighbours:
    """A client with poison, and others without, that send small batches to the same front ends, each with a key."""

    def __init__(self, seed: int, poison: str) -> None:
        settings = Settings(concurrency=60, visibility_seconds=10, receive_wait_seconds=1, backoff_seconds=0.1)
        self.world = World(seed, RandomFates(CALM, random.Random(seed)), settings.visibility_seconds)
        self.world.promises.max_deaths = settings.max_deaths
        self.world.promises.is_poison_alone = True
        self.stage = Stage(self.world, settings)
        good = Toy("/succeed", Plan(seconds=0.5))
        self.poison = Submission("p", [good, Toy(poison, Plan(seconds=0.2)), good, good], key="key of p")
        self.innocent = [Submission(f"s{n}", [good, good], key=f"key of s{n}") for n in range(INNOCENT)]

    async def play(self) -> None:
        self.stage.open(consumers=2, front_ends=2)
        everyone = [self.poison, *self.innocent]
        self.world.truth.submissions += everyone
        await asyncio.gather(*(self._send_until_answered(one) for one in everyone))
        await self.stage.close()

    async def _send_until_answered(self, submission: Submission) -> None:
        """Repeat the request once a second, as an impatient client does."""
        while await self.stage.client.submit(submission) not in {ANSWERED, ACCEPTED}:
            assert self.world.loop.time() < MOST_SECONDS
            await asyncio.sleep(1)

    def failures(self, submission: Submission) -> list[str]:
        """Return the ids of the failed operations with the titles of their errors. All others succeeded."""
        [batch_id] = submission.batch_ids
        facts = self.world.promises.batches[batch_id]
        outcomes = [facts.outcome(index, counted=True) for index in range(facts.total)]
        found = [outcome for outcome, _ in filter(None, outcomes)]
        assert len(found) == len(submission.toys)
        return [f"{one.id} {one.error['title']}" for one in found if one.error is not None]


@pytest.mark.parametrize(("poison", "seed"), [("/kill", 0), *full([("/block", 1)])])
def test_key_with_poison_costs_one_front_end_and_only_the_culprit_fails(poison: str, seed: int) -> None:
    played = Neighbours(seed, poison)
    deaths: list[int] = []

    async def play() -> None:
        await played.play()
        deaths.append(len(played.world.promises.poisoned_front_ends["p"]))

    played.world.run(play())
    assert deaths == [1]
    assert played.failures(played.poison) == ["p-1 Poison"]
    for submission in played.innocent:
        assert submission.statuses[-1] == ANSWERED or played.failures(submission) == []
