"""Serves liveness, readiness and metrics of a consumer over HTTP, if `--health-port` is given, but not to web pages."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import hdrs, web

from penstock.consumer.consumer import Consumer
from penstock.errors import FromWebPage, Misdirected, NotAcceptable
from penstock.hosts import check_caller
from penstock.metrics.exposition import expose
from penstock.metrics.names import Program
from penstock.process.listening import cannot_listen

CONSUMER = web.AppKey("consumer", Consumer)
HOST = web.AppKey("host", str)


@asynccontextmanager
async def serve_health(consumer: Consumer, host: str, port: int | None) -> AsyncIterator[None]:
    if port is None:
        yield
        return
    app = web.Application(middlewares=[_access])
    app[CONSUMER] = consumer
    app[HOST] = host
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
        raise cannot_listen(host, port, error, "--health-port or --health-host") from error


@web.middleware
async def _access(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        check_caller(request.headers, request.headers.getall(hdrs.HOST, []), request.app[HOST])
    except Misdirected as error:
        return _rejected(HTTPStatus.MISDIRECTED_REQUEST, error)
    except FromWebPage as error:
        return _rejected(HTTPStatus.FORBIDDEN, error)
    return await handler(request)


def _rejected(status: HTTPStatus, error: Exception) -> web.Response:
    return web.json_response({"status": "rejected", "detail": str(error)}, status=status)


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
