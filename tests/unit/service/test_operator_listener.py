"""Operators have a listener of their own. No web page can use it, and clients cannot reach its paths."""

from typing import Any

import pytest

from penstock import Operations
from penstock.queue import Message
from penstock.testing.http import Answer
from tests.support.service import Serve, Service, assert_problem, request

ENDPOINTS = [
    ("GET", "/dead-letters"),
    ("POST", "/dead-letters/redrive"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
]
REDRIVE = ("POST", "/dead-letters/redrive")


@pytest.fixture
async def service(serve: Serve) -> Service:
    service = await serve(Operations())
    await service.parts.dead_letters.send([Message("not ours")])
    return service


async def ask(service: Service, method: str, path: str, **headers: str) -> Answer:
    """Ask the operator listener as `curl` does, with other headers."""
    body: dict[str, Any] = {"json": {}} if method == "POST" else {}
    return await request(service.operators, method, path, headers=headers, **body)


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_operator_is_answered(service: Service, method: str, path: str) -> None:
    assert (await ask(service, method, path)).status in {200, 202}


@pytest.mark.parametrize(("method", "path"), ENDPOINTS[:-1])
async def test_listener_for_clients_does_not_have_the_paths_of_operators(
    service: Service, method: str, path: str
) -> None:
    assert_problem(await request(service.client, method, path, json={}), 404)


@pytest.mark.parametrize("path", ["/batch", "/batch/x/cancel"])
async def test_operator_listener_does_not_have_the_paths_of_clients(service: Service, path: str) -> None:
    assert "/dead-letters" in assert_problem(await ask(service, "POST", path), 404)["detail"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "10.1.2.3", ""])
@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_name_that_a_web_page_points_here_is_rejected(
    service: Service, method: str, path: str, host: str
) -> None:
    problem = assert_problem(await ask(service, method, path, Host=host), 421)
    assert "localhost" in problem["detail"]


@pytest.mark.parametrize("host", ["localhost:8081", "127.0.0.1", "[::1]:8081"])
async def test_names_of_this_machine_are_accepted(service: Service, host: str) -> None:
    assert (await ask(service, "GET", "/metrics", Host=host)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},  # an image or a link sends no Origin
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [*ENDPOINTS, ("OPTIONS", "/dead-letters/redrive")])
async def test_web_page_is_rejected(service: Service, method: str, path: str, headers: dict[str, str]) -> None:
    answer = await ask(service, method, path, **headers)
    assert_problem(answer, 403)
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "text/plain"])
@pytest.mark.parametrize("content", [b"", b'{"batchId": "a"}'])
async def test_types_that_a_form_can_send_are_rejected(service: Service, kind: str, content: bytes) -> None:
    answer = await request(service.operators, *REDRIVE, data=content, headers={"Content-Type": kind})
    assert_problem(answer, 415)


async def test_post_without_a_type_is_rejected(service: Service) -> None:
    answer = await request(service.operators, *REDRIVE, skip_auto_headers=["Content-Type"])
    assert_problem(answer, 415)
