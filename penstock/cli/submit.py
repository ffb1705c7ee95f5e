"""`penstock submit`: submits a file, shows the progress, and returns the result as exit code."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
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

from penstock.cli.client import (
    AskedToWait,
    Client,
    FileSubmission,
    OutcomeJson,
    PostResult,
    Rejected,
    RequestPolicy,
    Tally,
    TooLarge,
    Uncertain,
    Unreachable,
)
from penstock.cli.file_options import Delimiter, Expect, File, Format, Method, OperationPath
from penstock.cli.operations_file import (
    FileOperation,
    InvalidFile,
    OperationsFile,
    Reading,
    read_operations,
)
from penstock.cli.server import Problem, ProblemError, Url, read_server
from penstock.priority import Priority
from penstock.process import command_line
from penstock.settings import read_client_key

ALL_SUCCEEDED, SOME_FAILED, NOT_SUBMITTED, INTERRUPTED = 0, 1, 2, 130

_LISTED = 10  # failures, and errors of a rejected batch
_LINE_SECONDS = 5.0  # without a terminal, a line is printed for each tenth that is done, and at least this often
_MESSAGE_LENGTH = 400
_NOT_PENSTOCK = {301, 302, 303, 307, 308, 404, 405}


def main() -> None:
    command_line.run("submit", submit)


def submit(  # noqa: PLR0917 - the command line names them
    file: File,
    url: Url = "http://127.0.0.1:8080",
    method: Method = None,
    path: OperationPath = None,
    expect: Expect = None,
    delimiter: Delimiter = None,
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
    server, key = read_server(url), read_client_key()
    try:
        operations = read_operations(file, Reading(file_format, method, path, expect, delimiter))
        operations = operations.with_options({"priority": priority, "notBefore": not_before})
    except InvalidFile as error:
        _print_error(str(error))
        raise typer.Exit(NOT_SUBMITTED) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    _check_output(output, file)
    raise typer.Exit(_carry_through(operations, server, key, batch_size, output))


def _check_output(output: Path | None, file: Path) -> None:
    """Check that the outcomes can be written, before anything is posted."""
    if output is None:
        return
    try:
        if file.exists() and output.exists() and output.samefile(file):
            raise typer.BadParameter("this is the file to submit. Name another file.", param_hint="--output")
        with output.open("a"):
            pass
    except OSError as error:
        raise typer.BadParameter(f"{output}: {error.strerror}.", param_hint="--output") from error


def _carry_through(file: OperationsFile, server: URL, key: str | None, batch_size: int, output: Path | None) -> int:
    """Submit everything, print the summary and return the exit code."""
    policy = RequestPolicy()
    findings = Findings()
    total = len(file.operations)
    screen = ProgressBar(total) if sys.stderr.isatty() else ProgressLines()
    client = Client(server, policy, screen, key)
    submission = FileSubmission(client, file, batch_size, policy, screen)
    screen.say(f"{file.name}: {total:,} operation{'s' * (total != 1)} to {server}")
    try:
        with screen:
            asyncio.run(_submit_and_collect(client, submission, findings, output))
    except KeyboardInterrupt:
        _report_what_still_runs(submission)
        return INTERRUPTED
    _print_summary(submission, findings)
    return _conclude(submission, findings, server)


async def _submit_and_collect(
    client: Client, submission: FileSubmission, findings: "Findings", output: Path | None
) -> None:
    async with client:
        started = time.monotonic()
        await submission.run()
        findings.seconds = time.monotonic() - started
        await _collect(submission, findings, output)


@dataclass(slots=True)
class Findings:
    """What the outcomes show, collected while they are read."""

    seconds: float = 0.0
    as_expected: int = 0
    failures: list[tuple[FileOperation, OutcomeJson]] = field(default_factory=list)  # the first ones

    def add(self, operation: FileOperation, outcome: OutcomeJson) -> None:
        if operation.expected is None:
            is_failure = "error" in outcome
        else:
            is_failure = outcome.get("status") not in operation.expected
            self.as_expected += not is_failure
        if is_failure and len(self.failures) < _LISTED:
            self.failures.append((operation, outcome))


async def _collect(submission: FileSubmission, findings: Findings, output: Path | None) -> None:
    """Read all outcomes if they are needed, else only as many failures as are printed."""
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


def _print_summary(submission: FileSubmission, findings: Findings) -> None:
    """Print the counts to standard output, where a script can read them."""
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
        **({"redelivered": f"{counts.redelivered:,}"} if counts.redelivered else {}),
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
    """Print the first failures, each with its place in the file, and with its id if the file has ids."""
    rows = [_failure_cells(file, operation, outcome) for operation, outcome in findings.failures]
    if not rows:
        return
    what = "Not as expected" if file.has_expectations else "Failures"
    typer.echo(f"\n{what}, the first {_LISTED}:" if len(rows) == _LISTED else f"\n{what}:")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True) if width)
        typer.echo(f"  {'  '.join(padded).rstrip()}")


def _failure_cells(file: OperationsFile, operation: FileOperation, outcome: OutcomeJson) -> list[str]:
    return [
        f"{file.noun} {operation.number}",
        _one_line(operation.id) if operation.has_own_id else "",
        _statuses(operation, outcome),
        _message(outcome),
    ]


def _statuses(operation: FileOperation, outcome: OutcomeJson) -> str:
    if operation.expected is None:
        return str(outcome.get("status"))
    return f"{outcome.get('status')}, expected {' or '.join(map(str, sorted(operation.expected)))}"


def _message(outcome: OutcomeJson) -> str:
    error = outcome.get("error")
    if not isinstance(error, dict):
        return "succeeded" if error is None else _one_line(str(error))
    return _one_line(": ".join(str(error[key]) for key in ("title", "detail") if error.get(key)))


def _one_line(text: str) -> str:
    """Make a text safe to print on a terminal: an application's messages may contain anything."""
    flat = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return flat if len(flat) <= _MESSAGE_LENGTH else f"{flat[:_MESSAGE_LENGTH]} ..."


