"""Operators make, list, replace and revoke keys. A key is shown once, and every change has a line in the audit."""

from typing import Any

import pytest

from penstock import Operations
from penstock.api_key import ApiKey, Scope, digest_of, is_key, make_key
from penstock.telemetry import Event
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.builders import NOW
from tests.support.service import Serve, Service, assert_problem, pointers
from tests.unit.service.conftest import Logs

DAY = 86_400
ACME = {"tenant": "acme", "scopes": ["read", "write"]}


@pytest.fixture
async def service(serve: Serve, parts: MemoryParts, clock: FakeClock) -> Service:
    """Operators need no key here, on their own listener."""
    return await serve(Operations(), parts=parts, clock=clock, auth="none", name="Shop-Test")


async def make(service: Service, **members: Any) -> Any:
    answer = await service.ask("POST", "/keys", json={**ACME, **members})
    assert answer.status == 201, answer.content
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.body


async def status_with(service: Service, key: str) -> int:
    return (await service.get("/batch/x/status", Authorization=f"Bearer {key}")).status


def audited(logs: Logs) -> list[dict[str, Any]]:
    lines = [dict(line) for line in logs if line["event"] == Event.AUDIT]
    return [{name: line[name] for name in line if name not in {"event", "log_level", "request_id"}} for line in lines]


async def test_new_key_is_answered_once_and_works(service: Service, parts: MemoryParts) -> None:
    given = {"name": "nightly import", "expiresAt": "2100-01-01T00:00:00Z", "limit": " 100000 / 3600 ", "maxOpen": 5}
    made = await make(service, **given)
    key = made.pop("key")
    assert is_key(key)
    assert key.startswith(f"pk_shoptest_{made['id']}")
    assert made == {
        "id": made["id"],
        "tenant": "acme",
        "scopes": ["write", "read"],
        "name": "nightly import",
        "limit": "100000/3600",
        "maxOpen": 5,
        "createdAt": "2023-11-14T22:13:20.000Z",
        "expiresAt": "2100-01-01T00:00:00.000Z",
        "revokedAt": None,
        "lastUsedAt": None,
    }
    assert await status_with(service, key) == 404
    listed = await service.get("/keys")
    assert listed.body == {"keys": [{**made, "lastUsedAt": "2023-11-14T22:00:00.000Z"}]}
    stored = await parts.store.find_api_key(digest_of(key))
    assert stored is not None
    assert key not in repr(stored)
    assert key[-40:] not in listed.content.decode()


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"tenant": "two words"}, "/tenant"),
        ({"tenant": ""}, "/tenant"),
        ({"tenant": None}, "/tenant"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["admin"]}, "/scopes/0"),
        ({"scopes": "read"}, "/scopes"),
        ({"name": ""}, "/name"),
        ({"expiresAt": "tomorrow"}, "/expiresAt"),
        ({"expiresAt": "2023-11-14T22:13:20Z"}, "/expiresAt"),  # now
        ({"expiresAt": "9999-12-31T23:59:59-05:00"}, "/expiresAt"),  # no datetime in UTC
        ({"limit": "100"}, "/limit"),
        ({"limit": "0/1"}, "/limit"),
        ({"limit": 5}, "/limit"),
        ({"maxOpen": 0}, "/maxOpen"),
        ({"scopes": ["operate"], "limit": "10/60"}, "/limit"),
        ({"scopes": ["write", "operate"], "maxOpen": 5}, "/maxOpen"),
        ({"key": "mine"}, "/key"),
    ],
)
async def test_invalid_key_is_not_made(
    service: Service, parts: MemoryParts, members: dict[str, Any], pointer: str
) -> None:
    answer = await service.ask("POST", "/keys", json={**ACME, **members})
    assert pointers(assert_problem(answer, 422)) == [pointer]
    assert await parts.store.list_api_keys() == []


