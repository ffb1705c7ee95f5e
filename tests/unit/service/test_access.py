"""Who may use which endpoint: each row of the table of routes, as every kind of caller."""

from base64 import b64encode
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import hdrs, web
from pytest_aiohttp import AiohttpClient

from penstock import Operations, Reject
from penstock.api_key import ApiKey, Scope, make_key
from penstock.batch import BatchState
from penstock.clock import SystemClock
from penstock.export import Export
from penstock.service import callers
from penstock.service.app import create_app
from penstock.service.callers import FOUND_SECONDS, NOT_FOUND_SECONDS
from penstock.service.console.assets import assets
from penstock.service.openapi.serving import openapi
from penstock.service.route import For, Route
from penstock.service.routes import ROUTES, is_page
from penstock.store import Store
from penstock.testing import FakeClock, MemoryParts, memory_parts
from penstock.testing.http import Answer
from penstock.webhooks.delivery import DeliveryState, EventDelivery
from penstock.webhooks.endpoint import Endpoint, Endpoints
from tests.support.builders import NOW, build_batch, build_settings
from tests.support.faults import Outage
from tests.support.service import PROBLEM, Client, Serve, Service, ask_for, assert_problem, request
from tests.unit.service.conftest import Logs

OPERATOR_KEY = "0123456789abcdef0123456789abcdef"
BATCH = replace(build_batch(3), state=BatchState.COMPLETED, tenant="acme", expires_at=NOW + 86_400)
KEY = make_key("test")  # it is rotated and revoked
NO_BATCH = "01ARZ3NDEKTSV4RRFFQ69G5FAA"

# What is sent to each endpoint. A new endpoint needs a line here.
REQUESTS: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/batch"): {"json": {"operations": ask_for("/run/a")}},
    ("POST", "/uploads"): {},
    ("GET", "/batches"): {},
    ("GET", "/batch/{batch_id}"): {},
    ("GET", "/batch/{batch_id}/status"): {},
    ("GET", "/batch/{batch_id}/results"): {},
    ("GET", "/batch/{batch_id}/rejected"): {},
    ("GET", "/batch/{batch_id}/failures"): {},
    ("POST", "/batch/{batch_id}/export"): {},
    ("GET", "/batch/{batch_id}/exports/{export_id}"): {},
    ("PATCH", "/batch/{batch_id}"): {"json": {"paused": True}},
    ("GET", "/batch/{batch_id}/events"): {},
    ("POST", "/batch/{batch_id}/cancel"): {},
    ("POST", "/batch/{batch_id}/retry"): {},
    ("POST", "/v1/webhook_endpoints"): {"json": {"url": "https://receiver.example/hook"}},
    ("GET", "/v1/webhook_endpoints"): {},
    ("GET", "/v1/webhook_endpoints/{endpoint_id}"): {},
    ("PATCH", "/v1/webhook_endpoints/{endpoint_id}"): {"json": {"description": "mine"}},
    ("DELETE", "/v1/webhook_endpoints/{endpoint_id}"): {},
    ("GET", "/v1/webhook_endpoints/{endpoint_id}/secret"): {},
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/rotate_secret"): {},
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/test"): {},
    ("GET", "/webhooks/deliveries"): {},
    ("POST", "/webhooks/deliveries/{delivery_id}/replay"): {},
    ("GET", "/health/live"): {},
    ("GET", "/health/ready"): {},
    ("GET", "/openapi.json"): {},
    ("GET", "/dead-letters"): {},
    ("POST", "/dead-letters/redrive"): {"json": {}},
    ("GET", "/keys"): {},
    ("POST", "/keys"): {"json": {"tenant": "acme", "scopes": ["read"]}},
    ("POST", "/keys/{key_id}/rotate"): {},
    ("DELETE", "/keys/{key_id}"): {},
    ("GET", "/limits"): {},
    ("GET", "/queues"): {},
    ("POST", "/queues/{priority}/pause"): {},
    ("POST", "/queues/{priority}/resume"): {},
    ("GET", "/metrics"): {},
    ("GET", "/console"): {},
    ("GET", "/console/batch/{batch_id}"): {},
    ("GET", "/console/batch/{batch_id}/failures"): {},
    ("GET", "/console/batch/{batch_id}/outcomes"): {},
    ("GET", "/console/batch/{batch_id}/results"): {},
    ("GET", "/console/batch/{batch_id}/rejected"): {},
    ("GET", "/console/batch/{batch_id}/exports/{export_id}"): {},
    ("POST", "/console/batch/{batch_id}/export"): {"data": {"format": "csv"}},
    ("POST", "/console/batch/{batch_id}/cancel"): {},
    ("POST", "/console/batch/{batch_id}/change"): {"data": {"paused": "true"}},
    ("POST", "/console/batch/{batch_id}/retry"): {},
    ("GET", "/console/file"): {},
    ("POST", "/console/file"): {
        "params": {"method": "POST", "path": "/run/{name}"},
        "data": b"name\na\n",
        "headers": {"Content-Type": "text/csv"},
    },
    ("POST", "/console/file/look"): {"data": b"name\na\n", "headers": {"Content-Type": "text/csv"}},
    ("GET", "/console/key"): {},
    ("POST", "/console/key"): {"data": {"key": OPERATOR_KEY}},
    ("POST", "/console/key/forget"): {},
    ("GET", "/console/static/{digest}/{name}"): {},
    ("GET", "/docs"): {},
    ("GET", "/console/dead-letters"): {},
    ("POST", "/console/dead-letters/redrive"): {},
    ("GET", "/console/handlers"): {},
    ("POST", "/console/queues/{priority}/pause"): {},
    ("POST", "/console/queues/{priority}/resume"): {},
    ("GET", "/console/keys"): {},
    ("POST", "/console/keys"): {"data": {"tenant": "acme", "scope": "read"}},
    ("POST", "/console/keys/{key_id}/rotate"): {},
    ("POST", "/console/keys/{key_id}/revoke"): {},
}
OF_OPERATORS = {For.OPERATOR_LISTENER, For.OPERATOR_PAGES}
STYLE = assets()["console.css"]

