"""`penstock profile`: a file's operations in this process, without AWS, under a profiler: where does the time go?

Each is attempted once, as a consumer attempts it: with its time limit, in a transaction of its own, and what bulk
handlers take together in one call. One at a time the profile follows each handler through what it awaits; several at
once, it shows what keeps the event loop busy.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json
from ulid import ULID

from penstock.application import find_application
from penstock.chunk import Chunk, Operation
from penstock.cli.operations_file import FileFormat, FileRefused, OperationsFile, Reading, read_operations
from penstock.errors import Misconfigured, PenstockError
from penstock.metrics.exposition import figures_of
from penstock.metrics.meter import HandlerFigures, Meter, peak_memory_bytes
from penstock.operations import Operations
from penstock.outcome import Outcome, OutcomeState, Verdict, as_outcome
from penstock.route import InvalidOperation
from penstock.running.bulk import CallFailed, Lot
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
TOLD = 5  # flaws, and failures
_MIB = 1024 * 1024


@dataclass(slots=True)
class Run:
    """What has been run so far."""

    meter: Meter = field(default_factory=Meter)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="penstock profile")
    parser.add_argument("file", type=Path)
    parser.add_argument("--method")
    parser.add_argument("--path")
    parser.add_argument("--format", type=FileFormat, choices=list(FileFormat))
    parser.add_argument("--expect")
    parser.add_argument("--concurrency", type=int, default=1)
    try:
        code = _profile(parser.parse_args())
    except (PenstockError, FileRefused) as error:
        sys.exit(_complain(str(error)))
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _profile(arguments: argparse.Namespace) -> int:
    profiler = _new_profiler(arguments.concurrency)
    settings = read_settings().model_copy(update={"concurrency": arguments.concurrency})
    configure_logging(settings, "profile")
    application = find_application(settings)
    reading = Reading(arguments.format, arguments.method, arguments.path, arguments.expect)
    file = read_operations(arguments.file, reading)
    operations = _operations_of(file)
    _check(file, operations, application)
    if file.is_atomic:
        _say(f"{file.name} is atomic; here each operation has a transaction of its own.")
    run = Run()
    code = _run_profiled(_run(profiler, application, settings, operations, run), run)
    _print_profile(profiler)
    _print_figures(run)
    _print_failures(file, run)
    return code


def _new_profiler(concurrency: int) -> "Profiler":
    try:
        from pyinstrument import Profiler  # noqa: PLC0415 - nothing else of Penstock needs it
    except ImportError as error:
        raise Misconfigured("Install the profiler: pip install 'penstock[profile]'.") from error
    return Profiler(async_mode="enabled" if concurrency == 1 else "disabled")


def _operations_of(file: OperationsFile) -> list[Operation]:
    contents = [from_json(operation.encoded) for operation in file.operations]
    return [
        Operation(index, str(content["id"]), content["method"], content["path"], content.get("body"))
        for index, content in enumerate(contents)
    ]


def _check(file: OperationsFile, operations: Sequence[Operation], application: Operations[Any]) -> None:
    """All of them, before any runs, as a front end does."""
    flaws: list[str] = []
    for operation in operations:
        try:
            application.match(operation.method, operation.path).arguments(operation.path, operation.body)
        except InvalidOperation as error:
            place = file.places([range(operation.index, operation.index + 1)])
            flaws += [f"{place}, {flaw.pointer.lstrip('/')}: {flaw.detail}" for flaw in error.flaws]
    if flaws:
        more = [f"and {len(flaws) - TOLD:,} more"] if len(flaws) > TOLD else []
        listed = "\n".join(f"  {line}" for line in [*flaws[:TOLD], *more])
        raise Misconfigured(f"Mend {file.name}; nothing was run:\n{listed}")


def _run_profiled(running: Coroutine[Any, Any, None], run: Run) -> int:
    """The exit code. Whatever has run when Ctrl-C comes is told, too."""
    begun_at = time.monotonic()
    try:
        # Not on uvloop, as the programs are: there the profiler loses what is awaited.
        asyncio.run(running)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        run.seconds = time.monotonic() - begun_at
    return ALL_RUN


async def _run(
    profiler: "Profiler", application: Operations[Any], settings: Settings, operations: Sequence[Operation], run: Run
) -> None:
    runner = Runner(application, settings.concurrency, meter=run.meter, cpu_processes=settings.cpu_processes)
    try:
        async with application.connections(settings.connections_for_each_host):
            with profiler:
                await _run_in_chunks(runner, settings, operations, run)
    finally:
        await runner.close()


async def _run_in_chunks(runner: Runner, settings: Settings, operations: Sequence[Operation], run: Run) -> None:
    """As large as a batch's may be: bulk handlers are given no more at once."""
    name = f"profile-{ULID()}"  # handlers that do nothing twice under one key are to do it again
    source = Source(name, name)
    for start in range(0, len(operations), settings.chunk_operations):
        chunk = Chunk(name, str(start), 1, tuple(operations[start : start + settings.chunk_operations]))
        if settings.concurrency > 1:
            run.verdicts |= await runner.run_chunk(chunk, source, Stop(), lambda: None)
            continue
        for lot in runner.lots(chunk.operations):
            await _run_in_this_task(runner, lot, source, run)


