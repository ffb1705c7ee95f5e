"""Every change and every rejected request has a line in the audit, and is counted by tenant."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from penstock.api_key import ApiKey, Scope
from penstock.batch import BatchState
from penstock.metrics.names import TenantMetric
from penstock.metrics.tenants import NO_TENANT
from penstock.service.audit import Action
from penstock.service.keys import METER
from penstock.service.route import For, Route
from penstock.service.routes import ROUTES
from penstock.telemetry import Event
from penstock.testing import FakeClock, MemoryParts
from tests.support.builders import NOW
from tests.support.faults import Outage
from tests.support.service import Serve, Service, ask_for, assert_problem
from tests.unit.docs.pages import REPOSITORY
from tests.unit.service.conftest import Logs
from tests.unit.service.test_access import (
    BATCH,
    KEY,
    OF_OPERATORS,
    OPERATOR_KEY,
    WEBHOOK_SECRET,
    add_key,
    add_webhooks,
    ask,
    name_of,
    operations,
)

# What each endpoint that changes something writes into the audit. A new one needs a line here.
CHANGES: Mapping[tuple[str, str], Action | None] = {
    ("POST", "/batch"): None,  # it has lines of its own: `batch accepted` and `batch answered`
    ("POST", "/uploads"): Action.CREATE_UPLOAD,
    ("PATCH", "/batch/{batch_id}"): Action.STEER,
    ("POST", "/batch/{batch_id}/cancel"): Action.CANCEL,
    ("POST", "/batch/{batch_id}/retry"): Action.RETRY,
    ("POST", "/batch/{batch_id}/export"): Action.EXPORT,
    ("POST", "/v1/webhook_endpoints"): Action.CREATE_WEBHOOK,
    ("PATCH", "/v1/webhook_endpoints/{endpoint_id}"): Action.UPDATE_WEBHOOK,
    ("DELETE", "/v1/webhook_endpoints/{endpoint_id}"): Action.DELETE_WEBHOOK,
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/rotate_secret"): Action.ROTATE_WEBHOOK_SECRET,
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/test"): Action.TEST_WEBHOOK,
    ("POST", "/webhooks/deliveries/{delivery_id}/replay"): Action.REPLAY_WEBHOOK,
    ("POST", "/dead-letters/redrive"): Action.REDRIVE,
    ("POST", "/queues/{priority}/pause"): Action.PAUSE_QUEUE,
    ("POST", "/queues/{priority}/resume"): Action.RESUME_QUEUE,
    ("POST", "/keys"): Action.CREATE_KEY,
    ("POST", "/keys/{key_id}/rotate"): Action.ROTATE_KEY,
    ("DELETE", "/keys/{key_id}"): Action.REVOKE_KEY,
    ("POST", "/console/batch/{batch_id}/export"): Action.EXPORT,
    ("POST", "/console/batch/{batch_id}/cancel"): Action.CANCEL,
    ("POST", "/console/batch/{batch_id}/change"): Action.STEER,
    ("POST", "/console/batch/{batch_id}/retry"): Action.RETRY,
    ("POST", "/console/dead-letters/redrive"): Action.REDRIVE,
    ("POST", "/console/file"): None,
    ("POST", "/console/file/look"): None,
    ("POST", "/console/key"): None,
    ("POST", "/console/key/forget"): None,
    ("POST", "/console/queues/{priority}/pause"): Action.PAUSE_QUEUE,
    ("POST", "/console/queues/{priority}/resume"): Action.RESUME_QUEUE,
    ("POST", "/console/keys"): Action.CREATE_KEY,
    ("POST", "/console/keys/{key_id}/rotate"): Action.ROTATE_KEY,
    ("POST", "/console/keys/{key_id}/revoke"): Action.REVOKE_KEY,
}
OF_DIALECTS = {Action.DELETE_UPLOAD}  # their tests are in `dialects/`
CHANGING = [route for route in ROUTES if route.method != "GET"]
NEEDS_KEY = [route for route in ROUTES if route.scope is not None]
RUNNING = replace(BATCH, id="01ARZ3NDEKTSV4RRFFQ69G5FAB", state=BatchState.PROCESSING)
# The first call of each change after which it may be done, although its answer is lost.
CALLS = {
    Action.CREATE_UPLOAD: "bucket.offer_upload",
    Action.CANCEL: "store.end_batch",
    Action.STEER: "store.steer_batch",
    Action.EXPORT: "store.write_export",
    Action.CREATE_WEBHOOK: "store.write_endpoints",
    Action.UPDATE_WEBHOOK: "store.write_endpoints",
    Action.DELETE_WEBHOOK: "store.write_endpoints",
    Action.ROTATE_WEBHOOK_SECRET: "store.write_endpoints",
    Action.TEST_WEBHOOK: "store.create_delivery",
    Action.REPLAY_WEBHOOK: "store.replay_delivery",
    Action.REDRIVE: "dead_letters.receive",
    Action.PAUSE_QUEUE: "store.pause_queue",
    Action.RESUME_QUEUE: "store.resume_queue",
    Action.CREATE_KEY: "store.create_api_key",
    Action.ROTATE_KEY: "store.replace_api_key",
    Action.REVOKE_KEY: "store.revoke_api_key",
}
WITH_CALL = [route for route in CHANGING if CHANGES[route.method, route.path] in CALLS]


@pytest.fixture
async def stored(parts: MemoryParts) -> MemoryParts:
    for batch in (BATCH, RUNNING):
        await parts.store.create_batch(batch)
    await add_webhooks(parts.store)
    await parts.store.create_api_key(ApiKey(KEY.id, KEY.digest, "acme", frozenset(), NOW))
    return parts


@pytest.fixture
async def service(serve: Serve, stored: MemoryParts, clock: FakeClock) -> Service:
    return await serve(
        operations,
        parts=stored,
        clock=clock,
        auth="keys",
        operator_key=OPERATOR_KEY,
        webhook_secret=WEBHOOK_SECRET,
    )


def audited(logs: Logs) -> list[dict[str, Any]]:
    return [dict(line) for line in logs if line["event"] == Event.AUDIT]


def counted(service: Service, metric: TenantMetric) -> dict[tuple[str, str], int]:
    """Return the counts of a metric, by tenant and kind."""
    app = service.client.app
    assert app is not None
    return {(one.tenant, one.kind): times for one, times in app[METER].totals().tenants.items() if one.metric is metric}


async def change(service: Service, route: Route) -> None:
    is_of_running = CHANGES[route.method, route.path] in {Action.CANCEL, Action.STEER}
    await ask(service, route, OPERATOR_KEY, RUNNING.id if is_of_running else BATCH.id)


@pytest.mark.parametrize("route", CHANGING, ids=name_of)
async def test_change_is_in_the_audit(service: Service, logs: Logs, route: Route) -> None:
    await change(service, route)
    action = CHANGES[route.method, route.path]
    actions = [] if action is None else [action]
    assert [(line["action"], line["tenant"], line["key_id"]) for line in audited(logs)] == [
        (action, "default", "operator") for action in actions
    ]
    assert counted(service, TenantMetric.TENANT_ACTIONS) == {("default", action): 1 for action in actions}


def test_every_action_is_some_change() -> None:
    assert {*CHANGES.values()} == {*Action, None} - {Action.REJECTED, *OF_DIALECTS}
    assert {(route.method, route.path) for route in CHANGING} == set(CHANGES)


def test_every_action_is_documented() -> None:
    page = (REPOSITORY / "docs" / "access.md").read_text()
    assert [action for action in Action if f"`{action}`" not in page] == []


@pytest.mark.parametrize("route", WITH_CALL, ids=name_of)
async def test_change_whose_answer_is_lost_is_in_the_audit(
    serve: Serve, stored: MemoryParts, clock: FakeClock, logs: Logs, route: Route
) -> None:
    action = CHANGES[route.method, route.path]
    assert action is not None
    outage = Outage(CALLS[action], "after")
    service = await serve(
        operations,
        parts=stored,
        clock=clock,
        watch=outage,
        auth="keys",
        operator_key=OPERATOR_KEY,
        webhook_secret=WEBHOOK_SECRET,
    )
    await change(service, route)
    assert [(line["action"], line["error"]) for line in audited(logs)] == [(action, "Unavailable")]


async def test_change_that_the_state_forbids_is_not_in_the_audit(service: Service, logs: Logs) -> None:
    answer = await service.ask("POST", f"/batch/{BATCH.id}/cancel", headers={"Authorization": f"Bearer {OPERATOR_KEY}"})
    assert_problem(answer, 409)
    assert audited(logs) == []


@pytest.mark.parametrize("route", NEEDS_KEY, ids=name_of)
async def test_rejected_caller_is_in_the_audit(service: Service, parts: MemoryParts, logs: Logs, route: Route) -> None:
    key = await add_key(parts.store, *(set(Scope) - {route.scope}))
    [stored] = [one for one in await parts.store.list_api_keys() if one.id != KEY.id]
    has_one = {For.CLIENTS: [service.client], **{whom: [service.operators] for whom in OF_OPERATORS}}
    listeners = has_one.get(route.whom, [service.client, service.operators])
    for listener in listeners:
        for text in (None, key):
            await ask(replace(service, client=listener, operators=listener), route, text)
    found = [(line["status"], line["tenant"], line["key_id"], line["route"]) for line in audited(logs)]
    assert found == [(401, None, None, route.path), (403, "acme", stored.id, route.path)] * len(listeners)
    assert counted(service, TenantMetric.TENANT_REJECTIONS) == {
        (NO_TENANT, "401"): len(listeners),
        ("acme", "403"): len(listeners),
    }


@pytest.mark.parametrize("path", ["/batch", f"/batch/{BATCH.id}/retry"])
async def test_caller_without_quota_is_in_the_audit(
    serve: Serve, stored: MemoryParts, clock: FakeClock, logs: Logs, path: str
) -> None:
    service = await serve(operations, parts=stored, clock=clock, auth="keys", tenant_limit="1/3600")
    headers = {"Authorization": f"Bearer {await add_key(stored.store, Scope.WRITE)}"}
    batch = {"operations": ask_for("/run/a")}
    await service.ask("POST", "/batch", json=batch, headers=headers)
    assert (await service.ask("POST", path, json=batch if path == "/batch" else None, headers=headers)).status == 429
    [line] = audited(logs)
    assert (line["action"], line["status"], line["tenant"]) == ("rejected", 429, "acme")
    assert counted(service, TenantMetric.TENANT_REJECTIONS) == {("acme", "429"): 1}


async def test_web_page_is_in_the_audit(serve: Serve, logs: Logs) -> None:
    service = await serve(operations, auth="none")
    assert (await service.get("/metrics", Origin="https://evil.example")).status == 403
    assert [(line["status"], line["route"]) for line in audited(logs)] == [(403, "/metrics")]


async def test_operations_and_failures_are_counted_by_tenant(
    serve: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    service = await serve(operations, parts=parts, clock=clock, tenant_header="X-Tenant")
    await service.post(ask_for("/run/a", "/run/b", "/run/refused"), {"X-Tenant": "a"})
    await service.post(ask_for("/run/a", "/run/b"), {"X-Tenant": "b", "Prefer": "respond-async"})
    again = {"X-Tenant": "b", "Idempotency-Key": '"k"'}
    for _ in range(2):
        await service.post(ask_for("/run/a"), again)
    assert counted(service, TenantMetric.TENANT_OPERATIONS) == {("a", ""): 3, ("b", ""): 3}
    assert counted(service, TenantMetric.TENANT_FAILURES) == {("a", ""): 1}