ENDPOINT = Endpoint(f"we_{'1' * 24}", "https://receiver.example/", NOW)
FAILED = EventDelivery(
    "acme", f"evt_{'1' * 32}", ENDPOINT.id, "batch.completed", b"{}", NOW, NOW + 86_400, state=DeliveryState.FAILED
)
EXPORT = Export(
    batch_id=BATCH.id,
    tenant="acme",
    id="0" * 20,
    format="csv",
    status=None,
    compression=None,
    total=3,
    created_at=NOW,
    expires_at=BATCH.expires_at,
)
WEBHOOK_SECRET = "a secret of at least 32 characters"

operations = Operations()


@operations.post("/run/{name}")
async def run(name: str) -> str:
    if name == "refused":
        raise Reject(409, "Not this one.")
    return name


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


async def add_key(store: Store, *scopes: Scope, tenant: str = "acme", **changes: Any) -> str:
    """Put a key into the table, and return its text."""
    made = make_key("test")
    await store.create_api_key(ApiKey(made.id, made.digest, tenant, frozenset(scopes), NOW, **changes))
    return made.text


async def add_webhooks(store: Store) -> None:
    """Put an endpoint and a delivery of two tenants into the table: of a key's, and of the operator key's."""
    for tenant in ("acme", "default"):
        await store.write_endpoints(Endpoints(tenant, (ENDPOINT,)), "first")
        await store.create_delivery(replace(FAILED, tenant=tenant))


@pytest.fixture
async def service(serve: Serve, parts: MemoryParts, clock: FakeClock) -> Service:
    await parts.store.create_batch(BATCH)
    await parts.store.write_export(EXPORT, None, "first")
    await add_webhooks(parts.store)
    await parts.store.create_api_key(ApiKey(KEY.id, KEY.digest, "acme", frozenset(), NOW))
    return await serve(
        operations,
        parts=parts,
        clock=clock,
        auth="keys",
        operator_key=OPERATOR_KEY,
        webhook_secret=WEBHOOK_SECRET,
    )


