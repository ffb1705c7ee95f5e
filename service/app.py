"""Puts the HTTP applications together on one page: their middleware and their parts. `routes.py` has their routes.

There are two, each with a listener of its own: one for clients, and one for operators.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from aiohttp import hdrs, web

from penstock.backend import Backend
from penstock.clock import Clock
from penstock.fleet_limit import LimitStore
from penstock.limit import Limit
from penstock.metrics.meter import Meter
from penstock.operations import Operations
from penstock.running.limit_gate import GateRules, LimitGate
from penstock.running.limit_gates import LimitGates
from penstock.running.runner import Runner
from penstock.service.access import access
from penstock.service.audit import audited
from penstock.service.batches.export_run import EXPORTING, Exports
from penstock.service.batches.export_urls import EXPORT_URLS, ExportUrls
from penstock.service.callers import Callers
from penstock.service.console.live import LIVE, Live
from penstock.service.console.pages import pages, set_page_headers
from penstock.service.dialects.answering import SPOKEN, in_dialects
from penstock.service.dialects.registered import spoken
from penstock.service.events.outcomes import OUTCOMES, SharedOutcomes
from penstock.service.events.stream import STREAMS, Streams
from penstock.service.events.watching import WATCHER, create_watcher
from penstock.service.group_numbers import GroupNumbers
from penstock.service.handler_times import HandlerTimes
from penstock.service.keys import (
    BACKEND,
    CALLERS,
    CLOCK,
    GROUP_NUMBERS,
    HANDLER_TIMES,
    LEAVING,
    LEDGER,
    MARKER,
    MEMORY,
    METADATA,
    METER,
    OPEN_LEDGER,
    OPERATIONS,
    OPERATOR_HOST,
    PAGES,
    PATHS_HINT,
    RUNNER,
    SCOPES,
    SETTINGS,
    TABLE_OUTAGE,
    TURNS,
    WEBHOOK_TENANTS,
)
from penstock.service.known_metadata import KnownMetadata
from penstock.service.ledger import Ledger
from penstock.service.limits.fields import set_limit_headers
from penstock.service.memory import Memory
from penstock.service.open_ledger import OpenLedger
from penstock.service.openapi.document import describe, describe_for_operators
from penstock.service.openapi.serving import DESCRIPTION, Description
from penstock.service.operators.health import READINESS, Readiness
from penstock.service.operators.metrics import counted
from penstock.service.problems import problems
from penstock.service.protocol import set_headers
from penstock.service.public_urls import MARKER_PATH, public_urls
from penstock.service.route import Route
from penstock.service.routes import is_page, routes_for_clients, routes_for_operators, scopes_of
from penstock.service.sharing import sharing
from penstock.service.table_outage import TableOutage
from penstock.service.tracing import tracing
from penstock.service.turns import Turns
from penstock.service.webhook_tenants import WebhookTenants
from penstock.settings import Settings

OF_ONE_LISTENER = {DESCRIPTION, MARKER, PAGES, PATHS_HINT, SCOPES, SPOKEN}


def create_app(
    settings: Settings, operations: Operations[Any], backend: Backend, clock: Clock, *, keeps_limits: bool = True
) -> web.Application:
    """Return the application for clients and load balancers.

    Without `keeps_limits`, small batches do not keep to the limits of the fleet.
    """
    # `content.py` decompresses the bodies: aiohttp would not notice that a compressed body is incomplete.
    app = web.Application(
        middlewares=[
            *(public_urls, *tracing(backend.spans), counted, audited),
            *(pages, in_dialects, problems, access, sharing),
        ],
        handler_args={"auto_decompress": False},
    )
    app.on_response_prepare.extend([set_headers, set_limit_headers, set_page_headers])
    app[SETTINGS] = settings
    app[OPERATIONS] = operations
    operations.surroundings.has_bucket = backend.bucket is not None
    app[METER] = Meter()
    app[MEMORY] = Memory(settings.request_memory_bytes)
    app[TURNS] = Turns()
    app[RUNNER] = Runner(
        operations,
        settings.concurrency,
        clock.monotonic,
        meter=app[METER],
        observer=backend.spans,
        weights=settings.weights,
        cpu_processes=settings.cpu_processes,
        shows_errors=settings.show_errors,
        tenants_share=settings.has_tenants,
        limits=_gates(settings, operations, backend.store, clock) if keeps_limits else None,
    )
    app.cleanup_ctx.append(_closing_runner)
    app[BACKEND] = backend
    app[CLOCK] = clock
    app[GROUP_NUMBERS] = GroupNumbers()
    app[METADATA] = KnownMetadata(backend.store)
    app[HANDLER_TIMES] = HandlerTimes(backend.store, [route.name for route in operations.routes], clock)
    app[LEDGER] = Ledger(backend.store, clock, settings.accept_seconds)
    app[OPEN_LEDGER] = OpenLedger(backend.store, clock, settings.accept_seconds)
    app[TABLE_OUTAGE] = TableOutage(clock)
    app[WEBHOOK_TENANTS] = WebhookTenants(backend.store, clock)
    app[LEAVING] = asyncio.Event()
    app[LIVE] = Live(clock)
    app[PATHS_HINT] = "Send batches with POST /batch."
    app[CALLERS] = Callers(backend.store, clock, _operator_key(settings))
    app[WATCHER] = create_watcher(app)
    app[OUTCOMES] = SharedOutcomes(app)
    app[EXPORTING] = Exports(app)
    app[EXPORT_URLS] = ExportUrls(app)
    app[READINESS] = Readiness(backend, clock)
    app[STREAMS] = Streams(clock, has_tenants=settings.has_tenants)
    app.on_shutdown.append(_end_streams)
    app.on_cleanup.append(_leave_exports)
    app[SPOKEN] = spoken(settings)
    routes = routes_for_clients(settings)
    app[DESCRIPTION] = Description(partial(describe, settings, operations, scopes_of(routes)))
    _add_routes(app, routes)
    return app


def create_operator_app(clients: web.Application, host: str) -> web.Application:
    """Return the application for operators, which listens on `host`. It shares parts of the application for clients."""
    backend = clients[BACKEND]
    app = web.Application(
        middlewares=[public_urls, *tracing(backend.spans), audited, pages, problems, access, sharing],
        handler_args={"auto_decompress": False},
    )
    app.on_response_prepare.extend([set_headers, set_page_headers])
    for key, part in clients.items():
        if key not in OF_ONE_LISTENER:
            app[key] = part
    app[OPERATOR_HOST] = host
    app[PATHS_HINT] = (
        "Operators use GET /batches, GET /dead-letters, POST /dead-letters/redrive, GET and POST /keys, GET /limits, "
        "GET /queues, POST /queues/{priority}/pause and /resume, and GET /metrics."
    )
    routes = routes_for_operators()
    app[DESCRIPTION] = Description(partial(describe_for_operators, clients[SETTINGS], scopes_of(routes)))
    _add_routes(app, routes)
    return app


def _gates(settings: Settings, operations: Operations[Any], store: LimitStore, clock: Clock) -> LimitGates:
    """Return the gates of the fleet's limits for the small batches that run immediately."""
    rules = GateRules.of_front_end(settings.sync_seconds)

    def new_gate(name: str, limit: Limit) -> LimitGate:
        return LimitGate(name, limit, store, clock, rules=rules, weights=settings.weights, pauses=operations.pauses)

    return LimitGates(operations.limits, new_gate)


def _operator_key(settings: Settings) -> str | None:
    return None if settings.operator_key is None else settings.operator_key.get_secret_value()


def _add_routes(app: web.Application, routes: Sequence[Route]) -> None:
    """Add the routes, and let `access` know what scope each of them needs."""
    added = {
        app.router.add_route(method, route.path, route.endpoint): route
        for route in routes
        for method in _methods(route)
    }
    app[MARKER] = next(one.resource for one in added if one.resource and one.resource.canonical == MARKER_PATH)
    app[SCOPES] = {one: route.scope for one, route in added.items()}
    app[PAGES] = frozenset(one for one, route in added.items() if is_page(route))


def _methods(route: Route) -> list[str]:
    return [hdrs.METH_GET, hdrs.METH_HEAD] if route.method == hdrs.METH_GET else [route.method]


async def _end_streams(app: web.Application) -> None:
    """End the streams of events when nobody listens any more, so that the clients connect to another front end."""
    app[STREAMS].end_all()


async def _leave_exports(app: web.Application) -> None:
    await app[EXPORTING].close()


async def _closing_runner(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[RUNNER].close()
