"""`penstock submit`: a file through the bulk API, its progress on the screen, the result as exit code."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from yarl import URL

from penstock import command_line
from penstock.cli.client import (
    Answer,
    Client,
    Counts,
    NothingAnswers,
    Outcome,
    Pace,
    Problem,
    ProblemError,
    Refused,
    Submission,
    TooLarge,
    TurnedAway,
    Uncertain,
)
from penstock.cli.file_options import Expect, File, Format, Method, OperationPath
from penstock.cli.operations_file import (
    FileOperation,
    FileRefused,
    OperationsFile,
    Reading,
    read_operations,
)
from penstock.priority import Priority

ALL_WELL, SOME_FAILED, NOT_SUBMITTED, INTERRUPTED = 0, 1, 2, 130

_LISTED = 10  # failures, and errors of a refused batch
_LINE_SECONDS = 5.0  # plain progress: a line for each tenth done, or after this time
_MESSAGE_LENGTH = 400
_NOT_PENSTOCK = {301, 302, 303, 307, 308, 404, 405}


def main() -> None:
    command_line.run("submit", submit)


def submit(  # noqa: PLR0917 - the command line names them
    file: File,
    url: Annotated[str, typer.Option(envvar="PENSTOCK_URL", help="The URL of Penstock.")] = "http://127.0.0.1:8080",
    method: Method = None,
    path: OperationPath = None,
    expect: Expect = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every outcome to this file, as NDJSON in file order.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="The most operations in one batch.")] = 1000,
    file_format: Format = None,
    priority: Annotated[Priority | None, typer.Option(help="The priority of the batches. [default: normal]")] = None,
    not_before: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Run no operation before this time, such as 2026-12-24T18:00:00+01:00."),
    ] = None,
) -> None:
    """Submit a file of operations, wait until they have finished, and print a summary.

    Exit code: 0 if all operations succeeded (with --expect: finished as expected), 1 if some did not, 2 if some could
    not be submitted.
    """
    server = _server(url)
    try:
        operations = read_operations(file, Reading(file_format, method, path, expect))
        operations = operations.asking({"priority": priority, "notBefore": not_before})
    except FileRefused as refused:
        _complain(str(refused))
        raise typer.Exit(NOT_SUBMITTED) from refused
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    _check_output(output, file)
    raise typer.Exit(_carry_through(operations, server, batch_size, output))


def _server(url: str) -> URL:
    with suppress(ValueError):
        server = URL(url)
        if server.scheme in {"http", "https"} and server.host:
            return server
    raise typer.BadParameter(f"{url!r} should look like http://127.0.0.1:8080.", param_hint="--url")


def _check_output(output: Path | None, file: Path) -> None:
    """Before anything is posted: outcomes that cannot be written would be lost."""
    if output is None:
        return
    try:
        if file.exists() and output.exists() and output.samefile(file):
            raise typer.BadParameter("this is the file to be submitted; name another.", param_hint="--output")
        with output.open("a"):
            pass
    except OSError as error:
        raise typer.BadParameter(f"{output}: {error.strerror}.", param_hint="--output") from error


def _carry_through(file: OperationsFile, server: URL, batch_size: int, output: Path | None) -> int:
    """From the first POST to the exit code."""
    pace = Pace()
    findings = Findings()
    total = len(file.operations)
    screen = ProgressBar(total) if sys.stderr.isatty() else ProgressLines()
    client = Client(server, pace, screen)
    submission = Submission(client, file, batch_size, pace, screen)
    screen.say(f"{file.name}: {total:,} operation{'s' * (total != 1)} to {server}")
    try:
        with screen:
            asyncio.run(_submit_and_collect(client, submission, findings, output))
    except KeyboardInterrupt:
        _tell_what_goes_on(submission)
        return INTERRUPTED
    _print_summary(submission, findings)
    return _conclude(submission, findings, server)


async def _submit_and_collect(
    client: Client, submission: Submission, findings: "Findings", output: Path | None
) -> None:
    async with client:
        started = time.monotonic()
        await submission.run()
        findings.seconds = time.monotonic() - started
        await _collect(submission, findings, output)


@dataclass(slots=True)
class Findings:
    """What the outcomes say, as they are read."""

    seconds: float = 0.0
    as_expected: int = 0
    failures: list[tuple[FileOperation, Outcome]] = field(default_factory=list)  # the first ones

    def add(self, operation: FileOperation, outcome: Outcome) -> None:
        if operation.expected is None:
            is_failure = "error" in outcome
        else:
            is_failure = outcome.get("status") not in operation.expected
            self.as_expected += not is_failure
        if is_failure and len(self.failures) < _LISTED:
            self.failures.append((operation, outcome))


async def _collect(submission: Submission, findings: Findings, output: Path | None) -> None:
    """All outcomes if they are asked for, else only as many failures as will be listed."""
    needs_all = output is not None or submission.file.has_expectations
    opened = output.open("w", encoding="utf-8") if output else nullcontext()
    async with aclosing(submission.outcomes(only_failed=not needs_all)) as outcomes:
        with opened as sink:
            async for operation, outcome in outcomes:
                findings.add(operation, outcome)
                if sink:
                    sink.write(json.dumps(outcome, ensure_ascii=False, separators=(",", ":")) + "\n")
                if len(findings.failures) == _LISTED and not needs_all:
                    break


def _print_summary(submission: Submission, findings: Findings) -> None:
    """On standard output, where a script may keep it."""
    if not submission.accepted:
        return
    counts = submission.counts
    rows = {
        "total": f"{counts.total:,}",
        "succeeded": f"{counts.succeeded:,}",
        "failed": f"{counts.failed:,}",
        "cancelled": f"{counts.cancelled:,}",
        "expired": f"{counts.expired:,}",
        **({"unknown": f"{unknown:,}"} if (unknown := counts.total - counts.completed) else {}),
        "seconds": f"{findings.seconds:,.1f}",
        "operations/s": f"{counts.completed / max(findings.seconds, 0.001):,.0f}",
    }
    width = max(map(len, rows.values()))
    for name, value in rows.items():
        typer.echo(f"{name:<12}  {value:>{width}}")
    if submission.file.has_expectations:
        typer.echo(f"as expected: {findings.as_expected:,} of {counts.total:,}")
    _print_failures(submission.file, findings)


def _print_failures(file: OperationsFile, findings: Findings) -> None:
    """The first ones, each with its place in the file, and with its id where the file gave it one."""
    rows = [_failure_cells(file, operation, outcome) for operation, outcome in findings.failures]
    if not rows:
        return
    what = "Not as expected" if file.has_expectations else "Failures"
    typer.echo(f"\n{what}, the first {_LISTED}:" if len(rows) == _LISTED else f"\n{what}:")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True) if width)
        typer.echo(f"  {'  '.join(padded).rstrip()}")


def _failure_cells(file: OperationsFile, operation: FileOperation, outcome: Outcome) -> list[str]:
    return [
        f"{file.noun} {operation.number}",
        _one_line(operation.id) if operation.has_own_id else "",
        _statuses(operation, outcome),
        _message(outcome),
    ]


def _statuses(operation: FileOperation, outcome: Outcome) -> str:
    if operation.expected is None:
        return str(outcome.get("status"))
    return f"{outcome.get('status')}, expected {' or '.join(map(str, sorted(operation.expected)))}"


def _message(outcome: Outcome) -> str:
    error = outcome.get("error")
    if not isinstance(error, dict):
        return "succeeded" if error is None else _one_line(str(error))
    return _one_line(": ".join(str(error[key]) for key in ("title", "detail") if error.get(key)))


def _one_line(text: str) -> str:
    """Fit for a terminal: what an application says may hold anything."""
    flat = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return flat if len(flat) <= _MESSAGE_LENGTH else f"{flat[:_MESSAGE_LENGTH]} ..."


def _conclude(submission: Submission, findings: Findings, server: URL) -> int:
    """The exit code, and on standard error the reason where the summary does not show it."""
    file, counts = submission.file, submission.counts
    lost = [batch for batch in submission.accepted if batch.lost]
    for batch in lost:
        place = file.places([batch.span])
        _complain(f"What became of {place} could not be read to the end: {batch.lost}. Ask {batch.status_url}")
    if submission.stopped_by:
        _tell_why_it_stopped(file, *submission.stopped_by, server)
        _tell_what_is_open(submission)
        return NOT_SUBMITTED
    well = findings.as_expected if file.has_expectations else counts.succeeded
    return ALL_WELL if well == counts.total and not lost else SOME_FAILED


def _tell_why_it_stopped(file: OperationsFile, span: range, answer: Answer, server: URL) -> None:
    match answer:
        case NothingAnswers(reason):
            _complain(f"Nothing answers at {server}: start Penstock with `penstock up` or name it with --url.")
            if reason:
                _complain(f"  {reason}")
        case Uncertain(reason):
            _complain(f"No answer came for {file.places([span])}: {_one_line(reason)}.")
        case TurnedAway(status, problem):
            _complain(f"The server kept asking to wait ({status} {_one_line(str(problem))}).")
        case TooLarge(problem):
            _tell_refusal(file, span, 413, problem)
            if file.is_atomic:
                _complain(f"{file.name} is atomic, all or nothing in one batch, so it was not split.")
        case Refused(status, problem):
            _tell_refusal(file, span, status, problem)
            if status in _NOT_PENSTOCK:
                _complain(f"Is it Penstock that answers at {server}? Name it with --url.")


def _tell_refusal(file: OperationsFile, span: range, status: int, problem: Problem) -> None:
    _complain(f"The server refused {file.places([span])} ({status} {_one_line(str(problem))}).")
    for error in problem.errors[:_LISTED]:
        _complain(f"  {_place_of_error(file, span, error)}: {_one_line(error.detail)}")
    if (more := max(problem.error_count, len(problem.errors)) - _LISTED) > 0:
        _complain(f"  and {more:,} more")


def _place_of_error(file: OperationsFile, span: range, error: ProblemError) -> str:
    """A pointer counts from the start of its batch; a person from the start of the file."""
    found = re.fullmatch(r"/operations/(\d+)(/.*)?", error.pointer)
    if not found or int(found[1]) >= len(span):
        return _one_line(error.pointer) or "the batch"
    index = span[int(found[1])]
    place = file.places([range(index, index + 1)])
    return f"{place}, {_one_line(found[2][1:])}" if found[2] else place


def _tell_what_is_open(submission: Submission) -> None:
    file = submission.file
    if submission.uncertain:
        _complain(f"May or may not have been accepted, and not sent again: {file.places(submission.uncertain)}.")
    if not submission.accepted and not submission.uncertain:
        _complain("Nothing was submitted.")
    elif submission.unsubmitted:
        _complain(f"Not submitted: {file.places(submission.unsubmitted)}.")


def _tell_what_goes_on(submission: Submission) -> None:
    """After a Ctrl-C: it ends the watching, not the batches."""
    running = [batch for batch in submission.accepted if not batch.is_final]
    what = "batch goes" if len(running) == 1 else "batches go"
    _complain(f"\nStopped watching; {len(running):,} {what} on on the server{':' if running else '.'}")
    for batch in running:
        _complain(f"  {batch.status_url}")
    _tell_what_is_open(submission)


def _complain(sentence: str) -> None:
    typer.echo(sentence, err=True)


class ProgressBar(Progress):
    """For a terminal: one bar for all batches, redrawn in place."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        super().__init__(
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TextColumn("{task.fields[failed]:,} failed", style="red"),
            _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console or Console(stderr=True),
        )
        self._bar = self.add_task("", total=total, failed=0, visible=False)

    def show(self, counts: Counts) -> None:
        self.update(self._bar, completed=counts.completed, total=counts.total, failed=counts.failed, visible=True)

    def say(self, sentence: str) -> None:
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """The pace of the last half minute; at the end, that of the whole."""
        speed = task.completed / task.finished_time if task.finished_time else task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


class ProgressLines(AbstractContextManager["ProgressLines"]):
    """For a log: a line now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = self._told_at = clock()
        self._told = 0

    def __exit__(self, *_: object) -> None:
        """Nothing to put away."""

    def show(self, counts: Counts) -> None:
        now = self._clock()
        new = counts.completed - self._told
        is_due = new * 10 >= counts.total or now - self._told_at >= _LINE_SECONDS
        if new and (is_due or counts.completed == counts.total):
            self._told, self._told_at = counts.completed, now
            self.say(_progress_line(counts, now - self._started_at))

    def say(self, sentence: str) -> None:
        typer.echo(sentence, err=True)


def _progress_line(counts: Counts, elapsed_seconds: float) -> str:
    rate = counts.completed / max(elapsed_seconds, 0.001)
    done = f"{counts.completed / counts.total:4.0%}  {counts.completed:,} of {counts.total:,}"
    line = f"{done}, {counts.failed:,} failed, {rate:,.0f}/s"
    left = counts.total - counts.completed
    return f"{line}, about {left / rate:,.0f} s left" if left else line


if __name__ == "__main__":
    main()