async def ask(service: Service, route: Route, key: str | None, batch_id: str = BATCH.id) -> Answer:
    client = service.operators if route.whom in OF_OPERATORS else service.client
    sent = REQUESTS[route.method, route.path]
    headers = {**sent.get("headers", {}), **(page_headers(client, key) if is_page(route) else key_headers(key))}
    path = route.path.format(
        batch_id=batch_id,
        key_id=KEY.id,
        priority="low",
        export_id=EXPORT.id,
        endpoint_id=ENDPOINT.id,
        delivery_id=FAILED.id,
        digest=STYLE.digest,
        name="console.css",
    )
    return await request(client, route.method, path, **{**sent, "headers": headers, "allow_redirects": False})


def key_headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def page_headers(client: Client, key: str | None) -> dict[str, str]:
    """Return what a browser sends with a form of the console."""
    cookie = {} if key is None else {"Cookie": f"penstock_key={key}"}
    return {"Origin": str(client.make_url("/").origin()), **cookie}


def assert_rejected(answer: Answer, route: Route, status: int) -> None:
    """The answer is a problem, and of a page it is a page that says the same."""
    if not is_page(route):
        assert_problem(answer, status)
    assert answer.status == status, answer.content
    assert answer.content_type == ("text/html" if is_page(route) else PROBLEM)


def lets_through(answer: Answer) -> bool:
    if answer.status == 409:  # the state does not allow it, after the caller was let through
        return b"cannot be c" in answer.content or b"was replaced by" in answer.content
    return answer.status in {200, 201, 202, 204, 303}


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
async def test_endpoint_is_only_for_callers_with_its_scope(service: Service, parts: MemoryParts, route: Route) -> None:
    store = parts.store
    others = set(Scope) - {route.scope}
    invalid = {
        "no key": None,
        "unknown": make_key("test").text,
        "malformed": "pk_test_x",
        "of another kind": "x" * 40,
        "expired": await add_key(store, *Scope, expires_at=NOW),
        "revoked": await add_key(store, *Scope, revoked_at=NOW - 1),
    }
    for name, key in invalid.items():
        answer = await ask(service, route, key)
        if route.scope is None:
            assert lets_through(answer), (name, answer)
        elif is_page(route):
            assert_rejected(answer, route, 401)
            assert b'name="key"' in answer.content
        else:
            assert assert_problem(answer, 401)["type"] == "urn:penstock:problem:not-authenticated", name
            challenge = "Bearer" if key is None else 'Bearer error="invalid_token"'
            assert answer.headers["WWW-Authenticate"] == challenge

    if route.scope is not None:
        answer = await ask(service, route, await add_key(store, *others))
        assert_rejected(answer, route, 403)
        assert f"the scope {route.scope}" in answer.content.decode()
        if not is_page(route):
            assert answer.body["scope"] == route.scope
            assert f'scope="{route.scope}"' in answer.headers["WWW-Authenticate"]
        assert lets_through(await ask(service, route, await add_key(store, route.scope)))
    assert lets_through(await ask(service, route, OPERATOR_KEY))

    key = await add_key(store, Scope.READ, Scope.WRITE, tenant="other")
    stranger = await ask(service, route, key)
    if "{batch_id}" in route.path:
        assert_rejected(stranger, route, 404)
        unknown = await ask(service, route, key, NO_BATCH)
        assert stranger.content.replace(BATCH.id.encode(), NO_BATCH.encode()) == unknown.content
    elif "{endpoint_id}" in route.path or "{delivery_id}" in route.path:
        assert_problem(stranger, 404)
    elif route.scope is Scope.OPERATE:
        assert_rejected(stranger, route, 403)
    else:
        assert lets_through(stranger)


@pytest.mark.parametrize("auth", ["keys", "none"])
async def test_every_endpoint_is_in_the_table(serve: Serve, auth: str) -> None:
    service = await serve(operations, auth=auth, dialects="none")  # dialects have tables and tests of their own
    table = {(route.method, route.path) for route in ROUTES}
    for client in (service.client, service.operators):
        assert client.app is not None
        served = {
            (route.method, route.resource.canonical)
            for route in client.app.router.routes()
            if route.resource is not None and route.method != hdrs.METH_HEAD
        }
        assert served <= table
    assert {(route.method, route.path) for route in ROUTES} <= set(REQUESTS)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.whom is For.OPERATORS], ids=name_of)
