"""`penstock submit`: submits a file, shows the progress, and returns the result as exit code."""

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import aclosing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import to_builtins

from penstock.cli.api_key import read_client_key
from penstock.cli.exit_codes import ALL_SUCCEEDED, INTERRUPTED, NOT_DONE, SOME_FAILED
from penstock.cli.file_errors import print_errors_in_file
from penstock.cli.file_options import Charset, Delimiter, Expect, File, Format, Key, Method, OperationPath
from penstock.cli.findings import LISTED, Findings
from penstock.cli.metadata import METAVAR, read_pairs
from penstock.cli.operations_file import STANDARD_INPUT, Reading
from penstock.cli.progress import Screen, open_progress
from penstock.cli.server import DEFAULT_URL, AsJson, Url
from penstock.cli.submission import Stop, Submission, Tally
from penstock.cli.submit_report import (
    describe,
    print_counts,
    print_failures,
    print_validation,
    report_what_is_open,
    report_what_still_runs,
    report_why_it_stopped,
)
from penstock.cli.submitted_file import OperationsToSubmit, RowsToSubmit, ToSubmit, read_file
from penstock.cli.terminal import one_line, print_error, print_json
from penstock.client import (
    AsyncClient,
    ClientError,
    InvalidFile,
    Outcome,
    Patience,
    Validation,
)
from penstock.client.async_batch import Format as RejectedFormat
from penstock.client.content import Content
from penstock.client.options import batch_query
from penstock.priority import Priority
from penstock.process import command_line

_DAY_SECONDS = 24 * 3600
_PATIENCE = Patience(seconds=60, quota_seconds=_DAY_SECONDS)


def main() -> None:
    command_line.run("submit", submit, exit_code=NOT_DONE)


