"""`penstock keys` against the front end: what it prints where, and its exit code."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from pytest_aiohttp import AiohttpServer
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from penstock import Operations
from penstock.api_key import is_key, make_key
from penstock.cli.keys import app
from penstock.cli.server import CallFailed
from penstock.clock import SystemClock
from penstock.service.app import create_app
from penstock.testing import memory_parts
from tests.support.builders import build_settings

KEY = "operator-key-" + "0" * 32
Run = Callable[..., Awaitable[Result]]


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Keep what the server logs from the output of the command."""
    with capture_logs():
        yield


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a thread, because it has a loop of its own."""

    async def run(server: TestServer, *words: str, key: str = KEY) -> Result:
        monkeypatch.setenv("PENSTOCK_API_KEY", key)
        monkeypatch.setenv("PENSTOCK_URL", str(server.make_url("")))
        return await asyncio.to_thread(CliRunner().invoke, app, list(words))

    return run


@pytest.fixture
async def server(aiohttp_server: AiohttpServer) -> TestServer:
    return await serve(aiohttp_server, auth="keys", operator_key=KEY)


async def serve(aiohttp_server: AiohttpServer, **settings: Any) -> TestServer:
    return await aiohttp_server(
        create_app(build_settings(**settings), Operations(), memory_parts().backend, SystemClock())
    )


async def test_key_is_printed_alone_and_listed_until_it_is_revoked(run: Run, server: TestServer) -> None:
    given = ["--tenant", "acme", "--scope", "read", "--scope", "write", "--name", "import"]
    made = await run(server, "create", *given, "--expires-days", "7", "--limit", "100/60", "--max-open", "5")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert is_key(key)
    assert key not in made.stderr
    assert "acme" in made.stderr

    listed = await run(server, "list")
    heading, row = listed.stdout.splitlines()
    assert heading.split() == ["id", "state", "tenant", "scopes", "name", "limit", "max", "open", "last", "used"]
    expires = (datetime.now(UTC) + timedelta(days=7)).astimezone().date().isoformat()
    assert row.split()[1:] == ["expires", expires, "acme", "write,read", "import", "100/60", "5", "-"]
    key_id = row.split()[0]

    replaced = await run(server, "rotate", key_id, "--overlap-hours", "0.5")
    new = replaced.stdout.strip()
    assert is_key(new)
    assert f"The key {key_id} works until " in replaced.stderr

    revoked = await run(server, "revoke", key_id)
    assert revoked.stdout == f"The key {key_id} is revoked. Requests may be accepted for 60 s more.\n"
    states = {line.split()[0]: line.split()[1] for line in (await run(server, "list")).stdout.splitlines()[1:]}
    assert states.pop(key_id) == "revoked"
    assert list(states.values()) == ["expires"]
    for result in (made, listed, replaced, revoked):
        assert KEY not in result.output


async def test_answers_can_be_printed_as_json(run: Run, server: TestServer) -> None:
    made = json.loads((await run(server, "create", "--tenant", "a", "--scope", "read", "--json")).stdout)
    assert is_key(made["key"])
    assert [key["id"] for key in json.loads((await run(server, "list", "--json")).stdout)["keys"]] == [made["id"]]
    new = json.loads((await run(server, "rotate", made["id"], "--json")).stdout)
    assert new["replaces"]["id"] == made["id"]
    assert json.loads((await run(server, "revoke", made["id"], "--json")).stdout)["revokedAt"]


async def test_key_without_the_scope_is_told_so(run: Run, server: TestServer) -> None:
    key = (await run(server, "create", "--tenant", "a", "--scope", "read")).stdout.strip()
    result = await run(server, "list", key=key)
    assert isinstance(result.exception, CallFailed)
    assert "needs a key with the scope operate" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list"], "answered 401"),
        (["create", "--tenant", "two words", "--scope", "read"], "PENSTOCK_API_KEY"),
    ],
)
async def test_wrong_key_is_told_so(run: Run, server: TestServer, words: list[str], told: str) -> None:
    result = await run(server, *words, key=make_key("test").text)
    assert told in str(result.exception)
    assert "PENSTOCK_API_KEY" in str(result.exception)


@pytest.mark.parametrize("command", [["create", "--tenant", "acme", "--scope", "read"], ["rotate", "A" * 12]])
async def test_key_is_asked_for_once_if_the_answer_is_lost(
    run: Run, aiohttp_server: AiohttpServer, command: list[str]
) -> None:
    asked = 0

    async def lose(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app = web.Application()
    app.router.add_post("/{path:.*}", lose)
    told = str((await run(await aiohttp_server(app), *command)).exception)
    assert (asked, "It is not known whether there is a new key." in told) == (1, True)


@pytest.mark.parametrize("command", ["revoke", "rotate"])
async def test_unknown_key_is_told_so(run: Run, server: TestServer, command: str) -> None:
    told = str((await run(server, command, "A" * 12)).exception)
    assert told.startswith("The server answered 404: There is no key with this id.")
    assert told.endswith("\n`penstock keys list` shows all keys.")


async def test_errors_of_a_request_are_listed(run: Run, server: TestServer) -> None:
    result = await run(server, "create", "--tenant", "two words", "--scope", "read", "--limit", "many")
    assert "\n  /tenant: " in str(result.exception)
    assert "\n  /limit: " in str(result.exception)


async def test_where_no_key_is_needed_the_address_for_operators_is_named(
    run: Run, aiohttp_server: AiohttpServer
) -> None:
    result = await run(await serve(aiohttp_server, auth="none"), "list", key="")
    assert "--url http://127.0.0.1:8081" in str(result.exception)


@pytest.mark.parametrize("command", ["rotate", "revoke"])
async def test_key_itself_is_never_sent_as_an_id(run: Run, server: TestServer, command: str) -> None:
    key = make_key("test").text
    result = await run(server, command, key)
    assert result.exit_code == 2
    assert "12 letters and digits" in result.stderr
    assert key not in result.output


def test_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_URL", f"http://127.0.0.1:{unused_port()}")
    assert "Nothing answers at" in str(CliRunner().invoke(app, ["list"]).exception)


def test_key_that_no_header_can_carry_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_API_KEY", "secret\nX-Evil: 1")
    told = str(CliRunner().invoke(app, ["list"]).exception)
    assert "PENSTOCK_API_KEY" in told
    assert "secret" not in told
