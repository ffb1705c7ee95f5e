"""Batches of forwarded operations: invalid ones, immediate and background runs, and the headers that are passed on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Operations
from penstock.api_key import make_key
from tests.support.plant import build_plant
from tests.support.service import Serve, ask_for, assert_problem, pointers
from tests.support.upstream import ToyUpstream, toy_upstream

SECRET = "Bearer theirs"
HEADERS = {"Authorization": SECRET, "Accept-Language": "de"}


@pytest.fixture
async def upstream() -> AsyncIterator[ToyUpstream]:
    async with toy_upstream() as toy:
        yield toy


@asynccontextmanager
async def forwarding(upstream: ToyUpstream, *headers: str, **of_registry: Any) -> AsyncIterator[Operations[Any]]:
    operations: Operations[Any] = Operations(**of_registry)
    operations.forward("/api/{path}", to=upstream.url, headers=headers, max_attempts=2)

    @operations.post("/own")
    async def own() -> str:
        return "ours"

    async with operations.connections(4):
        yield operations


async def test_batch_with_an_impossible_path_is_refused_whole(serve: Serve, upstream: ToyUpstream) -> None:
    async with forwarding(upstream) as operations:
        service = await serve(operations)
        paths = ["/api/create/1", "/api/../admin", "/api/a b", "/api/%0d%0a", "/elsewhere"]
        problem = assert_problem(await service.post(ask_for(*paths)), 422)

    assert pointers(problem) == [f"/operations/{index}/path" for index in (1, 2, 3, 4)]
    assert "Remove . and .." in problem["errors"][0]["detail"]
    assert "Available operations: DELETE /api/{path}" in problem["errors"][3]["detail"]
    assert upstream.requests == []


async def test_get_takes_no_body(serve: Serve, upstream: ToyUpstream) -> None:
    async with forwarding(upstream) as operations:
        service = await serve(operations)
        answer = await service.post([{"method": "GET", "path": "/api/x", "body": {}}])
    assert pointers(assert_problem(answer, 422)) == ["/operations/0/body"]


async def test_small_batch_is_answered_at_once(serve: Serve, upstream: ToyUpstream) -> None:
    async with forwarding(upstream, "Authorization") as operations:
        service = await serve(operations)
        batch = [
            {"method": "PUT", "path": "/api/create/1", "body": {"n": 1}},
            *ask_for("/api/taken/1", "/api/busy-once/1", "/own"),
        ]
        answer = await service.post(batch, HEADERS)

    assert [(result["status"], result.get("result")) for result in answer.body["results"]] == [
        (201, {"made": {"n": 1}}),
        (409, None),
        (200, {"asked": "/api/busy-once/1"}),
        (200, "ours"),
    ]
    assert upstream.kinds == {"create": 1, "taken": 1, "busy-once": 2}
    assert {asked.headers["Authorization"] for asked in upstream.requests} == {SECRET}
    assert not any("Accept-Language" in asked.headers for asked in upstream.requests)


async def test_header_that_is_not_plain_is_refused(serve: Serve, upstream: ToyUpstream) -> None:
    async with forwarding(upstream, "Accept-Language") as operations:
        service = await serve(operations)
        headers = {"Accept-Language": "Zoë", "Idempotency-Key": "mine"}
        refused = await service.post(ask_for("/api/x"), headers)
        mended = await service.post(ask_for("/api/x"), {**headers, "Accept-Language": "de"})
    assert "accept-language" in assert_problem(refused, 400)["detail"]
    assert mended.status == 200
    assert len(upstream.requests) == 1


async def test_header_with_a_key_is_not_passed_on(serve: Serve, upstream: ToyUpstream) -> None:
    async with forwarding(upstream, "X-Api-Key") as operations:
        service = await serve(operations, auth="none")
        key = make_key("test").text
        for value in (key, f"key={key[:-1]}"):
            problem = assert_problem(await service.post(ask_for("/api/x"), {"X-Api-Key": value}), 400)
            assert "x-api-key" in problem["detail"]
    assert upstream.requests == []


async def test_headers_that_are_too_large_together_are_refused(serve: Serve, upstream: ToyUpstream) -> None:
    names = [f"X-Passed-{number}" for number in range(60)]
    async with forwarding(upstream, *names) as operations:
        service = await serve(operations)
        key = {"Idempotency-Key": "mine", "Prefer": "respond-async"}
        refused = await service.post(ask_for("/api/x"), {**key, **dict.fromkeys(names, "x" * 600)})
        mended = await service.post(ask_for("/api/x"), {**key, **dict.fromkeys(names, "x" * 500)})
    assert "The limit is 32,768 bytes" in assert_problem(refused, 400)["detail"]
    assert mended.status == 202


async def test_headers_are_kept_with_a_batch_in_the_background(
    aiohttp_client: AiohttpClient, upstream: ToyUpstream
) -> None:
    async with forwarding(upstream, "Authorization", "Accept-Language") as operations:
        plant = await build_plant(aiohttp_client, operations)
        batch_id = await plant.submit("/api/empty/1", "/api/busy-once/1", headers=HEADERS)
        on_the_queue = [message.body for message in plant.parts.chunks.messages]
        batch = await plant.batch(batch_id)
        await plant.work_off()
        assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})

    assert batch.headers == (("accept-language", "de"), ("authorization", SECRET))
    assert SECRET not in f"{batch} {on_the_queue}"
    assert upstream.kinds == {"empty": 1, "busy-once": 2}
    assert {(asked.headers["Authorization"], asked.headers["Accept-Language"]) for asked in upstream.requests} == {
        (SECRET, "de")
    }


async def test_headers_are_kept_only_where_the_application_says_so(
    aiohttp_client: AiohttpClient, upstream: ToyUpstream
) -> None:
    async with forwarding(upstream) as operations:
        plant = await build_plant(aiohttp_client, operations)
        batch_id = await plant.submit("/api/empty/1", headers=HEADERS)
        assert (await plant.batch(batch_id)).headers == ()
        await plant.work_off()
    assert "Authorization" not in upstream.requests[0].headers


async def test_headers_are_not_kept_for_a_batch_of_which_nothing_is_forwarded(
    aiohttp_client: AiohttpClient, upstream: ToyUpstream
) -> None:
    async with forwarding(upstream, "Authorization") as operations:
        plant = await build_plant(aiohttp_client, operations)
        batch_id = await plant.submit("/own", headers=HEADERS)
        assert (await plant.batch(batch_id)).headers == ()


# --- Together with a transaction


@asynccontextmanager
async def transaction_that_does_not_commit() -> AsyncIterator[str]:
    yield "open"
    raise RuntimeError("The database went away.")


@asynccontextmanager
async def savepoint(_: str) -> AsyncIterator[None]:
    yield


async def test_what_is_forwarded_stands_whatever_becomes_of_the_transaction(
    serve: Serve, upstream: ToyUpstream
) -> None:
    registry = {"transaction": transaction_that_does_not_commit, "savepoint": savepoint}
    async with forwarding(upstream, **registry) as operations:
        service = await serve(operations)
        answer = await service.post(ask_for("/own", "/api/empty/1", "/own"))
    assert [result["status"] for result in answer.body["results"]] == [503, 204, 503]
    assert upstream.kinds == {"empty": 1}


async def test_for_forwarded_operations_alone_no_transaction_is_opened(serve: Serve, upstream: ToyUpstream) -> None:
    def open_transaction() -> Any:
        raise AssertionError("There is nothing to roll back.")

    async with forwarding(upstream, transaction=open_transaction) as operations:
        service = await serve(operations)
        answer = await service.post(ask_for("/api/empty/1", "/api/empty/2"))
    assert [result["status"] for result in answer.body["results"]] == [204, 204]


async def test_batch_with_a_forwarded_operation_cannot_be_atomic(serve: Serve, upstream: ToyUpstream) -> None:
    registry = {"transaction": transaction_that_does_not_commit, "savepoint": savepoint}
    async with forwarding(upstream, **registry) as operations:
        service = await serve(operations)
        problem = assert_problem(await service.post(ask_for("/own", "/api/empty/1"), atomic=True), 422)
    assert problem["errors"] == [
        {
            "pointer": "/atomic",
            "detail": "Operation 1 is forwarded to another program, so it could not be rolled back.",
        }
    ]
    assert upstream.requests == []


async def test_key_of_penstock_is_never_passed_on(serve: Serve, upstream: ToyUpstream) -> None:
    key = "o" * 32
    async with forwarding(upstream, "Authorization", "Accept-Language") as operations:
        service = await serve(operations, auth="keys", operator_key=key)
        headers = {"Authorization": f"Bearer {key}", "Accept-Language": "de"}
        batch = [{"method": "POST", "path": "/api/create/1", "body": {}}]
        answer = await service.post(batch, headers)
    assert answer.body["summary"]["succeeded"] == 1
    [request] = upstream.requests
    assert request.headers["Accept-Language"] == "de"
    assert "Authorization" not in request.headers