async def test_revoked_key_stays_in_the_list(service: Service, clock: FakeClock) -> None:
    made = await make(service)
    for seconds in (0, 10):
        clock.advance(seconds)
        answer = await service.ask("DELETE", f"/keys/{made['id']}")
        assert (answer.status, answer.body["revokedAt"]) == (200, "2023-11-14T22:13:20.000Z")
    assert await status_with(service, made["key"]) == 401
    assert [key["revokedAt"] for key in (await service.get("/keys")).body["keys"]] == ["2023-11-14T22:13:20.000Z"]


@pytest.mark.parametrize(("sent", "overlap"), [({}, DAY), ({"json": {"overlapSeconds": 600}}, 600)], ids=["", "600"])
async def test_both_keys_work_until_the_overlap_is_over(
    service: Service, clock: FakeClock, sent: dict[str, Any], overlap: int
) -> None:
    headers = {"Content-Type": "application/json"}
    old = await make(service, name="import", limit="10/60", maxOpen=3)
    answer = await service.ask("POST", f"/keys/{old['id']}/rotate", **(sent or {"headers": headers}))
    assert answer.status == 201
    new = answer.body
    assert new["id"] != old["id"]
    kept = ("tenant", "scopes", "name", "limit", "maxOpen", "expiresAt")
    assert [new[name] for name in kept] == [old[name] for name in kept]
    assert new["replaces"]["id"] == old["id"]
    for seconds, statuses in ((0, [404, 404]), (overlap - 1, [404, 404]), (1, [401, 404])):
        clock.advance(seconds)
        assert [await status_with(service, key["key"]) for key in (old, new)] == statuses


async def test_new_key_lives_as_long_as_the_old_one_unless_told_otherwise(service: Service, clock: FakeClock) -> None:
    old = await make(service, expiresAt="2023-11-24T22:13:20Z")  # in ten days
    clock.advance(9 * DAY)
    new = await rotated(service, old)
    assert (new["expiresAt"], new["replaces"]["expiresAt"]) == ("2023-12-03T22:13:20.000Z", old["expiresAt"])
    other = await rotated(service, new, expiresAt="2030-01-01T00:00:00Z")
    assert other["expiresAt"] == "2030-01-01T00:00:00.000Z"


async def test_new_key_lives_for_100_years_at_most(service: Service, parts: MemoryParts) -> None:
    made = make_key("test")
    far = 253_402_300_799  # the end of the year 9999
    await parts.store.create_api_key(
        ApiKey(made.id, made.digest, "acme", frozenset({Scope.READ}), NOW - DAY, expires_at=far)
    )
    assert (await rotated(service, {"id": made.id}))["expiresAt"] == "2123-11-15T22:13:20.000Z"


async def rotated(service: Service, key: Any, **members: Any) -> Any:
    return (await service.ask("POST", f"/keys/{key['id']}/rotate", json=members)).body


async def test_key_that_has_ended_is_not_replaced(service: Service) -> None:
    made = await make(service)
    await service.ask("DELETE", f"/keys/{made['id']}")
    answer = await service.ask("POST", f"/keys/{made['id']}/rotate", json={})
    assert assert_problem(answer, 409)["type"] == "urn:penstock:problem:key-ended"


@pytest.mark.parametrize("end", [None, "2023-11-14T23:13:20Z"], ids=["no end", "in an hour"])
async def test_replaced_key_is_not_replaced_again(service: Service, end: str | None) -> None:
    made = await make(service, expiresAt=end)
    new = await rotated(service, made)
    answer = await service.ask("POST", f"/keys/{made['id']}/rotate", json={})
    problem = assert_problem(answer, 409)
    assert problem["type"] == "urn:penstock:problem:key-replaced"
    assert new["id"] in problem["detail"]
    assert (await rotated(service, new))["expiresAt"] == made["expiresAt"]


@pytest.mark.parametrize("members", [{"overlapSeconds": -1}, {"overlapSeconds": 31 * DAY}, {"overlap": 1}])
async def test_invalid_rotation_changes_nothing(service: Service, members: dict[str, Any]) -> None:
    made = await make(service)
    assert_problem(await service.ask("POST", f"/keys/{made['id']}/rotate", json=members), 422)
    assert len((await service.get("/keys")).body["keys"]) == 1


