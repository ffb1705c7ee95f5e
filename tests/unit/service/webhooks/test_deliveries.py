"""Tenants see what was sent to their receivers, and send it again. Only operators see what a receiver answered."""

from dataclasses import replace

import pytest

from penstock.service.webhooks.deliveries import MOST_TESTS
from penstock.testing import MemoryParts
from penstock.webhooks.delivery import KEPT_SECONDS, DeliveryKey, DeliveryState, EventDelivery
from tests.support.builders import NOW
from tests.support.service import assert_problem
from tests.unit.service.webhooks.conftest import Tenant

PATH = "/webhooks/deliveries"
FAILED = EventDelivery(
    tenant="acme",
    event_id=f"evt_{'1' * 32}",
    endpoint_id="callback",
    type="batch.completed",
    body=b"{}",
    created_at=NOW,
    expires_at=NOW + 86_400,
    batch_id="b1",
    url="https://receiver.example/?token=secret",
    state=DeliveryState.FAILED,
    attempt=10,
    attempted_at=NOW + 5,
    status=500,
    response="an answer",
)


async def test_tenant_sees_its_deliveries_without_answers(acme: Tenant, other: Tenant, parts: MemoryParts) -> None:
    await parts.store.create_delivery(FAILED)
    answer = await acme.ask("GET", PATH)
    assert answer.body == {
        "deliveries": [
            {
                "id": FAILED.id,
                "eventId": FAILED.event_id,
                "endpointId": "callback",
                "type": "batch.completed",
                "batchId": "b1",
                "state": "failed",
                "attempts": 10,
                "createdAt": "2023-11-14T22:13:20.000Z",
                "attemptedAt": "2023-11-14T22:13:25.000Z",
                "nextAttemptAt": None,
                "status": 500,
                "error": None,
            }
        ],
        "nextCursor": None,
    }
    assert (await other.ask("GET", PATH)).body["deliveries"] == []
    assert_problem(await other.ask("GET", f"{PATH}?tenant=acme"), 400)


async def test_operator_sees_the_answers_of_any_tenant(operator: Tenant, parts: MemoryParts) -> None:
    await parts.store.create_delivery(FAILED)
    [delivery] = (await operator.ask("GET", f"{PATH}?tenant=acme")).body["deliveries"]
    assert delivery["response"] == "an answer"
    assert (await operator.ask("GET", PATH)).body["deliveries"] == []


async def test_deliveries_are_read_in_pages(acme: Tenant, parts: MemoryParts) -> None:
    made = [replace(FAILED, event_id=f"evt_{number:032x}") for number in range(5)]
    for delivery in made:
        await parts.store.create_delivery(delivery)
    ids, path = [], f"{PATH}?limit=2"
    while True:
        answer = await acme.ask("GET", path)
        ids += [delivery["id"] for delivery in answer.body["deliveries"]]
        if answer.body["nextCursor"] is None:
            break
        assert f"cursor={answer.body['nextCursor']}" in answer.headers["Link"]
        path = f"{PATH}?limit=2&cursor={answer.body['nextCursor']}"
    assert ids == [delivery.id for delivery in reversed(made)]


@pytest.mark.parametrize("query", ["cursor=x", "limit=0", "state=failed", "tenant=", "limit=1&limit=2"])
async def test_invalid_query_is_rejected(acme: Tenant, query: str) -> None:
    assert_problem(await acme.ask("GET", f"{PATH}?{query}"), 400)


async def test_delivery_is_replayed(acme: Tenant, other: Tenant, parts: MemoryParts) -> None:
    await parts.store.create_delivery(FAILED)
    path = f"{PATH}/{FAILED.id}/replay"
    assert_problem(await other.ask("POST", path), 404)
    answer = await acme.ask("POST", path)
    assert (answer.status, answer.body["state"]) == (202, "pending")
    replayed = await parts.store.read_delivery(DeliveryKey("acme", FAILED.id))
    assert replayed is not None
    assert (replayed.state, replayed.due_at, replayed.replayed_after) == (DeliveryState.PENDING, NOW, 10)
    assert replayed.expires_at == NOW + KEPT_SECONDS


async def test_delivery_that_is_pending_is_not_replayed(acme: Tenant, parts: MemoryParts) -> None:
    pending = replace(FAILED, state=DeliveryState.PENDING, due_at=NOW + 300)
    await parts.store.create_delivery(pending)
    assert "pending" in assert_problem(await acme.ask("POST", f"{PATH}/{pending.id}/replay"), 409)["detail"]


@pytest.mark.parametrize("delivery_id", ["x", f"evt_{'2' * 32}.callback", "evt_1.we_1%2F.."])
async def test_unknown_delivery_does_not_exist(acme: Tenant, delivery_id: str) -> None:
    assert_problem(await acme.ask("POST", f"{PATH}/{delivery_id}/replay"), 404)


async def test_test_of_an_endpoint_is_a_delivery(acme: Tenant, parts: MemoryParts) -> None:
    made = await acme.make(types=["batch.failed"])
    answer = await acme.ask("POST", f"/v1/webhook_endpoints/{made['id']}/test")
    assert (answer.status, answer.body["type"], answer.body["endpointId"]) == (202, "webhook.test", made["id"])
    assert (await acme.ask("GET", PATH)).body["deliveries"] == [answer.body]


async def test_few_tests_of_an_endpoint_are_pending(acme: Tenant) -> None:
    ids = [(await acme.make())["id"] for _ in range(2)]
    for _ in range(MOST_TESTS):
        assert (await acme.ask("POST", f"/v1/webhook_endpoints/{ids[0]}/test")).status == 202
    problem = assert_problem(await acme.ask("POST", f"/v1/webhook_endpoints/{ids[0]}/test"), 409)
    assert "5 tests of this endpoint are pending" in problem["detail"]
    assert (await acme.ask("POST", f"/v1/webhook_endpoints/{ids[1]}/test")).status == 202