async def _run_in_this_task(runner: Runner, lot: Lot, source: Source, run: Run) -> None:
    """The profiler follows what is awaited in no other one."""
    async with runner.slot(lot[0], source):
        try:
            run.verdicts |= await runner.run(lot, source, attempt=1)
            return
        except CallFailed:
            pass
    for operation in lot:  # singly, as a consumer tries them
        await _run_in_this_task(runner, (operation,), source, run)


def _print_profile(profiler: "Profiler") -> None:
    is_terminal = sys.stdout.isatty()
    can_draw = (sys.stdout.encoding or "").lower().startswith("utf")
    _say(profiler.output_text(unicode=can_draw, color=is_terminal))


def _print_figures(run: Run) -> None:
    handlers = run.meter.totals().handlers
    rows = [_cells(name, handler) for name, handler in sorted(handlers.items())]
    columns = [[title, *(row[title] for row in rows)] for title in rows[0]] if rows else []
    widths = [max(map(len, column)) for column in columns]
    for name, *figures in zip(*columns, strict=True):
        padded = [f"{figure:>{width}}" for figure, width in zip(figures, widths[1:], strict=True)]
        _say("  ".join([f"{name:<{widths[0]}}", *padded]))
    pace = len(run.verdicts) / max(run.seconds, 0.001)
    _say(f"\n{len(run.verdicts):,} operations in {run.seconds:,.2f} s, {pace:,.0f}/s under the profiler;")
    _say(f"at most {peak_memory_bytes() / _MIB:,.0f} MiB of memory.")


def _cells(name: str, handler: HandlerFigures) -> Mapping[str, str]:
    """By the titles of their columns; times in milliseconds."""
    cells = {"handler": name}
    for figure, value in figures_of(handler).items():
        title = figure.removesuffix("_seconds")
        cells[title] = f"{value:,}" if title == figure else f"{1000 * value:,.2f} ms"
    return cells


def _print_failures(file: OperationsFile, run: Run) -> None:
    outcomes = [as_outcome(verdict) for _, verdict in sorted(run.verdicts.items())]
    failures = [outcome for outcome in outcomes if _is_failure(outcome, file.operations[outcome.index].expected)]
    if failures:
        what = "Not as expected" if file.has_expectations else "Failed"
        _say(f"\n{what}: {len(failures):,}, the first:")
    for outcome in failures[:TOLD]:
        error = outcome.error or {}
        words = ": ".join(str(error[part]) for part in ("title", "detail") if part in error) or "succeeded"
        _say(f"  {file.places([range(outcome.index, outcome.index + 1)])}  {outcome.status}  {words}")


def _is_failure(outcome: Outcome, expected: frozenset[int] | None) -> bool:
    if expected is None:
        return outcome.state is not OutcomeState.SUCCEEDED
    return outcome.status not in expected


def _say(text: str) -> None:
    print(text)  # noqa: T201 - for the person who asked, or a file of theirs; log lines go to stderr


def _complain(text: str) -> int:
    print(f"penstock profile: {text}", file=sys.stderr)  # noqa: T201
    return NOT_RUN


if __name__ == "__main__":
    main()
