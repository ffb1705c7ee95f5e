"""Serve moto's WSGI application from one event loop, so that no two of its calls overlap.

moto is not thread-safe, but its own server uses threads: it loses messages, and several conflicting conditional writes
succeed. Here each call runs on the event loop from start to end. A long poll waits outside of moto, between two calls.
"""

import asyncio
import io
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from aiohttp import web

from penstock.hosts import is_from_page, is_own_host
from penstock.infra.embedded.long_poll import EMPTY_RECEIVE, EmptyReceive
from penstock.infra.embedded.patches import patched_moto, reset_moto
from penstock.infra.embedded.sizes import MAX_BODY_BYTES

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

POLL_SECONDS = 0.02  # interval at which a long poll checks for a message; a check takes microseconds
STOP_SECONDS = 2.0  # time for requests in flight when the host stops; moto needs milliseconds
BODY_HEADERS = {"CONTENT_TYPE", "CONTENT_LENGTH", "TRANSFER_ENCODING"}  # set again below, from the complete body

MOTO: "web.AppKey[WSGIApplication]" = web.AppKey("moto")
STOPPING = web.AppKey("stopping", asyncio.Event)
Watch = Callable[
    [str, str, Mapping[str, str], bytes], None
]  # called with method, path, headers and body of each request
WATCH: web.AppKey[Watch] = web.AppKey("watch")
HOST = web.AppKey("host", str)

_only_host = threading.Lock()


@asynccontextmanager
async def host_moto(host: str, port: int, watch: Watch | None = None) -> AsyncIterator[str]:
    """Serve an empty moto on this event loop while the context is open, and yield its URL.

    Port 0 selects a free port. A process can have only one host at a time, since moto keeps its state in the process.
    Raises RuntimeError if there is another host.
    """
    if not _only_host.acquire(blocking=False):
        raise RuntimeError("This process hosts moto already, and two hosts would share its state. Stop the first one.")
    try:
        app = _create_app(host, watch or _ignore)
        reset_moto()
        async with _served(app, host, port) as url:
            yield url
    finally:
        _only_host.release()


@asynccontextmanager
async def _served(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,  # a long poll whose client has disconnected must not receive messages
        auto_decompress=False,  # moto reads Content-Encoding itself
        shutdown_timeout=STOP_SECONDS,
    )
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _ignore(_method: str, _path: str, _headers: Mapping[str, str], _body: bytes) -> None:
    """Do nothing with the request."""


def _create_app(host: str, watch: Watch) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[HOST] = host
    app[WATCH] = watch
    app[MOTO], app[STOPPING] = patched_moto(), asyncio.Event()
    app.on_shutdown.append(_stop_waiting)
    app.router.add_route("*", "/{path:.*}", _answer)
    return app


async def _stop_waiting(app: web.Application) -> None:
    """End the open long polls; they return no messages."""
    app[STOPPING].set()


async def _answer(request: web.Request) -> web.Response:
    if _is_of_a_page(request):
        return web.Response(status=403, text="The embedded AWS does not answer web pages. Use an AWS client.\n")
    body = await request.read()
    request.app[WATCH](request.method, request.path_qs, request.headers, body)
    response, empty = _call_moto(request, body)
    if empty is None:
        return response
    return await _wait_for_message(request, body, response, empty)


def _is_of_a_page(request: web.Request) -> bool:
    """Return True if a web page in a browser seems to have made the request. moto itself would answer every page."""
    headers = request.headers
    if is_from_page(headers) and not _is_download(request):
        return True
    return len(headers.getall("Host", ())) > 1 or not is_own_host(headers.get("Host", "localhost"), request.app[HOST])


def _is_download(request: web.Request) -> bool:
    """Return True if a person follows a signed link to a file: the page with the link does not see the file."""
    is_followed = request.headers.get("Sec-Fetch-Mode") == "navigate" and "Origin" not in request.headers
    is_file = not request.path.startswith("/moto-api") and "Action" not in request.query  # which SQS accepts in a GET
    return is_followed and is_file and request.method == "GET" and "X-Amz-Signature" in request.query


async def _wait_for_message(
    request: web.Request, body: bytes, response: web.Response, empty: EmptyReceive
) -> web.Response:
    """Repeat a ReceiveMessage that found no message as soon as there may be one, until its wait time is over."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + empty.wait_seconds
    while (left := deadline - clock()) > 0 and not request.app[STOPPING].is_set():
        # A disconnect of the client can cancel the request only here; a call to moto is never interrupted.
        await asyncio.sleep(min(left, POLL_SECONDS))
        if empty.is_worth_repeating():
            response, again = _call_moto(request, body)
            if again is None:
                return response
            empty = again
    return response


def _call_moto(request: web.Request, body: bytes) -> tuple[web.Response, EmptyReceive | None]:
    """Call moto. This blocks the event loop on purpose, so that no other call overlaps."""
    environ = _wsgi_environ(request, body)
    started: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        started.update(status=int(status.split(maxsplit=1)[0]), headers=headers)

    content = b"".join(request.app[MOTO](environ, start_response))
    return web.Response(body=content, **started), environ.get(EMPTY_RECEIVE)


def _wsgi_environ(request: web.Request, body: bytes) -> dict[str, Any]:
    path, _, query = request.raw_path.partition("?")
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "RAW_URI": request.raw_path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",  # WSGI requires it; moto takes the address from the Host header
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name in request.headers.keys():  # noqa: SIM118 - a header that is sent twice has one key, but two items
        key = name.upper().replace("-", "_")
        if key not in BODY_HEADERS:
            environ[f"HTTP_{key}"] = ",".join(request.headers.getall(name))
    return environ
