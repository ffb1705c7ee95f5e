"""The HTTP program, from reading the settings to the last answer. `__main__.py` has its options."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from penstock.application import find_application
from penstock.aws.backend import open_backend
from penstock.aws.cloudwatch import open_publisher
from penstock.clock import SystemClock
from penstock.errors import Misconfigured
from penstock.metrics.names import Program
from penstock.metrics.reporting import reporting
from penstock.operations import Operations
from penstock.process import loop
from penstock.process.signals import stop_signals
from penstock.running.collector import spare_what_stays
from penstock.service.app import create_app, create_operator_app
from penstock.service.keys import CLOCK, LEAVING, METER, RUNNER, SETTINGS
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
    """Where to listen, and the options that choose another place."""

    host: str
    port: int
    options: str


def run(clients: Address, operators: Address) -> None:
    """Answer requests until SIGTERM or SIGINT is received. Raise PenstockError if the program cannot start."""
    settings = read_settings()
    configure_logging(settings, "service")
    operations = find_application(settings)
    with open_spans(settings, TracingSettings(), "service") as spans:
        loop.run(_serve(settings, operations, clients, operators, spans))


async def _serve(
    settings: Settings, operations: Operations[Any], clients: Address, operators: Address, spans: "Spans | None"
) -> None:
    clock = SystemClock()
    async with open_backend(settings, spans) as backend, operations.connections(settings.connections_for_each_host):
        await backend.check()
        app = create_app(settings, operations, backend, clock)
        async with (
            open_publisher(settings, Program.SERVICE, clock) as publisher,
            reporting(app[METER], publisher, clock),
            _listening(create_operator_app(app, operators.host), operators) as operator_url,
            _listening(app, clients) as url,
        ):
            get_log().info(Event.SERVICE_READY, url=url, operator_url=operator_url)
            await _answer(app, settings)
        get_log().info(Event.SERVICE_STOPPED)


async def _answer(app: web.Application, settings: Settings) -> None:
    """Answer requests until this process is asked to stop and load balancers have noticed that.

    Raises HandlersStuck, also after that, if handlers block all threads or slots for too long.
    """
    spare_what_stays()
    try:
        await _stop_or_stuck(app, settings)
    finally:
        app[LEAVING].set()
        await asyncio.sleep(settings.leave_seconds)


@asynccontextmanager
async def _listening(app: web.Application, address: Address) -> AsyncIterator[str]:
    """Answer requests at this address while the context is open, and yield its URL.

    At the end it stops listening, and then waits up to the grace period for the requests in progress.
    """
    grace_seconds = app[SETTINGS].grace_seconds
    runner = ConnectionRunner(app, shutdown_timeout=grace_seconds, keepalive_timeout=KEEP_ALIVE_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address.host, address.port)
        await _listen(site, address)
        yield site.name
    finally:
        await runner.cleanup()


async def _stop_or_stuck(app: web.Application, settings: Settings) -> None:
    watching = asyncio.create_task(app[RUNNER].watch(settings.stall_seconds, app[CLOCK]), name="handlers")
    stopping = asyncio.create_task(stop_signals(), name="signals")
    try:
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            await watching
    finally:
        watching.cancel()
        stopping.cancel()


async def _listen(site: web.TCPSite, address: Address) -> None:
    try:
        await site.start()
    except OSError as error:
        raise Misconfigured(
            f"Cannot listen on {address.host}:{address.port} ({error.strerror}). Choose another {address.options}."
        ) from error
