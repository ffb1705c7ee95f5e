"""The document covers all routes, and every answer is as it describes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from aiohttp import hdrs, web
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from schemathesis import checks
from schemathesis.core.result import Ok
from schemathesis.pytest.lazy import get_all_tests

from penstock import Operations, Reject
from penstock.api_key import ApiKey, Scope
from penstock.batch import BatchState
from penstock.clock import SystemClock
from penstock.service.app import create_app, create_operator_app
from penstock.service.keys import PAGES
from penstock.service.openapi.document import describe, describe_for_operators
from penstock.service.protocol import ConnectionRunner
from penstock.service.routes import routes_for_clients, routes_for_operators, scopes_of
from penstock.settings import Settings
from penstock.testing import FakeClock, memory_parts
from penstock.webhooks.endpoint import mark_of
from tests.support.builders import NOW, build_batch, build_settings
from tests.support.full import full
from tests.support.service import Serve, request

EXAMPLES = hypothesis_settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
WITH_MOST_BOUNDARIES = "clients /batch"  # about a thousand requests
CONFORMANCE = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.allow_header_conformance,
]


@asynccontextmanager
async def nothing_opened() -> AsyncIterator[None]:
    yield


operations = Operations(transaction=nothing_opened, savepoint=lambda _: nothing_opened())


@operations.get("/{name}")
@operations.patch("/{name}")
@operations.post("/{name}")
async def take_anything(name: str, body: Any = None) -> Any:
    return {"name": name, "body": body}


@operations.put("/{name}")
async def reject(name: str, body: Any = None) -> None:
    raise Reject(409, name)


@operations.delete("/{name}", max_attempts=1)
async def break_(name: str, body: Any = None) -> None:
    raise RuntimeError(name)


SETTINGS: dict[str, Any] = {
    "sync_max_operations": 2,
    "max_body_bytes": 4096,
    "webhook_secret": "a secret of at least 32 characters",
}
BATCH = replace(build_batch(3, deadline_at=NOW + 60), state=BatchState.FAILED)
KEY = ApiKey("a" * 12, "digest", "acme", frozenset(Scope), NOW, expires_at=NOW + 10**9)
PLAIN = Settings.model_construct()
DESCRIPTION = describe(PLAIN, operations, scopes_of(routes_for_clients(PLAIN)))
FOR_OPERATORS = describe_for_operators(PLAIN, scopes_of(routes_for_operators()))
LISTENERS = {"clients": DESCRIPTION, "operators": FOR_OPERATORS}
Case = schemathesis.Case[Any]


@schemathesis.serializer("application/x-ndjson")
def as_it_is(context: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


class Server:
    """The program in a separate thread, because Schemathesis blocks this one while it waits for answers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._runners: list[ConnectionRunner] = []

    def start(self) -> list[str]:
        """Return the URLs for clients and for operators."""
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    def stop(self) -> None:
        for runner in self._runners:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> list[str]:
        """Serve with one batch and one key, so that not every id is unknown."""
        # No time passes on the clock of the queue, so no request waits for a letter.
        parts = memory_parts(FakeClock())
        await parts.store.create_batch(BATCH)
        await parts.store.create_api_key(KEY)
        await parts.store.add_webhook_mark(mark_of("default"))
        app = create_app(build_settings(**SETTINGS), operations, parts.backend, SystemClock())
        self._runners = [ConnectionRunner(one) for one in (app, create_operator_app(app, "127.0.0.1"))]
        for runner in self._runners:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        return [f"http://127.0.0.1:{runner.addresses[0][1]}" for runner in self._runners]


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    server = Server()
    try:
        yield server.start()
    finally:
        server.stop()


def aim(case: Case) -> None:
    """Use an existing batch, existing operations and an uncompressed body. Random input would not find them."""
    case.headers.pop("Content-Encoding", None)
    for name, existing in (("batch_id", BATCH.id), ("key_id", KEY.id)):
        if name in case.path_parameters and len(str(case.path_parameters[name])) % 2:
            case.path_parameters[name] = existing
    match case.body:
        case {"operations": [*asked]}:
            for operation in asked:
                if isinstance(operation, dict) and str(operation.get("path")).startswith("/"):
                    operation["path"] = "/take"


def addresses() -> list[str]:
    """Return every path, after the name of the listener that answers it."""
    return [f"{listener} {path}" for listener, description in LISTENERS.items() for path in description["paths"]]


def is_for_a_full_run(address: str) -> bool:
    return "webhook" in address or address.startswith("operators /keys")


