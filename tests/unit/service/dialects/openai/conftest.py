"""A service that speaks OpenAI's dialect, in memory, and what OpenAI's clients send to it."""

from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import FormData
from pydantic import BaseModel
from pydantic_core import to_json

from penstock import Operations, Reject
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.service import Serve, Service

EMBEDDINGS = "/v1/embeddings"

operations = Operations()


class Embed(BaseModel):
    model: str
    input: str


@operations.post(EMBEDDINGS)
async def embed(body: Embed) -> dict[str, Any]:
    if body.input == "refused":
        raise Reject(400, "This input is not allowed.")
    return {"object": "list", "model": body.model, "data": [len(body.input)]}


@operations.post("/v1/moderations")
async def moderate(body: dict[str, Any]) -> dict[str, Any]:
    return body


@pytest.fixture
async def service(serve: Serve, parts: MemoryParts, clock: FakeClock) -> Service:
    return await serve(operations, parts=parts, clock=clock)


def line(custom_id: str = "a", text: str = "text", **changes: Any) -> dict[str, Any]:
    """Return a line of an input file. A change to None removes a member."""
    whole = {"custom_id": custom_id, "method": "POST", "url": EMBEDDINGS, "body": {"model": "m", "input": text}}
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def jsonl(*lines: Any) -> bytes:
    return b"".join((one if isinstance(one, bytes) else to_json(one)) + b"\n" for one in lines)


async def upload(
    service: Service,
    content: bytes,
    fields: Mapping[str, str] | None = None,
    *,
    filename: str = "input.jsonl",
    is_file_first: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send a file as OpenAI's library for Python does; the one for Node may send the file first."""
    form = FormData()
    others = {"purpose": "batch"} if fields is None else fields
    if is_file_first:
        form.add_field("file", content, filename=filename)
    for name, value in others.items():
        form.add_field(name, value)
    if not is_file_first:
        form.add_field("file", content, filename=filename)
    return await service.ask("POST", "/v1/files", data=form, headers=headers)


async def uploaded(service: Service, *lines: Any) -> str:
    """Upload a file with these lines, and return its id."""
    answer = await upload(service, jsonl(*lines))
    assert answer.status == 200, answer.content
    file_id: str = answer.body["id"]
    return file_id


def assert_error(answer: Answer, status: int, param: str | None = None) -> str:
    """Check that an answer is an error as OpenAI writes it, and return its message."""
    assert answer.status == status, answer.content
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-Request-Id"]
    assert answer.body["error"].keys() == {"message", "type", "param", "code"}
    assert answer.body["error"]["param"] == param
    message: str = answer.body["error"]["message"]
    return message
