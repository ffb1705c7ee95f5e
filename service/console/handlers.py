"""GET /console/handlers: how the handlers do, what waits in the queues, and the limits that the fleet shares."""

import asyncio
from typing import Any

from aiohttp import web

from penstock.metrics.exposition import as_document
from penstock.metrics.names import Program
from penstock.service.console.live import LIVE
from penstock.service.console.rendering import page
from penstock.service.keys import BACKEND, METER
from penstock.service.operators.limits import read_limits

READ_SECONDS = 5.0


async def show(request: web.Request) -> web.Response:
    live, app = request.app[LIVE], request.app
    return page(
        request,
        "handlers.html",
        handlers=as_document(app[METER], Program.SERVICE)["handlers"],
        backlog=await live.read(("backlog",), lambda: _read_backlog(app), READ_SECONDS),
        limits=await live.read(("limits",), lambda: read_limits(app), READ_SECONDS),
    )


async def _read_backlog(app: web.Application) -> dict[str, Any]:
    """Return about how many chunks wait, by priority, and how many dead letters there are."""
    backend = app[BACKEND]
    depths = await asyncio.gather(*(queue.depth() for queue in backend.queues.values()), backend.dead_letters.depth())
    return {"queues": dict(zip(backend.queues, depths, strict=False)), "dead_letters": depths[-1]}
