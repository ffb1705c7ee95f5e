"""The commands for batches against a front end and a consumer: what they print where, and their exit codes."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from penstock.cli import batches
from penstock.client import Patience
from tests.support.programs import free_port
from tests.unit.penstock.client.conftest import Endpoint, Site, lose_answer, site, users, with_downloads

__all__ = ["site"]  # the fixture

Run = Callable[..., Awaitable[Result]]


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Keep what the server logs from the output of the command."""
    with capture_logs():
        yield


@pytest.fixture
def run(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in a thread, because it has a loop of its own."""
    monkeypatch.setenv("PENSTOCK_URL", site.url)
    monkeypatch.chdir(tmp_path)

    async def run(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, batches.app, list(words))

    return run


async def finished(site: Site, *names: str, title: str | None = None) -> str:
    async with site.client() as client:
        batch = await client.submit(users(*names), title=title, metadata={"team": "growth"})
        await batch.wait()
        return batch.id


def lines_of(name: str) -> int:
    return len(Path(name).read_text().splitlines())


def make_empty(name: str) -> None:
    Path(name).touch()


def files_in(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


async def test_batches_are_listed_and_shown(run: Run, site: Site) -> None:
    first, second = await finished(site, "Ann", "Bad Bo", title="Friday"), await finished(site, "Bad Bo")
    listed = (await run("list")).stdout.splitlines()
    assert [line.split()[:5] for line in listed] == [
        ["batch", "state", "total", "done", "failed"],
        [second, "failed", "1", "100%", "1"],
        [first, "completed", "2", "100%", "1"],
    ]
    assert listed[2].endswith("  Friday")
    assert all(len(line) <= 80 for line in listed)
    only = await run("list", "--status", "completed", "--metadata", "team=growth", "--json")
    assert [one["batchId"] for one in json.loads(only.stdout)["batches"]] == [first]
    assert "There are more" in (await run("list", "--limit", "1")).stderr
    for choice in (
        ("--status", "expired"),
        ("--priority", "low"),
        ("--before", "2020-01-01"),
        ("--since", "2999-01-01"),
    ):
        assert "There are no such batches" in (await run("list", *choice)).stderr

    shown = dict(line.split(maxsplit=1) for line in (await run("status", first)).stdout.splitlines())
    assert (shown["state"], shown["done"], shown["metadata"]) == ("completed", "2 of 2 (100 %)", "team=growth")
    assert json.loads((await run("status", first, "--json")).stdout)["batchId"] == first


@pytest.mark.parametrize(
    ("words", "tenants", "has_column"),
    [
        ((), ("acme", "acme"), False),
        ((), ("acme", "globex"), True),
        (("--tenant", "acme"), ("acme", "acme"), False),
        (("--tenant", "*"), ("acme", "acme"), True),
    ],
)
async def test_list_of_several_tenants_shows_whose_each_batch_is(
    run: Run, site: Site, words: tuple[str, ...], tenants: tuple[str, ...], has_column: bool
) -> None:
    counts = {"status": "completed", "total": 1, "completed": 1, "succeeded": 1, "failed": 0}
    statuses = [{"batchId": "one", "tenant": tenant, "metadata": {"title": "T"}, **counts} for tenant in tenants]

    async def answer(request: web.Request, _: Endpoint) -> web.StreamResponse:
        return web.json_response({"batches": statuses, "nextCursor": None})

    site.fault = answer
    heading, *rows = ((await run("list", *words)).stdout).splitlines()
    assert heading.split()[-2:] == (["tenant", "title"] if has_column else ["submitted", "title"])
    assert [row.split()[-2] in tenants for row in rows] == [has_column] * 2


async def test_list_without_batches_says_so(run: Run) -> None:
    assert (await run("list")).stderr == "There are no batches yet.\n"


async def test_watching_ends_with_the_outcome_as_exit_code(run: Run, site: Site) -> None:
    good, bad = await finished(site, "Ann"), await finished(site, "Ann", "Bad Bo")
    assert (await run("watch", good)).exit_code == 0
    watched = await run("watch", bad)
    assert (watched.exit_code, "100%  2 of 2, 1 failed" in watched.stderr) == (1, True)
    assert "state      completed" in watched.stdout
    lines = (await run("watch", bad, "--json")).stdout.splitlines()
    assert [json.loads(line)["status"] for line in lines][-1] == "completed"


async def test_outcomes_and_failures_are_printed_or_written(run: Run, site: Site) -> None:
    batch = await finished(site, "Ann", "Bad Bo", "Bad Cy")
    outcomes = [json.loads(line) for line in (await run("results", batch)).stdout.splitlines()]
    assert [one["status"] for one in outcomes] == [201, 409, 409]
    written = await run("results", batch, "--status", "failed", "-o", "failed.ndjson")
    assert (written.stdout, lines_of("failed.ndjson")) == ("", 2)
    assert (await run("failures", batch)).stdout.splitlines() == [
        "count  status  title     for example  detail",
        "    2  409     Rejected  1            Bad Bo is taken.",
    ]
    async with site.client() as client:
        told = (await client.ask("GET", f"batch/{batch}/failures")).document
    assert json.loads((await run("failures", batch, "--json")).stdout) == told
    assert "No such file or directory" in (await run("results", batch, "-o", "no/file")).stderr


async def test_outcomes_of_a_batch_that_has_not_finished_are_told_to_be_incomplete(run: Run, site: Site) -> None:
    final = await finished(site, "Bad Bo")
    async with site.client() as client:
        open_ = (await client.submit(users("Ann"), not_before=datetime.now(UTC) + timedelta(hours=1))).id
    for words in (["results"], ["results", "-o", "results.csv"], ["rejected"]):
        assert (await run(words[0], final, *words[1:])).stderr == ""
        told = await run(words[0], open_, *words[1:])
        assert (told.exit_code, told.stderr[:33]) == (0, "The batch has not finished: these")


async def test_outcomes_are_exported_into_a_folder(run: Run, site: Site) -> None:
    batch, site.fault = await finished(site, "Ann", "Bad Bo"), with_downloads(site)
    written = await run("export", batch, "-o", "out", "--format", "csv", "--status", "failed")
    assert (written.exit_code, written.stdout) == (0, "out/part-00001.csv\n")
    assert lines_of("out/part-00001.csv") == 2
    assert json.loads((await run("export", batch, "-o", "out", "--json")).stdout) == {
        "files": ["out/part-00001.ndjson"]
    }
    assert "no such outcomes" in (await run("export", batch, "-o", "out", "--status", "expired")).stderr
    assert (await run("export", batch, "-o", "out")).stderr == ""
    make_empty("out/part-00002.ndjson")  # left by the export of a larger batch
    told = await run("export", batch, "-o", "out")
    assert (told.exit_code, told.stderr) == (0, "1 file of another export in this folder: part-00002.ndjson.\n")


async def test_file_stays_as_it_was_if_the_outcomes_cannot_be_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "keep.csv").write_text("before")
    for command in ("results", "rejected"):
        assert (await run(command, "01M853H03Q7Z1ZXRY68PYH3E2H", "-o", "keep.csv")).exit_code != 0
    assert files_in(tmp_path) == {"keep.csv": "before"}


async def test_batch_is_paused_resumed_cancelled_and_retried(run: Run, site: Site) -> None:
    async with site.client() as client:
        held = (await client.submit(users("Ann"), not_before=datetime.now(UTC) + timedelta(hours=1))).id
    assert (await run("pause", held)).stdout.startswith("Paused. Running operations finish. It resumes by itself at 2")
    assert (await run("resume", held)).stdout == "Resumed. Done so far: 0 of 1.\n"
    assert json.loads((await run("cancel", held, "--json")).stdout)["status"] in {"cancelling", "cancelled"}
    failed = await finished(site, "Bad Bo")
    assert (await run("retry", failed)).stdout.startswith("1 operation runs again.")
    assert "already failed" in str((await run("cancel", failed)).exception)


async def test_dead_letters_are_counted_by_batch_and_cause(run: Run, site: Site) -> None:
    def failed(status: int, title: str) -> dict[str, Any]:
        return {"id": "0", "status": status, "error": {"title": title}}

    letters = [
        {"batchId": "one", "operations": [failed(409, "Rejected"), failed(410, "Rejected")]},
        {"batchId": "one", "operations": [failed(410, "Rejected"), failed(410, "Rejected")]},
        {"batchId": "two", "operations": [failed(500, "Broke")]},
        {"unreadable": "The message is no chunk."},
        {"unreadable": "The message is not JSON."},
        {"unreadable": "The message is not JSON."},
    ]

    async def answer(request: web.Request, _: Endpoint) -> web.StreamResponse:
        return web.json_response({"approximateCount": 2_000, "deadLetters": letters})

    site.fault = answer
    shown = await run("dead-letters", "--limit", "6")
    assert [line.split(maxsplit=3) for line in shown.stdout.splitlines()] == [
        ["batch", "operations", "status", "title"],
        ["one", "1", "409", "Rejected"],
        ["one", "3", "410", "Rejected"],
        ["two", "1", "500", "Broke"],
        ["-", "-", "-", "The message is no chunk."],
        ["-", "-", "-", "2 messages: The message is not JSON."],
    ]
    assert shown.stderr == "This is in 6 of about 2,000 dead letters. Use --limit 100.\n"


async def test_redrive_whose_answer_is_lost_is_not_repeated(run: Run, site: Site) -> None:
    site.fault = lose_answer
    told = str((await run("redrive")).exception)
    assert "It is not known how many chunks moved back to the queue. Run the command again" in told
    assert site.requests == [("POST", "/dead-letters/redrive")]


async def test_redrive_of_a_batch_without_dead_letters_has_not_done_what_it_was_asked_for(run: Run, site: Site) -> None:
    moved = [(0, True), (0, True), (3, False), (0, True)]

    async def answer(request: web.Request, _: Endpoint) -> web.StreamResponse:
        count, is_complete = moved.pop(0)
        return web.json_response({"redrivenChunks": count, "isComplete": is_complete}, status=202)

    site.fault = answer
    none = await run("redrive", "--batch", "01M853H03Q7Z1ZXRY68PYH3E2H")
    assert str(none.exception).startswith("Batch 01M853H03Q7Z1ZXRY68PYH3E2H has no dead letters")
    assert (await run("redrive")).stdout == "0 chunks moved back to the queue.\n"
    some = await run("redrive", "--batch", "01M853H03Q7Z1ZXRY68PYH3E2H")
    assert (some.exit_code, some.stdout) == (0, "3 chunks moved back to the queue.\n")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("pause", "It is not known whether this was done. `penstock status 01M853H03Q7Z1ZXRY68PYH3E2H`"),
        ("resume", "It is not known whether this was done. `penstock status 01M853H03Q7Z1ZXRY68PYH3E2H`"),
        ("cancel", "It is not known whether this was done. `penstock status 01M853H03Q7Z1ZXRY68PYH3E2H`"),
        ("retry", "It is not known whether operations run again. `penstock status 01M853H03Q7Z1ZXRY68PYH3E2H`"),
        ("status", ""),
    ],
)
async def test_change_that_aws_has_perhaps_made_is_told_so(
    run: Run, site: Site, monkeypatch: pytest.MonkeyPatch, command: str, told: str
) -> None:
    async def answer(_: web.Request, __: Endpoint) -> web.StreamResponse:
        problem = {"title": "Unavailable", "detail": "AWS does not answer."}
        headers = {"Retry-After": "2", "Content-Type": "application/problem+json"}
        return web.Response(text=json.dumps(problem), status=503, headers=headers)

    site.fault = answer
    monkeypatch.setattr("penstock.cli.server._PATIENCE", Patience(0, 0, 0, 0))
    first, _, second = str((await run(command, "01M853H03Q7Z1ZXRY68PYH3E2H")).exception).partition("\n")
    assert first == "The server answered 503: AWS does not answer."
    assert second.startswith(told)
    assert bool(second) == bool(told)


@pytest.mark.parametrize("wrong", ["a/b", "../keys", "a?b", "", "x" * 41])
async def test_id_that_no_batch_can_have_is_rejected_without_a_request(run: Run, site: Site, wrong: str) -> None:
    for command in ("status", "cancel", "results"):
        told = await run(command, wrong)
        assert told.exit_code == 2
        assert "is no id of a batch. It should look like 01" in " ".join(told.stderr.replace("│", " ").split())
    assert (await run("redrive", "--batch", wrong)).exit_code == 2
    assert site.requests == []


@pytest.mark.full
async def test_reader_that_has_enough_ends_the_command_as_it_ends_others(run: Run, site: Site) -> None:
    batch = await finished(site, "Ann")
    reading, writing = os.pipe()
    os.close(reading)
    words = (sys.executable, "-m", "penstock.cli.batches", "results", batch)
    command = await asyncio.create_subprocess_exec(*words, stdout=writing, stderr=PIPE)
    os.close(writing)
    _, told = await command.communicate()
    assert (command.returncode, told) == (-signal.SIGPIPE, b"")


async def test_errors_say_what_to_do(run: Run, site: Site) -> None:
    unknown = await run("status", "01M853H03Q7Z1ZXRY68PYH3E2H")
    assert "`penstock list` shows your batches." in str(unknown.exception)
    url = f"http://127.0.0.1:{free_port()}"
    nobody = await run("status", "01M853H03Q7Z1ZXRY68PYH3E2H", "--url", url)
    assert str(nobody.exception) == (
        f"Nothing answers at {url}. Start Penstock with `penstock up`, or name its URL with --url."
    )
    assert "should look like" in " ".join((await run("list", "--url", "localhost")).stderr.replace("│", " ").split())
    assert "such as team=growth" in (await run("list", "--metadata", "growth")).stderr
    assert "--url http://127.0.0.1:8081" in str((await run("dead-letters")).exception)
