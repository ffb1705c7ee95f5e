"""Front ends run small batches immediately, within the limits that they share with the consumers.

The programs are the real ones, in virtual time.
"""

import asyncio
import random
import statistics
from dataclasses import dataclass, field

import pytest

from penstock.fleet_limit import HORIZON_SECONDS
from penstock.settings import Settings
from tests.simulation import limit_mutations as mutations
from tests.simulation.leases import NotedLeases
from tests.simulation.mixes import Mix, RandomFates
from tests.simulation.stage import Stage
from tests.simulation.truth import DECLARED, Plan, Submission, Toy
from tests.simulation.world import World

CONSUMERS, FRONT_ENDS = 2, 3
SYNC_SECONDS = 3.0
OPERATIONS_IN_BATCH = 5
ANSWERED, ACCEPTED = 200, 202
SKEWED = Mix("skewed clocks", skew_seconds=2.0)
UNLUCKY = Mix("unlucky", skew_seconds=2.0, faults=0.02)


@dataclass
class Play:
    """A run. Each client sends one batch after the other, and waits for `gap` seconds between them."""

    clients: int
    gap: float
    seconds: float
    path: str = "/declared"
    mix: Mix = SKEWED
    kills: int = 0  # of front ends and consumers
    waited: list[float] = field(default_factory=list)  # for the answers

    def __post_init__(self) -> None:
        settings = Settings(
            concurrency=20,
            sync_max_operations=100,
            sync_seconds=SYNC_SECONDS,
            min_chunks=1,
            visibility_seconds=30,
            backoff_seconds=1.0,
        )
        self.world = World(1, RandomFates(self.mix, random.Random(1)), settings.visibility_seconds)
        self.stage = Stage(self.world, settings, self.mix.skew_seconds)

    def run(self) -> None:
        self.world.run(self._play())

    async def _play(self) -> None:
        self.stage.open(CONSUMERS, FRONT_ENDS)
        await asyncio.sleep(1)
        self.ends_at = self.world.loop.time() + self.seconds
        await asyncio.gather(self._kill(), *(self._ask(number) for number in range(self.clients)))
        self.world.fates.calm_down()  # a client must get all results to compare them
        await self.stage.close()

    async def _kill(self) -> None:
        for _ in range(self.kills):
            await asyncio.sleep(self.seconds / (self.kills + 1))
            if self.stage.programs:
                self.world.chance.choice(self.stage.programs).process.kill()

    async def _ask(self, client: int) -> None:
        await asyncio.sleep(client * self.gap / self.clients)
        while (asked_at := self.world.loop.time()) < self.ends_at:
            toys = [Toy(self.path, Plan(seconds=0.02, after=1.0))] * OPERATIONS_IN_BATCH
            submission = Submission(f"s{len(self.world.truth.submissions)}", toys)
            self.world.truth.submissions.append(submission)
            await self.stage.client.submit(submission)
            self.waited.append(self.world.loop.time() - asked_at)
            await asyncio.sleep(self.gap)

    def answers(self, status: int) -> int:
        return sum(submission.statuses == [status] for submission in self.world.truth.submissions)

    @property
    def most_ahead(self) -> float:
        """Return by how many operations the declared rate was exceeded at most, in any time."""
        assert DECLARED.rate is not None
        ahead = most = previous = 0.0
        for at in self.world.truth.declared_starts:
            ahead = max(0.0, ahead - (at - previous) * DECLARED.rate) + 1
            most, previous = max(most, ahead), at
        return most


def test_many_small_batches_keep_to_a_declared_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(clients=20, gap=0.2, seconds=8)
    leases = NotedLeases(play.world, monkeypatch)
    play.run()
    assert DECLARED.rate is not None
    assert play.most_ahead <= DECLARED.rate * (HORIZON_SECONDS + 2 * SKEWED.skew_seconds)
    assert play.answers(ANSWERED) > 0
    assert play.answers(ACCEPTED) > 0
    starts = play.world.truth.declared_starts
    assert len(starts) >= len(play.world.truth.submissions) * OPERATIONS_IN_BATCH  # the end of its time cuts one off
    asked = [at for at in starts if at < play.ends_at]  # what is left after that belongs to few batches
    assert len(asked) >= 0.9 * DECLARED.rate * (play.ends_at - min(starts))
    assert leases.are_spaced


@pytest.mark.full
def test_limit_is_kept_while_programs_die_and_answers_are_lost() -> None:
    play = Play(clients=20, gap=0.2, seconds=12, mix=UNLUCKY, kills=8)
    play.run()
    assert DECLARED.rate is not None
    assert play.most_ahead <= DECLARED.rate * (HORIZON_SECONDS + 2 * SKEWED.skew_seconds)
    assert play.answers(ANSWERED) > 0
    assert play.answers(ACCEPTED) > 0


def test_small_batches_are_answered_soon_while_tokens_are_there() -> None:
    play = Play(clients=3, gap=1.0, seconds=10)
    play.run()
    assert play.answers(ANSWERED) == len(play.world.truth.submissions) >= 20
    assert statistics.median(play.waited) < 0.3


def test_small_batches_without_tokens_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    mutations.run_small_batches_without_tokens(monkeypatch)
    play = Play(clients=20, gap=0.2, seconds=4)
    play.run()
    assert DECLARED.rate is not None
    assert play.most_ahead > DECLARED.rate * (HORIZON_SECONDS + 2 * SKEWED.skew_seconds)
