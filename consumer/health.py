"""Serves liveness, readiness and metrics of a consumer over HTTP, if `--health-port` is given."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from penstock.consumer.consumer import Consumer
from penstock.errors import Misconfigured, NotAcceptable
from penstock.metrics.exposition import expose
from penstock.metrics.names import Program

CONSUMER = web.AppKey("consumer", Consumer)


@asynccontextmanager
async def serve_health(consumer: Consumer, host: str, port: int | None) -> AsyncIterator[None]:
    if port is None:
        yield
        return
    app = web.Application()
    app[CONSUMER] = consumer
    app.add_routes([web.get("/health/live", _live), web.get("/health/ready", _ready), web.get("/metrics", _metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await _listen(runner, host, port)
        yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise Misconfigured(
            f"Choose another --health-port: cannot listen on {host}:{port} ({error.strerror})."
        ) from error


async def _live(_request: web.Request) -> web.Response:
    return web.json_response({"status": "live"})


async def _ready(request: web.Request) -> web.Response:
    """Answer 503 while receiving fails, while no handler can run, and while the consumer is draining."""
    trouble = request.app[CONSUMER].trouble
    if trouble is None:
        return web.json_response({"status": "ready"})
    return web.json_response({"status": "not ready", "detail": trouble}, status=503)


async def _metrics(request: web.Request) -> web.Response:
    try:
        body, content_type = expose(request.app[CONSUMER].meter, Program.CONSUMER, request.headers.get("Accept"))
    except NotAcceptable as error:
        return web.json_response({"status": "not acceptable", "detail": str(error)}, status=406)
    return web.Response(body=body, headers={"Content-Type": content_type})
