"""A client of the HTTP program, which works on a backend in memory. It asks the listener that has a path."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from penstock.service.app import create_operator_app
from penstock.testing import MemoryParts
from penstock.testing.http import Answer

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"
OPERATOR_PATHS = ("/dead-letters", "/keys", "/limits", "/metrics", "/queues")

Client = TestClient[web.Request, web.Application]


@dataclass(frozen=True, slots=True)
class Service:
    client: Client
    operators: Client
    parts: MemoryParts

    def client_for(self, path: str) -> Client:
        return self.operators if path.startswith(OPERATOR_PATHS) else self.client

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        return await request(self.client_for(path), method, path, **options)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers=headers)

    async def post(self, operations: Any, headers: Mapping[str, str] | None = None, **members: Any) -> Answer:
        return await self.ask("POST", "/batch", json={"operations": operations, **members}, headers=headers)

    async def post_content(self, content: Any, content_type: str = JSON, **headers: str) -> Answer:
        return await self.ask("POST", "/batch", data=content, headers={"Content-Type": content_type, **headers})


async def request(client: Client, method: str, path: str, **options: Any) -> Answer:
    async with client.request(method, path, **options) as response:
        return Answer(response.status, response.headers, await response.read())


async def open_service(aiohttp_client: AiohttpClient, app: web.Application, parts: MemoryParts) -> Service:
    """Listen for clients and for operators, as the program does."""
    operators = await aiohttp_client(create_operator_app(app, "127.0.0.1"))
    return Service(await aiohttp_client(app), operators, parts)


Serve = Callable[..., Awaitable[Service]]


def ask_for(*paths: str) -> list[dict[str, Any]]:
    """Return operations without a body, as a client writes them."""
    return [{"method": "POST", "path": path} for path in paths]


def assert_problem(answer: Answer, status: int) -> Any:
    """The problem document, which is whole and tells nothing of our insides."""
    assert answer.status == status, answer.content
    assert answer.content_type == PROBLEM
    problem = answer.body
    assert problem["status"] == status
    assert all(problem[member] for member in ("type", "title", "detail"))
    assert "Traceback" not in answer.content.decode()
    return problem


def pointers(problem: Any) -> list[str]:
    return [error["pointer"] for error in problem["errors"]]
