"""What HTTP itself brings: answers to requests that are none, headers that say nothing, and the access log."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from penstock import Operations
from penstock.api_key import make_key
from penstock.clock import SystemClock
from penstock.service.app import create_app
from penstock.service.protocol import ConnectionRunner
from penstock.telemetry import Event
from penstock.testing import memory_parts
from tests.support.builders import build_settings
from tests.unit.service.conftest import Logs

Speak = Callable[..., Awaitable[tuple[int, dict[str, str], bytes]]]


@pytest.fixture
async def speak() -> AsyncIterator[Speak]:
    """Send bytes to the front end, as its program runs it, and return the status, the headers and the body."""
    runners: list[ConnectionRunner] = []

    async def send(request: bytes, **settings: Any) -> tuple[int, dict[str, str], bytes]:
        app = create_app(build_settings(**settings), Operations(), memory_parts().backend, SystemClock())
        runner = ConnectionRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(request)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode()
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        writer.close()
        return int(first.split()[1]), headers, body

    yield send
    for runner in runners:
        await runner.cleanup()


UNREADABLE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "no version": b"GET / HTTP\r\n\r\n",
    "two lengths": b"POST /batch HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bad header": b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
    "long line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n",
}
EXPECT = b"POST /batch HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 0\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
REFRESH = b"GET %s HTTP/1.1\r\nHost: a\r\nHX-Request: true\r\n\r\n"
NOT_FOUND = b"GET /nothing HTTP/1.1\r\nHost: a\r\nX-Request-Id: r-1\r\nX-Tenant: acme\r\n\r\n"


@pytest.mark.parametrize("request_bytes", UNREADABLE.values(), ids=UNREADABLE)
async def test_what_is_not_http_gets_a_problem_and_one_quiet_line(
    speak: Speak, logs: Logs, caplog: pytest.LogCaptureFixture, request_bytes: bytes
) -> None:
    status, headers, body = await speak(request_bytes)
    assert status in {400, 431}
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    [line] = [line for line in logs if line["event"] == Event.REQUEST_UNREADABLE]
    assert line["log_level"] == "info"
    assert not [line for line in logs if "exc_info" in line]
    assert caplog.records == []


async def test_expectation_that_is_not_met_is_a_problem(speak: Speak) -> None:
    status, headers, body = await speak(EXPECT)
    assert (status, headers["content-type"]) == (417, "application/problem+json")
    assert json.loads(body)["status"] == 417


@pytest.mark.parametrize("request_bytes", [LIVE, NOT_FOUND, EXPECT, UNREADABLE["bad header"]])
async def test_no_answer_names_its_software_or_lets_its_type_be_guessed(speak: Speak, request_bytes: bytes) -> None:
    _, headers, _ = await speak(request_bytes)
    assert "server" not in headers
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("request_bytes", [LIVE, EXPECT, *UNREADABLE.values()])
async def test_each_answer_has_a_request_id_which_the_log_has_too(
    speak: Speak, logs: Logs, request_bytes: bytes
) -> None:
    _, headers, _ = await speak(request_bytes)
    assert re.fullmatch("[0-9a-f]{20}", headers["x-request-id"])
    assert all(line["request_id"] == headers["x-request-id"] for line in logs)
    assert logs or request_bytes == LIVE


async def test_request_id_that_was_sent_is_kept(speak: Speak) -> None:
    _, headers, _ = await speak(NOT_FOUND)
    assert headers["x-request-id"] == "r-1"


UNSAFE_IDS = {
    "empty": "",
    "a space": "two words",
    "too long": "a" * 129,
    "not ASCII": "\u00e4",
    "two": "one\r\nX-Request-Id: two",
    "a key": make_key("test").text,
}


@pytest.mark.parametrize("sent", UNSAFE_IDS.values(), ids=UNSAFE_IDS)
async def test_request_id_that_is_not_safe_is_replaced(speak: Speak, sent: str) -> None:
    _, headers, _ = await speak(f"GET /nothing HTTP/1.1\r\nHost: a\r\nX-Request-Id: {sent}\r\n\r\n".encode())
    assert re.fullmatch("[0-9a-f]{20}", headers["x-request-id"])


async def test_each_request_has_a_line_in_the_log(speak: Speak, logs: Logs) -> None:
    _, _, body = await speak(NOT_FOUND, tenant_header="X-Tenant")
    [line] = [line for line in logs if line["event"] == Event.REQUEST_ANSWERED]
    assert (line["request_id"], line["tenant"], line["method"], line["path"]) == ("r-1", "acme", "GET", "/nothing")
    assert line["status"] == 404
    assert line["bytes"] > len(body)
    assert 0 <= line["seconds"] < 20


@pytest.mark.parametrize("path", [b"/batch/x", b"/console/nothing", b"/console/batch/x/results"])
async def test_header_of_a_refresh_hides_nothing_else(speak: Speak, logs: Logs, path: bytes) -> None:
    await speak(REFRESH % path)
    assert [line["path"] for line in logs if line["event"] == Event.REQUEST_ANSWERED] == [path.decode()]


@pytest.mark.parametrize(
    ("request_bytes", "settings"), [(NOT_FOUND, {"access_log": False}), (LIVE, {}), (REFRESH % b"/console", {})]
)
async def test_no_line_if_turned_off_or_if_a_machine_polls(
    speak: Speak, logs: Logs, request_bytes: bytes, settings: dict[str, Any]
) -> None:
    await speak(request_bytes, **settings)
    assert [line for line in logs if line["event"] == Event.REQUEST_ANSWERED] == []


@pytest.mark.parametrize("before", [b"", LIVE], ids=["first", "second"])
async def test_connection_is_closed_if_a_header_arrives_too_slowly(before: bytes) -> None:
    """Aiohttp does this: a header must be complete as soon as an idle connection would be closed."""
    app = create_app(build_settings(), Operations(), memory_parts().backend, SystemClock())
    runner = ConnectionRunner(app, keepalive_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    writer.write(before)
    closed = asyncio.create_task(reader.read())
    async with asyncio.timeout(20):
        while not closed.done():
            writer.write(b"G")
            await asyncio.sleep(0.05)
    writer.close()
    await runner.cleanup()
