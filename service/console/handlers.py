"""GET /console/handlers: how the handlers of the fleet do, what waits in the queues, and the limits that it shares.

POST /console/queues/{priority}/pause and /resume: no consumer receives from a paused queue.
"""

import asyncio
from typing import Any

from aiohttp import web

from penstock.metrics.exposition import figures_of
from penstock.metrics.fleet import MINUTES, WINDOW_SECONDS, add_up
from penstock.service.console.live import LIVE
from penstock.service.console.rendering import back_to, page
from penstock.service.keys import BACKEND, CLOCK
from penstock.service.operators.limits import read_limits
from penstock.service.operators.queues import pause_queue, read_queues, resume_queue

READ_SECONDS = 5.0


async def show(request: web.Request) -> web.Response:
    live, app = request.app[LIVE], request.app
    return page(
        request,
        "handlers.html",
        handlers=await live.read(("figures",), lambda: _read_figures(app), READ_SECONDS),
        minutes=MINUTES,
        backlog=await live.read(("backlog",), lambda: _read_backlog(app), READ_SECONDS),
        limits=await live.read(("limits",), lambda: read_limits(app), READ_SECONDS),
    )


async def pause(request: web.Request) -> web.Response:
    await pause_queue(request)
    return _changed(request, "queue-paused")


async def resume(request: web.Request) -> web.Response:
    await resume_queue(request)
    return _changed(request, "queue-resumed")


def _changed(request: web.Request, done: str) -> web.Response:
    request.app[LIVE].forget("backlog")
    return back_to("/console/handlers", done)


async def _read_figures(app: web.Application) -> dict[str, dict[str, float]]:
    """Return the figures of each handler, of all processes that have reported attempts in the last minutes."""
    reports = await app[BACKEND].store.read_figures(app[CLOCK].now() - WINDOW_SECONDS)
    return {name: figures_of(figures) for name, figures in add_up(report.handlers for report in reports).items()}


async def _read_backlog(app: web.Application) -> dict[str, Any]:
    """Return the queues, with about how many chunks wait in each, and the number of dead letters."""
    queues, dead_letters = await asyncio.gather(read_queues(app), app[BACKEND].dead_letters.depth())
    return {"queues": queues, "dead_letters": dead_letters}
