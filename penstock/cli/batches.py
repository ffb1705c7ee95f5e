"""The commands that follow and change batches: `penstock list`, `status`, `watch`, `results`, `cancel` and others.

Each is started as `python -m penstock.cli.batches NAME`. All of them exit with 2 if the server does not do what they
ask for.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from penstock.batch_id import check_batch_id
from penstock.cli.exit_codes import ALL_SUCCEEDED, INTERRUPTED, NOT_DONE, SOME_FAILED
from penstock.cli.file_errors import print_errors_in_file
from penstock.cli.metadata import METAVAR, read_pairs
from penstock.cli.progress import open_progress
from penstock.cli.server import DEFAULT_URL, AsJson, CallFailed, Url, connected
from penstock.cli.terminal import (
    counted,
    local_time,
    one_line,
    print_error,
    print_facts,
    print_json,
    print_line,
    print_table,
    style_of_count,
    style_of_state,
)
from penstock.client import Batch, Outcome, Status
from penstock.client.async_batch import State
from penstock.client.download import replacing
from penstock.priority import Priority
from penstock.process import command_line

_SHOWN_RESULTS = 20
_ALL_TENANTS = "*"
_MOST_LETTERS = 100
_IF_UNKNOWN = "It is not known whether this was done. `penstock status {}` shows it, and the command may be run again."
_IF_UNKNOWN_RETRIED = (
    "It is not known whether operations run again. `penstock status {}` shows it when they have ended."
)
_IF_UNKNOWN_MOVED = (
    "It is not known how many chunks moved back to the queue. Run the command again for those that are left."
)

app = typer.Typer(add_completion=False, no_args_is_help=True)


class Kind(StrEnum):
    """The format of a file of results or of rejected rows."""

    CSV = "csv"
    NDJSON = "ndjson"


class Ended(StrEnum):
    """What an operation came to."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


def _time(text: str) -> str:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("Write a time such as 2026-11-29, or 2026-11-29T08:00:00+01:00.") from None
    return time.astimezone().isoformat()


