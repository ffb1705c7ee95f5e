"""What is done to the programs, and what must come of it. One scenario: a load, and a fault in each of its batches."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiobotocore.session import get_session

from infra.local.servers import Server
from tests.chaos.app import APP, JOURNAL
from tests.chaos.evidence import Detective
from tests.chaos.fleet import Fleet, open_fleet
from tests.chaos.journal import create_journal
from tests.chaos.load import Load, make_load
from tests.chaos.verdict import Expectation, Verdict, judge
from tests.support.api import Operation, open_api
from tests.support.aws import CREDENTIALS, scrubbed_environment
from tests.support.programs import Programs, free_port, programs
from tests.support.waiting import UNIT_SECONDS

POISON_IN = 1_000
ACCEPTING_SECONDS = 0.5  # about what a batch takes to be accepted: a kill within it finds every stage of that
LONG_LEASE_SECONDS = 600  # where no lease may run out: whoever has to wait for that does not end in time


@dataclass(frozen=True, slots=True)
class Options:
    operations: int = 20_000
    faults: int = 20
    consumers: int = 3
    concurrency: int = 10
    work_seconds: float = 0.02  # that a handler lingers, on average
    lease_seconds: int = 4
    seed: int = 1
    units: float = 900  # that a scenario may take; units as in tests.support.waiting


@dataclass
class World:
    """All that a scenario works on. `kills` counts whatever was done to a program or server."""

    options: Options
    draw: random.Random
    fleet: Fleet
    load: Load
    queue_server: Server
    kills: int = 0


Fault = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`again_per_fault` is how many operations may run again for each fault, from what a consumer may hold."""

    name: str
    fault: Fault
    again_per_fault: Callable[[Options, int], int]
    settings: Mapping[str, str] = field(default_factory=dict)
    chunk_operations: int = 100
    poison_in: int = 0
    fault_share: float = 1.0  # of the faults that are asked for
    only_victims_again: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """A scenario with what was drawn for it."""

    scenario: Scenario
    options: Options
    operations: Sequence[Sequence[Operation]]
    draw: random.Random


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
    post = world.fleet.pick(world.draw)
    await world.fleet.ready(post)  # one that only starts holds nothing, and killing it proves nothing
    await world.fleet.kill(post)
    world.kills += 1


async def kill_front_end(world: World) -> None:
    """At a random time of a request, whose client repeats it until another front end has answered."""
    await world.fleet.ready(world.fleet.front)
    submitting = asyncio.create_task(world.load.submit_next())
    await asyncio.sleep(world.draw.uniform(0, ACCEPTING_SECONDS))
    await world.fleet.kill(world.fleet.front)
    world.kills += 1
    batch_id = await submitting
    await world.load.until_under_way(batch_id, world.draw)


async def pause_consumer(world: World) -> None:
    """Past its lease, so that others have its chunks when it wakes."""
    batch_id = await world.load.submit_next()
    await world.load.until_under_way(batch_id, world.draw)
    post = world.fleet.pick(world.draw)
    await world.fleet.ready(post)
    await world.fleet.pause(post, world.options.lease_seconds * world.draw.uniform(1.2, 2))
    world.kills += 1


async def roll_out(world: World) -> None:
    """All consumers, one after another, and the front end."""
    batch_id = await world.load.submit_next()
    await world.load.until_under_way(batch_id, world.draw)
    for post in world.fleet.posts:
        await world.fleet.replace(post)
        world.kills += 1


async def restart_queue(world: World) -> None:
    batch_id = await world.load.submit_next()
    await world.load.until_under_way(batch_id, world.draw)
    await asyncio.to_thread(world.queue_server.restart)
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


SCENARIOS = (
    Scenario("kill -9 of consumers", kill_consumer, held),
    Scenario(
        "kill -9 of the front end",
        kill_front_end,
        nothing,
        {"ACCEPT_SECONDS": "2", "SYNC_SECONDS": "1", "VISIBILITY_SECONDS": str(LONG_LEASE_SECONDS)},
    ),
    Scenario("stopped past the lease", pause_consumer, held),
    Scenario("rolling restarts", roll_out, nothing, {"VISIBILITY_SECONDS": str(LONG_LEASE_SECONDS)}),
    Scenario("queue restarted", restart_queue, all_held, fault_share=0.25, only_victims_again=False),
    Scenario(
        "poison, 1 in 1,000",
        poison,
        held,
        {"MAX_DEATHS": "100000"},
        chunk_operations=20,
        poison_in=POISON_IN,
        fault_share=0.25,
    ),
)


