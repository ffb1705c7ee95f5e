"""Every error is answered as a problem document, and clients never see internal details."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from penstock import Operations
from penstock.batch import BatchState
from penstock.errors import Misconfigured, NoAccess, RejectedCall, TooLargeForAws, Unavailable
from penstock.service.intake import acceptance
from penstock.telemetry import Event
from penstock.testing import memory_parts
from penstock.testing.http import Answer
from tests.support.builders import BATCH_ID
from tests.support.faults import Moment
from tests.support.service import Serve, Service, assert_problem


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(Operations())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", "/"),
        ("POST", "/batch/"),
        ("GET", "/batch/x/nothing"),
        ("GET", "/batch//status"),
        ("GET", "/batch/x/status/"),
        ("GET", "/../etc/passwd"),
        ("GET", "/%ff%00"),
        ("DELETE", "/nowhere"),
    ],
)
async def test_unknown_route(service: Service, method: str, path: str) -> None:
    assert "/batch" in assert_problem(await service.ask(method, path), 404)["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/batch", {"POST"}),
        ("PUT", "/batch", {"POST"}),
        ("OPTIONS", "/batch", {"POST"}),
        ("POST", "/batch/x/status", {"GET", "HEAD"}),
        ("DELETE", "/batch/x/results", {"GET", "HEAD"}),
        ("POST", "/health/live", {"GET", "HEAD"}),
    ],
)
async def test_method_that_a_route_does_not_take(service: Service, method: str, path: str, allowed: set[str]) -> None:
    answer = await service.ask(method, path)
    assert method in assert_problem(answer, 405)["detail"]
    assert {name.strip() for name in answer.headers["Allow"].split(",")} == allowed


async def test_head_is_answered_without_a_body(service: Service) -> None:
    assert (await service.ask("HEAD", "/health/live")).status == 200
    answer = await service.ask("HEAD", f"/batch/{BATCH_ID}/status")
    assert (answer.status, answer.content) == (404, b"")


@pytest.mark.parametrize(
    "batch_id", ["x" * 3000, "a%23b", "%00", "%ff", "%C3%A4", "..%2F..%2Fetc", "a b", "%F0%9F%98%80", "a" * 65]
)
async def test_what_can_be_no_batch_id_is_not_looked_for(serve: Serve, batch_id: str) -> None:
    """The table rejects long keys, and an id that cannot be valid must not become part of a key."""

    def refuse(call: str, moment: str) -> None:
        raise AssertionError(call)

    service = await serve(Operations(), watch=refuse)
    assert_problem(await service.get(f"/batch/{batch_id}/status"), 404)
    assert_problem(await service.get(f"/batch/{batch_id}/results"), 404)


async def answer_when_the_store_raises(serve: Serve, error: Exception) -> Answer:
    def strike(call: str, moment: str) -> None:
        raise error

    service = await serve(Operations(), watch=strike)
    return await service.get(f"/batch/{BATCH_ID}/status")


async def test_unforeseen_fault_is_logged_and_its_words_told_to_nobody(
    serve: Serve, logs: list[MutableMapping[str, Any]]
) -> None:
    answer = await answer_when_the_store_raises(serve, RuntimeError("the password is secret"))
    problem = assert_problem(answer, 500)
    assert b"secret" not in answer.content
    assert [(line["event"], line["request_id"]) for line in logs] == [(Event.REQUEST_BROKE, problem["requestId"])]
    assert problem["requestId"] == answer.headers["X-Request-Id"]
    logs.clear()


async def test_misconfiguration_is_the_operator_s_to_read(serve: Serve, logs: list[MutableMapping[str, Any]]) -> None:
    answer = await answer_when_the_store_raises(serve, Misconfigured("Run `penstock provision`: arn:secret"))
    assert_problem(answer, 500)
    assert b"secret" not in answer.content
    assert "arn:secret" in str(logs)
    logs.clear()


async def test_unavailable_part_asks_to_come_again(serve: Serve) -> None:
    answer = await answer_when_the_store_raises(serve, Unavailable("AWS does not answer."))
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0


async def test_rejected_credentials_ask_to_come_again_and_are_told_to_nobody(serve: Serve) -> None:
    """An operator rotates them, and the front end reads them again."""
    answer = await answer_when_the_store_raises(serve, NoAccess("ExpiredToken: arn:secret"))
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert b"secret" not in answer.content


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RejectedCall("ValidationException: arn:secret"), 500),
        (TooLargeForAws("Item size has exceeded the maximum allowed size: arn:secret"), 413),
        (RuntimeError("a fault of ours: secret"), 500),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize(
    ("most_ahead", "struck"),
    [
        (10, ("store.write_ids", "before")),
        (10, ("chunks.send", "before")),
        (10, ("chunks.send", "after")),
        (10, ("store.accept_new", "before")),
        (0, ("store.create_batch", "after")),
        (0, ("store.write_ids", "before")),
        (0, ("chunks.send", "before")),
        (0, ("chunks.send", "after")),
        (0, ("store.accept_batch", "before")),
    ],
)
async def test_error_after_something_was_stored_is_clear_and_leaves_nothing_that_runs(
    serve: Serve,
    logs: list[MutableMapping[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: Exception,
    status: int,
    most_ahead: int,
    struck: tuple[str, Moment],
) -> None:
    monkeypatch.setattr(acceptance, "MESSAGES_IN_CALL", most_ahead)

    def strike(call: str, moment: Moment) -> None:
        if (call, moment) == struck:
            raise error

    operations = Operations()

    @operations.post("/run")
    async def run() -> None: ...

    service = await serve(operations, watch=strike, sync_max_operations=0)
    answer = await service.post([{"id": "mine", "method": "POST", "path": "/run"}])
    assert_problem(answer, status)
    assert b"secret" not in answer.content
    assert [batch.state for batch in service.parts.store._batches.values()] == [BatchState.ABANDONED]
    logs.clear()


@pytest.mark.parametrize(
    ("most_ahead", "errors", "status", "states"),
    [
        (10, [NoAccess("expired")], 503, []),  # it is abandoned when its lease ends
        (10, [Unavailable("lost"), NoAccess("expired")], 202, [BatchState.QUEUED]),
        (10, [Unavailable("lost"), RejectedCall("invalid")], 202, [BatchState.QUEUED]),
        (0, [NoAccess("expired")], 503, [BatchState.ACCEPTING]),
        (0, [Unavailable("lost"), NoAccess("expired")], 202, [BatchState.QUEUED]),
        (0, [Unavailable("lost"), RejectedCall("invalid")], 202, [BatchState.QUEUED]),
    ],
)
async def test_acceptance_whose_first_answer_is_lost_is_not_given_up(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    *,
    most_ahead: int,
    errors: list[Exception],
    status: int,
    states: list[BatchState],
) -> None:
    monkeypatch.setattr(acceptance, "MESSAGES_IN_CALL", most_ahead)
    left = list(errors)

    def strike(call: str, moment: Moment) -> None:
        if call in {"store.accept_new", "store.accept_batch"} and moment == "before" and left:
            raise left.pop(0)

    operations = Operations()

    @operations.post("/run")
    async def run() -> None: ...

    service = await serve(operations, watch=strike, sync_max_operations=0)
    answer = await service.post([{"method": "POST", "path": "/run"}])
    assert answer.status == status
    assert [batch.state for batch in service.parts.store._batches.values()] == states


async def ask_in_bytes(service: Service, request: bytes) -> bytes:
    """Client libraries do not send such requests."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.client.port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /batch HTTP/1.1\r\nContent-Type: \xff\xfe", b"415"),
        (b"POST /batch HTTP/1.1\r\nContent-Type: application/json; charset=\xff", b"422"),
        (b"GET /batch/x/results HTTP/1.1\r\nAccept: \xff", b"404"),
        (b"GET /\xff\xfe HTTP/1.1\r\nAccept: */*", b"400"),
    ],
)
async def test_bytes_that_are_no_text_break_nothing(service: Service, head: bytes, status: bytes) -> None:
    body = b"\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    answer = await ask_in_bytes(service, head + body)
    assert answer.split(maxsplit=2)[1] == status, answer


async def test_answer_to_a_body_that_breaks_off_breaks_nothing(service: Service) -> None:
    head = b"POST /batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    _, writer = await asyncio.open_connection("127.0.0.1", service.client.port)
    writer.write(head)
    writer.close()
    await writer.wait_closed()
    assert (await service.get("/health/live")).status == 200


async def test_tenant_sees_only_its_own_batches(serve: Serve) -> None:
    operations = Operations()

    @operations.post("/run")
    async def run() -> None: ...

    service = await serve(operations, parts=memory_parts(), sync_max_operations=0, tenant_header="X-Tenant")
    answer = await service.post([{"method": "POST", "path": "/run"}], {"X-Tenant": "acme"})
    for url in (answer.body["statusUrl"], answer.body["resultsUrl"]):
        assert (await service.get(url, **{"X-Tenant": "acme"})).status == 200
        other = await service.get(url, **{"X-Tenant": "other"})
        unknown = await service.get(url.replace(answer.body["batchId"], BATCH_ID), **{"X-Tenant": "other"})
        assert assert_problem(other, 404)["type"] == assert_problem(unknown, 404)["type"]
        assert_problem(await service.get(url), 400)  # without the header nobody knows whose batch it would be
