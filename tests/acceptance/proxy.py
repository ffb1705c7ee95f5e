"""A proxy between a program and AWS, which records the calls and can hold some of them back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import aiohttp
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Call:
    action: str  # such as SendMessageBatch
    body: Any


@dataclass
class Proxy:
    """Forwards every call, unless a test holds it back."""

    url: str
    calls: list[Call] = field(default_factory=list)
    held_back: asyncio.Event = field(default_factory=asyncio.Event)  # a call is
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    _action: str | None = None
    _let_through: int = 0

    def made(self, action: str) -> list[Call]:
        return [call for call in self.calls if call.action == action]

    def hold_back(self, action: str, *, after: int = 0) -> None:
        """Hold back these calls, except the first few, until `let_go` is set."""
        self._action, self._let_through = action, after

    async def pass_by(self, call: Call) -> None:
        self.calls.append(call)
        if call.action == self._action and len(self.made(call.action)) > self._let_through:
            self.held_back.set()
            await self.let_go.wait()


@asynccontextmanager
async def proxy_to(server_url: str) -> AsyncIterator[Proxy]:
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def answer(request: web.Request) -> web.Response:
            content = await request.read()
            call = Call(request.headers["X-Amz-Target"].rpartition(".")[2], json.loads(content))
            await proxy.pass_by(call)
            headers = {name: value for name, value in request.headers.items() if name != "Host"}
            async with session.post(server_url + request.path, data=BytesIO(content), headers=headers) as passed:
                kept = {name: value for name, value in passed.headers.items() if name.lower() in KEPT}
                return web.Response(status=passed.status, body=await passed.read(), headers=kept)

        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            proxy = Proxy(f"http://127.0.0.1:{runner.addresses[0][1]}")
            yield proxy
        finally:
            await runner.cleanup()


KEPT = {"content-type", "x-amzn-requestid", "x-amz-crc32", "x-amzn-errortype"}
