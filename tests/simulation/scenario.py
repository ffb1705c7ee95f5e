"""A seeded run: clients submit batches while faults happen. Then the faults stop, and every promise must hold."""

import asyncio
import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from unittest.mock import patch

from pydantic import SecretStr

from penstock.aws.store import FOLD_AT
from penstock.chunk import QUICK_SECONDS
from penstock.consumer.sweeper import PERIODS_OF_TENURE
from penstock.service.table_outage import WRITE_FIRST_SECONDS
from penstock.settings import Settings
from tests.simulation.chaos import Chaos
from tests.simulation.clients import draw_submission
from tests.simulation.links import MOST_LINKED
from tests.simulation.mixes import MIXES, Mix, RandomFates
from tests.simulation.stage import SETTLE_SECONDS, Stage, group_chunks, little_memory, little_patience, short_leases
from tests.simulation.trace import Event, to_line
from tests.simulation.webhooks import SECRET
from tests.simulation.world import BUCKET, World


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run."""

    seed: int
    mix: str
    virtual_seconds: float
    handlers: int
    excused: Counter[str]
    seen: Counter[str]  # what happened in it, by the names of Penstock's log
    events: tuple[Event, ...]

    @property
    def trace(self) -> str:
        return "\n".join(map(to_line, self.events))


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size of this run."""

    consumers: int
    front_ends: int
    submissions: int
    most_operations: int
    group_chunks: int
    storm_seconds: float
    fewest_operations: int = 1

    @classmethod
    def draw(cls, chance: random.Random, mix: Mix) -> "Sizes":
        if mix.has_quota:
            return cls(
                consumers=1,
                front_ends=chance.randint(2, 4),
                submissions=chance.randint(5, 10),
                most_operations=8,
                group_chunks=64,
                storm_seconds=chance.uniform(60, 300),
            )
        if mix.is_large:
            return cls(
                consumers=chance.randint(2, 6),
                front_ends=1,
                submissions=chance.randint(1, 2),
                fewest_operations=150,
                most_operations=400,
                group_chunks=chance.choice([4, 64]),
                storm_seconds=chance.uniform(60, 200),
            )
        return cls(
            consumers=chance.randint(1, 3),
            front_ends=chance.randint(1, 2),
            submissions=chance.randint(1, 3),
            most_operations=60 if mix.has_little_memory else chance.choice([1, 4, 10, 25]),
            group_chunks=chance.choice([1, 2, 4, 64]),
            storm_seconds=chance.uniform(5, 90),
        )


def run_seed(seed: int, mix: Mix | None = None, settle_seconds: float = SETTLE_SECONDS) -> Report:
    """Raises PromiseBroken."""
    mix = mix or MIXES[seed % len(MIXES)]
    chance = random.Random(seed)
    settings, sizes = draw_settings(chance, mix), Sizes.draw(chance, mix)
    world = World(seed, RandomFates(mix, chance), settings.visibility_seconds)
    world.replay = f"python -m tests.simulation --replay {seed} --mix '{mix.name}'"
    world.table.short_pages, world.table.stale_reads = mix.short_pages, mix.stale_reads
    world.promises.max_deaths = settings.max_deaths
    world.promises.sweep_tenure = PERIODS_OF_TENURE * settings.sweep_seconds
    world.promises.follow_ups.backoff = settings.backoff
    world.promises.quotas.quota = settings.tenant_quota
    world.promises.quotas.accept_seconds = settings.accept_seconds
    world.promises.open.most = settings.tenant_max_open
    world.promises.follow_ups.least_part_seconds = min(settings.chunk_seconds, QUICK_SECONDS)
    world.promises.is_poison_alone = mix.is_poison_alone
    world.promises.losses.is_quick = mix.is_quick
    world.promises.has_parents = mix.has_parents
    world.promises.acts_in_time = mix.is_gentle
    world.promises.are_leases_kept = mix.are_leases_kept
    world.promises.is_evidence_needed = mix.is_evidence_needed
    world.truth.is_transactional = mix.groups > 0
    with (
        group_chunks(sizes.group_chunks, draw_fold_at(seed)),
        patch("penstock.service.table_outage.WRITE_FIRST_SECONDS", draw_write_first(seed)),
        little_memory() if mix.has_little_memory else nullcontext(),
        short_leases(random.Random(f"lease {seed}").choice([0.1, 1.0, 60.0])) if mix.uploads else nullcontext(),
        little_patience(random.Random(f"held {seed}").choice([1, 2, 8])) if mix.steers else nullcontext(),
    ):
        stage = Stage(world, settings, mix.skew_seconds, has_parents=mix.has_parents, settle_seconds=settle_seconds)
        if mix.uploads:
            stage.vary = lambda own: own.model_copy(update={"chunk_operations": world.chance.randint(1, 4)})
        world.run(Scenario(stage, sizes, mix).play())
    runs = sum(map(len, world.truth.runs.values()))
    now, excused = world.loop.time(), world.promises.excused
    return Report(seed, mix.name, now, runs, excused, world.seen, tuple(world.events))


