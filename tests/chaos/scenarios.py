"""What is done to the programs, and what must come of it. One scenario: a load, and a fault in each of its batches."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.app import POISON_EXIT, POISON_PATH
from tests.chaos.load import Kind, Load, make_load
from tests.chaos.stage import DEFAULT_TERMS, Options, Stage, Terms
from tests.chaos.verdict import Expectation, Verdict, judge
from tests.support.waiting import UNIT_SECONDS

POISON_IN = 1_000
ACCEPTING_SECONDS = 0.5  # about what a request takes to be answered: a kill within it finds every stage of that
ACCEPTANCE_SECONDS = 0.05  # about what an acceptance takes once its batch stands in the table


@dataclass
class World:
    """All that a scenario works on. `kills` counts whatever was done to a program or server."""

    options: Options
    draw: random.Random
    stage: Stage
    load: Load
    kills: int = 0


Fault = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`again_per_fault` is how many operations may run again for each fault, from what a consumer may hold.

    `hits_acceptance`: some of the faults are to end a front end while it accepts a batch, or they have shown nothing.
    """

    name: str
    fault: Fault
    again_per_fault: Callable[[Options, int], int]
    terms: Terms = DEFAULT_TERMS
    poison_in: int = 0
    fault_share: float = 1.0  # of the faults that are asked for
    only_victims_again: bool = True
    hits_acceptance: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    scenario: str
    operations: int
    kills: int
    seconds: float
    verdict: Verdict
    logs: Path


# What is done in the middle of a batch.


async def kill_consumer(world: World) -> None:
    batch_id = await world.load.submit_next()
    await world.load.until_under_way(batch_id, world.draw)
    post = world.stage.fleet.pick(world.draw)
    await world.stage.fleet.ready(post)  # one that only starts holds nothing, and killing it proves nothing
    await world.stage.fleet.kill(post)
    world.kills += 1


async def kill_front_end(world: World) -> None:
    """While it accepts a batch, or at a random time of a request. The client repeats it until another has answered."""
    await world.stage.fleet.ready(world.stage.fleet.front)
    submitting = asyncio.create_task(world.load.submit_next())
    if world.kills % 2 == 0:
        await world.stage.detective.until_accepting(submitting.done)
        await asyncio.sleep(world.draw.uniform(0, ACCEPTANCE_SECONDS) if world.kills else 0)
    else:
        await asyncio.sleep(world.draw.uniform(0, ACCEPTING_SECONDS))
    await world.stage.fleet.kill(world.stage.fleet.front)
    world.kills += 1
    batch_id = await submitting
    await world.load.until_under_way(batch_id, world.draw)


async def pause_consumer(world: World) -> None:
    """Past its lease, so that others have its chunks when it wakes."""
    batch_id = await world.load.submit_next()
    await world.load.until_under_way(batch_id, world.draw)
    post = world.stage.fleet.pick(world.draw)
    await world.stage.fleet.ready(post)
    await world.stage.fleet.pause(post, world.options.lease_seconds * world.draw.uniform(1.2, 2))
    world.kills += 1


async def roll_out(world: World) -> None:
    """All consumers, one after another, and the front end."""
    batch_id = await world.load.submit_next()
    await world.load.until_under_way(batch_id, world.draw)
    for post in world.stage.fleet.posts:
        await world.stage.fleet.replace(post)
        world.kills += 1


async def restart_queue(world: World) -> None:
    batch_id = await world.load.submit_next()
    await world.load.until_under_way(batch_id, world.draw)
    await asyncio.to_thread(world.stage.queue_server.restart)
    world.kills += 1


async def poison(world: World) -> None:
    """The load does it."""
    await world.load.submit_next()


def nothing(options: Options, chunk_operations: int) -> int:
    return 0


def held(options: Options, chunk_operations: int) -> int:
    """What a consumer may hold: a chunk that runs, the next one at hand, one being recorded; and its slots."""
    return 2 * options.concurrency + 3 * chunk_operations


def all_held(options: Options, chunk_operations: int) -> int:
    return options.consumers * held(options, chunk_operations)


# Those on the same terms are neighbours.
SCENARIOS = (
    Scenario("kill -9 of consumers", kill_consumer, held),
    Scenario("stopped past the lease", pause_consumer, held),
    Scenario("queue restarted", restart_queue, all_held, fault_share=0.25, only_victims_again=False),
    Scenario("poison, 1 in 1,000", poison, held, Terms(chunk_operations=20), poison_in=POISON_IN, fault_share=0.25),
    Scenario("kill -9 of the front end", kill_front_end, nothing, Terms(leases_run_out=False), hits_acceptance=True),
    Scenario("rolling restarts", roll_out, nothing, Terms(leases_run_out=False)),
)


async def run_scenario(scenario: Scenario, options: Options, stage: Stage) -> Report:
    """Raises nothing for a promise that is broken: the report says it."""
    began = time.monotonic()
    draw = random.Random(f"{options.seed} {scenario.name}")
    faults = max(1, round(options.faults * scenario.fault_share))
    name = scenario.fault.__name__
    operations = make_load(Kind(name, options.work_seconds, scenario.poison_in), faults, options.operations, draw)
    world = World(options, draw, stage, Load(stage.session, stage.api, name, operations))
    await stage.fleet.all_ready()
    stage.fleet.begin()
    stage.detective.begin()
    await _make_trouble(scenario.fault, faults, world)
    await stage.fleet.all_ready()
    evidence = await stage.detective.gather(world.load.batches, f"{name}-")
    world.kills = max(world.kills, len(stage.fleet.dead()))
    broken = [*world.load.broken, *stage.fleet.ended_by_themselves(POISON_EXIT if scenario.poison_in else None)]
    verdict = judge(evidence, _expectation(scenario, world), broken)
    return Report(scenario.name, options.operations, world.kills, time.monotonic() - began, verdict, stage.logs.folder)


async def _make_trouble(fault: Fault, faults: int, world: World) -> None:
    try:
        async with asyncio.timeout(world.options.units * UNIT_SECONDS):
            for _ in range(faults):
                await fault(world)
            await world.load.until_final()
    except TimeoutError:
        world.load.broken.append(f"not over after {world.options.units:g} s")
    except AssertionError as error:
        world.load.broken.append(str(error))


def _expectation(scenario: Scenario, world: World) -> Expectation:
    fleet, options = world.stage.fleet, world.options
    ids = [[operation["id"] for operation in batch] for batch in world.load.operations]
    # Where nobody may lose a lease, whoever does is no excuse.
    late = set() if scenario.again_per_fault is nothing else fleet.late() - fleet.paused
    return Expectation(
        batches=dict(zip(world.load.batches, ids, strict=False)),
        victims=fleet.dead() | fleet.paused | late if scenario.only_victims_again else None,
        most_again=(world.kills + len(late)) * scenario.again_per_fault(options, scenario.terms.chunk_operations),
        least_abandoned=1 if scenario.hits_acceptance else 0,
        poison=frozenset(one["id"] for batch in world.load.operations for one in batch if one["path"] == POISON_PATH),
    )
