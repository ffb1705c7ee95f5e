"""The command line of the consumer: `penstock consume`."""

from typing import Annotated

import typer

from penstock.process import command_line
from penstock.process.command_line import App, ExitWithParent

HealthPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65_535,
        help="Answer /health/live, /health/ready and /metrics on this port. Process k of several uses this port + k.",
    ),
]
ProcessCount = Annotated[int, typer.Option(min=1, max=256, help="How many consumers to run, each in its own process.")]
GiveUp = Annotated[bool, typer.Option("--give-up", hidden=True, help="Stop all consumers if one of them cannot run.")]
ProgressTo = Annotated[int | None, typer.Option(hidden=True, help="A pipe of the parent, for `progress.py`.")]
JournalTo = Annotated[int | None, typer.Option(hidden=True, help="A file of the parent, for `journal.py`.")]
GiveBack = Annotated[int | None, typer.Option(hidden=True, help="The journal of a consumer that has died.")]


def main() -> None:
    command_line.run("consume", consume)


def consume(
    *,
    app: App = None,
    health_host: Annotated[str, typer.Option(help="The address of the health port.")] = "127.0.0.1",
    health_port: HealthPort = None,
    processes: ProcessCount = 1,
    give_up: GiveUp = False,
    progress_to: ProgressTo = None,
    journal_to: JournalTo = None,
    give_back: GiveBack = None,
    exit_with_parent: ExitWithParent = None,
) -> None:
    """Run one consumer, or several under one parent process, until SIGTERM or SIGINT is received."""
    command_line.apply_common_options(app, exit_with_parent)
    # --help and completion need not load these.
    from penstock.consumer.journal import Journals  # noqa: PLC0415
    from penstock.consumer.program import run, run_several  # noqa: PLC0415
    from penstock.consumer.progress import Progress  # noqa: PLC0415

    if processes > 1 or give_up:
        raise typer.Exit(run_several(processes, health_host, health_port, gives_up=give_up))
    run(health_host, health_port, Progress(progress_to), Journals(journal_to, give_back))


if __name__ == "__main__":
    main()