async def test_listener_for_operators_asks_for_the_same_keys(
    service: Service, parts: MemoryParts, route: Route
) -> None:
    for key, status in ((None, 401), (await add_key(parts.store, Scope.READ), 403)):
        assert (await ask(replace(service, client=service.operators), route, key)).status == status


async def test_head_needs_the_scope_of_get(service: Service) -> None:
    assert (await service.ask("HEAD", f"/batch/{BATCH.id}/status")).status == 401


async def test_endpoints_need_keys_below_a_prefix_too(aiohttp_client: AiohttpClient) -> None:
    root = web.Application()
    settings = build_settings(auth="keys", operator_key=OPERATOR_KEY)
    root.add_subapp("/api", create_app(settings, operations, memory_parts().backend, SystemClock()))
    client = await aiohttp_client(root)
    for path in ("/api/keys", "/api/metrics", "/api/batch/x/status"):
        assert (await request(client, "GET", path)).status == 401
    assert (
        await request(client, "GET", "/api/keys", headers={"Authorization": f"Bearer {OPERATOR_KEY}"})
    ).status == 200
    assert (await request(client, "GET", "/api/health/live")).status == 200


async def test_route_whose_scope_nobody_decided_is_for_nobody(aiohttp_client: AiohttpClient, logs: Logs) -> None:
    app = create_app(build_settings(auth="none"), operations, memory_parts().backend, SystemClock())
    app.router.add_get("/forgotten", openapi)
    answer = await request(await aiohttp_client(app), "GET", "/forgotten")
    assert_problem(answer, 500)
    logs.clear()


async def test_scheme_is_read_in_any_case_and_nothing_else_is_a_key(service: Service) -> None:
    path = f"/batch/{BATCH.id}/status"
    assert (await service.get(path, Authorization=f"bEARER  {OPERATOR_KEY}")).status == 200
    for header in (OPERATOR_KEY, f"Basic {OPERATOR_KEY}", f"Bearer {OPERATOR_KEY} x", "Bearer "):
        assert (await service.get(path, Authorization=header)).status == 401
    assert (await service.get(f"{path}?key={OPERATOR_KEY}&access_token={OPERATOR_KEY}")).status == 401


async def test_request_with_two_keys_is_rejected(service: Service) -> None:
    headers = [("Authorization", f"Bearer {OPERATOR_KEY}")] * 2
    answer = await request(service.client, "GET", f"/batch/{BATCH.id}/status", headers=headers)
    assert_problem(answer, 401)


async def test_batch_belongs_to_the_tenant_of_the_key(service: Service, parts: MemoryParts) -> None:
    keys = [await add_key(parts.store, *Scope, tenant=tenant) for tenant in ("acme", "other")]
    answers = [
        await service.ask(
            "POST",
            "/batch",
            json={"operations": ask_for("/run/a")},
            headers={"Authorization": f"Bearer {key}", "Idempotency-Key": '"same"', "Prefer": "respond-async"},
        )
        for key in keys
    ]
    ids = [answer.body["batchId"] for answer in answers]  # the Idempotency-Key of one tenant is not that of another
    tenants = [batch.tenant for batch_id in ids if (batch := await parts.store.read_batch(batch_id)) is not None]
    assert tenants == ["acme", "other"]
    assert [message.tenant for message in parts.chunks.messages] == ["acme", "other"]


# --- Where no key is needed


