"""`validateOnly`: a batch is checked as the real one is, described, and neither run, charged nor written."""

from typing import Any

import pytest
from pydantic import BaseModel

from penstock import Operations, Reject
from penstock.testing import MemoryParts
from penstock.testing.http import Answer
from tests.support.plant import Toys
from tests.support.service import NDJSON, Serve, Service, ask_for, assert_problem

ran: list[str] = []
operations = Operations()


class User(BaseModel):
    age: int


@operations.post("/users")
async def create_user(user: User) -> None:
    ran.append("user")


@operations.post("/teams/{name}")
async def create_team(name: str) -> None:
    ran.append(name)
    raise Reject(409, "No.")


def users(count: int, **members: Any) -> list[dict[str, Any]]:
    return [{"method": "POST", "path": "/users", "body": {"age": number}, **members} for number in range(count)]


async def only_validate(service: Service, asked: list[dict[str, Any]], **members: Any) -> Answer:
    """Validate a batch. Nothing of it may be left anywhere."""
    ran.clear()
    answer = await service.post(asked, {"Idempotency-Key": '"k"'}, validateOnly=True, **members)
    assert not ran
    assert not any(queue.messages for queue in service.parts.queues.values())
    assert not service.parts.store._batches
    assert not service.parts.store._keys
    return answer


async def test_small_batch_is_described(serve: Serve) -> None:
    answer = await only_validate(await serve(operations), [*users(2), *ask_for("/teams/a", "/teams/b")])
    assert answer.status == 200
    assert answer.body == {
        "valid": True,
        "total": 4,
        "chunks": 0,
        "byHandler": {"POST /users": 2, "POST /teams/{name}": 2},
        "estimatedSeconds": None,
        "estimatedUsd": 0.0,
    }


async def test_large_batch_is_planned_and_its_time_is_estimated(serve: Serve, parts: MemoryParts) -> None:
    await parts.store.write_handler_seconds({"POST /users": 0.2}, 0)
    service = await serve(operations, parts=parts, sync_max_operations=0, chunk_operations=10, concurrency=4)
    answer = await only_validate(service, users(25))
    assert (answer.body["chunks"], answer.body["estimatedSeconds"]) == (3, 25 * 0.2 / 4)
    assert 0 < answer.body["estimatedUsd"] < 0.0001
    real = await service.post(users(25))
    batch = await service.parts.store.read_batch(real.body["batchId"])
    assert batch is not None
    assert batch.chunk_count == 3


async def test_stream_has_the_option_in_its_query(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=10)
    lines = b'{"method": "POST", "path": "/users", "body": {"age": 1}}\n' * 300
    answer = await service.ask(
        "POST", "/batch", params={"validateOnly": "true"}, data=lines, headers={"Content-Type": NDJSON}
    )
    assert answer.status == 200
    assert (answer.body["total"], answer.body["byHandler"]) == (300, {"POST /users": 300})
    assert not service.parts.chunks.messages


@pytest.mark.parametrize(("large", "ages"), [(False, b"1\nx\ny\n"), (True, b"1\nx\ny\n" + b"2\n" * 20)])
async def test_invalid_rows_that_would_fail_are_counted(serve: Serve, large: bool, ages: bytes) -> None:
    service = await serve(operations, sync_max_operations=10)
    query = {"validateOnly": "true", "invalidRows": "fail", "method": "POST", "path": "/users"}
    answer = await service.ask(
        "POST", "/batch", params=query, data=b"age\n" + ages, headers={"Content-Type": "text/csv"}
    )
    assert answer.status == 200, answer.content
    assert (answer.body["total"], answer.body["invalidRows"], answer.body["chunks"] > 0) == (
        23 if large else 3,
        2,
        large,
    )


INVALID: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "body": ([*users(1), {"method": "POST", "path": "/users", "body": {"age": "x"}}], {}),
    "path": (ask_for("/nowhere"), {}),
    "ids": (users(2, id="a"), {}),
    "keys": (users(2, key="a"), {}),
    "option": (users(1), {"maxFailures": -1}),
    "atomic": (users(1), {"atomic": True}),
    "time": (users(1), {"notBefore": "2999-01-01T00:00:00Z"}),
    "callback": (users(1), {"callbackUrl": "ftp://x"}),
    "too many": (users(11), {}),
    "too large for a message": ([{"method": "POST", "path": "/users", "body": {"age": 1, "x": "x" * 4_000}}] * 3, {}),
    "too large, in a small batch": ([{"method": "POST", "path": "/users", "body": {"age": 1, "x": "x" * 4_000}}], {}),
}


@pytest.mark.parametrize("name", INVALID)
async def test_what_the_real_one_rejects_is_rejected_with_the_same_problem(serve: Serve, name: str) -> None:
    asked, members = INVALID[name]
    service = await serve(
        operations,
        sync_max_operations=2,
        max_operations=10,
        message_bytes=4_096 if name.startswith("too large") else 1_048_576,
        chunk_operations=1,
        webhook_secret="0123456789abcdef" * 4,
    )
    answer = await only_validate(service, asked, **members)
    real = await service.post(asked, **members)
    problem = assert_problem(answer, real.status)
    assert problem == real.body
    assert answer.status in {413, 422}


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ({"tenant_limit": "10/60"}, 413),
        ({"tenant_max_open": 10}, 413),
    ],
)
async def test_limits_are_checked_and_not_charged(serve: Serve, limits: dict[str, Any], status: int) -> None:
    service = await serve(operations, **limits)
    assert_problem(await only_validate(service, users(11)), status)
    for _ in range(3):
        assert (await only_validate(service, users(6))).status == 200
    assert (await service.post(users(6))).status == 200


async def test_batch_that_is_more_than_is_left_is_rejected(serve: Serve) -> None:
    toys = Toys()
    service = await serve(toys.operations(), tenant_limit="10/60")
    assert (await service.post(ask_for(*["/succeed/a"] * 6))).status == 200
    problem = assert_problem(await service.post(ask_for(*["/succeed/a"] * 6), validateOnly=True), 429)
    assert "4 are left" in problem["detail"]
    assert (await service.post(ask_for(*["/succeed/a"] * 4), validateOnly=True)).status == 200
