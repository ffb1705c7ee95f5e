"""A front end and a consumer in memory, which clients in a test call over HTTP, and what goes wrong in between."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import BaseModel

from penstock import Context, Operations, Reject
from penstock.client import AsyncClient, Patience
from penstock.clock import SystemClock
from penstock.consumer.consumer import Consumer
from penstock.service.app import create_app
from penstock.testing import MemoryBucket, memory_parts
from tests.support.builders import build_settings
from tests.support.programs import free_port
from tests.support.running_consumer import QueueClock, running_consumer

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fault = Callable[[web.Request, Endpoint], Awaitable[web.StreamResponse]]

IMPATIENT = Patience(seconds=60, quota_seconds=60, backoff_seconds=0.0, longest_backoff_seconds=0.0)

operations = Operations()


@operations.post("/users", status=201)
async def create_user(body: dict[str, str]) -> dict[str, str]:
    if body["name"].startswith("Bad"):
        raise Reject(409, f"{body['name']} is taken.")
    return body


@operations.put("/users/{user}")
async def rename_user(user: str, body: dict[str, str], context: Context) -> str:
    return f"{user} is {body['name']}, attempt {context.attempt}"


class Person(BaseModel):
    name: str
    born: date


@operations.put("/people/{number}")
async def put_person(number: int, body: Person) -> None:
    if body.born.year > 2010:
        raise Reject(403, f"{body.name} is too young.")


@operations.post("/hang")
async def hang() -> None:
    await asyncio.sleep(600)


@dataclass
class Site:
    """A running server. `fault` is called in place of each endpoint, as a proxy in between would be."""

    url: str = ""
    fault: Fault | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    bucket: MemoryBucket = field(default_factory=MemoryBucket)

    @web.middleware
    async def between(self, request: web.Request, handler: Endpoint) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        return await (handler(request) if self.fault is None else self.fault(request, handler))

    def client(self, **options: Any) -> AsyncClient:
        return AsyncClient(self.url, **{"patience": IMPATIENT, **options})


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("penstock.service.events.watching.READ_SECONDS", 0.02)
    site, clock, queue_clock = Site(), SystemClock(), QueueClock()
    settings = build_settings(receive_wait_seconds=1, grace_seconds=0, background_upload_bytes=1_024)
    parts = memory_parts(queue_clock)
    backend = parts.backend
    assert parts.bucket is not None
    site.bucket = parts.bucket
    consumer = Consumer(backend, operations, settings, clock)
    app = create_app(settings, operations, backend, clock)
    app.middlewares.insert(0, site.between)
    async with TestServer(app, port=free_port()) as server, running_consumer(consumer, queue_clock):
        site.url = str(server.make_url("")).rstrip("/")
        yield site


def users(*names: str) -> list[dict[str, Any]]:
    return [{"method": "POST", "path": "/users", "body": {"name": name}} for name in names]


async def lose_answer(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
    """Answer the request, but close the connection instead of sending the answer."""
    await endpoint(request)
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def with_downloads(site: Site, breaks: int = 0) -> Fault:
    """Return a fault that lets clients download from the bucket. The first downloads break off."""
    left = breaks

    async def between(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        nonlocal left
        if request.path.startswith("/bucket/"):
            assert "Authorization" not in request.headers
            content = site.bucket.contents[request.path.removeprefix("/bucket/")]
            left -= 1
            return web.Response(body=content[:-1] if left >= 0 else content)
        answer = await endpoint(request)
        if isinstance(answer, web.Response) and isinstance(answer.body, bytes) and b"memory:" in answer.body:
            answer.body = answer.body.replace(b"memory:", f"{site.url}/bucket/".encode())
        return answer

    return between


def with_bucket(site: Site) -> Fault:
    """Return a fault that is none: an address to which the forms for uploads can be sent."""

    async def between(request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        if request.path == "/bucket":
            assert "Authorization" not in request.headers
            assert request.content_length is not None  # S3 accepts no chunks
            fields = await request.post()
            assert list(fields)[-1] == "file"
            file = fields["file"]
            assert isinstance(file, web.FileField)
            site.bucket.contents[str(fields["key"])] = file.file.read()
            return web.Response(status=204)
        answer = await endpoint(request)
        if request.path != "/uploads":
            return answer
        assert isinstance(answer, web.Response)
        assert isinstance(answer.body, bytes)
        form = json.loads(answer.body)
        return web.json_response({**form, "url": f"{site.url}/bucket"}, status=201)

    return between
