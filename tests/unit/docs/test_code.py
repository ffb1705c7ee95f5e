"""The code in the documentation works: python blocks are executed, curl commands get the answers that are shown.

The python blocks of a page are executed in order, as one module. Console blocks are run on pages that name what to run
them against, in a comment such as `<!-- code: run the console blocks below against the users example -->`. There is one
front end and one consumer, in this process, on queues and a store in memory.
"""

import asyncio
import csv
import gzip
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from examples.users import app as users
from examples.users.database import Database
from penstock import Operations
from penstock.clock import SystemClock
from penstock.consumer.consumer import Consumer
from penstock.service.app import create_app
from penstock.testing import memory_parts
from tests.support.builders import build_settings
from tests.support.programs import free_port
from tests.support.running_consumer import QueueClock, running_consumer
from tests.support.waiting import eventually
from tests.unit.docs.pages import FILES, blocks, client_marker, marker, name_of
from tests.unit.docs.transcript import (
    BATCH_ID,
    SERVER,
    Step,
    assert_alike,
    read_request,
    read_shown,
    read_steps,
    read_values,
)

Application = AbstractAsyncContextManager[Operations[Any]]
FINAL = {"completed", "failed", "cancelled", "expired"}
MANY, MORE = 258, 101  # rows in the files that docs/api.md posts: it shows row 257, and 100 is a small batch

WITH_PYTHON = [file for file in FILES if any(blocks(file, "python")) and not client_marker(file)]
WITH_CLIENT = [file for file in FILES if client_marker(file)]
WITH_CONSOLE = [file for file in FILES if marker(file)]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_blocks_work(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = execute(page, tmp_path, monkeypatch)

    assert module.operations.routes


@pytest.mark.parametrize("page", WITH_CLIENT, ids=name_of)
async def test_python_blocks_of_clients_work(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks run in a thread, as a program of a user does. The server is in this process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users.csv").write_text(USERS_CSV)
    async with users_example(tmp_path, monkeypatch) as operations, running(operations) as url:
        source = "\n".join(blocks(page, "python")).replace(f"http://{SERVER}", url)
        await asyncio.to_thread(exec, compile(source, str(page), "exec"), {"__name__": page.stem})


@pytest.mark.parametrize("page", WITH_CONSOLE, ids=name_of)
async def test_curl_commands_are_answered_as_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step for block in blocks(page, "console") for step in read_steps(block)]
    ids: dict[str, str] = {}  # a batch id of the page, and the real one
    curls = [step for step in steps if step.command.startswith("curl ")]
    assert curls
    async with (
        application(page, tmp_path, monkeypatch) as operations,
        running(operations) as url,
        ClientSession() as session,
    ):
        for step in curls:
            await follow(step, session, url, ids)


async def follow(step: Step, session: ClientSession, url: str, ids: dict[str, str]) -> None:
    """Send one request and compare the answer with the one that the page shows."""
    request = read_request(BATCH_ID.sub(lambda found: ids.get(found[0], found[0]), step.command), FILES_OF_CLIENT)
    target = f"{url}{request.path}"
    async with session.request(request.method, target, headers=request.headers, data=request.body) as response:
        status, headers, text = response.status, response.headers, await response.text()
    shown = read_shown(step.answer)
    assert shown.status in {None, status}, text
    assert set(shown.headers) <= set(headers)
    assert_alike(shown.values, read_values(text)[: step.most_lines], step.command)
    ids.update(zip(BATCH_ID.findall(step.answer), BATCH_ID.findall(text), strict=False))
    if status == 202:
        await finished(session, f"{url}{json.loads(text)['statusUrl']}")


async def finished(session: ClientSession, status_url: str) -> None:
    async def is_final() -> bool:
        async with session.get(status_url) as response:
            return (await response.json())["status"] in FINAL

    await eventually(is_final)


# What the commands run against


@asynccontextmanager
async def running(operations: Operations[Any]) -> AsyncIterator[str]:
    """Run a front end and a consumer on parts in memory. Yields the URL of the front end."""
    settings, clock, queue_clock = build_settings(receive_wait_seconds=1, min_chunks=16), SystemClock(), QueueClock()
    backend = memory_parts(queue_clock).backend
    app = create_app(settings, operations, backend, clock)
    async with (
        operations.connections(10),
        TestServer(app, port=free_port()) as server,
        running_consumer(Consumer(backend, operations, settings, clock), queue_clock),
    ):
        yield str(server.make_url("")).rstrip("/")


def application(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    starts: dict[str | None, Callable[[], Application]] = {
        "`operations` of this page": lambda: of_page(page, folder, monkeypatch),
        "the users example": lambda: users_example(folder, monkeypatch),
        "an upstream with orders and items": forwarding,
    }
    return starts[marker(page)]()


def execute(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Execute the python blocks of a page as one module, in a folder of its own."""
    monkeypatch.chdir(folder)
    module = ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), module.__dict__)
    return module


@asynccontextmanager
async def of_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operations[Any]]:
    yield execute(page, folder, monkeypatch).operations


@asynccontextmanager
async def users_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operations[Any]]:
    database = Database(f"sqlite:///{folder}/users.db")
    monkeypatch.setattr(users.operations, "transaction", database.open_session)
    yield users.operations
    await database.close()


@asynccontextmanager
async def forwarding() -> AsyncIterator[Operations[Any]]:
    app = web.Application()
    app.add_routes([web.post("/v1/orders", create_order), web.get("/v1/items/{item}", read_item)])
    async with TestServer(app) as upstream:
        operations: Operations[Any] = Operations()
        operations.forward("/{path}", to=str(upstream.make_url("/v1")))
        yield operations


async def create_order(request: web.Request) -> web.Response:
    item = (await request.json())["item"]
    if item != "a1":
        problem = {"title": "No such item", "detail": f"There is no item {item}."}
        return web.json_response(problem, status=404, content_type="application/problem+json")
    return web.json_response({"id": 1, "item": item, "key": request.headers["Idempotency-Key"]}, status=201)


async def read_item(request: web.Request) -> web.Response:
    return web.json_response({"id": request.match_info["item"], "stock": 3, "lang": request.query["lang"]})


def operations_of_csv(count: int, first: int = 0) -> list[dict[str, Any]]:
    with Path(users.__file__).with_name("users.csv").open(newline="") as file:
        rows = list(itertools.islice(csv.DictReader(file), first, first + count))
    names = ("email", "name", "born_on", "country")
    return [{"method": "POST", "path": "/users", "body": {name: row[name] for name in names}} for row in rows]


USERS_CSV = """email,name,born_on,country
grace@example.com,Grace,1906-12-09,GB
child@example.com,Child,2025-01-01,GB
"""


def csv_file() -> bytes:
    """Return other users, two of which are rejected, as a spreadsheet writes them."""
    bodies = [one["body"] for one in operations_of_csv(MORE, first=1_000)]
    return "".join(";".join(row) + "\r\n" for row in [list(bodies[0]), *map(dict.values, bodies)]).encode()


FILES_OF_CLIENT = {
    "users.csv": csv_file(),
    "users.json": json.dumps({"operations": operations_of_csv(MANY)}).encode(),
    "users.ndjson.gz": gzip.compress(b"".join(json.dumps(one).encode() + b"\n" for one in operations_of_csv(MORE))),
}