async def test_key_counts_although_none_is_needed(serve: Serve, parts: MemoryParts, clock: FakeClock) -> None:
    await parts.store.create_batch(BATCH)
    service = await serve(operations, parts=parts, clock=clock, auth="none")
    path = f"/batch/{BATCH.id}/status"
    key = await add_key(parts.store, Scope.READ)
    assert (await service.get(path, Authorization=f"Bearer {key}")).status == 200
    assert (await service.get(path)).status == 404  # it is not the default tenant's
    assert (await service.get(path, Authorization=f"Bearer {make_key('test').text}")).status == 401
    assert (await service.get(path, Authorization=f"Bearer {key[:-1]}{'a' if key[-1] == 'b' else 'b'}")).status == 401
    for other in ("token-of-a-gateway", "pk_live_51H8s"):  # an upstream may have such keys
        assert (await service.get(path, Authorization=f"Bearer {other}")).status == 404
    answer = await service.post(ask_for("/run/a"), {"Authorization": f"Bearer {key}"})
    assert_problem(answer, 403)


@pytest.mark.parametrize(
    "form",
    [
        "{0}",
        "Token {0}",
        'Bearer "{0}"',
        "Bearer {0}, Bearer x",
        "Bearer x{0}",
        "Bearer {1}",
        "Basic {1}",
        "Bearer {0}a",
    ],
)
@pytest.mark.parametrize("auth", ["none", "keys"])
async def test_key_in_another_form_is_not_ignored(serve: Serve, parts: MemoryParts, auth: str, form: str) -> None:
    service = await serve(operations, parts=parts, auth=auth)
    key = await add_key(parts.store, *Scope)
    answer = await service.get("/batch/x/status", Authorization=form.format(key, key[:-1]))
    assert_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


async def test_operator_key_in_another_form_is_not_ignored(serve: Serve) -> None:
    service = await serve(operations, auth="none", operator_key=OPERATOR_KEY)
    for form in (OPERATOR_KEY, f"Token {OPERATOR_KEY}", f"Bearer {OPERATOR_KEY}, Bearer x"):
        assert (await service.get("/batch/x/status", Authorization=form)).status == 401


async def test_key_replaces_the_header_of_a_gateway(serve: Serve, parts: MemoryParts, clock: FakeClock) -> None:
    await parts.store.create_batch(BATCH)
    service = await serve(operations, parts=parts, clock=clock, tenant_header="X-Tenant")
    key = await add_key(parts.store, Scope.READ)
    for headers in ({"Authorization": f"Bearer {key}", "X-Tenant": "other"}, {"X-Tenant": "acme"}):
        assert (await service.get(f"/batch/{BATCH.id}/status", **headers)).status == 200
    assert (await service.get(f"/batch/{BATCH.id}/status")).status == 400


# --- How keys are looked up


class Counting(Outage):
    """Counts the lookups of keys."""

    def __call__(self, call: str, moment: str) -> None:
        self.times += (call, moment) == (self.call, self.moment)


async def test_key_is_cached_for_a_minute(serve: Serve, parts: MemoryParts, clock: FakeClock) -> None:
    lookups = Counting("store.find_api_key", times=0)
    service = await serve(operations, parts=parts, clock=clock, watch=lookups, auth="keys")
    key = await add_key(parts.store, Scope.READ)
    [stored] = await parts.store.list_api_keys()

    async def status(key: str) -> int:
        return (await service.get("/batch/x/status", Authorization=f"Bearer {key}")).status

    assert [await status(key) for _ in range(3)] == [404] * 3
    assert lookups.times == 1
    await parts.store.revoke_api_key(stored, NOW)
    clock.advance(FOUND_SECONDS - 1)
    assert await status(key) == 404
    clock.advance(1)
    assert await status(key) == 401
    assert lookups.times == 2

    unknown = make_key("test")
    assert [await status(unknown.text) for _ in range(3)] == [401] * 3
    assert lookups.times == 3
    await parts.store.create_api_key(ApiKey(unknown.id, unknown.digest, "acme", frozenset({Scope.READ}), NOW))
    clock.advance(NOT_FOUND_SECONDS)
    assert await status(unknown.text) == 404

    assert [await status(text) for text in ("pk_test_x", unknown.text[:-1], "x" * 40)] == [401] * 3
    assert lookups.times == 4  # what cannot be a key costs no call


