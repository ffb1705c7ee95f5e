"""GET /health/live and GET /health/ready, for load balancers and for people."""

import asyncio

from aiohttp import web

from penstock.backend import Backend
from penstock.clock import Clock
from penstock.errors import Unavailable
from penstock.service.json_answer import json_answer
from penstock.service.keys import LEAVING, RUNNER

READY_SECONDS = 5
FRESH_SECONDS = 1.0


class Readiness:
    """Checks the queues and the table. Anybody may ask for that, without a key, and each check is four calls to AWS.

    So all who ask at the same time share a check, and one that has succeeded holds for a second.
    """

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._checking: asyncio.Task[None] | None = None
        self._ready_until = float("-inf")

    async def check(self) -> None:
        """Raise Unavailable or Misconfigured if the queue or the table does not answer."""
        if self._clock.monotonic() < self._ready_until:
            return
        if self._checking is None:
            self._checking = asyncio.create_task(self._check())
        await asyncio.shield(self._checking)

    async def _check(self) -> None:
        try:
            asked_at = self._clock.monotonic()
            async with asyncio.timeout(READY_SECONDS):
                await self._backend.check()
            self._ready_until = asked_at + FRESH_SECONDS
        except TimeoutError as error:
            raise Unavailable(f"The queue or the table did not answer within {READY_SECONDS} s.") from error
        finally:
            self._checking = None


READINESS = web.AppKey("readiness", Readiness)


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
    await request.app[READINESS].check()
    return json_answer({"status": "ready"})
