"""The stage of scenarios: a fleet of programs with its own queues and table, and the tools that observe it."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
from aiobotocore.session import get_session

from penstock.infra.local.servers import Server
from penstock.infra.provision import provision
from penstock.settings import read_settings
from tests.chaos.app import APP, JOURNAL
from tests.chaos.evidence import Detective
from tests.chaos.fleet import Fleet, open_fleet
from tests.chaos.journal import create_journal
from tests.chaos.logs import Logs
from tests.support.api import Api, open_api
from tests.support.aws import CREDENTIALS, scrubbed_environment
from tests.support.programs import free_port, programs

LONG_LEASE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings of the programs. Scenarios with the same terms share a stage.

    If no lease may run out, leases are longer than a scenario, so a program that waits for one does not finish in time.
    """

    chunk_operations: int = 100
    leases_run_out: bool = True


DEFAULT_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Options:
    operations: int = 20_000
    faults: int = 20
    consumers: int = 3
    concurrency: int = 10
    work_seconds: float = 0.02  # average time of a handler
    lease_seconds: int = 4
    seed: int = 1
    units: float = 900  # time limit of a scenario; units as in tests.support.waiting


@dataclass(frozen=True, slots=True)
class Stage:
    fleet: Fleet
    session: aiohttp.ClientSession
    api: Api
    detective: Detective
    queue_server: Server
    logs: Logs


@asynccontextmanager
async def open_stage(
    terms: Terms, options: Options, servers: tuple[Server, Server], folder: Path
) -> AsyncIterator[Stage]:
    queue_server, table_server = servers
    name = f"chaos-{secrets.token_hex(4)}"
    journal, port = f"{name}-journal", free_port()
    environment = _environment(name, terms, options, servers)
    await asyncio.to_thread(folder.mkdir, parents=True)
    with mock.patch.dict(os.environ, environment, clear=True):
        await asyncio.to_thread(lambda: provision(read_settings()))
    logs = Logs(folder)
    async with AsyncExitStack() as stack:
        sqs = await stack.enter_async_context(_client("sqs", queue_server.url))
        dynamodb = await stack.enter_async_context(_client("dynamodb", table_server.url))
        await create_journal(dynamodb, journal)
        running = await stack.enter_async_context(programs({**environment, JOURNAL: journal}, folder))
        fleet = await stack.enter_async_context(open_fleet(running, port, options.consumers, logs))
        api = await stack.enter_async_context(open_api(port))
        connector = aiohttp.TCPConnector(force_close=True)  # the next request may go to another front end
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield Stage(fleet, session, api, Detective(name, journal, api, sqs, dynamodb, logs), queue_server, logs)


def _environment(name: str, terms: Terms, options: Options, servers: tuple[Server, Server]) -> dict[str, str]:
    queue_server, table_server = servers
    settings = {
        "NAME": name,
        "APP": APP,
        "CONCURRENCY": str(options.concurrency),
        "CHUNK_OPERATIONS": str(terms.chunk_operations),
        "MAX_OPERATIONS": "50000",
        "MAX_DEATHS": "10000",
        "RECEIVE_WAIT_SECONDS": "1",
        "LEAVE_SECONDS": "0",
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
        **_leases(terms, options),
    }
    return {
        **scrubbed_environment(),
        **CREDENTIALS,
        "AWS_ENDPOINT_URL_SQS": queue_server.url,
        "AWS_ENDPOINT_URL_DYNAMODB": table_server.url,
        **{f"PENSTOCK_{variable}": value for variable, value in settings.items()},
    }


def _leases(terms: Terms, options: Options) -> Mapping[str, str]:
    if terms.leases_run_out:
        return {"VISIBILITY_SECONDS": str(options.lease_seconds)}
    # Only the leases on messages: a front end that takes over a key waits for the lease of the dead one's claim.
    return {"VISIBILITY_SECONDS": str(LONG_LEASE_SECONDS), "ACCEPT_SECONDS": "2", "SYNC_SECONDS": "1"}


def _client(service: str, url: str) -> Any:
    return get_session().create_client(
        service,
        endpoint_url=url,
        region_name=CREDENTIALS["AWS_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
