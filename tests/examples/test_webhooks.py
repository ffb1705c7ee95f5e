"""The receiver example gets the event of a batch from the programs, and accepts nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pytest_aiohttp import AiohttpClient

from examples.webhooks.receiver import create_app as create_receiver
from penstock import Operations
from penstock.clock import SystemClock
from penstock.consumer.consumer import Consumer
from penstock.consumer.webhooks.post import Poster
from penstock.service.app import create_app
from penstock.testing import memory_parts
from penstock.webhooks.endpoint import CALLBACK, Endpoint, Secrets
from penstock.webhooks.signature import headers_of
from tests.support.builders import build_settings
from tests.support.programs import free_port
from tests.support.waiting import eventually

MASTER = "a secret of at least 32 characters"
SECRET = Secrets(MASTER).current("default", Endpoint(CALLBACK, "", 0))

operations = Operations()


@operations.post("/run")
async def run() -> str:
    return "done"


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner, port = web.AppRunner(app, shutdown_timeout=1), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/hook"
    finally:
        await runner.cleanup()


async def test_receiver_gets_the_event_of_a_batch() -> None:
    events: list[dict[str, Any]] = []
    settings = build_settings(sync_max_operations=0, webhook_secret=MASTER, webhook_allow="127.0.0.1")
    parts, clock = memory_parts(), SystemClock()
    async with (
        listening(create_receiver(SECRET, events.append)) as url,
        TestClient(TestServer(create_app(settings, operations, parts.backend, clock), port=free_port())) as client,
        aclosing(Poster(settings.webhook_targets)) as poster,
    ):
        consumer = Consumer(parts.backend, operations, settings, clock, post=poster.post)
        running = asyncio.create_task(consumer.run())
        body = {"operations": [{"method": "POST", "path": "/run"}], "callbackUrl": url, "metadata": {"team": "a"}}
        async with client.post("/batch", json=body) as answer:
            batch_id = (await answer.json())["batchId"]
        await eventually(lambda: asyncio.sleep(0, bool(events)))
        consumer.stop()
        await running
    [event] = events
    assert (event["type"], event["data"]["batchId"]) == ("batch.completed", batch_id)
    assert (event["data"]["succeeded"], event["data"]["metadata"]) == (1, {"team": "a"})


async def test_receiver_handles_an_event_once_and_rejects_others(aiohttp_client: AiohttpClient) -> None:
    events: list[dict[str, Any]] = []
    client = await aiohttp_client(create_receiver(SECRET, events.append))
    body = b'{"id":"evt_1","type":"batch.completed","data":{}}'
    signed = headers_of([SECRET], "evt_1", _now(), body)
    forged = headers_of(["whsec_" + "A" * 32], "evt_1", _now(), body)
    statuses = []
    for headers in (signed, signed, forged, {}):
        async with client.post("/hook", data=body, headers=headers) as answer:
            assert isinstance(answer, aiohttp.ClientResponse)
            statuses.append(answer.status)
    assert statuses == [204, 204, 401, 401]
    assert [event["id"] for event in events] == ["evt_1"]


def _now() -> int:
    return int(SystemClock().now())