async def test_options_in_the_query_change_nothing(service: Service) -> None:
    made = await make(service)
    for path, members in (("/keys?maxOpen=5", ACME), (f"/keys/{made['id']}/rotate?overlapSeconds=0", {})):
        assert "no query" in assert_problem(await service.ask("POST", path, json=members), 400)["detail"]
    assert len((await service.get("/keys")).body["keys"]) == 1


@pytest.mark.parametrize("key_id", ["A" * 12, "x", "a%2fb", "x" * 4_000])
async def test_unknown_key(service: Service, key_id: str) -> None:
    for answer in (
        await service.ask("DELETE", f"/keys/{key_id}"),
        await service.ask("POST", f"/keys/{key_id}/rotate", json={}),
    ):
        assert assert_problem(answer, 404)["type"] == "urn:penstock:problem:unknown-key"


async def test_text_of_a_key_is_no_id_and_is_not_repeated(service: Service, logs: Logs) -> None:
    made = await make(service)
    answer = await service.ask("DELETE", f"/keys/{made['key']}")
    assert_problem(answer, 404)
    assert made["key"] not in answer.content.decode() + repr(logs)


# --- The audit


async def test_each_change_has_a_line_with_its_maker(
    serve: Serve, parts: MemoryParts, clock: FakeClock, logs: Logs
) -> None:
    service = await serve(Operations(), parts=parts, clock=clock, auth="keys", operator_key="o" * 32)

    async def ask(method: str, path: str, **options: Any) -> Answer:
        return await service.ask(method, path, headers={"Authorization": f"Bearer {'o' * 32}"}, **options)

    made = (await ask("POST", "/keys", json=ACME)).body
    new = (await ask("POST", f"/keys/{made['id']}/rotate", json={})).body
    await ask("DELETE", f"/keys/{made['id']}")
    await ask("POST", "/dead-letters/redrive", json={"batchId": "b"})

    by = {"tenant": "default", "key_id": "operator"}
    about = {"of_tenant": "acme", "scopes": [Scope.READ, Scope.WRITE]}
    assert audited(logs) == [
        {"action": "create key", **by, **about, "of_key": made["id"]},
        {"action": "rotate key", **by, **about, "of_key": new["id"], "replaces": made["id"]},
        {"action": "revoke key", **by, **about, "of_key": made["id"]},
        {"action": "redrive", **by, "batch_id": "b", "chunks": 0},
    ]
    assert made["key"] not in repr(logs)


async def test_each_rejected_caller_has_a_line(serve: Serve, parts: MemoryParts, clock: FakeClock, logs: Logs) -> None:
    service = await serve(Operations(), parts=parts, clock=clock, auth="keys", operator_key="o" * 32)
    made = (await service.ask("POST", "/keys", json={**ACME, "scopes": ["read"]}, headers=bearer("o" * 32))).body
    logs.clear()
    await service.get("/batch/b/status")
    await service.ask("POST", "/batch/b/cancel", headers=bearer(made["key"]))
    await service.ask("DELETE", f"/keys/{made['id']}", headers=bearer("o" * 32))
    clock.advance(60)
    await service.get("/batch/b/status", **bearer(made["key"]))

    rejected = [line for line in audited(logs) if line["action"] == "rejected"]
    status = {"action": "rejected", "route": "/batch/{batch_id}/status", "method": "GET", "batch_id": "b"}
    cancel = {"action": "rejected", "route": "/batch/{batch_id}/cancel", "method": "POST", "batch_id": "b"}
    assert rejected == [
        {**status, "status": 401, "tenant": None, "key_id": None},
        {**cancel, "status": 403, "tenant": "acme", "key_id": made["id"]},
        {**status, "status": 401, "tenant": None, "key_id": None, "presented_key_id": made["id"]},
    ]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
