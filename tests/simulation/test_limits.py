"""Eight consumers share an upstream that lets 100 operations a second through. They learn that, and keep to it.

The programs are the real ones, in virtual time. An operation that is throttled uses up no attempt, so none fails.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from penstock.settings import Settings
from tests.simulation.limits import Limits
from tests.simulation.mixes import CALM, Mix, RandomFates
from tests.simulation.stage import Stage
from tests.simulation.truth import Plan, Submission, Toy
from tests.simulation.world import World

RATE = 100.0
CONSUMERS = 8
SEARCH_SECONDS = 10.0  # until the limit is learnt
TAIL_SECONDS = 5.0  # at the end, when some consumers have nothing left to do
OPERATIONS_IN_BATCH = 200

Change = Callable[["Play"], Awaitable[None]]


@dataclass
class Play:
    """A run. `capacity` has the changes of what the upstream lets through: from when, and how many a second."""

    seed: int
    batches: int
    change: Change
    mix: Mix = CALM
    capacity: list[tuple[float, float]] = field(default_factory=list)
    writes: dict[str, list[float]] = field(default_factory=dict)  # of the limit, by process

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        settings = Settings(
            concurrency=20,
            sync_max_operations=0,
            chunk_operations=100,
            min_chunks=1,
            visibility_seconds=30,
            backoff_seconds=1.0,
        )
        self.world = World(self.seed, RandomFates(self.mix, chance), settings.visibility_seconds)
        self.upstream = self.world.truth.upstream
        self.stage = Stage(self.world, settings, self.mix.skew_seconds)

    @property
    def limits(self) -> Limits:
        return self.world.promises.limits

    def run(self) -> None:
        self.world.run(self._play())

    async def submit(self, batches: int) -> None:
        for _ in range(batches):
            toys = [Toy("/limited", Plan(after=self.upstream.asks_seconds))] * OPERATIONS_IN_BATCH
            submission = Submission(f"s{len(self.world.truth.submissions)}", toys)
            self.world.truth.submissions.append(submission)
            await self.stage.client.submit(submission)

    def set_rate(self, rate: float) -> None:
        """Change what the upstream lets through. With 0 it is away."""
        self.upstream.is_away = rate == 0
        if rate:
            self.upstream.rate = rate
        self.capacity.append((self.world.loop.time(), rate))

    async def _play(self) -> None:
        self.set_rate(RATE)
        self.stage.open(consumers=CONSUMERS)
        await asyncio.sleep(1)
        self.begun_at = self.world.loop.time()
        await self.submit(self.batches)
        await self.change(self)
        await self.stage.close(is_gentle=False)

    @property
    def used(self) -> float:
        """Return the share of what the upstream lets through that was used, once the limit was learnt."""
        first, last = self.begun_at + SEARCH_SECONDS, max(self.upstream.passed) - TAIL_SECONDS
        passed = sum(first <= at < last for at in self.upstream.passed)
        ends = [at for at, _ in self.capacity[1:]] + [last]
        could = sum(
            max(0.0, min(end, last) - max(at, first)) * rate
            for (at, rate), end in zip(self.capacity, ends, strict=True)
        )
        return passed / could

    @property
    def refused(self) -> float:
        """Return the share of the operations that were throttled, once the limit was learnt."""
        first = self.begun_at + SEARCH_SECONDS
        throttled = sum(at >= first for at in self.upstream.turned_away)
        return throttled / (throttled + sum(at >= first for at in self.upstream.passed))

    @property
    def failed(self) -> int:
        return sum(facts.counts.failed for facts in self.world.promises.batches.values())

    @property
    def succeeded(self) -> int:
        return sum(facts.counts.succeeded for facts in self.world.promises.batches.values())


async def nothing(play: Play) -> None:
    pass


async def halve(play: Play) -> None:
    await asyncio.sleep(30)
    play.set_rate(RATE / 2)


async def leave_for_two_minutes(play: Play) -> None:
    await asyncio.sleep(30)
    play.set_rate(0)
    await asyncio.sleep(120)
    play.set_rate(RATE)
    await play.submit(25)


SKEWED = Mix("skewed clocks", skew_seconds=2.0)
