"""Recovery after a crash: innocent operations run side by side again, and poison among them is found. Virtual time."""

import asyncio
import math
import random
from collections.abc import Sequence

import pytest

from penstock.batch import Counts
from penstock.settings import Settings
from penstock.telemetry import Event
from tests.simulation.mixes import CALM, RandomFates
from tests.simulation.mutations import note_a_start_before_the_slot
from tests.simulation.stage import Stage
from tests.simulation.truth import Plan, Submission, Toy
from tests.simulation.world import World
from tests.support.full import full

LEASE_SECONDS = 30
SLOTS = 20
HANDLER_SECONDS = 5.0
RESTART_SECONDS = 10.0  # the longest pause before the stage replaces a program
SLACK_SECONDS = 15.0  # polls, and the second that a batch is cached
KILLED_AFTER_SECONDS = 3.0


def innocents(count: int, path: str = "/succeed") -> list[Toy]:
    return [Toy(path, Plan(seconds=HANDLER_SECONDS)) for _ in range(count)]


def seconds_for(count: int, consumers: int = 1) -> float:
    """Return how long these operations take if they use all slots."""
    return math.ceil(count / (SLOTS * consumers)) * HANDLER_SECONDS


def play(toys: Sequence[Toy], *, consumers: int = 1, kills: int = 0) -> tuple[World, float]:
    """Play a batch whose operations travel alone. Kill all consumers `kills` times. Return how long the batch took."""
    settings = Settings(
        concurrency=SLOTS,
        sync_max_operations=0,
        chunk_operations=1,
        visibility_seconds=LEASE_SECONDS,
        sweep_seconds=600,
    )
    world = World(1, RandomFates(CALM, random.Random(1)), LEASE_SECONDS)
    world.promises.is_evidence_needed = True
    world.promises.is_poison_alone = not kills
    stage, submission = Stage(world, settings), Submission("s0", list(toys))
    finished_after = math.inf

    async def run() -> None:
        nonlocal finished_after
        stage.open(consumers)
        world.truth.submissions.append(submission)
        await stage.client.submit(submission)
        started_at = world.loop.time()
        for _ in range(kills):
            await asyncio.sleep(KILLED_AFTER_SECONDS)
            for program in list(stage.consumers):
                program.process.kill()
            await asyncio.sleep(LEASE_SECONDS - 1)
        await stage.settle()
        finished_after = world.loop.time() - started_at
        await stage.close()

    world.run(run())
    return world, finished_after


def counts_of(world: World) -> Counts:
    [facts] = world.promises.batches.values()
    return facts.counts


@pytest.mark.parametrize("path", ["/succeed", "/once"])
def test_innocents_run_side_by_side_after_a_kill(path: str) -> None:
    world, seconds = play(innocents(60, path), kills=1)
    assert counts_of(world) == Counts(succeeded=60)
    assert world.seen[Event.OPERATION_SUSPECTED] == 0
    assert seconds <= KILLED_AFTER_SECONDS + LEASE_SECONDS + RESTART_SECONDS + seconds_for(60) + SLACK_SECONDS


@pytest.mark.parametrize("is_broken", [False, True], ids=["", "noted before the slot"])
def test_only_what_had_its_slot_at_two_kills_is_suspected(is_broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the second kill, operations that the first kill hit run in all slots, and others of them wait."""
    if is_broken:
        note_a_start_before_the_slot(monkeypatch)
    world, _ = play(innocents(100), kills=2)
    assert counts_of(world) == Counts(succeeded=100)
    assert (world.seen[Event.OPERATION_SUSPECTED] <= SLOTS) is not is_broken


@pytest.mark.parametrize("path", ["/kill", "/kill-once"])
@pytest.mark.parametrize("consumers", [2, *full([1, 4])])
def test_poison_among_innocents_is_found_and_nobody_else_is_blamed(path: str, consumers: int) -> None:
    """Poison dies unnoted, then noted among others, then in quarantine until its attempts are used up."""
    toys = innocents(60)
    toys[7] = Toy(path, Plan(seconds=1.0))
    world, seconds = play(toys, consumers=consumers)
    [poison] = [runs for (_, operation_id), runs in world.truth.runs.items() if operation_id == "s0-7"]
    assert counts_of(world) == Counts(succeeded=59, failed=1)
    assert len(poison) == 2 + (1 if path == "/kill-once" else 3)
    deaths = len(poison) * (LEASE_SECONDS + RESTART_SECONDS)
    # Those that ran beside it at its second death run one by one, but each consumer has a share of them.
    suspects = SLOTS * HANDLER_SECONDS / consumers
    assert seconds <= deaths + LEASE_SECONDS + suspects + seconds_for(60, consumers) + 2 * SLACK_SECONDS
