"""A tenant makes endpoints for its events. Their secrets are derived, and nobody else sees them."""

from typing import Any

import pytest
from standardwebhooks import Webhook

from penstock.service.webhook_tenants import FRESH_SECONDS
from penstock.testing import FakeClock, MemoryParts
from penstock.webhooks.endpoint import MOST_ENDPOINTS, MOST_ROTATIONS, Endpoint, Secrets, mark_of
from tests.support.builders import NOW
from tests.support.service import Serve, Service, ask_for, assert_problem
from tests.unit.service.conftest import Logs
from tests.unit.service.test_access import WEBHOOK_SECRET
from tests.unit.service.webhooks.conftest import Tenant, operations

PATH = "/v1/webhook_endpoints"
URL = "https://receiver.example/a"
TYPES = ["batch.completed", "batch.failed", "batch.cancelled", "batch.expired"]


async def test_endpoint_is_made_and_shown(acme: Tenant, parts: MemoryParts) -> None:
    made = await acme.make(description="Our shop")
    secret = made.pop("secret")
    assert made == {
        "id": made["id"],
        "url": URL,
        "types": TYPES,
        "description": "Our shop",
        "disabled": False,
        "disabledAt": None,
        "disabledReason": None,
        "createdAt": "2023-11-14T22:13:20.000Z",
        "secretRotatedAt": None,
    }
    assert secret == Secrets(WEBHOOK_SECRET).current("acme", Endpoint(made["id"], "", 0))
    Webhook(secret)
    assert (await acme.ask("GET", PATH)).body == {"endpoints": [made]}
    assert (await acme.ask("GET", f"{PATH}/{made['id']}")).body == made
    assert secret not in str(await parts.store.read_endpoints("acme"))


async def test_endpoints_of_another_tenant_do_not_exist(acme: Tenant, other: Tenant) -> None:
    path = f"{PATH}/{(await acme.make())['id']}"
    assert (await other.ask("GET", PATH)).body == {"endpoints": []}
    for method, of in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/secret"),
        ("POST", "/rotate_secret"),
        ("POST", "/test"),
    ):
        assert_problem(await other.ask(method, f"{path}{of}"), 404)
    assert_problem(await other.ask("PATCH", path, {"disabled": True}), 404)


async def test_endpoint_is_changed_and_deleted(acme: Tenant, clock: FakeClock) -> None:
    made = await acme.make(types=["batch.failed"])
    path = f"{PATH}/{made['id']}"
    changed = (await acme.ask("PATCH", path, {"url": "https://new.example", "types": TYPES[:2]})).body
    assert (changed["url"], changed["types"], changed["disabled"]) == ("https://new.example", TYPES[:2], False)
    off = (await acme.ask("PATCH", path, {"disabled": True})).body
    assert (off["disabled"], off["disabledAt"], off["url"]) == (True, "2023-11-14T22:13:22.000Z", "https://new.example")
    assert_problem(await acme.ask("POST", f"{path}/test"), 409)
    assert (await acme.ask("PATCH", path, {"disabled": False, "description": None})).body["disabledAt"] is None
    assert (await acme.ask("DELETE", path)).status == 204
    assert_problem(await acme.ask("GET", path), 404)


async def test_secret_is_shown_again_and_rotated(acme: Tenant) -> None:
    made = await acme.make()
    path = f"{PATH}/{made['id']}"
    shown = await acme.ask("GET", f"{path}/secret")
    assert (shown.body["secret"], shown.headers["Cache-Control"]) == (made["secret"], "no-store")
    rotated = (await acme.ask("POST", f"{path}/rotate_secret")).body
    assert rotated["secret"] != made["secret"]
    assert rotated["secretRotatedAt"] is not None
    assert (await acme.ask("GET", f"{path}/secret")).body == rotated


async def test_secret_is_rotated_a_few_times_a_day(acme: Tenant) -> None:
    path = f"{PATH}/callback/rotate_secret"
    for _ in range(MOST_ROTATIONS):
        assert (await acme.ask("POST", path)).status == 200
    assert "5 times in 24 hours" in assert_problem(await acme.ask("POST", path), 409)["detail"]


