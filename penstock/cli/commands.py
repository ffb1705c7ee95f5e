"""The command line. It starts programs and imports none: each command becomes its program, by exec."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from penstock.cli.operations_file import FileFormat
from penstock.cli.submit import submit

app = typer.Typer(
    name="penstock",
    help="A bulk API for any set of Python functions: one request, many operations, exact counts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

App = Annotated[str | None, typer.Option(help="The application, as MODULE:ATTRIBUTE (or PENSTOCK_APP).")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65_535, help="The port to listen on.")]


@app.command()
def up(
    app: App = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    consumers: Annotated[int, typer.Option(min=1, max=64, help="Consumer processes.")] = 2,
) -> None:
    """Run everything on this machine: an embedded AWS, a front end, consumers."""
    _become("penstock.infra.up", app, "--host", host, "--port", str(port), "--consumers", str(consumers))


@app.command()
def provision() -> None:
    """Make the queues and the table on other servers than AWS, such as ElasticMQ and DynamoDB Local.

    They are made as infra/template.yaml describes them; what stands is changed where it differs, and nothing is
    deleted. Every other type of the template is left out: services, roles, scaling, alarms, dashboard, queue policies.
    On AWS the template is deployed with CloudFormation instead, and this says how.
    """
    _become("penstock.infra.provision", None)


@app.command()
def serve(app: App = None, host: Host = "127.0.0.1", port: Port = 8080) -> None:
    """Run the front end."""
    _become("penstock.service", app, "--host", host, "--port", str(port))


@app.command()
def consume(
    app: App = None,
    health_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_535,
            help="Answer /health/live, /health/ready and /metrics here; process k of several on this port + k.",
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Consumers, a process each, under one parent.")] = 1,
) -> None:
    """Run a consumer, or several."""
    health = ("--health-port", str(health_port)) if health_port else ()
    _become("penstock.consumer", app, "--processes", str(processes), *health)


app.command()(submit)


@app.command()
def profile(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSON or NDJSON, as `penstock submit` takes it.")],
    *,
    app: App = None,
    method: Annotated[str | None, typer.Option(help="CSV: the method of every row.")] = None,
    path: Annotated[
        str | None, typer.Option(help="CSV: the path of every row; {column} is filled from the row.")
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="The column, or member, with the status an operation is meant to end with."
        ),
    ] = None,
    file_format: Annotated[
        FileFormat | None, typer.Option("--format", help="What the file holds, if its name does not tell.")
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            min=1, max=10_000, help="Operations at once. With 1 the profile shows what handlers wait for, too."
        ),
    ] = 1,
) -> None:
    """Run a file's operations in this process, without AWS, and print where the time goes.

    What handlers do really happens: use a database that may be changed. Each operation is attempted once.
    """
    options = {
        "--method": method,
        "--path": path,
        "--expect": expect,
        "--format": file_format,
        "--concurrency": str(concurrency),
    }
    given = [part for name, value in options.items() if value is not None for part in (name, value)]
    _become("penstock.cli.profiling", app, *given, "--", str(file))


def _become(module: str, application: str | None, *arguments: str) -> NoReturn:
    if application is not None:
        os.environ["PENSTOCK_APP"] = application
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - our own program, no shell


def main() -> None:
    app()


if __name__ == "__main__":
    main()
