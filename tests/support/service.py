"""A client of the HTTP program, which works on a backend in memory."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient

from penstock.testing import MemoryParts

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def content_type(self) -> str:
        return self.headers["Content-Type"].partition(";")[0]

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def lines(self) -> list[Any]:
        assert self.content_type == NDJSON
        return [json.loads(line) for line in self.content.splitlines()]


@dataclass(frozen=True, slots=True)
class Service:
    client: TestClient[web.Request, web.Application]
    parts: MemoryParts

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.client.request(method, path, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers=headers)

    async def post(self, operations: Any, headers: Mapping[str, str] | None = None, **members: Any) -> Answer:
        return await self.ask("POST", "/batch", json={"operations": operations, **members}, headers=headers)

    async def post_content(self, content: Any, content_type: str = JSON, **headers: str) -> Answer:
        return await self.ask("POST", "/batch", data=content, headers={"Content-Type": content_type, **headers})


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