async def run_scenario(scenario: Scenario, options: Options, servers: tuple[Server, Server], logs: Path) -> Report:
    """Raises nothing for a promise that is broken: the report says it."""
    await asyncio.to_thread(logs.mkdir, parents=True)
    began = time.monotonic()
    draw = random.Random(f"{options.seed} {scenario.name}")
    faults = max(1, round(options.faults * scenario.fault_share))
    operations = make_load(faults, options.operations, options.work_seconds, draw, scenario.poison_in)
    plan = Plan(scenario, options, operations, draw)
    async with _open_world(plan, servers, logs) as (world, detective):
        await _make_trouble(scenario.fault, faults, world)
        await world.fleet.ready(world.fleet.front)
        evidence = await detective.gather(world.load.batches)
        world.kills = max(world.kills, len(world.fleet.dead()))
        verdict = judge(evidence, _expectation(scenario, world), world.load.broken)
    return Report(scenario.name, options.operations, world.kills, time.monotonic() - began, verdict, logs)


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
    fleet, options = world.fleet, world.options
    ids = [[operation["id"] for operation in batch] for batch in world.load.operations]
    # Where nobody may lose a lease, whoever does is no excuse.
    late = set() if scenario.again_per_fault is nothing else fleet.late() - fleet.paused
    return Expectation(
        batches=dict(zip(world.load.batches, ids, strict=False)),
        victims=fleet.dead() | fleet.paused | late if scenario.only_victims_again else None,
        most_again=(world.kills + len(late)) * scenario.again_per_fault(options, scenario.chunk_operations),
        poison=frozenset(id_ for batch in ids for id_ in batch if id_.startswith("poison")),
    )


@asynccontextmanager
async def _open_world(plan: Plan, servers: tuple[Server, Server], logs: Path) -> AsyncIterator[tuple[World, Detective]]:
    queue_server, table_server = servers
    name = f"chaos-{secrets.token_hex(4)}"
    journal, port = f"{name}-journal", free_port()
    environment = _environment(plan, name, servers)
    async with AsyncExitStack() as stack:
        sqs = await stack.enter_async_context(_client("sqs", queue_server.url))
        dynamodb = await stack.enter_async_context(_client("dynamodb", table_server.url))
        await create_journal(dynamodb, journal)
        running = await stack.enter_async_context(programs({**environment, JOURNAL: journal}, logs))
        await _provision(running)
        fleet = await stack.enter_async_context(open_fleet(running, port, plan.options.consumers))
        api = await stack.enter_async_context(open_api(port))
        connector = aiohttp.TCPConnector(force_close=True)  # the next answer may be another front end's
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        load = Load(session, api, plan.operations)
        yield (
            World(plan.options, plan.draw, fleet, load, queue_server),
            Detective(name, journal, api, sqs, dynamodb, logs),
        )


def _environment(plan: Plan, name: str, servers: tuple[Server, Server]) -> dict[str, str]:
    queue_server, table_server = servers
    settings = {
        "NAME": name,
        "APP": APP,
        "CONCURRENCY": str(plan.options.concurrency),
        "CHUNK_OPERATIONS": str(plan.scenario.chunk_operations),
        "MAX_OPERATIONS": "50000",
        "VISIBILITY_SECONDS": str(plan.options.lease_seconds),
        "RECEIVE_WAIT_SECONDS": "1",
        "LEAVE_SECONDS": "0",
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
        **plan.scenario.settings,
    }
    return {
        **scrubbed_environment(),
        **CREDENTIALS,
        "AWS_ENDPOINT_URL_SQS": queue_server.url,
        "AWS_ENDPOINT_URL_DYNAMODB": table_server.url,
        **{f"PENSTOCK_{variable}": value for variable, value in settings.items()},
    }


async def _provision(running: Programs) -> None:
    program = await running.start("infra.provision")
    assert await program.ended(60) == 0, program.output()


def _client(service: str, url: str) -> Any:
    return get_session().create_client(
        service,
        endpoint_url=url,
        region_name=CREDENTIALS["AWS_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
