"""`penstock queues` against the front end."""

import asyncio
import json
from collections.abc import Iterator

import pytest
import typer
from pytest_aiohttp import AiohttpServer
from structlog.testing import capture_logs
from typer.testing import CliRunner

from penstock import Operations
from penstock.cli.queues import queues
from penstock.priority import Priority
from penstock.queue import Message
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
async def test_queues_are_shown_paused_and_resumed(
    aiohttp_server: AiohttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(NOW)
    parts = memory_parts(clock)
    await parts.queues[Priority.LOW].send([Message("a")])
    settings = build_settings(auth="keys", operator_key=KEY)
    server = await aiohttp_server(create_app(settings, Operations(), parts.backend, clock))
    monkeypatch.setenv("PENSTOCK_URL", str(server.make_url("")))
    monkeypatch.setenv("PENSTOCK_API_KEY", KEY)
    app = typer.Typer()
    app.command()(queues)

    async def run(*arguments: str) -> list[str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments))
        return [" ".join(line.split()) for line in result.output.splitlines()]

    assert await run("pause", "low") == ["priority waiting paused since", "low 1 2023-11-15 07:13:20"]
    assert await run() == ["priority waiting paused since", "high 0 -", "normal 0 -", "low 1 2023-11-15 07:13:20"]
    assert json.loads("".join(await run("resume", "low", "--json")))["paused"] is False
    assert "Name the queue" in " ".join(await run("pause"))
