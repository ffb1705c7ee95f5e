"""`penstock profile` runs a file's operations for real, once each, and tells where the time went."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.cli import profiling
from tests.support.upstream import toy_upstream

APPLICATION = """
import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

from penstock import Context, Operations, Reject, Retry


def write(word):
    with Path("journal").open("a") as journal:
        journal.write(word + "\\n")


@asynccontextmanager
async def transaction():
    try:
        yield "opened"
    except BaseException:
        write("rolled back")
        raise
    write("committed")


operations = Operations(transaction=transaction)


@operations.post("/notes", status=201)
async def note(body: dict[str, str], context: Context) -> None:
    assert context.transaction == "opened"
    write(f"{body['name']} {context.attempt}")
    await wait_for_the_bank()


async def wait_for_the_bank() -> None:
    await asyncio.sleep(0.02)


@operations.post("/refused")
async def refuse() -> None:
    raise Reject(409, "Not this one.")


@operations.post("/retried")
async def retry() -> None:
    raise Retry


@operations.post("/numbers")
async def take_number(body: int) -> int:
    return body


@operations.post("/together", bulk=True, max_size=2)
async def take_together(bodies: list[int]) -> list[int]:
    write("together " + " ".join(map(str, bodies)))
    if 4 in bodies:
        raise ValueError
    return bodies


@operations.post("/elsewhere", cpu_bound=True)
def work() -> int:
    write(f"elsewhere {os.getpid()}")
    return 1
