"""`penstock limits` against the front end."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import typer
from pytest_aiohttp import AiohttpServer
from structlog.testing import capture_logs
from typer.testing import CliRunner

from penstock import Limit, Operations
from penstock.cli.limits import limits
from penstock.cli.server import CallFailed
from penstock.fleet_limit import LimitState
from penstock.service.app import create_app
from penstock.testing import FakeClock, memory_parts
from tests.support.builders import NOW, build_settings

KEY = "operator-key-" + "0" * 32


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Keep what the server logs from the output of the command."""
    with capture_logs():
        yield


@pytest.mark.usefixtures("tokyo")
async def test_limits_are_listed_with_their_state(
    aiohttp_server: AiohttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("calm", "down", "new", "paused")
    declared = {name: Limit() for name in names} | {"calm": Limit(rate=100), "new": Limit(concurrency=10)}
    operations, parts = Operations(limits=declared), memory_parts()
    state = LimitState(rate=72.5, cut_at=NOW - 9, at=NOW, consumers=3, lease="1")
    states = {"calm": state, "down": replace(state, away_at=NOW - 60), "paused": replace(state, not_before=NOW + 60)}
    for name, one in states.items():
        assert await parts.store.lease_limit(name, LimitState(), one)
    settings = build_settings(auth="keys", operator_key=KEY)
    server = await aiohttp_server(create_app(settings, operations, parts.backend, FakeClock(NOW)))
    monkeypatch.setenv("PENSTOCK_URL", str(server.make_url("")))
    app = typer.Typer()
    app.command()(limits)

    monkeypatch.setenv("PENSTOCK_API_KEY", KEY)
    shown = await asyncio.to_thread(CliRunner().invoke, app, [])
    listed = await asyncio.to_thread(CliRunner().invoke, app, ["--json"])
    monkeypatch.delenv("PENSTOCK_API_KEY")
    rejected = await asyncio.to_thread(CliRunner().invoke, app, [])

    assert [" ".join(line.split()) for line in shown.stdout.splitlines()] == [
        "name state rate declared running not before last cut consumers as of",
        "calm limited 72.5/s 100/s - - 2023-11-15 07:13:11 3 2023-11-15 07:13:20",
        "down away since 2023-11-15 07:12:20 72.5/s - - - 2023-11-15 07:13:11 3 2023-11-15 07:13:20",
        "new limited - - 0 of 10, 0 wanted - - 0 -",
        "paused paused 72.5/s - - 2023-11-15 07:14:20 2023-11-15 07:13:11 3 2023-11-15 07:13:20",
    ]
    assert [limit["name"] for limit in json.loads(listed.stdout)["limits"]] == list(names)
    assert isinstance(rejected.exception, CallFailed)
