"""The client for scripts and notebooks: it blocks, also in a program in which an event loop runs already."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from penstock.client import Client, InvalidFile, Status
from tests.unit.penstock.client.conftest import IMPATIENT, Site, users


async def test_everything_works_from_a_thread(site: Site, tmp_path: Path) -> None:
    assert await asyncio.to_thread(_use, site.url, tmp_path) == "done"


def _use(url: str, folder: Path) -> str:
    seen: list[tuple[Status, threading.Thread]] = []
    here = threading.current_thread()
    with Client(url, patience=IMPATIENT) as client:
        assert client.validate(users("Ann", "Bad Bo")).total == 2
        batch = client.submit(users("Ann", "Bad Bo"), title="Friday")
        status = batch.wait(progress=lambda one: seen.append((one, threading.current_thread())))
        assert (status.succeeded, status.failed) == (1, 1)
        assert seen[-1] == (status, here)
        assert [outcome.status for outcome in batch.results()] == [201, 409]
        assert [event.type for event in batch.events()][-1] == "end"
        assert [one.title for one in client.batches()] == ["Friday"]
        assert client.batch(batch.id).failures().groups[0].count == 1
        batch.save_results(folder / "results.ndjson", status="failed")
        assert (folder / "results.ndjson").read_bytes().count(b"\n") == 1
        with pytest.raises(TimeoutError):
            client.submit([{"method": "POST", "path": "/hang"}]).wait(timeout=0.01)
        half_read = client.batches()
        next(half_read)
        with pytest.raises(TypeError):
            client.submit(users("Ann"), color="red")  # type: ignore[call-arg]
    with pytest.raises(RuntimeError, match="The client is closed"):
        batch.status()
    client.close()
    return "done"


async def test_it_works_where_a_loop_runs_already(site: Site) -> None:
    """As in a notebook, whose cells run on a loop. This one cannot serve the request meanwhile, so nothing is sent."""
    with Client(site.url) as client, pytest.raises(InvalidFile, match="Operation 1 is a str"):
        client.submit(["POST /users"])  # type: ignore[list-item]


def test_client_that_was_never_closed_ends_with_the_program() -> None:
    code = "from penstock.client import Client; client = Client('http://127.0.0.1:1')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.stderr, ended.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("users.txt", "", "its name does not tell its format"),
        ("users.json", "{", "is not JSON"),
        ("users.json", "7", "should be"),
        ("users.json", '{"operations": [], "metadata": "x"}', "should be an object"),
        ("users.csv", None, "cannot be read"),
    ],
)
def test_file_that_cannot_be_read(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidFile, match=message):
        client.submit(tmp_path / name)


def test_mistakes_in_a_call_are_said_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("name\nAnn\n")
    single: Any = {"method": "POST", "path": "/users"}
    with Client("http://127.0.0.1:1") as client:
        for upload in (False, True):
            with pytest.raises(ValueError, match="Rows need a method and a path"):
                client.submit(tmp_path / "users.csv", upload=upload)
        with pytest.raises(TypeError, match="Pass a list"):
            client.submit(single)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "http://"])
def test_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="should look like http"):
        Client(url)


def test_client_loads_no_aws_library_and_none_of_the_programs() -> None:
    code = """
import sys
import penstock.client
unwanted = ("boto", "aiobotocore", "moto", "jinja2", "rich", "typer", "pydantic_settings", "penstock.")
allowed = ("penstock.batch_id", "penstock.client", "penstock.errors")
loaded = [name for name in sys.modules if name.startswith(unwanted) and not name.startswith(allowed)]
import penstock.cli.batches, penstock.cli.submit
slow = {"pydantic", "pydantic_settings", "penstock.settings"} & sys.modules.keys()  # they take a third of the start
sys.exit(", ".join([*loaded, *slow]) or 0)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.stderr.strip(), ended.returncode) == ("", 0)
