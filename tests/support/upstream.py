"""An existing API that operations are forwarded to. It records every request, and its path decides the answer."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

from aiohttp import web

NEVER_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Noted:
    """A request, with the target exactly as it was sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


Answering = Callable[[web.Request], Awaitable[web.StreamResponse] | web.StreamResponse]


@dataclass
class ToyUpstream:
    """`/kind/...` is answered by the kind; `answers` has those of a test."""

    requests: list[Noted] = field(default_factory=list)
    answers: dict[str, Answering] = field(default_factory=dict)
    host: str = ""
    url: str = ""

    @property
    def kinds(self) -> Counter[str]:
        """Return the number of requests of each kind."""
        return Counter(_kind(noted.target) for noted in self.requests)

    @property
    def targets(self) -> list[str]:
        return [noted.target for noted in self.requests]

    def times(self, key: str) -> int:
        """Return the number of requests with this Idempotency-Key."""
        return sum(noted.headers["Idempotency-Key"] == key for noted in self.requests)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        self.requests.append(Noted(request.method, request.raw_path, request.headers.copy(), content))
        kind = _kind(request.raw_path)
        if kind in self.answers:
            made = self.answers[kind](request)
            return made if isinstance(made, web.StreamResponse) else await made
        return await self._answer(kind, request, content)

    async def _answer(self, kind: str, request: web.Request, content: bytes) -> web.StreamResponse:
        if kind == "slow":
            await asyncio.sleep(NEVER_SECONDS)
        if kind == "create":
            return web.json_response({"made": json.loads(content)}, status=201)
        if kind == "busy-once" and self.times(request.headers["Idempotency-Key"]) == 1:
            return web.Response(status=503, headers={"Retry-After": "0"})
        if kind in _FIXED:
            return web.Response(**_FIXED[kind])
        return web.json_response({"asked": request.raw_path})


_FIXED: Mapping[str, dict[str, Any]] = {
    "missing": {
        "status": 404,
        "content_type": "application/problem+json",
        "text": '{"type": "about:blank", "title": "No such thing", "status": 404, "detail": "It is not here."}',
    },
    "taken": {"status": 409, "content_type": "application/json", "text": '{"error": "taken"}'},
    "broken": {"status": 500, "text": "It is broken."},
    "moved": {"status": 302, "headers": {"Location": "/create/elsewhere?token=secret"}},
    "garbage": {"content_type": "application/json", "text": '{"not": JSON'},
    "empty": {"status": 204},
}


def _kind(target: str) -> str:
    """Return the second-to-last segment of a path such as `/api/create/7`, or the only one."""
    pieces = target.partition("?")[0].strip("/").split("/")
    return pieces[-2] if len(pieces) > 1 else pieces[0]


@asynccontextmanager
async def toy_upstream(ssl_context: SSLContext | None = None) -> AsyncIterator[ToyUpstream]:
    toy = ToyUpstream()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", toy.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
        toy.host = f"127.0.0.1:{runner.addresses[0][1]}"
        toy.url = f"{'https' if ssl_context else 'http'}://{toy.host}"
        yield toy
    finally:
        await runner.cleanup()
