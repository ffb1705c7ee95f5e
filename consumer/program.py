"""The queue program, from reading the settings to the last chunk. `__main__.py` has its options."""

from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from penstock.application import find_application
from penstock.aws.backend import open_backend
from penstock.aws.cloudwatch import open_publisher
from penstock.backend import Backend
from penstock.clock import SystemClock
from penstock.consumer.consumer import Consumer
from penstock.consumer.giving_back import giving_back
from penstock.consumer.health import serve_health
from penstock.consumer.journal import NO_JOURNALS, Journal, Journals
from penstock.consumer.processes import run_processes
from penstock.consumer.progress import Progress
from penstock.consumer.webhooks.post import Poster
from penstock.metrics.fleet import FleetFigures
from penstock.metrics.names import Program
from penstock.metrics.reporting import reporting
from penstock.operations import Operations
from penstock.process import loop
from penstock.process.signals import StoppedWhileStarting, listening_for_stop, open_unless_stopped
from penstock.process.watchdog import Watchdog
from penstock.running.collector import return_large_blocks, spare_what_stays
from penstock.settings import Settings, TracingSettings, read_settings
from penstock.telemetry import configure_logging
from penstock.tracing.hooks import open_spans

if TYPE_CHECKING:
    from penstock.tracing.spans import Spans


def run(
    health_host: str,
    health_port: int | None,
    progress: Progress,
    journals: Journals = NO_JOURNALS,
) -> None:
    """Run one consumer until SIGTERM or SIGINT is received. Raise PenstockError if it cannot start."""
    settings, operations = _prepare()
    with open_spans(settings, TracingSettings(), "consumer") as spans:
        loop.run(_consume(settings, operations, (health_host, health_port), progress, journals=journals, spans=spans))


def run_several(processes: int, health_host: str, health_port: int | None, *, gives_up: bool) -> int:
    """Run several consumers, each in its own process, until they are asked to stop. Return the exit code."""
    _prepare()  # an error is reported once, and not by every process
    health = ("--health-host", health_host)
    return loop.run(run_processes(processes, health, health_port, SystemClock(), gives_up=gives_up))


def _prepare() -> tuple[Settings, Operations[Any]]:
    settings = read_settings()
    configure_logging(settings, "consumer")
    return settings, find_application(settings)


async def _consume(
    settings: Settings,
    operations: Operations[Any],
    health: tuple[str, int | None],
    progress: Progress,
    *,
    journals: Journals,
    spans: "Spans | None",
) -> None:
    async with (
        open_backend(settings, spans) as backend,
        operations.connections(settings.connections_for_each_host),
        aclosing(Poster(settings.webhook_targets)) as poster,
    ):
        await backend.check()
        with suppress(StoppedWhileStarting):
            async with listening_for_stop() as stopping, open_unless_stopped(operations.running(), stopping):
                journal = Journal(journals.own)
                consumer = Consumer(
                    backend, operations, settings, SystemClock(), progress, journal=journal, post=poster.post
                )
                stopping.add_done_callback(lambda _: consumer.stop())
                await _run(consumer, backend, settings, health, journals)


async def _run(
    consumer: Consumer,
    backend: Backend,
    settings: Settings,
    health: tuple[str, int | None],
    journals: Journals,
) -> None:
    clock = SystemClock()
    fleet_figures = FleetFigures(backend.store, consumer.process, clock)
    async with (
        serve_health(consumer, *health),
        open_publisher(settings, Program.CONSUMER, clock) as publisher,
        reporting(consumer.meter, (publisher, fleet_figures), clock),
    ):
        spare_what_stays()
        return_large_blocks()
        with Watchdog(settings.stall_seconds).watching(), giving_back(journals.predecessors, backend, clock):
            await consumer.run()