@pytest.mark.parametrize(
    "address",
    [
        *(one for one in addresses() if not is_for_a_full_run(one)),
        *full(one for one in addresses() if is_for_a_full_run(one)),
    ],
)
def test_every_answer_is_as_described(address: str, urls: list[str]) -> None:
    check_answers(address, urls, has_boundaries=address != WITH_MOST_BOUNDARIES)


@pytest.mark.full
def test_every_answer_about_a_boundary_of_a_batch_is_as_described(urls: list[str]) -> None:
    check_answers(WITH_MOST_BOUNDARIES, urls, has_boundaries=True)


def check_answers(address: str, urls: list[str], *, has_boundaries: bool) -> None:
    """Build the cases of one path. Schemathesis would build those of all paths whenever pytest collects.

    `has_boundaries` adds a case for each boundary of each parameter and member.
    """
    listener, path = address.split(" ")
    url = dict(zip(LISTENERS, urls, strict=True))[listener]
    described = {**LISTENERS[listener], "paths": {path: LISTENERS[listener]["paths"][path]}}

    def ask(case: Case) -> None:
        aim(case)
        case.call_and_validate(base_url=url, checks=CONFORMANCE, timeout=10)

    schema = schemathesis.openapi.from_dict(described)
    schema.config.phases.coverage.enabled = has_boundaries
    tests = list(get_all_tests(schema=schema, test_func=ask, settings=EXAMPLES, given_kwargs=None))
    assert len(tests) == len(described["paths"][path])
    for built in tests:
        assert isinstance(built, Ok), built
        _operation, run = built.ok()
        run()


async def test_it_is_served_with_the_limits_and_the_operations_of_this_program(serve: Serve) -> None:
    service = await serve(operations, max_operations=7, sync_max_operations=3)
    answer = await service.get("/openapi.json")
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.body["components"]["schemas"]["BatchRequest"]["properties"]["operations"]["maxItems"] == 7
    description = answer.body["paths"]["/batch"]["post"]["description"]
    assert "Up to 3 operations" in description
    assert "`POST /{name}`" in description


async def test_it_describes_exactly_the_routes_of_the_program(serve: Serve) -> None:
    service = await serve(operations, dialects="none")  # other APIs have descriptions of their own
    for client, description in ((service.client, DESCRIPTION), (service.operators, FOR_OPERATORS)):
        assert client.app is not None
        served = {
            (route.method.lower(), route.resource.canonical)
            for route in client.app.router.routes()
            if route.resource is not None and route.method != hdrs.METH_HEAD and route not in client.app[PAGES]
        }
        described = {(method, path) for path, methods in description["paths"].items() for method in methods}
        assert described == served


async def test_operators_get_the_description_of_their_listener(serve: Serve) -> None:
    service = await serve(operations)
    answer = await request(service.operators, "GET", "/openapi.json")
    keys = {"/keys", "/keys/{key_id}", "/keys/{key_id}/rotate"}
    others = {"/batches", "/dead-letters", "/dead-letters/redrive", "/limits", "/metrics", "/openapi.json"}
    others |= {"/queues", "/queues/{priority}/pause", "/queues/{priority}/resume", "/webhooks/deliveries"}
    assert set(answer.body["paths"]) == keys | others


@pytest.mark.parametrize(("auth", "without"), [("keys", []), ("none", [{}])])
async def test_it_says_which_scope_each_endpoint_needs(serve: Serve, auth: str, without: list[Any]) -> None:
    service = await serve(operations, auth=auth)
    listeners = (
        (service.client, routes_for_clients(build_settings(auth=auth))),
        (service.operators, routes_for_operators()),
    )
    for client, routes in listeners:
        body = (await request(client, "GET", "/openapi.json")).body
        assert body["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
        scopes = {(route.method, route.path): route.scope for route in routes}
        for path, methods in body["paths"].items():
            for method, endpoint in methods.items():
                scope = scopes[method.upper(), path]
                assert endpoint["security"] == ([] if scope is None else [{"key": [scope]}, *without])
                assert ("401" in endpoint["responses"]) == (scope is not None)


def references(part: Any) -> Iterator[str]:
    match part:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for member in part.values():
                yield from references(member)
        case list():
            for member in part:
                yield from references(member)


@pytest.mark.parametrize("description", [DESCRIPTION, FOR_OPERATORS], ids=["clients", "operators"])
def test_every_reference_leads_somewhere_and_every_component_is_used(description: Any) -> None:
    used = set(references(description))
    components = dict(description["components"])
    schemes = components.pop("securitySchemes")  # they are used by name
    assert list(schemes) == ["key"]
    assert used == {f"#/components/{kind}/{name}" for kind, parts in components.items() for name in parts}
