"""Eight consumers share a limit that lets ten operations run at the same time. They use it, and never exceed it.

The programs are the real ones, in virtual time.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from penstock.fleet_permits import LEASE_SECONDS
from penstock.running.stop import Stop
from penstock.settings import Settings
from tests.simulation import limit_mutations as mutations
from tests.simulation.leases import NotedLeases
from tests.simulation.mixes import CALM, Mix, RandomFates
from tests.simulation.stage import Stage
from tests.simulation.truth import MOST_TOGETHER, Plan, Submission, Toy
from tests.simulation.world import PromiseBroken, World
from tests.support.full import full

CONSUMERS = 8
SETTLING_SECONDS = 5.0
WORK_SHARE = 0.7  # after this share of the operations, some consumers have nothing left to do
OPERATIONS_IN_BATCH = 200
LOOK_SECONDS = 0.25
SKEWED = Mix("skewed clocks", skew_seconds=2.0)
UNLUCKY = Mix("unlucky", skew_seconds=2.0, faults=0.02)

Change = Callable[["Play"], Awaitable[None]]


@dataclass
class Play:
    seed: int
    batches: int
    change: Change
    mix: Mix = CALM
    seconds: float = 0.5  # of an operation
    path: str = "/crowd"
    operations: int = OPERATIONS_IN_BATCH
    sizes: list[tuple[float, int]] = field(default_factory=list)  # of the crowd, until little work is left

    def __post_init__(self) -> None:
        settings = Settings(
            concurrency=20,
            sync_max_operations=0,
            chunk_operations=50,
            min_chunks=1,
            visibility_seconds=30,
            backoff_seconds=1.0,
        )
        self.world = World(self.seed, RandomFates(self.mix, random.Random(self.seed)), settings.visibility_seconds)
        self.crowd = self.world.truth.crowd
        self.stage = Stage(self.world, settings, self.mix.skew_seconds)

    def run(self) -> None:
        self.world.run(self._play())

    async def _play(self) -> None:
        self.stage.open(consumers=CONSUMERS)
        looking = self.world.loop.create_task(self._look())
        await asyncio.sleep(1)
        for number in range(self.batches):
            toys = [Toy(self.path, Plan(seconds=self.seconds))] * self.operations
            submission = Submission(f"s{number}", toys)
            self.world.truth.submissions.append(submission)
            await self.stage.client.submit(submission)
        await self.change(self)
        self.world.fates.calm_down()  # a client must get all results to compare them
        await self.stage.settle()
        looking.cancel()
        await self.stage.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.crowd.ended < WORK_SHARE * self.batches * self.operations:
                self.sizes.append((self.world.loop.time(), self.crowd.size))

    @property
    def used(self) -> float:
        """Return the share of the permits that was used, after they were shared out for the first time."""
        first = next(at for at, size in self.sizes if size) + SETTLING_SECONDS
        sizes = [size for at, size in self.sizes if at >= first]
        return sum(sizes) / len(sizes) / MOST_TOGETHER

    @property
    def is_all_done(self) -> bool:
        counts = [facts.counts for facts in self.world.promises.batches.values() if facts.is_accepted]
        return bool(counts) and all(each.succeeded == self.operations for each in counts)


async def nothing(play: Play) -> None:
    pass


async def kill_once(play: Play) -> None:
    await asyncio.sleep(5)
    play.world.chance.choice(play.stage.consumers).process.kill()


async def kill_some(play: Play) -> None:
    for _ in range(2):
        await asyncio.sleep(1.2 * LEASE_SECONDS)
        play.world.chance.choice(play.stage.consumers).process.kill()


async def restart_some(play: Play) -> None:
    for _ in range(6):
        await asyncio.sleep(6)
        play.world.chance.choice(play.stage.consumers).terminate()


@pytest.mark.parametrize(
    ("seed", "batches", "change"),
    [(1, 2, kill_once), *full([(2, 4, kill_some), (3, 4, restart_some)])],
)
def test_permits_are_used_and_never_exceeded_when_consumers_come_and_go(
    seed: int, batches: int, change: Change
) -> None:
    play = Play(seed, batches, change, UNLUCKY)
    play.run()
    assert play.crowd.most == MOST_TOGETHER
    assert play.used >= 0.75  # what a consumer had that died is free after ten seconds
    assert play.is_all_done


@pytest.mark.full
def test_permits_are_used_with_one_write_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(1, 4, nothing, SKEWED)
    leases = NotedLeases(play.world, monkeypatch)
    play.run()
    assert play.crowd.most == MOST_TOGETHER
    assert play.used >= 0.9
    assert play.is_all_done
    assert leases.are_spaced


FEW = 4


async def limit_the_batch(play: Play) -> None:
    [submission], [batch_id] = play.world.truth.submissions, play.world.promises.batches
    await play.stage.client.steer(submission, batch_id, {"concurrency": FEW})
    await asyncio.sleep(2 + play.seconds)
    play.crowd.most = 0
    await asyncio.sleep(10)
    play.world.chance.choice(play.stage.consumers).process.kill()
    await asyncio.sleep(10)
    assert play.crowd.most == FEW
    await play.stage.client.steer(submission, batch_id, {"concurrency": None})


@pytest.mark.full
def test_concurrency_of_a_batch_acts_within_two_seconds_and_counts_stay_exact() -> None:
    play = Play(1, 1, limit_the_batch, SKEWED, path="/free-crowd", seconds=2.0, operations=320)
    play.run()
    assert play.crowd.most > 2 * FEW
    assert play.is_all_done


@pytest.mark.full
def test_chunks_that_go_on_without_the_limit_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stop, "spend", lambda _self: None)
    with pytest.raises(AssertionError, match="crowd"):
        Play(1, 1, limit_the_batch, SKEWED, path="/free-crowd", seconds=2.0, operations=320).run()


@pytest.mark.full
@pytest.mark.parametrize("mutation", [mutations.lease_without_a_condition, mutations.release_permits_early])
def test_mutation_is_found(mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    play = Play(1, 1, nothing, SKEWED)
    try:
        play.run()
    except PromiseBroken:
        return
    assert play.crowd.most > MOST_TOGETHER
