"""GET /health/live and GET /health/ready, for load balancers and for people."""

import asyncio

from aiohttp import web

from penstock.errors import Unavailable
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, LEAVING, RUNNER

READY_SECONDS = 5


async def live(_request: web.Request) -> web.Response:
    """Answer 200 as long as the event loop of this process runs. Nothing else is checked."""
    return json_answer({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Check the queue, the table and the handlers.

    Answer 503 if the queue or the table does not answer, if no handler can run, or if this front end is stopping.
    """
    if request.app[LEAVING].is_set():
        raise Unavailable("This front end is stopping.")
    if (trouble := request.app[RUNNER].trouble) is not None:
        raise Unavailable(trouble)
    try:
        async with asyncio.timeout(READY_SECONDS):
            await request.app[BACKEND].check()
    except TimeoutError as error:
        raise Unavailable(f"The queue or the table did not answer within {READY_SECONDS} s.") from error
    return json_answer({"status": "ready"})
