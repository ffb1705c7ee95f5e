"""`penstock profile`: runs a file of operations in this process, without AWS, under a profiler.

Each operation is attempted once, as a consumer attempts it: with its time limit, in a transaction of its own, and in
one call with others if its handler is a bulk handler. With one operation at a time, the profile follows each handler
through what it awaits. With several at once, it shows what keeps the event loop busy.
"""

import asyncio
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import from_json
from ulid import ULID

from penstock.application import find_application
from penstock.chunk import Chunk, Operation
from penstock.cli.file_options import Charset, Delimiter, Expect, File, Format, Method, OperationPath
from penstock.cli.operations_file import OperationsFile, Reading, read_operations
from penstock.client.errors import InvalidFile
from penstock.distribution import install_command
from penstock.errors import Misconfigured, PenstockError
from penstock.metrics.exposition import figures_of
from penstock.metrics.meter import HandlerFigures, Meter, peak_memory_bytes
from penstock.operations import Operations
from penstock.outcome import Outcome, OutcomeState, Verdict, as_outcome
from penstock.process import command_line
from penstock.process.command_line import App
from penstock.route import InvalidOperation
from penstock.running.bulk import CallFailed, Lot
from penstock.running.left_behind import Worker
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from penstock.settings import Settings, read_settings
from penstock.telemetry import configure_logging

if TYPE_CHECKING:
    from pyinstrument import Profiler

ALL_RUN = 0
NOT_RUN = 2
INTERRUPTED = 130
LISTED = 5  # errors in the file, and failures
_MIB = 1024 * 1024


@dataclass(slots=True)
class Measurements:
    """What has been measured so far."""

    meter: Meter = field(default_factory=Meter)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    seconds: float = 0.0


def main() -> None:
    command_line.run("profile", profile)


def profile(
    file: File,
    *,
    app: App = None,
    method: Method = None,
    path: OperationPath = None,
    expect: Expect = None,
    delimiter: Delimiter = None,
    charset: Charset = None,
    file_format: Format = None,
    concurrency: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000,
            help="How many operations run at once. With 1 the profile includes what handlers wait for.",
        ),
    ] = 1,
) -> None:
    """Run a file of operations in this process, without AWS, and print where the time goes.

    The handlers really run: use a database that may be changed. Each operation is attempted once.
    """
    command_line.apply_common_options(app)
    try:
        code = _profile(file, Reading(file_format, method, path, expect, delimiter, charset), concurrency)
    except (PenstockError, InvalidFile) as error:
        typer.echo(f"penstock profile: {error}", err=True)
        code = NOT_RUN
    except KeyboardInterrupt:
        code = INTERRUPTED
    raise typer.Exit(code)


def _profile(path: Path, reading: Reading, concurrency: int) -> int:
    profiler = _new_profiler(concurrency)
    settings = read_settings().model_copy(update={"concurrency": concurrency})
    configure_logging(settings, "profile")
    application = find_application(settings)
    file = read_operations(path, reading)
    operations = _operations_of(file)
    _check(file, operations, application)
    if file.is_atomic:
        typer.echo(f"{file.name} is atomic. Here each operation has a transaction of its own.")
    measured = Measurements()
    code = _run_profiled(_run(profiler, application, settings, operations, measured), measured)
    _print_profile(profiler)
    _print_figures(measured)
    _print_failures(file, measured)
    return code


def _new_profiler(concurrency: int) -> "Profiler":
    try:
        from pyinstrument import Profiler  # noqa: PLC0415 - only this command needs it
    except ImportError as error:
        raise Misconfigured(f"Install the profiler: {install_command('profile')}.") from error
    return Profiler(async_mode="enabled" if concurrency == 1 else "disabled")


def _operations_of(file: OperationsFile) -> list[Operation]:
    contents = [from_json(operation.encoded) for operation in file.operations]
    return [
        Operation(
            index, str(content["id"]), content["method"], content["path"], content.get("body"), content.get("key")
        )
        for index, content in enumerate(contents)
    ]


def _check(file: OperationsFile, operations: Sequence[Operation], application: Operations[Any]) -> None:
    """Validate all operations before any of them runs, as a front end does."""
    errors: list[str] = []
    for operation in operations:
        try:
            application.match(operation.method, operation.path).arguments(operation.path, operation.body)
        except InvalidOperation as error:
            place = file.place(operation.index)
            errors += [f"{place}, {flaw.pointer.lstrip('/')}: {flaw.detail}" for flaw in error.flaws]
    if errors:
        more = [f"and {len(errors) - LISTED:,} more"] if len(errors) > LISTED else []
        listed = "\n".join(f"  {line}" for line in [*errors[:LISTED], *more])
        raise Misconfigured(f"Invalid operations in {file.name}. Nothing was run:\n{listed}")