def draw_fold_at(seed: int) -> int:
    """Fold the counters early in half of the runs."""
    return random.Random(f"fold {seed}").choice([1, 2, 5, FOLD_AT, FOLD_AT, FOLD_AT])


def draw_write_first(seed: int) -> float:
    """Send batches ahead again immediately after a failed call in most of the runs. Otherwise few would be."""
    return random.Random(f"written first {seed}").choice([0.0, 0.0, 0.0, WRITE_FIRST_SECONDS])


def draw_settings(chance: random.Random, mix: Mix) -> Settings:
    settings = _draw_settings(chance, mix).model_copy(update={"bucket": BUCKET if mix.has_bucket else None})
    if mix.uploads:
        settings = settings.model_copy(update={"background_upload_bytes": 0, "sync_max_operations": 0})
    if mix.has_quota:
        operations = chance.randint(8, 20)
        limit = f"{operations}/{chance.choice([60, 600, 3_600])}"
        return settings.model_copy(update={"tenant_limit": limit, "tenant_max_open": operations})
    if mix.has_webhooks:
        return settings.model_copy(update={"webhook_secret": SecretStr(SECRET)})
    if mix.links:
        least = 25 if mix.groups else MOST_LINKED  # a whole batch may be connected by its groups
        return settings.model_copy(update={"chunk_operations": chance.randint(least, 2 * least)})
    if mix.has_little_memory:
        return settings.model_copy(update={"chunk_operations": chance.randint(5, 25), "min_chunks": 1})
    if not mix.is_large:
        return settings
    large = {
        "concurrency": chance.randint(20, 60),
        "sync_max_operations": 0,
        "chunk_operations": chance.randint(1, 3),
        "min_chunks": 1,
        "sweep_seconds": 30.0,
    }
    return settings.model_copy(update=large)


def _draw_settings(chance: random.Random, mix: Mix) -> Settings:
    return Settings(
        concurrency=chance.randint(1, 6),
        sync_max_operations=chance.choice([0, 0, 0, 3, 30]),
        sync_seconds=chance.choice([1.0, 10.0]),
        chunk_operations=chance.randint(1, 8),
        min_chunks=chance.choice([1, 1, 16]),
        chunk_budget_seconds=chance.choice([2.0, 300.0, 300.0]),
        accept_seconds=chance.choice([2.0, 10.0, 60.0]),
        deadline_seconds=mix.deadline_seconds,
        settle_seconds=chance.choice([1.0, 60.0]),
        sweep_seconds=chance.choice([2.0, 10.0, 30.0, 30.0]),
        max_deaths=chance.choice(mix.max_deaths),
        visibility_seconds=chance.choice([10, 30, 60]),
        receive_wait_seconds=chance.choice([1, 20, 20]),
        grace_seconds=chance.choice([0.0, 1.0, 10.0]),
        backoff_seconds=chance.choice([0.1, 1.0, 5.0]),
        backoff_max_seconds=20,
    )


class Scenario:
    def __init__(self, stage: Stage, sizes: Sizes, mix: Mix) -> None:
        self.world = stage.world
        self.sizes = sizes
        self.mix = mix
        self.stage = stage
        self.chaos = Chaos(stage, mix)

    async def play(self) -> None:
        self.stage.open(self.sizes.consumers, self.sizes.front_ends)
        if self.mix.has_webhooks:
            self.world.receiver.failures = 0.4
            making = self.world.loop.create_task(self._make_endpoint())
        clients = [self.world.loop.create_task(self._submit(f"s{n}")) for n in range(self.sizes.submissions)]
        await self.chaos.rage(self.sizes.storm_seconds)
        if self.mix.has_webhooks:
            self.world.receiver.failures = 0.0
            await making
        await asyncio.gather(*clients)
        await self.stage.close(is_gentle=self.mix.is_gentle)

    async def _make_endpoint(self) -> None:
        await asyncio.sleep(self.world.chance.uniform(0, self.sizes.storm_seconds / 2))
        await self.stage.client.make_endpoint()

    async def _submit(self, label: str) -> None:
        chance = self.world.chance
        await asyncio.sleep(chance.uniform(0, self.sizes.storm_seconds / 2))
        submission = draw_submission(
            label,
            chance,
            self.mix,
            (self.sizes.fewest_operations, self.sizes.most_operations),
            lease=self.stage.settings.visibility_seconds,
            now=self.world.loop.time(),
        )
        await self.stage.client.live(submission, self.mix)
