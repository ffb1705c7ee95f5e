"""The queue program. Start it with `penstock consume` or `python -m penstock.consumer`."""

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any

import uvloop

from penstock.application import find_application
from penstock.aws.backend import open_backend
from penstock.aws.cloudwatch import open_publisher
from penstock.clock import SystemClock
from penstock.consumer.consumer import Consumer
from penstock.consumer.health import serve_health
from penstock.consumer.processes import run_processes
from penstock.consumer.progress import Progress
from penstock.consumer.watchdog import Watchdog
from penstock.errors import PenstockError
from penstock.metrics.names import Program
from penstock.metrics.reporting import reporting
from penstock.operations import Operations
from penstock.running.collector import spare_what_stays
from penstock.settings import Settings, TracingSettings, read_settings
from penstock.signals import end_with_parent, stop_signals
from penstock.telemetry import configure_logging
from penstock.tracing.hooks import open_spans

if TYPE_CHECKING:
    from penstock.tracing.spans import Spans


def main() -> None:
    parser = argparse.ArgumentParser(prog="penstock consume")
    parser.add_argument("--health-host", default="127.0.0.1")
    parser.add_argument("--health-port", type=int)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--give-up",
        action="store_true",
        help="stop all of them if one cannot run",
    )
    parser.add_argument("--progress-to", type=int, metavar="FD", help="a pipe of the parent, for `progress.py`")
    parser.add_argument(
        "--exit-with-parent", type=int, metavar="PID", help="exit when the parent process is no longer PID"
    )
    arguments = parser.parse_args()
    if arguments.exit_with_parent is not None:
        end_with_parent(arguments.exit_with_parent)
    try:
        settings = read_settings()
        configure_logging(settings, "consumer")
        operations = find_application(settings)
        if arguments.processes > 1 or arguments.give_up:
            sys.exit(uvloop.run(_watch_over(arguments)))
        with open_spans(settings, TracingSettings(), "consumer") as spans:
            uvloop.run(_consume(settings, operations, arguments, spans))
    except PenstockError as error:
        sys.exit(f"penstock consume: {error}")


async def _watch_over(arguments: argparse.Namespace) -> int:
    host = ("--health-host", arguments.health_host)
    return await run_processes(
        arguments.processes, host, arguments.health_port, SystemClock(), gives_up=arguments.give_up
    )


async def _consume(
    settings: Settings, operations: Operations[Any], arguments: argparse.Namespace, spans: "Spans | None"
) -> None:
    clock = SystemClock()
    async with open_backend(settings, spans) as backend, operations.connections(settings.connections_for_each_host):
        await backend.check()
        consumer = Consumer(backend, operations, settings, clock, Progress(arguments.progress_to))
        stopping = asyncio.create_task(stop_signals(), name="signals")
        stopping.add_done_callback(lambda _: consumer.stop())
        await asyncio.sleep(0)  # handle signals before this consumer reports that it is ready
        try:
            async with (
                serve_health(consumer, arguments.health_host, arguments.health_port),
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
