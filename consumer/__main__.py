"""The queue program. Start it with `penstock consume` or `python -m penstock.consumer`."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock import command_line, loop
from penstock.application import find_application
from penstock.aws.backend import open_backend
from penstock.aws.cloudwatch import open_publisher
from penstock.clock import SystemClock
from penstock.command_line import App, ExitWithParent
from penstock.consumer.consumer import Consumer
from penstock.consumer.health import serve_health
from penstock.consumer.processes import run_processes
from penstock.consumer.progress import Progress
from penstock.consumer.watchdog import Watchdog
from penstock.metrics.names import Program
from penstock.metrics.reporting import reporting
from penstock.operations import Operations
from penstock.running.collector import spare_what_stays
from penstock.settings import Settings, TracingSettings, read_settings
from penstock.signals import stop_signals
from penstock.telemetry import configure_logging
from penstock.tracing.hooks import open_spans

if TYPE_CHECKING:
    from penstock.tracing.spans import Spans


HealthPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65_535,
        help="Answer /health/live, /health/ready and /metrics on this port. Process k of several uses this port + k.",
    ),
]
Processes = Annotated[int, typer.Option(min=1, max=256, help="How many consumers to run, each in its own process.")]
GiveUp = Annotated[bool, typer.Option("--give-up", hidden=True, help="Stop all consumers if one of them cannot run.")]
ProgressTo = Annotated[int | None, typer.Option(hidden=True, help="A pipe of the parent, for `progress.py`.")]


def main() -> None:
    command_line.run("consume", consume)


def consume(
    *,
    app: App = None,
    health_host: Annotated[str, typer.Option(help="The address of the health port.")] = "127.0.0.1",
    health_port: HealthPort = None,
    processes: Processes = 1,
    give_up: GiveUp = False,
    progress_to: ProgressTo = None,
    exit_with_parent: ExitWithParent = None,
) -> None:
    """Run one consumer, or several under one parent process, until SIGTERM or SIGINT is received."""
    command_line.apply_common_options(app, exit_with_parent)
    settings = read_settings()
    configure_logging(settings, "consumer")
    operations = find_application(settings)
    if processes > 1 or give_up:
        health = ("--health-host", health_host)
        sys.exit(loop.run(run_processes(processes, health, health_port, SystemClock(), gives_up=give_up)))
    with open_spans(settings, TracingSettings(), "consumer") as spans:
        loop.run(_consume(settings, operations, (health_host, health_port), Progress(progress_to), spans))


async def _consume(
    settings: Settings,
    operations: Operations[Any],
    health: tuple[str, int | None],
    progress: Progress,
    spans: "Spans | None",
) -> None:
    clock = SystemClock()
    async with open_backend(settings, spans) as backend, operations.connections(settings.connections_for_each_host):
        await backend.check()
        consumer = Consumer(backend, operations, settings, clock, progress)
        stopping = asyncio.create_task(stop_signals(), name="signals")
        stopping.add_done_callback(lambda _: consumer.stop())
        await asyncio.sleep(0)  # handle signals before this consumer reports that it is ready
        try:
            async with (
                serve_health(consumer, *health),
                open_publisher(settings, Program.CONSUMER, clock) as publisher,
                reporting(consumer.meter, publisher, clock),
            ):
                spare_what_stays()
                with Watchdog(settings.stall_seconds).watching():
                    await consumer.run()
        finally:
            stopping.cancel()


if __name__ == "__main__":
    main()