def _run_profiled(running: Coroutine[Any, Any, None], measured: Measurements) -> int:
    """Return the exit code. After Ctrl-C, what has run until then is printed, too."""
    started_at = time.monotonic()
    try:
        # Not on uvloop, unlike the programs: on it the profiler does not follow what is awaited.
        asyncio.run(running)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        measured.seconds = time.monotonic() - started_at
    return ALL_RUN


async def _run(
    profiler: "Profiler",
    application: Operations[Any],
    settings: Settings,
    operations: Sequence[Operation],
    measured: Measurements,
) -> None:
    runner = Runner(application, settings.concurrency, meter=measured.meter, cpu_processes=settings.cpu_processes)
    try:
        async with application.connections(settings.connections_for_each_host), application.running():
            with profiler:
                await _run_in_chunks(runner, settings, operations, measured)
    finally:
        await runner.close()


async def _run_in_chunks(
    runner: Runner, settings: Settings, operations: Sequence[Operation], measured: Measurements
) -> None:
    """Run the operations in chunks of the usual size, so that bulk handlers do not receive more at once."""
    name = f"profile-{ULID()}"  # a new one for each run: handlers may skip what they did under the same key
    source = Source(name, name)
    for start in range(0, len(operations), settings.chunk_operations):
        chunk = Chunk(name, str(start), 1, tuple(operations[start : start + settings.chunk_operations]))
        if settings.concurrency > 1:
            measured.verdicts |= await runner.run_chunk(chunk, source, Stop(), lambda _: None)
            continue
        for lot in runner.lots(chunk.operations):
            await _run_in_this_task(runner, lot, source, measured)


async def _run_in_this_task(runner: Runner, lot: Lot, source: Source, measured: Measurements) -> None:
    """Run a lot in the current task: the profiler does not follow what other tasks await."""
    async with runner.slot(lot[0], source):
        try:
            worker = Worker.current(is_profiled=True)
            measured.verdicts |= await runner.run(lot, source, attempt=1, worker=worker)
            return
        except CallFailed:
            pass
    for operation in lot:  # one by one, as a consumer retries them
        await _run_in_this_task(runner, (operation,), source, measured)


def _print_profile(profiler: "Profiler") -> None:
    is_terminal = sys.stdout.isatty()
    can_draw = (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(profiler.output_text(unicode=can_draw, color=is_terminal))


def _print_figures(measured: Measurements) -> None:
    handlers = measured.meter.totals().handlers
    rows = [_cells(name, handler) for name, handler in sorted(handlers.items())]
    columns = [[title, *(row[title] for row in rows)] for title in rows[0]] if rows else []
    widths = [max(map(len, column)) for column in columns]
    for name, *figures in zip(*columns, strict=True):
        padded = [f"{figure:>{width}}" for figure, width in zip(figures, widths[1:], strict=True)]
        typer.echo("  ".join([f"{name:<{widths[0]}}", *padded]))
    rate = len(measured.verdicts) / max(measured.seconds, 0.001)
    typer.echo(
        f"\n{len(measured.verdicts):,} operations in {measured.seconds:,.2f} s, {rate:,.0f}/s under the profiler."
    )
    typer.echo(f"At most {peak_memory_bytes() / _MIB:,.0f} MiB of memory.")


def _cells(name: str, handler: HandlerFigures) -> Mapping[str, str]:
    """Return the cells of a row by the titles of their columns. Times are in milliseconds."""
    cells = {"handler": name}
    for figure, value in figures_of(handler).items():
        title = figure.removesuffix("_seconds")
        cells[title] = f"{value:,}" if title == figure else f"{1000 * value:,.2f} ms"
    return cells


def _print_failures(file: OperationsFile, measured: Measurements) -> None:
    outcomes = [as_outcome(verdict) for _, verdict in sorted(measured.verdicts.items())]
    failures = [outcome for outcome in outcomes if _is_failure(outcome, file.operations[outcome.index].expected)]
    if failures:
        what = "Not as expected" if file.has_expectations else "Failed"
        typer.echo(f"\n{what}: {len(failures):,}, the first:")
    for outcome in failures[:LISTED]:
        error = outcome.error or {}
        words = ": ".join(str(error[part]) for part in ("title", "detail") if part in error) or "succeeded"
        typer.echo(f"  {file.place(outcome.index)}  {outcome.status}  {words}")


def _is_failure(outcome: Outcome, expected: frozenset[int] | None) -> bool:
    if expected is None:
        return outcome.state is not OutcomeState.SUCCEEDED
    return outcome.status not in expected


if __name__ == "__main__":
    main()
