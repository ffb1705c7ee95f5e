"""GET /queues, POST /queues/{priority}/pause and /resume: pauses the queue of a priority for all consumers.

These endpoints are for operators. A pause is stored in the table, so it survives restarts of all programs.
"""

import asyncio
from typing import Any

from aiohttp import web

from penstock.errors import UnknownQueue
from penstock.priority import Priority
from penstock.service.audit import Action, auditing
from penstock.service.content import check_no_options
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK
from penstock.service.schemas import time_text


async def list_queues(request: web.Request) -> web.Response:
    """Answer with each queue: since when it is paused, and about how many chunks wait in it."""
    return json_answer({"queues": await read_queues(request.app)})


async def pause_queue(request: web.Request) -> web.Response:
    """Pause a queue: consumers receive nothing from it. A second call gives the same answer."""
    priority = await _read_priority(request)
    with auditing(request, Action.PAUSE_QUEUE, priority=priority):
        await request.app[BACKEND].store.pause_queue(priority, request.app[CLOCK].now())
    return await _answer(request, priority)


async def resume_queue(request: web.Request) -> web.Response:
    priority = await _read_priority(request)
    with auditing(request, Action.RESUME_QUEUE, priority=priority):
        await request.app[BACKEND].store.resume_queue(priority)
    return await _answer(request, priority)


async def read_queues(app: web.Application) -> list[dict[str, Any]]:
    """Return what `GET /queues` shows, the most urgent priority first."""
    backend = app[BACKEND]
    paused, depths = await asyncio.gather(
        backend.store.read_paused_queues(),
        asyncio.gather(*(backend.queues[priority].depth() for priority in Priority)),
    )
    return [
        _describe(priority, paused.get(priority), waiting) for priority, waiting in zip(Priority, depths, strict=True)
    ]


async def _read_priority(request: web.Request) -> Priority:
    await check_no_options(request)
    try:
        return Priority(request.match_info["priority"])
    except ValueError:
        raise UnknownQueue(f"There is no such queue. Use {', '.join(Priority)}.") from None


async def _answer(request: web.Request, priority: Priority) -> web.Response:
    queues = await read_queues(request.app)
    return json_answer(next(queue for queue in queues if queue["priority"] == priority))


def _describe(priority: Priority, paused_at: float | None, waiting: int) -> dict[str, Any]:
    return {
        "priority": priority,
        "paused": paused_at is not None,
        "pausedAt": time_text(paused_at),
        "waiting": waiting,
    }