"""
NOTES = "name\nada\nben\ncleo\n"
MIXED = "\n".join(f'{{"method": "POST", "path": "/{path}"}}' for path in ("refused", "retried"))


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Shell:
    """In a folder with an application."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def profile(self, file: str, content: str, *options: str, app: str | None = "bank:operations") -> Ended:
        Path(file).write_text(content)
        if app is not None:
            self.monkeypatch.setenv("PENSTOCK_APP", app)
        self.monkeypatch.setattr("sys.argv", ["profile", *options, "--", file])
        with pytest.raises(SystemExit) as ending:
            profiling.main()
        assert isinstance(ending.value.code, int)
        return Ended(ending.value.code, *self.capsys.readouterr())


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    (tmp_path / "bank.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(profiling, "configure_logging", lambda *_: None)  # it would stay so for all that follow
    yield Shell(monkeypatch, capsys)
    sys.modules.pop("bank", None)


def journal() -> list[str]:
    return Path("journal").read_text().splitlines() if Path("journal").exists() else []


def test_time_is_told_by_function_and_by_handler(shell: Shell) -> None:
    ended = shell.profile("notes.csv", NOTES, "--method", "POST", "--path", "/notes")
    assert (ended.code, ended.stderr) == (0, "")
    assert "wait_for_the_bank" in ended.stdout  # what a handler awaits is its own time
    assert re.search(r"POST /notes +3 +3 +0 +0 +\d+\.\d\d ms", ended.stdout)
    assert "3 operations in" in ended.stdout
    assert journal() == ["ada 1", "committed", "ben 1", "committed", "cleo 1", "committed"]


def test_several_run_at_once_where_that_is_asked_for(shell: Shell) -> None:
    ended = shell.profile("notes.csv", NOTES, "--method", "POST", "--path", "/notes", "--concurrency", "3")
    assert ended.code == 0
    assert journal()[:3] == ["ada 1", "ben 1", "cleo 1"]
    assert journal()[3:] == ["committed"] * 3


@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_bulk_handlers_are_called_as_a_consumer_calls_them(shell: Shell, concurrency: str) -> None:
    content = "\n".join(f'{{"method": "POST", "path": "/together", "body": {number}}}' for number in range(5))
    ended = shell.profile("numbers.ndjson", content, "--concurrency", concurrency)
    calls = [line for line in journal() if line.startswith("together")]
    assert sorted(calls) == ["together 0 1", "together 2 3", "together 4"]
    assert re.search(r"POST /together +5 +4 +0 +1 ", ended.stdout)
    assert "Failed: 1, the first:\n  line 5  500  " in ended.stdout


def test_operations_of_a_bulk_call_that_broke_are_tried_singly(shell: Shell) -> None:
    content = "\n".join(f'{{"method": "POST", "path": "/together", "body": {number}}}' for number in (3, 4))
    ended = shell.profile("numbers.ndjson", content)
    assert [line for line in journal() if line.startswith("together")] == ["together 3 4", "together 3", "together 4"]
    assert re.search(r"POST /together +2 +1 +0 +1 ", ended.stdout)


def test_bulk_handlers_are_given_no_more_than_a_chunk_holds(shell: Shell) -> None:
    shell.monkeypatch.setenv("PENSTOCK_CHUNK_OPERATIONS", "1")
    shell.profile("numbers.ndjson", '{"method": "POST", "path": "/together", "body": 1}\n' * 2)
    assert [line for line in journal() if line.startswith("together")] == ["together 1"] * 2


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_work_for_the_processor_is_done_in_processes_that_end_with_the_profile(shell: Shell, concurrency: str) -> None:
    shell.monkeypatch.setenv("PENSTOCK_CPU_PROCESSES", "1")
    content = '{"method": "POST", "path": "/elsewhere"}\n' * 3
    ended = shell.profile("work.ndjson", content, "--concurrency", concurrency)
    assert (ended.code, ended.stderr) == (0, "")
    assert re.search(r"POST /elsewhere +3 +3 +0 +0 ", ended.stdout)
    [line] = set(journal())
    pid = int(line.removeprefix("elsewhere "))
    assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_forwarded_operations_are_run_too(shell: Shell) -> None:
    async with toy_upstream() as upstream:
        shell.monkeypatch.setenv("PENSTOCK_UPSTREAM", upstream.url)
        content = '{"method": "POST", "path": "/create/7", "body": 1}\n{"method": "GET", "path": "/missing/8"}'
        ended = await asyncio.to_thread(shell.profile, "asked.ndjson", content, app=None)
    assert (ended.code, ended.stderr) == (0, "")
    assert upstream.targets == ["/create/7", "/missing/8"]
    assert "Failed: 1, the first:\n  line 2  404  No such thing" in ended.stdout


def test_each_is_attempted_once_and_what_failed_is_told(shell: Shell) -> None:
    ended = shell.profile("mixed.ndjson", MIXED)
    assert ended.code == 0
    assert re.search(r"POST /refused +1 +0 +1 +0", ended.stdout)
    assert re.search(r"POST /retried +1 +0 +0 +1", ended.stdout)
    assert "Failed: 2, the first:\n  line 1  409  Rejected: Not this one.\n  line 2  503  " in ended.stdout
    assert journal() == ["rolled back"] * 2


def test_what_ends_as_the_file_means_it_to_is_no_failure(shell: Shell) -> None:
    content = MIXED.replace('"/refused"', '"/refused", "expect": "409"').replace(
        '"/retried"', '"/retried", "expect": "200"'
    )
    ended = shell.profile("mixed.ndjson", content, "--expect", "expect")
    assert "Not as expected: 1, the first:\n  line 2  503  " in ended.stdout


@pytest.mark.parametrize(
    ("file", "content", "options", "told"),
    [
        ("notes.csv", NOTES, (), "needs --method and --path"),
        ("notes.txt", NOTES, (), "Use --format json, ndjson or csv"),
        ("notes.ndjson", '{"method": "POST"}', (), "notes.ndjson, line 1: should be an object like"),
        (
            "wrong.ndjson",
            '{"method": "POST", "path": "/numbers", "body": 1}\n{"method": "POST", "path": "/numbers", "body": "x"}',
            (),
            "penstock profile: Invalid operations in wrong.ndjson. Nothing was run:\n  line 2, body: ",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_whole(
    shell: Shell, file: str, content: str, options: tuple[str, ...], told: str
) -> None:
    ended = shell.profile(file, content, *options)
    assert (ended.code, ended.stdout) == (2, "")
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert journal() == []


def test_application_that_cannot_be_loaded_is_told(shell: Shell) -> None:
    ended = shell.profile("notes.csv", NOTES, "--method", "POST", "--path", "/notes", app="nobody:operations")
    assert ended.code == 2
    assert "There is no module 'nobody'" in ended.stderr


def test_the_command_runs_it_and_says_that_it_happens_for_real(shell: Shell) -> None:
    Path("notes.csv").write_text(NOTES)
    script = str(Path(sys.executable).with_name("penstock"))
    options = ("--app", "bank:operations", "--method", "POST", "--path", "/notes")
    ended = subprocess.run([script, "profile", *options, "notes.csv"], capture_output=True, text=True, check=True)
    assert "wait_for_the_bank" in ended.stdout
    told = subprocess.run([script, "profile", "--help"], capture_output=True, text=True, check=True).stdout
    assert "really run" in told
