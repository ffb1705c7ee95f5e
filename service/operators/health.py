"""Liveness and readiness, for the load balancer and for people."""

import asyncio

from aiohttp import web

from penstock.errors import Unavailable
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, LEAVING

READY_SECONDS = 5


async def live(_request: web.Request) -> web.Response:
    """The process runs its loop; nothing else is asked."""
    return json_answer({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Asks the queue and the table. 503 when one of them does not answer, and once this front end is to stop."""
    if request.app[LEAVING].is_set():
        raise Unavailable("This front end is about to stop.")
    try:
        async with asyncio.timeout(READY_SECONDS):
            await request.app[BACKEND].check()
    except TimeoutError as error:
        raise Unavailable(f"The queue or the table did not answer within {READY_SECONDS} s.") from error
    return json_answer({"status": "ready"})
