"""The HTTP program, from reading the settings to the last answer. `__main__.py` has its options."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from aiohttp import web

from penstock.application import find_application
from penstock.aws.backend import open_backend
from penstock.aws.cloudwatch import open_publisher
from penstock.clock import SystemClock
from penstock.metrics.fleet import FleetFigures
from penstock.metrics.names import Program
from penstock.metrics.reporting import reporting
from penstock.operations import Operations
from penstock.process import loop
from penstock.process.listening import cannot_listen, check_not_open
from penstock.process.signals import StoppedWhileStarting, listening_for_stop, open_unless_stopped
from penstock.process.watchdog import Watchdog
from penstock.running.collector import spare_what_stays
from penstock.service.app import create_app, create_operator_app
from penstock.service.keys import BACKEND, CLOCK, LEAVING, METER, RUNNER, SETTINGS
from penstock.service.protocol import ConnectionRunner
from penstock.settings import Settings, TracingSettings, read_settings
from penstock.telemetry import Event, configure_logging, get_log
from penstock.tracing.hooks import open_spans

if TYPE_CHECKING:
    from penstock.tracing.spans import Spans

# Longer than the load balancer keeps an idle connection (infra/template.yaml). If this side closed it first, a request
# could already be on its way, and the client would get a 502.
KEEP_ALIVE_SECONDS = 150


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: on the first of the ports that no other program uses. The options choose another place."""

    host: str
    ports: range
    options: str


def run(clients: Address, operators: Address) -> None:
    """Answer requests until SIGTERM or SIGINT is received. Raise PenstockError if the program cannot start."""
    settings = read_settings()
    check_not_open(settings, clients.host, operators.host)
    configure_logging(settings, "service")
    operations = find_application(settings)
    with open_spans(settings, TracingSettings(), "service") as spans:
        loop.run(_serve(settings, operations, clients, operators, spans))


async def _serve(
    settings: Settings, operations: Operations[Any], clients: Address, operators: Address, spans: "Spans | None"
) -> None:
    async with open_backend(settings, spans) as backend, operations.connections(settings.connections_for_each_host):
        await backend.check()
        with suppress(StoppedWhileStarting):
            async with listening_for_stop() as stopping, open_unless_stopped(operations.running(), stopping):
                app = create_app(settings, operations, backend, SystemClock())
                with Watchdog(settings.stall_seconds).watching():
                    await _listen_and_answer(app, clients, operators, stopping)
        get_log().info(Event.SERVICE_STOPPED)


async def _listen_and_answer(
    app: web.Application, clients: Address, operators: Address, stopping: asyncio.Task[None]
) -> None:
    settings, clock = app[SETTINGS], app[CLOCK]
    async with (
        open_publisher(settings, Program.SERVICE, clock) as publisher,
        reporting(app[METER], (publisher, FleetFigures(app[BACKEND].store, token_hex(8), clock)), clock),
        _listening((app, clients), (create_operator_app(app, operators.host), operators)) as (url, operator_url),
    ):
        get_log().info(Event.SERVICE_READY, url=url, operator_url=operator_url, auth=settings.asks_for)
        await _answer(app, settings, stopping)


async def _answer(app: web.Application, settings: Settings, stopping: asyncio.Task[None]) -> None:
    """Answer requests until this process is asked to stop and load balancers have noticed that.

    Raises HandlersStuck, also after that, if handlers block all threads or slots for too long.
    """
    spare_what_stays()
    try:
        await _stop_or_stuck(app, settings, stopping)
    finally:
        app[LEAVING].set()
        await asyncio.sleep(settings.leave_seconds)


@asynccontextmanager
async def _listening(*listeners: tuple[web.Application, Address]) -> AsyncIterator[list[str]]:
    """Answer requests at these addresses while the context is open, and yield their URLs.

    At the end all of them stop listening, and then wait up to the grace period for the requests in progress.
    """
    runners: list[web.AppRunner] = []
    try:
        yield [await _listen(app, address, runners) for app, address in listeners]
    finally:
        await asyncio.gather(*(runner.cleanup() for runner in runners))


async def _listen(app: web.Application, address: Address, runners: list[web.AppRunner]) -> str:
    """Start to listen. Add the runner to those that must be cleaned up, and return the URL."""
    grace_seconds = app[SETTINGS].grace_seconds
    runner = ConnectionRunner(app, shutdown_timeout=grace_seconds, keepalive_timeout=KEEP_ALIVE_SECONDS)
    runners.append(runner)
    await runner.setup()
    return (await _start_site(runner, address)).name


async def _start_site(runner: web.AppRunner, address: Address) -> web.TCPSite:
    for port in address.ports:
        site = web.TCPSite(runner, address.host, port)
        try:
            await site.start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == address.ports[-1]:
                raise cannot_listen(address.host, port, error, address.options) from error
        else:
            return site
    raise AssertionError("there is always a port, and the last one returns or raises")


async def _stop_or_stuck(app: web.Application, settings: Settings, stopping: asyncio.Task[None]) -> None:
    watching = asyncio.create_task(app[RUNNER].watch(settings.stall_seconds, app[CLOCK]), name="handlers")
    try:
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            await watching
    finally:
        watching.cancel()