def _batch_id(text: str) -> str:
    try:
        return check_batch_id(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


BatchId = Annotated[
    str, typer.Argument(metavar="ID", parser=_batch_id, help="The id of the batch, as `penstock list` shows it.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file, and not to standard output.")
]


def main() -> None:
    command_line.run_commands("", app, exit_code=NOT_DONE)


@app.command("list")
def list_(  # noqa: PLR0917 - the command line names them
    status: Annotated[
        str | None, typer.Option(help="Only batches in this state, such as processing or failed.")
    ] = None,
    priority: Annotated[Priority | None, typer.Option(help="Only batches with this priority.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar=METAVAR, help="Only batches with this metadata. May be repeated."),
    ] = None,
    since: Annotated[str | None, typer.Option(parser=_time, metavar="TIME", help="Only batches since then.")] = None,
    before: Annotated[str | None, typer.Option(parser=_time, metavar="TIME", help="Only batches before then.")] = None,
    tenant: Annotated[
        str | None, typer.Option(help="For operators: the batches of a tenant, or of all with '*'.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most batches to list.")] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List batches, the newest first.

    penstock list --status failed --since 2026-11-28

    penstock list --metadata team=growth --json
    """
    with connected(url) as client:
        found = client.batches(
            status=status,
            priority=priority,
            metadata=read_pairs(metadata),
            created_after=since,
            created_before=before,
            tenant=tenant,
        )
        statuses = list(islice(found, limit + 1))
    if as_json:
        print_json({"batches": [one.document for one in statuses[:limit]]})
        return
    if not statuses:
        is_filtered = any((status, priority, metadata, since, before, tenant))
        print_error("There are no such batches." if is_filtered else "There are no batches yet.")
        return
    has_tenants = tenant == _ALL_TENANTS or len({one.tenant for one in statuses}) > 1
    headings = ["batch", "state", "total", "done", "failed", "submitted", *(["tenant"] if has_tenants else []), "title"]
    print_table(
        headings,
        [_row(one, has_tenant=has_tenants) for one in statuses[:limit]],
        right=(2, 3, 4),
        styles={1: style_of_state, 4: style_of_count},
    )
    if len(statuses) > limit:
        print_error(f"There are more. Use --limit {limit * 5}.")


def _row(status: Status, *, has_tenant: bool) -> list[str]:
    return [
        status.id,
        status.status,
        f"{status.total:,}",
        f"{status.progress:.0%}" if status.progress < 1 else "100%",
        f"{status.failed:,}",
        local_time(status.created_at, "%m-%d %H:%M"),
        *([one_line(status.tenant)] if has_tenant else []),
        one_line(status.title),
    ]


@app.command()
def status(batch_id: BatchId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Show how far a batch is.

    penstock status 01M853H03Q7Z1ZXRY68PYH3E2H
    """
    with connected(url) as client:
        found = client.batch(batch_id).status()
    _print_status(found, as_json=as_json)


def _print_status(status: Status, *, as_json: bool) -> None:
    if as_json:
        print_json(status.document)
        return
    facts = {
        "batch": status.id,
        "title": one_line(status.title),
        "state": f"{status.status}{f': {one_line(status.reason)}' if status.reason else ''}",
        "file": _file_progress(status),
        "done": f"{status.completed:,} of {status.total:,} ({_percent(status)})" if status.total else "",
        "succeeded": f"{status.succeeded:,}" if status.total else "",
        **{name: f"{count:,}" for name in ("failed", "cancelled", "expired") if (count := getattr(status, name))},
        "priority": "" if status.priority == "normal" else status.priority,
        "submitted": local_time(status.created_at),
        "starts": "" if status.started_at else local_time(status.not_before),
        "finished": local_time(status.finished_at),
        "finishes": "" if status.is_final else _estimate(status),
        "cost": "" if status.cost is None else f"${status.cost.usd:.7f} for {status.cost.requests:,.0f} AWS requests",
        "metadata": one_line(", ".join(f"{name}={text}" for name, text in status.metadata.items() if name != "title")),
    }
    print_facts(facts, {"state": style_of_state(status.status), "failed": "red"})
    print_errors_in_file(status)


def _file_progress(status: Status) -> str:
    """Return how far the server has read the file of a batch, or "" if it does not validate one."""
    found = status.validation
    if found is None or status.status != "validating":
        return ""
    read = (
        f"{counted(found.operations_read, 'operation')} read ({found.bytes_read / max(found.bytes, 1):.0%} of the file)"
    )
    return f"{read}, {found.operations_sent:,} on the queue" if found.operations_sent else read


def _percent(status: Status) -> str:
    return "100 %" if status.completed == status.total else f"{int(100 * status.progress)} %"


def _estimate(status: Status) -> str:
    about = local_time(status.eta, "about %H:%M:%S")
    if not (about and status.eta_earliest and status.eta_latest):
        return about
    earliest, latest = (local_time(time, "%H:%M:%S") for time in (status.eta_earliest, status.eta_latest))
    return f"{about}, between {earliest} and {latest} in eight of ten cases"


@app.command()
def watch(batch_id: BatchId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Show the progress of a batch until it has finished. Ctrl-C stops the watching, not the batch.

    Exit code: 0 if every operation succeeded, 1 if some did not, 2 if the batch cannot be read.
    """
    with connected(url) as client, _interruptible():
        found = _watch(client.batch(batch_id), as_json=as_json)
    if not as_json:
        _print_status(found, as_json=False)
    raise typer.Exit(ALL_SUCCEEDED if found.all_succeeded else SOME_FAILED)


def _watch(batch: Batch, *, as_json: bool) -> Status:
    """Show each status until the batch is final, and return the last one."""
    if as_json:
        return batch.wait(progress=lambda status: print_line(status.document))
    with open_progress() as progress:
        return batch.wait(progress=progress.show)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print_error("Stopped watching. The batch goes on.")
        raise typer.Exit(INTERRUPTED) from None


@app.command()
def results(  # noqa: PLR0917 - the command line names them
    batch_id: BatchId,
    status: Annotated[Ended | None, typer.Option(help="Only operations with this outcome.")] = None,
    kind: Annotated[Kind | None, typer.Option("--format", help="Write NDJSON, or CSV for a spreadsheet.")] = None,
    output: Output = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show the outcomes of a batch, or write them to a file.

    A terminal shows the first ones. A file or a pipe gets all of them, as NDJSON unless --format says otherwise.

    penstock results 01M853H03Q7Z1ZXRY68PYH3E2H -o results.csv

    penstock results 01M853H03Q7Z1ZXRY68PYH3E2H --status failed | jq .error
    """
    state: State | None = None if status is None else status.value
    with connected(url) as client:
        batch = client.batch(batch_id)
        if output is None and kind is None and not as_json and sys.stdout.isatty():
            _show_results(batch, state)
        else:
            is_final = batch.status().is_final
            with _opened(output) as file:
                batch.save_results(file, kind=_kind(kind, output, as_json=as_json).value, status=state)
            if not is_final:
                print_error("The batch has not finished: these are its outcomes so far.")


def _show_results(batch: Batch, state: State | None) -> None:
    outcomes = list(islice(batch.results(status=state), _SHOWN_RESULTS + 1))
    if not outcomes:
        print_error("There are no such outcomes yet.")
        return
    rows = [[one_line(one.id), str(one.status), _words(one)] for one in outcomes[:_SHOWN_RESULTS]]
    print_table(["id", "status", "result"], rows, styles={1: _style_of_status})
    if len(outcomes) > _SHOWN_RESULTS:
        print_error("There are more. Write them to a file with -o results.csv, or results.ndjson.")


def _words(outcome: Outcome) -> str:
    if outcome.result_missing is not None:
        return one_line(outcome.result_missing)
    if outcome.succeeded:
        return one_line("" if outcome.result is None else json.dumps(outcome.result, ensure_ascii=False))
    return one_line(": ".join(filter(None, (outcome.title, outcome.detail))))


def _style_of_status(status: str) -> str:
    return "green" if status < "400" else "red"


def _kind(kind: Kind | None, output: Path | None, *, as_json: bool) -> Kind:
    """Return the format that an option names, or the name of the file."""
    if kind is not None:
        return kind
    return Kind.CSV if output is not None and output.suffix.lower() == ".csv" and not as_json else Kind.NDJSON


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with replacing(output) as file:
            yield file
    except OSError as error:
        raise typer.BadParameter(f"{output}: {error.strerror}.", param_hint="--output") from error


@app.command()
def rejected(
    batch_id: BatchId,
    kind: Annotated[Kind | None, typer.Option("--format", help="CSV for a spreadsheet, or NDJSON.")] = None,
    output: Output = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Write the rows that failed, as they were submitted, with columns that say what was wrong.

    Correct them, and submit the file again: the added columns are ignored.

    penstock rejected 01M853H03Q7Z1ZXRY68PYH3E2H -o rejected.csv
    """
    default = Kind.CSV if output is None else _kind(None, output, as_json=False)
    with connected(url) as client:
        batch = client.batch(batch_id)
        is_final = batch.status().is_final
        with _opened(output) as file:
            batch.save_rejected(file, kind=(kind or default).value)
        if not is_final:
            print_error("The batch has not finished: these are the rows that have failed so far.")


@app.command()
def export(  # noqa: PLR0917 - the command line names them
    batch_id: BatchId,
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Write the files into this folder.")],
    kind: Annotated[Kind, typer.Option("--format", help="NDJSON, or CSV for a spreadsheet.")] = Kind.NDJSON,
    status: Annotated[Ended | None, typer.Option(help="Only operations with this outcome.")] = None,
    compressed: Annotated[bool, typer.Option("--gzip", help="Compress the files.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Download all outcomes of a final batch as files of up to 128 MB. The server needs a bucket for that.

    penstock export 01M853H03Q7Z1ZXRY68PYH3E2H -o results --format csv --gzip
    """
    state: State | None = None if status is None else status.value
    with connected(url) as client:
        try:
            paths = client.batch(batch_id).save_export(
                folder, kind=kind.value, status=state, compression="gzip" if compressed else None
            )
        except OSError as error:
            raise typer.BadParameter(f"{folder}: {error.strerror}.", param_hint="--output") from error
    if others := _other_parts(folder, paths):
        print_error(f"{counted(len(others), 'file')} of another export in this folder: {', '.join(others[:3])}.")
    if as_json:
        print_json({"files": [str(path) for path in paths]})
        return
    for path in paths:
        typer.echo(path)
    if not paths:
        print_error("There are no such outcomes.")


def _other_parts(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Return the names of files in the folder that look like files of this export, and are not."""
    kinds = {path.name.partition(".")[2] for path in paths}
    found = {path.name for kind in kinds for path in folder.glob(f"part-*.{kind}")}
    return [one_line(name) for name in sorted(found - {path.name for path in paths})]


@app.command()
def failures(batch_id: BatchId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Show what failed and why: the failures of a batch, the most frequent cause first.

    penstock failures 01M853H03Q7Z1ZXRY68PYH3E2H
    """
    with connected(url) as client:
        found = client.batch(batch_id).failures()
    if as_json:
        print_json({"batchId": batch_id, **found.to_json()})
        return
    if not found.failed:
        print_error("Nothing has failed.")
        return
    rows = [
        [f"{group.count:,}", str(group.status), one_line(group.title), *_sample(group.samples)]
        for group in found.groups
    ]
    other = [[f"{found.other:,}", "", "other causes", "", ""]] if found.other else []
    print_table(["count", "status", "title", "for example", "detail"], [*rows, *other], right=(0,), styles={0: _red})


def _red(_: str) -> str:
    return "red"


def _sample(samples: Sequence[Any]) -> tuple[str, str]:
    if not samples:
        return "", ""
    return one_line(samples[0].id), one_line(samples[0].detail or "")


@app.command()
def cancel(batch_id: BatchId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Cancel what has not started of a batch. Running operations finish."""
    with connected(url, if_unknown=_IF_UNKNOWN.format(batch_id)) as client:
        batch = client.batch(batch_id)
        batch.cancel()
        _report(batch.status(), "Cancelled. Running operations finish.", as_json=as_json)


@app.command()
def pause(batch_id: BatchId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Start no more operations of a batch until it is resumed. Running operations finish."""
    with connected(url, if_unknown=_IF_UNKNOWN.format(batch_id)) as client:
        found = client.batch(batch_id).pause()
        until = local_time(found.paused_until)
        _report(found, f"Paused. Running operations finish. It resumes by itself at {until}.", as_json=as_json)


@app.command()
def resume(batch_id: BatchId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Go on with a paused batch."""
    with connected(url, if_unknown=_IF_UNKNOWN.format(batch_id)) as client:
        _report(client.batch(batch_id).resume(), "Resumed.", as_json=as_json)


def _report(status: Status, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(status.document)
    else:
        typer.echo(f"{sentence} Done so far: {status.completed:,} of {status.total:,}.")


@app.command()
def retry(  # noqa: PLR0917 - the command line names them
    batch_id: BatchId,
    status: Annotated[
        list[int] | None, typer.Option(metavar="STATUS", help="Only operations that failed with it. May be repeated.")
    ] = None,
    id_: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Only this operation. May be repeated.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Only operations whose error has this title.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Run the failed operations of a batch again, or some of them.

    penstock retry 01M853H03Q7Z1ZXRY68PYH3E2H --status 429 --status 503
    """
    with connected(url, if_unknown=_IF_UNKNOWN_RETRIED.format(batch_id)) as client:
        retried = client.batch(batch_id).retry(status=status or None, ids=id_ or None, title=title)
    if as_json:
        print_json({"batchId": batch_id, "retried": retried})
    else:
        runs = "runs" if retried == 1 else "run"
        typer.echo(f"{counted(retried, 'operation')} {runs} again. `penstock status {batch_id}` shows the new counts.")


@app.command("dead-letters")
def dead_letters(
    limit: Annotated[int, typer.Option(min=1, max=_MOST_LETTERS, help="The most dead letters to look into.")] = 10,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show what failed after its last attempt. For operators: the key needs the scope operate."""
    with connected(url, for_operators=True) as client:
        found = client.ask("GET", "dead-letters", query={"limit": str(limit)}).document
    if as_json:
        print_json(found)
        return
    count, letters = found["approximateCount"], found["deadLetters"]
    if not letters:
        print_error("There are no dead letters.")
        return
    print_table(["batch", "operations", "status", "title"], _by_batch_and_cause(letters), right=(1,))
    if count > len(letters):
        more = "" if limit == _MOST_LETTERS else f" Use --limit {_MOST_LETTERS}."
        print_error(f"This is in {len(letters)} of about {counted(count, 'dead letter')}.{more}")


def _by_batch_and_cause(letters: Sequence[Any]) -> list[list[str]]:
    """Return a row for each cause in each batch. A letter has all failures of a chunk, whatever their causes are."""
    causes: Counter[tuple[str, str, str]] = Counter()
    for letter in letters:
        for operation in letter.get("operations", ()):
            title = (operation.get("error") or {}).get("title") or ""
            causes[letter["batchId"], str(operation.get("status", "-")), one_line(title)] += 1
    reasons = Counter(one_line(letter["unreadable"]) for letter in letters if "unreadable" in letter)
    unreadable = [
        ["-", "-", "-", reason if count == 1 else f"{count:,} messages: {reason}"] for reason, count in reasons.items()
    ]
    return [[batch, f"{count:,}", status, title] for (batch, status, title), count in causes.items()] + unreadable


@app.command()
def redrive(
    batch: Annotated[
        str | None, typer.Option(metavar="ID", parser=_batch_id, help="Only the dead letters of this batch.")
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Run what is in the dead letter queue again. For operators: the key needs the scope operate."""
    body = {} if batch is None else {"batchId": batch}
    moved, is_complete = 0, False
    with connected(url, for_operators=True, if_unknown=_IF_UNKNOWN_MOVED) as client:
        while not is_complete:  # a call moves what it can in 20 seconds
            answer = client.ask("POST", "dead-letters/redrive", json=body).document
            moved, is_complete = moved + answer["redrivenChunks"], answer["isComplete"]
    if batch is not None and moved == 0:
        raise CallFailed(f"Batch {batch} has no dead letters, so nothing was moved back to the queue.")
    if as_json:
        print_json({"redrivenChunks": moved})
    else:
        typer.echo(f"{counted(moved, 'chunk')} moved back to the queue.")


if __name__ == "__main__":
    main()