def _conclude(submission: FileSubmission, findings: Findings, server: URL) -> int:
    """Return the exit code. Print the reason to standard error if the summary does not show it."""
    file, counts = submission.file, submission.counts
    unreadable = [batch for batch in submission.accepted if batch.unreadable]
    for batch in unreadable:
        place = file.places([batch.span])
        _print_error(f"The results of {place} could not be read: {batch.unreadable}. See {batch.status_url}")
    if submission.stopped_by:
        _report_why_it_stopped(file, *submission.stopped_by, server)
        _report_what_is_open(submission)
        return NOT_SUBMITTED
    good = findings.as_expected if file.has_expectations else counts.succeeded
    return ALL_SUCCEEDED if good == counts.total and not unreadable else SOME_FAILED


def _report_why_it_stopped(file: OperationsFile, span: range, result: PostResult, server: URL) -> None:
    match result:
        case Unreachable(reason):
            _print_error(f"Nothing answers at {server}. Start Penstock with `penstock up`, or name its URL with --url.")
            if reason:
                _print_error(f"  {reason}")
        case Uncertain(reason):
            _print_error(f"There was no usable answer for {file.places([span])}: {_one_line(reason)}.")
        case AskedToWait(status, problem):
            _print_error(f"The server kept asking to wait ({status} {_one_line(str(problem))}).")
        case TooLarge(problem):
            _report_rejection(file, span, 413, problem)
            if file.is_atomic:
                _print_error(f"{file.name} is atomic, so it cannot be split into smaller batches.")
        case Rejected(status, problem):
            _report_rejection(file, span, status, problem)
            if status == 401:
                _print_error("Set the variable PENSTOCK_API_KEY to a key that your operators gave you.")
            if status in _NOT_PENSTOCK:
                _print_error(f"Is the server at {server} Penstock? Name the URL of Penstock with --url.")


def _report_rejection(file: OperationsFile, span: range, status: int, problem: Problem) -> None:
    _print_error(f"The server rejected {file.places([span])} ({status} {_one_line(str(problem))}).")
    for error in problem.errors[:_LISTED]:
        _print_error(f"  {_place_of_error(file, span, error)}: {_one_line(error.detail)}")
    if (more := max(problem.error_count, len(problem.errors)) - _LISTED) > 0:
        _print_error(f"  and {more:,} more")


def _place_of_error(file: OperationsFile, span: range, error: ProblemError) -> str:
    """Return the place in the file. The pointer counts from the start of the batch."""
    found = re.fullmatch(r"/operations/(\d+)(/.*)?", error.pointer)
    if not found or int(found[1]) >= len(span):
        return _one_line(error.pointer) or "the batch"
    index = span[int(found[1])]
    place = file.places([range(index, index + 1)])
    return f"{place}, {_one_line(found[2][1:])}" if found[2] else place


def _report_what_is_open(submission: FileSubmission) -> None:
    file = submission.file
    if submission.uncertain:
        _print_error(f"Possibly accepted, so not sent again: {file.places(submission.uncertain)}.")
    if not submission.accepted and not submission.uncertain:
        _print_error("Nothing was submitted.")
    elif submission.unsubmitted:
        _print_error(f"Not submitted: {file.places(submission.unsubmitted)}.")


def _report_what_still_runs(submission: FileSubmission) -> None:
    """Report, after Ctrl-C, which batches still run on the server."""
    running = [batch for batch in submission.accepted if not batch.is_final]
    what = "batch still runs" if len(running) == 1 else "batches still run"
    _print_error(f"\nStopped watching. {len(running):,} {what} on the server{':' if running else '.'}")
    for batch in running:
        _print_error(f"  {batch.status_url}")
    _report_what_is_open(submission)


def _print_error(sentence: str) -> None:
    typer.echo(sentence, err=True)


class ProgressBar(Progress):
    """Shows the progress of all batches on a terminal, as one bar."""

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

    def show(self, counts: Tally) -> None:
        self.update(self._bar, completed=counts.completed, total=counts.total, failed=counts.failed, visible=True)

    def say(self, sentence: str) -> None:
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show the rate of the last half minute, and at the end the rate of the whole run."""
        speed = task.completed / task.finished_time if task.finished_time else task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


class ProgressLines(AbstractContextManager["ProgressLines"]):
    """Shows the progress in a log, as a line from time to time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = self._printed_at = clock()
        self._printed = 0

    def __exit__(self, *_: object) -> None:
        """Nothing has to be closed."""

    def show(self, counts: Tally) -> None:
        now = self._clock()
        new = counts.completed - self._printed
        is_due = new * 10 >= counts.total or now - self._printed_at >= _LINE_SECONDS
        if new and (is_due or counts.completed == counts.total):
            self._printed, self._printed_at = counts.completed, now
            self.say(_progress_line(counts, now - self._started_at))

    def say(self, sentence: str) -> None:
        typer.echo(sentence, err=True)


def _progress_line(counts: Tally, elapsed_seconds: float) -> str:
    rate = counts.completed / max(elapsed_seconds, 0.001)
    done = f"{counts.completed / counts.total:4.0%}  {counts.completed:,} of {counts.total:,}"
    line = f"{done}, {counts.failed:,} failed, {rate:,.0f}/s"
    left = counts.total - counts.completed
    return f"{line}, about {left / rate:,.0f} s left" if left else line


if __name__ == "__main__":
    main()