async def test_cache_forgets_the_oldest_keys(
    serve: Serve, parts: MemoryParts, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "MOST_CACHED", 2)
    lookups = Counting("store.find_api_key", times=0)
    service = await serve(operations, parts=parts, clock=clock, watch=lookups, auth="keys")
    known = await add_key(parts.store, Scope.READ)
    for key in (known, *(make_key("test").text for _ in range(5)), known):
        await service.get("/batch/x/status", Authorization=f"Bearer {key}")
    assert lookups.times == 6  # unknown keys do not displace the known one
    for key in [await add_key(parts.store, Scope.READ) for _ in range(2)] + [known]:
        await service.get("/batch/x/status", Authorization=f"Bearer {key}")
    assert lookups.times == 9


async def test_cached_key_expires_in_time(serve: Serve, parts: MemoryParts, clock: FakeClock) -> None:
    service = await serve(operations, parts=parts, clock=clock, auth="keys")
    key = await add_key(parts.store, Scope.READ, expires_at=NOW + 10)
    for seconds, status in ((9, 404), (1, 401)):
        clock.advance(seconds)
        assert (await service.get("/batch/x/status", Authorization=f"Bearer {key}")).status == status


async def test_use_is_noted_by_the_hour_and_a_request_does_not_need_that(
    serve: Serve, parts: MemoryParts, clock: FakeClock
) -> None:
    service = await serve(
        operations, parts=parts, clock=clock, watch=Outage("store.note_api_key_use", times=1), auth="keys"
    )
    key = await add_key(parts.store, Scope.READ)
    for used in (None, NOW // 3600 * 3600):
        assert (await service.get("/batch/x/status", Authorization=f"Bearer {key}")).status == 404
        assert [stored.used_at for stored in await parts.store.list_api_keys()] == [used]
        clock.advance(FOUND_SECONDS)


async def test_table_that_does_not_answer_is_no_invalid_key(serve: Serve, parts: MemoryParts) -> None:
    service = await serve(operations, parts=parts, watch=Outage("store.find_api_key"), auth="keys")
    key = await add_key(parts.store, Scope.READ)
    assert_problem(await service.get("/batch/x/status", Authorization=f"Bearer {key}"), 503)


# --- Nothing shows a key


async def test_key_in_a_url_is_in_no_answer_and_in_no_log(service: Service, parts: MemoryParts, logs: Logs) -> None:
    key = await add_key(parts.store, *Scope)
    for secret, shown in ((key, f"{key[:20]}..."), (OPERATOR_KEY, "***")):
        answers = [
            await service.get(path, Authorization=f"Bearer {key}")
            for path in (f"/{secret}", f"/batch/{secret}/status", f"/dead-letters?limit={secret}", f"/keys?{secret}=1")
        ]
        for told in (*(answer.content.decode() for answer in answers), repr(logs)):
            assert secret not in told
            assert secret[-20:] not in told
        assert shown in answers[0].body["detail"]


# The operator key has characters that a JSON pointer and a URL write in another way.
SPECIAL_KEY = "op~+/._-" + "7" * 32
BODIES = [
    '{"%s": 1}',
    '{"operations": [{"method": "%s", "path": "/%s"}]}',
    '{"operations": [{"method": "POST", "path": "/run/%s/%s"}]}',
    '{"operations": [{"id": "%s", "method": "POST", "path": "/x"}, {"id": "%s", "method": "POST", "path": "/x"}]}',
    '{"tenant": "%s", "scopes": ["%s"], "name": "%s", "limit": "%s"}',
    '{"batchId": 1, "%s": 2}',
]
HEADERS = ["X-Api-Key", "X-Request-Id", "Idempotency-Key", "Prefer", "Accept", "Content-Encoding", "X-Tenant", "Host"]


@pytest.mark.parametrize("secret", [make_key("test").text, SPECIAL_KEY], ids=["key", "operator key"])
async def test_answer_shows_no_key_that_was_sent_in_a_wrong_place(serve: Serve, secret: str) -> None:
    service = await serve(operations, tenant_header="X-Tenant", operator_key=SPECIAL_KEY)
    usual = {"Content-Type": "application/json", "X-Tenant": "acme"}
    requests = [(body.replace("%s", secret), usual) for body in BODIES]
    requests += [('{"operations": []}', {**usual, name: f'"{secret}"'}) for name in HEADERS]
    for path in ("/batch", "/keys", "/dead-letters/redrive"):
        for body, headers in requests:
            answer = await service.ask("POST", path, data=body, headers=headers)
            shown = answer.content.decode() + repr(answer.headers)
            assert secret not in shown, (path, body)
            assert secret.replace("~", "~0").replace("/", "~1") not in shown, (path, body)


@pytest.mark.parametrize("secret", [make_key("test").text, SPECIAL_KEY], ids=["key", "operator key"])
@pytest.mark.parametrize("form", ["/console/%s", "/console?metadata=%s", "/console/key?then=/console/%s"])
async def test_page_that_asks_for_a_key_shows_none(serve: Serve, secret: str, form: str) -> None:
    service = await serve(operations, auth="keys", operator_key=SPECIAL_KEY)
    path = form.replace("%s", quote(secret, safe=""))
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"HX-Request": "true", "HX-Current-URL": path}):
        answer = await service.ask("GET", path, headers=headers, allow_redirects=False)
        shown = answer.content.decode() + repr(answer.headers)
        assert secret not in shown
        assert quote(secret, safe="") not in shown


