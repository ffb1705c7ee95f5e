"""Puts the HTTP applications together on one page: their middleware, their parts and their routes.

There are two, each with a listener of its own: one for clients, and one for operators.
"""

import asyncio
from typing import Any

from aiohttp import web

from penstock.backend import Backend
from penstock.clock import Clock
from penstock.metrics.meter import Meter
from penstock.operations import Operations
from penstock.running.runner import Runner
from penstock.service.batches.cancel import cancel_batch
from penstock.service.batches.results import batch_results
from penstock.service.batches.retry import retry_batch
from penstock.service.batches.status import batch_status
from penstock.service.group_numbers import GroupNumbers
from penstock.service.handler_times import HandlerTimes
from penstock.service.intake.submit import submit_batch
from penstock.service.keys import (
    BACKEND,
    CLOCK,
    GROUP_NUMBERS,
    HANDLER_TIMES,
    LEAVING,
    MEMORY,
    METER,
    OPERATIONS,
    OPERATOR_HOST,
    PATHS_HINT,
    RUNNER,
    SETTINGS,
    TURNS,
)
from penstock.service.memory import Memory
from penstock.service.openapi import openapi, openapi_for_operators
from penstock.service.operators.access import access
from penstock.service.operators.dead_letters import list_dead_letters, redrive_dead_letters
from penstock.service.operators.health import live, ready
from penstock.service.operators.metrics import counted, metrics
from penstock.service.problems import problems
from penstock.service.protocol import set_headers
from penstock.service.sharing import sharing
from penstock.service.tracing import tracing
from penstock.service.turns import Turns
from penstock.settings import Settings

ROUTES = [
    web.post("/batch", submit_batch),
    web.get("/batch/{batch_id}/status", batch_status),
    web.get("/batch/{batch_id}/results", batch_results),
    web.post("/batch/{batch_id}/cancel", cancel_batch),
    web.post("/batch/{batch_id}/retry", retry_batch),
    web.get("/health/live", live),
    web.get("/health/ready", ready),
    web.get("/openapi.json", openapi),
]

OPERATOR_ROUTES = [
    web.get("/dead-letters", list_dead_letters),
    web.post("/dead-letters/redrive", redrive_dead_letters),
    web.get("/metrics", metrics),
    web.get("/openapi.json", openapi_for_operators),
]


def create_app(settings: Settings, operations: Operations[Any], backend: Backend, clock: Clock) -> web.Application:
    """Return the application for clients and load balancers."""
    # `content.py` decompresses the bodies: aiohttp would not notice that a compressed body is incomplete.
    app = web.Application(
        middlewares=[*tracing(backend.spans), counted, problems, sharing], handler_args={"auto_decompress": False}
    )
    app.on_response_prepare.append(set_headers)
    app[SETTINGS] = settings
    app[OPERATIONS] = operations
    app[METER] = Meter()
    app[MEMORY] = Memory(settings.request_memory_bytes)
    app[TURNS] = Turns()
    app[RUNNER] = Runner(
        operations,
        settings.concurrency,
        meter=app[METER],
        observer=backend.spans,
        weights=settings.weights,
        cpu_processes=settings.cpu_processes,
        shows_errors=settings.show_errors,
        tenants_share=settings.tenant_header is not None,
    )
    app.on_cleanup.append(_close_runner)
    app[BACKEND] = backend
    app[CLOCK] = clock
    app[GROUP_NUMBERS] = GroupNumbers()
    app[HANDLER_TIMES] = HandlerTimes(backend.store, [route.name for route in operations.routes], clock)
    app[LEAVING] = asyncio.Event()
    app[PATHS_HINT] = "Send batches with POST /batch."
    app.add_routes(ROUTES)
    return app


def create_operator_app(clients: web.Application, host: str) -> web.Application:
    """Return the application for operators, which listens on `host`. It shares parts of the application for clients."""
    backend = clients[BACKEND]
    app = web.Application(
        middlewares=[*tracing(backend.spans), problems, access, sharing], handler_args={"auto_decompress": False}
    )
    app.on_response_prepare.append(set_headers)
    app[SETTINGS] = clients[SETTINGS]
    app[METER] = clients[METER]
    app[MEMORY] = clients[MEMORY]
    app[BACKEND] = backend
    app[TURNS] = clients[TURNS]
    app[CLOCK] = clients[CLOCK]
    app[OPERATOR_HOST] = host
    app[PATHS_HINT] = "Operators use GET /dead-letters, POST /dead-letters/redrive and GET /metrics."
    app.add_routes(OPERATOR_ROUTES)
    return app


async def _close_runner(app: web.Application) -> None:
    await app[RUNNER].close()
