"""The sentences and tables that `penstock submit` prints."""

import re
from collections.abc import Mapping

import typer

from penstock.cli.findings import LISTED, Findings
from penstock.cli.operations_file import with_options
from penstock.cli.server import explain
from penstock.cli.submission import Stop, Submission
from penstock.cli.submitted_file import OperationsToSubmit, RowsToSubmit, ToSubmit
from penstock.cli.terminal import counted, one_line, print_error, print_facts, print_table
from penstock.client import BatchError, InvalidBatch, Outcome, TooLarge, Validation

_PARAMETER = re.compile(r"\w+: ")  # how an error of a parameter in the path begins


def describe(file: ToSubmit, url: str) -> str:
    if isinstance(file, RowsToSubmit):
        size = file.written_bytes
        return f"{file.name}: {f'{size / 1e6:,.1f} MB' if size >= 1e6 else f'{size / 1e3:,.1f} KB'} to {url}"
    return f"{file.name}: {counted(file.total, 'operation')} to {url}"


def print_validation(found: Validation) -> None:
    """Print what the batch would be."""
    seconds, usd = found.estimated_seconds, found.estimated_usd
    print_facts(
        {
            "valid": counted(found.total - (found.invalid_rows or 0), "operation"),
            **({"invalid": f"{counted(found.invalid_rows, 'row')}, to fail with 422"} if found.invalid_rows else {}),
            "time": "" if seconds is None else f"about {seconds:,.1f} s in one consumer",
            "cost": "" if usd is None else f"about ${usd:.7f}",
        }
    )
    rows = [[f"{count:,}", name] for name, count in sorted(found.by_handler.items(), key=lambda one: -one[1])]
    print_table(["count", "handler"], rows, right=(0,))


def print_counts(submission: Submission, findings: Findings) -> None:
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


def print_failures(file: ToSubmit, findings: Findings) -> None:
    """Print the first failures, each with its place in the file, and with its id if the file has ids."""
    places = file.places_of_ids({outcome.id for _, outcome in findings.failures})
    rows = [_failure_cells(file, places, index, outcome) for index, outcome in findings.failures]
    if not rows:
        return
    what = "Not as expected" if file.has_expectations else "Failures"
    typer.echo(f"\n{what}, the first {LISTED}:" if len(rows) == LISTED else f"\n{what}:")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True) if width)
        typer.echo(f"  {'  '.join(padded).rstrip()}")


def _failure_cells(file: ToSubmit, places: Mapping[str, str], index: int, outcome: Outcome) -> list[str]:
    place = places.get(outcome.id, "")
    own_id = "" if place == f"{file.noun} {outcome.id}" else one_line(outcome.id)
    return [place, own_id, _statuses(file, index, outcome), _message(outcome)]


def _statuses(file: ToSubmit, index: int, outcome: Outcome) -> str:
    if not (file.has_expectations and isinstance(file, OperationsToSubmit)):
        return str(outcome.status)
    return f"{outcome.status}, expected {' or '.join(map(str, sorted(file.expected(index))))}"


def _message(outcome: Outcome) -> str:
    if outcome.succeeded:
        return "succeeded"
    return one_line(": ".join(filter(None, (outcome.title, outcome.detail))))


def report_why_it_stopped(file: ToSubmit, stop: Stop, url: str) -> None:
    if stop.is_uncertain:
        print_error(f"There was no usable answer for {_places(file, stop.span)}: {one_line(str(stop.error))}")
    elif isinstance(stop.error, InvalidBatch | TooLarge):
        _report_rejection(file, stop.span, stop.error)
        if stop.needs_split:
            print_error(
                "It needs several batches, and a CSV file holds the rejected rows of one. "
                "Use --rejected with a name that ends with .ndjson."
            )
    else:
        print_error(explain(stop.error, url))


def _report_rejection(file: ToSubmit, span: range | None, error: InvalidBatch | TooLarge) -> None:
    print_error(f"The server rejected {_places(file, span)} ({error.status} {one_line(error.sentence)}).")
    for one in error.errors[:LISTED]:
        print_error(f"  {_place_of_error(file, span, one)}: {one_line(with_options(one.detail))}")
    count = error.error_count if isinstance(error, InvalidBatch) else len(error.errors)
    if count > LISTED:
        print_error(f"  and {count - LISTED:,} more")
    if isinstance(error, TooLarge) and file.is_atomic:
        print_error(f"{file.name} is atomic, so it cannot be split into smaller batches.")
    if isinstance(file, RowsToSubmit) and error.errors:
        if file.skips_invalid and any(_is_in_row(one) for one in error.errors):
            print_error("Correct these rows, or the options: --skip-invalid is of no use here.")
        elif not file.skips_invalid and all(_may_fail_alone(one) for one in error.errors):
            print_error("Correct the file, or let these rows fail and run the others: --skip-invalid --rejected FILE.")


def _is_in_row(error: BatchError) -> bool:
    """Return True if the error is in a row. Errors of the whole file have another pointer."""
    return error.line is not None and error.pointer.startswith("/operations/")


def _may_fail_alone(error: BatchError) -> bool:
    """Return True if --skip-invalid helps: the body of a row, or a parameter in its path, is invalid for the handler.

    A row with too few cells, or one for which there is no operation, rejects the file in any case.
    """
    member = "/".join(error.pointer.split("/")[3:])
    is_of_handler = member.partition("/")[0] == "body" or (
        member == "path" and _PARAMETER.match(error.detail) is not None
    )
    return _is_in_row(error) and is_of_handler


def _places(file: ToSubmit, span: range | None) -> str:
    return file.places([span]) if isinstance(file, OperationsToSubmit) and span is not None else file.name


def _place_of_error(file: ToSubmit, span: range | None, error: BatchError) -> str:
    if isinstance(file, OperationsToSubmit):
        place, member = file.place_of_error(span or range(file.total), error)
    else:
        place, member = file.place_of_error(error)
    return f"{one_line(place)}, {one_line(member)}" if member else one_line(place)


def report_what_is_open(submission: Submission) -> None:
    file, stop = submission.file, submission.stop
    is_uncertain = stop is not None and stop.is_uncertain
    if stop is not None and is_uncertain:
        print_error(f"Possibly accepted: {_places(file, stop.span)}. `penstock list` shows if it was.")
    if not submission.parts and not is_uncertain:
        print_error("Nothing was submitted.")
    elif submission.unsubmitted and isinstance(file, OperationsToSubmit):
        print_error(f"Not submitted: {file.places(submission.unsubmitted)}.")


def report_what_still_runs(submission: Submission | None) -> None:
    """Report, after Ctrl-C, which batches still run on the server."""
    parts = [] if submission is None else submission.parts
    running = [part for part in parts if not part.is_final]
    what = "batch still runs" if len(running) == 1 else "batches still run"
    print_error(f"\nStopped watching. {len(running):,} {what} on the server{':' if running else '.'}")
    for part in running:
        print_error(f"  {part.batch.url}")
    if submission is not None:
        report_what_is_open(submission)