@pytest.mark.parametrize("secret", [make_key("test").text, SPECIAL_KEY], ids=["key", "operator key"])
async def test_nothing_that_the_table_keeps_for_long_may_have_a_key(
    serve: Serve, parts: MemoryParts, secret: str
) -> None:
    service = await serve(operations, parts=parts, operator_key=SPECIAL_KEY, webhook_secret=WEBHOOK_SECRET)
    url = f"https://receiver.example/?key={secret}"
    headers = {"Prefer": "respond-async"}
    for members in ({"metadata": {"key": secret}}, {"metadata": {secret[:64]: "x"}}, {"callbackUrl": url}):
        problem = assert_problem(await service.post(ask_for("/run/a"), headers, **members), 422)
        assert "a key of Penstock" in problem["errors"][0]["detail"]
    problem = assert_problem(await service.ask("POST", "/v1/webhook_endpoints", json={"url": url}), 422)
    assert problem["errors"][0]["pointer"] == "/url"


async def test_key_as_a_tenant_is_rejected(serve: Serve) -> None:
    service = await serve(operations, tenant_header="X-Tenant")
    assert_problem(await service.post(ask_for("/run/a"), {"X-Tenant": make_key("test").text}), 400)


@pytest.mark.parametrize("member", ["tenant", "name"])
async def test_list_of_keys_shows_no_key_as_a_name(service: Service, member: str) -> None:
    for secret in (make_key("test").text, OPERATOR_KEY):
        document = {"tenant": "acme", "scopes": ["read"], member: f"-{secret}"}
        headers = {"Authorization": f"Bearer {OPERATOR_KEY}"}
        problem = assert_problem(await service.ask("POST", "/keys", json=document, headers=headers), 422)
        assert [error["pointer"] for error in problem["errors"]] == [f"/{member}"]


async def test_key_as_an_idempotency_key_is_rejected(service: Service, parts: MemoryParts) -> None:
    key = await add_key(parts.store, *Scope)
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f'"{key}"'}
    problem = assert_problem(await service.post(ask_for("/run/a"), headers), 400)
    assert "Idempotency-Key has an API key" in problem["detail"]


@pytest.mark.parametrize("credentials", ["{}:", "user:{}"])
async def test_key_in_basic_credentials_is_not_ignored(serve: Serve, parts: MemoryParts, credentials: str) -> None:
    """Otherwise an upstream that gets the header Authorization would get the key."""
    service = await serve(operations, parts=parts, auth="none", operator_key=OPERATOR_KEY)

    async def status_with(header: str) -> int:
        return (await service.get("/batch/x/status", Authorization=f"Basic {header}")).status

    for secret in (await add_key(parts.store, *Scope), OPERATOR_KEY):
        assert await status_with(b64encode(credentials.format(secret).encode()).decode()) == 401
    for other in (b64encode(b"user:password").decode(), "a", "%%%"):
        assert await status_with(other) == 404