async def test_callbacks_of_a_tenant_share_a_secret(acme: Tenant, other: Tenant) -> None:
    path = f"{PATH}/callback"
    secret = (await acme.ask("GET", f"{path}/secret")).body["secret"]
    assert secret != (await other.ask("GET", f"{path}/secret")).body["secret"]
    assert (await acme.ask("POST", f"{path}/rotate_secret")).body["secret"] != secret
    assert (await acme.ask("GET", PATH)).body == {"endpoints": []}
    for method in ("GET", "DELETE"):
        assert_problem(await acme.ask(method, path), 404)
    assert_problem(await acme.ask("PATCH", path, {"url": URL}), 404)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "http://receiver.example/"}, "/url"),
        ({"url": "https://169.254.169.254/latest"}, "/url"),
        ({"url": ""}, "/url"),
        ({}, "/url"),
        ({"url": URL, "types": []}, "/types"),
        ({"url": URL, "types": ["batch.started"]}, "/types/0"),
        ({"url": URL, "description": "x" * 501}, "/description"),
        ({"url": URL, "secret": "mine"}, "/secret"),
    ],
)
async def test_invalid_endpoint_is_rejected(acme: Tenant, body: Any, pointer: str) -> None:
    problem = assert_problem(await acme.ask("POST", PATH, body), 422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_invalid_change_is_rejected(acme: Tenant) -> None:
    path = f"{PATH}/{(await acme.make())['id']}"
    assert_problem(await acme.ask("PATCH", path, {"url": "https://10.0.0.1/"}), 422)
    assert_problem(await acme.ask("PATCH", path, {"types": []}), 422)
    assert_problem(await acme.ask("PATCH", f"{path}?a=b", {}), 400)


async def test_condition_that_no_endpoint_meets_changes_nothing(acme: Tenant) -> None:
    path = f"{PATH}/{(await acme.make())['id']}"
    assert_problem(await acme.ask("PATCH", path, {"disabled": True}, **{"If-Match": '"1"'}), 412)
    assert (await acme.ask("GET", path)).body["disabled"] is False
    assert (await acme.ask("PATCH", path, {"disabled": True}, **{"If-Match": "*"})).body["disabled"] is True


async def test_tenant_has_few_endpoints(acme: Tenant) -> None:
    for _ in range(MOST_ENDPOINTS):
        await acme.make()
    assert "can have 10 endpoints" in assert_problem(await acme.ask("POST", PATH, {"url": URL}), 409)["detail"]


async def test_answer_waits_until_every_front_end_knows_of_the_first_endpoint(acme: Tenant, clock: FakeClock) -> None:
    await acme.make()
    assert clock.now() == NOW + FRESH_SECONDS
    await acme.make()
    assert clock.now() == NOW + FRESH_SECONDS


async def test_answer_waits_if_the_mark_was_written_by_a_request_that_is_not_finished(
    acme: Tenant, parts: MemoryParts, clock: FakeClock
) -> None:
    await parts.store.add_webhook_mark(mark_of("acme"))
    await acme.make()
    assert clock.now() == NOW + FRESH_SECONDS


async def test_batch_knows_of_an_endpoint_that_was_made_before(
    acme: Tenant, other: Tenant, serve: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    another = await serve(operations, parts=parts, clock=clock, auth="keys", webhook_secret=WEBHOOK_SECRET)
    elsewhere = Tenant(another, acme.key)
    assert not await has_webhooks(elsewhere, parts)  # it has just read that there is none
    await acme.make()
    assert await has_webhooks(elsewhere, parts)
    assert not await has_webhooks(other, parts)


async def has_webhooks(tenant: Tenant, parts: MemoryParts) -> bool:
    answer = await tenant.ask("POST", "/batch", {"operations": ask_for("/run")}, Prefer="respond-async")
    batch = await parts.store.read_batch(answer.body["batchId"])
    assert batch is not None
    return batch.has_webhooks


async def test_callback_url_is_stored_with_the_batch(acme: Tenant, parts: MemoryParts) -> None:
    body = {"operations": ask_for("/run"), "callbackUrl": f"{URL}?token=secret"}
    answer = await acme.ask("POST", "/batch", body)
    batch = await parts.store.read_batch(answer.body["batchId"])
    assert batch is not None
    assert batch.callback_url == f"{URL}?token=secret"
    assert "token" not in repr(batch)


@pytest.mark.parametrize("url", ["http://receiver.example/", "https://10.0.0.1/", "not a URL", ""])
async def test_invalid_callback_url_is_rejected(acme: Tenant, url: str) -> None:
    problem = assert_problem(await acme.ask("POST", "/batch", {"operations": ask_for("/run"), "callbackUrl": url}), 422)
    assert [error["pointer"] for error in problem["errors"]] == ["/callbackUrl"]


async def test_without_a_secret_webhooks_are_not_implemented(serve: Serve, parts: MemoryParts) -> None:
    service = await serve(operations, parts=parts, auth="none", sync_max_operations=0)
    answers = [
        await service.ask("POST", PATH, json={"url": URL}),
        await service.ask("GET", PATH),
        await service.ask("GET", f"{PATH}/callback/secret"),
        await service.ask("GET", "/webhooks/deliveries"),
        await service.post(ask_for("/run"), callbackUrl=URL),
    ]
    for answer in answers:
        assert "PENSTOCK_WEBHOOK_SECRET" in assert_problem(answer, 501)["detail"]
    assert (await service.post(ask_for("/run"))).status == 202


async def test_nothing_of_a_url_or_a_secret_is_logged(acme: Tenant, logs: Logs) -> None:
    made = await acme.make(url=f"{URL}?token=secret")
    await acme.ask("PATCH", f"{PATH}/{made['id']}", {"url": f"{URL}?token=other"})
    await acme.ask("POST", "/batch", {"operations": ask_for("/run"), "callbackUrl": f"{URL}?token=secret"})
    await acme.ask("POST", f"{PATH}/{made['id']}/rotate_secret")
    assert not [line for line in logs if "token" in str(line) or "whsec" in str(line)]


async def test_table_that_does_not_answer_leaves_it_to_the_delivery(
    service: Service, acme: Tenant, parts: MemoryParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.errors import Unavailable

    async def fail() -> None:
        raise Unavailable("AWS is away.")

    monkeypatch.setattr(parts.store, "read_webhook_marks", fail)
    assert await has_webhooks(acme, parts)
