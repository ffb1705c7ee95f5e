"""A consumer is live while its loop runs, and ready while it receives."""

import json
import socket
from typing import Any

import aiohttp
import pytest

from penstock import Operations
from penstock.consumer import inlets
from penstock.consumer.consumer import Consumer
from penstock.consumer.health import serve_health
from penstock.errors import Misconfigured
from penstock.testing import FakeClock, memory_parts
from tests.support.builders import build_settings
from tests.support.faults import Outage, watched
from tests.support.programs import free_port

HOST = "127.0.0.1"


def build_consumer(outage: Outage | None = None) -> Consumer:
    clock = FakeClock()
    parts = memory_parts(clock)
    backend = watched(parts, outage) if outage else parts.backend
    return Consumer(backend, Operations(), build_settings(), clock)


async def ask(port: int, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{port}{path}") as answer:
        return answer.status, await answer.json()


async def test_live_and_ready_while_it_receives() -> None:
    consumer, port = build_consumer(), free_port()
    async with serve_health(consumer, HOST, port):
        await consumer.turn()
        assert await ask(port, "/health/live") == (200, {"status": "live"})
        assert await ask(port, "/health/ready") == (200, {"status": "ready"})


@pytest.mark.parametrize(
    ("call", "priority"), [("chunks-high.receive", "high"), ("chunks.receive", "normal"), ("chunks-low.receive", "low")]
)
async def test_not_ready_while_one_of_the_queues_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, call: str, priority: str
) -> None:
    monkeypatch.setattr(inlets, "FIRST_PAUSE_SECONDS", 0.001)
    outage = Outage(call, times=1)
    consumer, port = build_consumer(outage), free_port()
    async with serve_health(consumer, HOST, port):
        await consumer.turn()
        status, body = await ask(port, "/health/ready")
        assert (status, body["detail"]) == (503, f"The queue of {priority} priority does not answer.")
        assert (await ask(port, "/health/live"))[0] == 200
        for _ in range(5):
            await consumer.turn()
        assert (await ask(port, "/health/ready"))[0] == 200


async def test_not_ready_once_it_drains() -> None:
    consumer, port = build_consumer(), free_port()
    async with serve_health(consumer, HOST, port):
        consumer.stop()
        status, body = await ask(port, "/health/ready")
        assert (status, body["detail"]) == (503, "Draining.")
        assert (await ask(port, "/health/live"))[0] == 200


async def test_metrics_are_of_this_consumer_and_come_as_asked_for() -> None:
    consumer, port = build_consumer(), free_port()
    consumer.meter.succeeded("POST /a", 0.1)
    async with serve_health(consumer, HOST, port), aiohttp.ClientSession() as session:
        answers = {}
        for accept in ("*/*", "application/json", "image/png"):
            async with session.get(f"http://{HOST}:{port}/metrics", headers={"Accept": accept}) as answer:
                answers[accept] = answer.status, answer.content_type, await answer.text()
    status, kind, text = answers["*/*"]
    assert (status, kind) == (200, "text/plain")
    assert 'penstock_operations_succeeded_total{handler="POST /a"} 1.0' in text.splitlines()
    status, kind, text = answers["application/json"]
    assert (status, kind) == (200, "application/json")
    assert json.loads(text)["handlers"]["POST /a"]["count"] == 1
    assert answers["image/png"][0] == 406


async def test_without_a_port_nothing_listens() -> None:
    async with serve_health(build_consumer(), HOST, None):
        pass


async def test_port_in_use_is_told_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(Misconfigured, match="--health-port"):
            async with serve_health(build_consumer(), HOST, taken.getsockname()[1]):
                raise AssertionError


async def test_port_is_free_again_afterwards() -> None:
    port = free_port()
    for _ in range(2):
        async with serve_health(build_consumer(), HOST, port):
            assert (await ask(port, "/health/live"))[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/nowhere"])
async def test_web_page_is_rejected(path: str, headers: dict[str, str], status: int) -> None:
    port = free_port()
    async with (
        serve_health(build_consumer(), HOST, port),
        aiohttp.ClientSession() as session,
        session.get(f"http://{HOST}:{port}{path}", headers=headers) as answer,
    ):
        assert (answer.status, (await answer.json())["status"]) == (status, "rejected")