def submit(  # noqa: PLR0917 - the command line names them
    file: File,
    url: Url = DEFAULT_URL,
    method: Method = None,
    path: OperationPath = None,
    expect: Expect = None,
    delimiter: Delimiter = None,
    charset: Charset = None,
    key_column: Key = None,
    file_format: Format = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write every outcome to this file, as NDJSON.")
    ] = None,
    rejected: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the rows that failed to this file, with columns that say why."),
    ] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="CSV: let invalid rows fail, and run the others.")
    ] = False,
    title: Annotated[str | None, typer.Option(help="A title for people, which lists show.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar=METAVAR, help="More to say about the batch. May be repeated.")
    ] = None,
    priority: Annotated[Priority | None, typer.Option(help="The priority of the batch. Without it: normal.")] = None,
    not_before: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Run no operation before this time, such as 2026-12-24T18:00:00+01:00."),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="What has not finished after this time expires.")
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Cancel the rest if more operations have failed.")
    ] = None,
    callback_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Gets an event when the batch has finished.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Submit several batches of at most N operations.")
    ] = None,
    upload: Annotated[
        bool, typer.Option("--upload", help="CSV: send the file to the bucket of the server, past its load balancer.")
    ] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check the file as the server does, and run nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option(" /--no-wait", help="Print the id of the batch, and do not wait.", show_default=False)
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Submit a file of operations, wait until they have finished, and print a summary.

    penstock submit users.csv --method POST --path /users

    penstock submit export.csv --charset cp1252 --method PUT --path '/users/{id}' --rejected bad.csv

    Exit code: 0 if all succeeded (with --expect: as expected), 1 if some did not, 2 if it could not be done.
    """
    key = read_client_key()
    options = batch_query(
        title=title,
        metadata=read_pairs(metadata),
        priority=priority,
        not_before=not_before,
        deadline=deadline,
        max_failures=max_failures,
        callback_url=callback_url,
    )
    one_by_one = expect is not None or batch_size is not None
    written = {"--output": output is not None, "--rejected": rejected is not None}
    if one_by_one:
        _refuse({"--skip-invalid": skip_invalid, "--upload": upload}, "--expect or --batch-size")
    if validate_only:
        others = {"--upload": upload, "--batch-size": batch_size is not None, "--no-wait": not wait}
        _refuse({**written, **others}, "--validate-only")
    if not wait:
        _refuse(written, "--no-wait")
    if one_by_one and rejected is not None and _rejected_format(rejected) == "csv":
        raise typer.BadParameter(
            "a CSV file cannot be combined with --expect or --batch-size. Use a name that ends with .ndjson.",
            param_hint="--rejected",
        )
    if upload and file == STANDARD_INPUT:
        raise typer.BadParameter("needs a file, not standard input.", param_hint="--upload")
    reading = Reading(file_format, method, path, expect, delimiter, charset, key_column, skip_invalid, upload)
    if output is not None and rejected is not None and output.resolve() == rejected.resolve():
        raise typer.BadParameter("this is the file of --output. Name another file.", param_hint="--rejected")
    _check_writable("--output", output, file)
    _check_writable("--rejected", rejected, file)
    try:
        with read_file(file, reading, one_by_one=one_by_one) as to_submit:
            run = Run(url, key, options, batch_size, file if upload else None, output, rejected, wait, as_json)
            code = run.validate(to_submit) if validate_only else run.carry_through(to_submit)
    except InvalidFile as error:
        print_error(str(error))
        raise typer.Exit(NOT_DONE) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(code)


def _refuse(given: Mapping[str, bool], other: str) -> None:
    """Raise BadParameter if one of these options is given with another one that excludes it."""
    for option, is_given in given.items():
        if is_given:
            raise typer.BadParameter(f"cannot be combined with {other}.", param_hint=option)


def _check_writable(option: str, written: Path | None, file: Path) -> None:
    """Check that a file can be written, before anything is posted. Leave no file behind."""
    if written is None:
        return
    try:
        if file.exists() and written.exists() and written.samefile(file):
            raise typer.BadParameter("this is the file to submit. Name another file.", param_hint=option)
        try:
            written.open("x").close()
        except FileExistsError:
            written.open("a").close()
        else:
            written.unlink()
    except OSError as error:
        raise typer.BadParameter(f"{written}: {error.strerror}.", param_hint=option) from error


@dataclass(frozen=True, slots=True)
class Run:
    """The options of one `penstock submit`."""

    url: str
    key: str | None
    options: Mapping[str, str]
    batch_size: int | None
    upload: Path | None
    output: Path | None
    rejected: Path | None
    wait: bool
    as_json: bool

    def carry_through(self, file: ToSubmit) -> int:
        """Submit everything, print the summary and return the exit code."""
        findings, screen = Findings(), open_progress()
        submission: Submission | None = None
        try:
            with screen:
                screen.say(describe(file, self.url))
                submission = self._submission(file, screen)
                asyncio.run(self._run(submission, findings))
        except KeyboardInterrupt:
            report_what_still_runs(submission)
            return INTERRUPTED
        self._print_summary(submission, findings)
        return self._conclude(submission, findings)

    def validate(self, file: ToSubmit) -> int:
        """Check the file, print what the batch would be, and return the exit code."""
        content = file.content(range(file.total)) if isinstance(file, OperationsToSubmit) else file.content()
        try:
            found = asyncio.run(self._check(content))
        except ClientError as error:
            report_why_it_stopped(file, Stop(error, None), self.url)
            return NOT_DONE
        if self.as_json:
            print_json(to_builtins(found))
        else:
            print_validation(found)
        return ALL_SUCCEEDED

    async def _check(self, content: Content) -> Validation:
        async with AsyncClient(self.url, self.key, patience=_PATIENCE, tell=print_error) as client:
            return await client.check(content, {**content.query, **self.options})

    def _submission(self, file: ToSubmit, screen: Screen) -> Submission:
        client = AsyncClient(self.url, self.key, patience=_PATIENCE, tell=screen.say)
        can_split = self.rejected is None or _rejected_format(self.rejected) == "ndjson"
        return Submission(client, file, self.options, screen, self.batch_size, self.upload, can_split=can_split)

    async def _run(self, submission: Submission, findings: Findings) -> None:
        async with submission.client:
            started = time.monotonic()
            await submission.post()
            if self.wait:
                if len(submission.parts) == 1:  # of several batches, only the URLs of what goes wrong are shown
                    submission.screen.say(f"Accepted as the batch {submission.parts[0].batch.id}.")
                await submission.follow()
                findings.seconds = time.monotonic() - started
                if submission.counts.total:
                    await self._collect(submission, findings)

    async def _collect(self, submission: Submission, findings: Findings) -> None:
        """Read all outcomes if they are needed, else only as many failures as are printed."""
        file = submission.file
        needs_all = self.output is not None or file.has_expectations
        opened = self.output.open("w", encoding="utf-8") if self.output else nullcontext()
        async with aclosing(submission.outcomes(only_failed=not needs_all)) as outcomes:
            with opened as sink:
                async for index, outcome in outcomes:
                    findings.add(file, index, outcome)
                    if sink:
                        sink.write(_line(outcome))
                    if len(findings.failures) == LISTED and not needs_all:
                        break
        if self.rejected is not None:
            await _save_rejected(submission, self.rejected)

    def _print_summary(self, submission: Submission, findings: Findings) -> None:
        """Print the counts, or without waiting the ids, to standard output, where a script can read them."""
        if not submission.parts:
            return
        if not self.wait and self.as_json:
            print_json({"batches": [{"batchId": part.batch.id} for part in submission.parts]})
        elif not self.wait:
            for part in submission.parts:
                typer.echo(part.batch.id)
        elif self.as_json:
            print_json(
                {
                    "batches": [part.status.document for part in submission.parts if part.status],
                    **asdict(submission.counts),
                    "seconds": round(findings.seconds, 3),
                }
            )
        elif submission.counts.total:
            print_counts(submission, findings)
            print_failures(submission.file, findings)

    def _conclude(self, submission: Submission, findings: Findings) -> int:
        """Return the exit code. Print the reason to standard error if the summary does not show it."""
        file, counts = submission.file, submission.counts
        unreadable = [part for part in submission.parts if part.unreadable]
        for part in unreadable:
            print_error(f"Not everything of the batch could be read: {one_line(part.unreadable)} See {part.batch.url}")
        if submission.stop is not None:
            report_why_it_stopped(file, submission.stop, self.url)
            report_what_is_open(submission)
            return NOT_DONE
        if unreadable:
            return NOT_DONE
        if not self.wait:
            return ALL_SUCCEEDED
        if not counts.total:
            self._report_unaccepted(submission)
            return NOT_DONE
        self._report_rejected(file, counts)
        good = findings.as_expected if file.has_expectations else counts.succeeded
        return ALL_SUCCEEDED if good == counts.total else SOME_FAILED

    def _report_unaccepted(self, submission: Submission) -> None:
        """Say why a file that was validated in the background was never accepted, so that nothing of it has run."""
        for status in (part.status for part in submission.parts if part.status is not None):
            why = f": {one_line(status.reason)}" if status.reason else "."
            print_error(f"Nothing has run. The batch {status.id} is {status.status}{why}")
            print_errors_in_file(status)

    def _report_rejected(self, file: ToSubmit, counts: Tally) -> None:
        if self.rejected is not None and counts.failed:
            are = "row is" if counts.failed == 1 else "rows are"
            print_error(f"{counts.failed:,} failed {are} in {self.rejected}, with the reasons.")
            if advice := self._advice_on_rejected(file):
                print_error(advice)

    def _advice_on_rejected(self, file: ToSubmit) -> str:
        """Return how to submit the file of rejected rows, or "" if it differs too much from what was submitted."""
        is_csv = self.rejected is not None and _rejected_format(self.rejected) == "csv"
        if isinstance(file, RowsToSubmit):
            return "Correct them there, and submit that file with the same method and path." if is_csv else ""
        return "" if is_csv else "Correct them there, and submit that file. Each row names its method and path."


def _line(outcome: Outcome) -> str:
    document: dict[str, Any] = {"id": outcome.id, "status": outcome.status}
    member = {"result": outcome.result} if outcome.succeeded else {"error": outcome.error}
    return json.dumps({**document, **member}, ensure_ascii=False, separators=(",", ":")) + "\n"


def _rejected_format(file: Path) -> RejectedFormat:
    return "csv" if file.suffix.lower() == ".csv" else "ndjson"


async def _save_rejected(submission: Submission, file: Path) -> None:
    """Write the rows that failed in all batches to one file. Several batches have an NDJSON file."""
    kind = _rejected_format(file)
    with file.open("wb") as opened:
        for part in submission.parts:
            try:
                await part.batch.save_rejected(opened, kind=kind)
            except ClientError as error:
                part.unreadable = str(error)


if __name__ == "__main__":
    main()
