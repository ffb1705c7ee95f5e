"""The faults, and the results that each must have. A scenario is a load with a fault in each of its batches."""

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
ACCEPTING_SECONDS = 0.5  # about the time of a request, so that kills hit every stage of it
ACCEPTANCE_SECONDS = 0.05  # about the time of an acceptance after its batch is in the table


@dataclass
class World:
    """Everything that a scenario works on. `kills` counts the faults of programs and servers."""

    options: Options
    draw: random.Random
    stage: Stage
    load: Load
    kills: int = 0


Fault = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load and its faults. `again_per_fault` returns how many operations may run again for each fault.

    With `hits_acceptance`, at least one fault must kill a front end while it accepts a batch; otherwise the scenario
    proves nothing.
    """

    name: str
    fault: Fault
    again_per_fault: Callable[[Options, int], int]
    terms: Terms = DEFAULT_TERMS
    poison_in: int = 0
    fault_share: float = 1.0  # of the requested faults
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


# The faults, in the middle of a batch.


async def kill_consumer(world: World) -> None:
    batch_id = await world.load.submit_next()
    await world.load.until_under_way(batch_id, world.draw)
    post = world.stage.fleet.pick(world.draw)
    await world.stage.fleet.ready(post)  # a consumer that is starting holds nothing, so killing it proves nothing
    await world.stage.fleet.kill(post)
    world.kills += 1


async def kill_front_end(world: World) -> None:
    """Kill it while it accepts a batch, or at a random time of a request. The client repeats the request."""
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
    """Pause a consumer for longer than its leases, so that others have its chunks when it continues."""
    batch_id = await world.load.submit_next()
    await world.load.until_under_way(batch_id, world.draw)
    post = world.stage.fleet.pick(world.draw)
    await world.stage.fleet.ready(post)
    await world.stage.fleet.pause(post, world.options.lease_seconds * world.draw.uniform(1.2, 2))
    world.kills += 1


async def roll_out(world: World) -> None:
    """Replace the front end and all consumers, one after another."""
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
    """Submit a batch. Its poison is the fault."""
    await world.load.submit_next()


def nothing(options: Options, chunk_operations: int) -> int:
    return 0


def held(options: Options, chunk_operations: int) -> int:
    """Return how many operations a consumer may hold: a running chunk, the next one, one being recorded, its slots."""
    return 2 * options.concurrency + 3 * chunk_operations


def all_held(options: Options, chunk_operations: int) -> int:
    return options.consumers * held(options, chunk_operations)


# Scenarios with the same terms are neighbours, so that they share a stage.
SCENARIOS = (
    Scenario("kill -9 of consumers", kill_consumer, held),
    Scenario("stopped past the lease", pause_consumer, held),
    Scenario("queue restarted", restart_queue, all_held, fault_share=0.25, only_victims_again=False),
    Scenario("poison, 1 in 1,000", poison, held, Terms(chunk_operations=20), poison_in=POISON_IN, fault_share=0.25),
    Scenario("kill -9 of the front end", kill_front_end, nothing, Terms(leases_run_out=False), hits_acceptance=True),
    Scenario("rolling restarts", roll_out, nothing, Terms(leases_run_out=False)),
)


async def run_scenario(scenario: Scenario, options: Options, stage: Stage) -> Report:
    """Run a scenario. A broken promise raises nothing; it is in the report."""
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
        world.load.broken.append(f"not finished after {world.options.units:g} s")
    except AssertionError as error:
        world.load.broken.append(str(error))


def _expectation(scenario: Scenario, world: World) -> Expectation:
    fleet, options = world.stage.fleet, world.options
    ids = [[operation["id"] for operation in batch] for batch in world.load.operations]
    # If no consumer may lose a lease, a lost one excuses nothing.
    late = set() if scenario.again_per_fault is nothing else fleet.late() - fleet.paused
    return Expectation(
        batches=dict(zip(world.load.batches, ids, strict=False)),
        victims=fleet.dead() | fleet.paused | late if scenario.only_victims_again else None,
        most_again=(world.kills + len(late)) * scenario.again_per_fault(options, scenario.terms.chunk_operations),
        least_abandoned=1 if scenario.hits_acceptance else 0,
        poison=frozenset(one["id"] for batch in world.load.operations for one in batch if one["path"] == POISON_PATH),
    )
