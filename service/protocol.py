"""Speaks HTTP as aiohttp does, except for the errors that aiohttp answers itself, the headers, and the access log.

aiohttp answers a request that it cannot parse before any middleware sees it. Here these answers are problem documents
like all others, and each is logged as one line without a traceback.
"""

from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.web_protocol import RequestHandler

from penstock.service.caller import key_id_or_none, tenant_or_none
from penstock.service.keys import SETTINGS
from penstock.service.problems import UnparsedAnswer, as_problem, protocol_problem
from penstock.service.public_urls import path_in_app
from penstock.service.request_ids import HEADER, new_request_id, request_id
from penstock.telemetry import Event, get_log

POLLED = (
    "/health/",
    "/metrics",
    "/console/static/",
)  # machines ask these every few seconds, which would hide the requests of clients


async def set_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Name the request, say nothing of the server's software, and let no browser guess the type of a body."""
    response.headers[HEADER] = request_id(request)
    response.headers.pop(hdrs.SERVER, None)
    response.headers["X-Content-Type-Options"] = "nosniff"


class AccessLog(AbstractAccessLogger):
    """Writes a line for each answered request, except for those that machines poll."""

    @property
    def enabled(self) -> bool:
        return True

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if isinstance(response, UnparsedAnswer) or not isinstance(request, web.Request):
            return
        if not path_in_app(request).startswith(POLLED) and not _is_refresh(request, response):
            get_log().info(
                Event.REQUEST_ANSWERED,
                request_id=request_id(request),
                tenant=tenant_or_none(request),
                key_id=key_id_or_none(request),
                method=request.method,
                path=request.app[SETTINGS].redaction.cut(request.path),
                status=response.status,
                bytes=response.body_length,  # with the headers
                seconds=round(time, 3),
            )


def _is_refresh(request: web.Request, response: web.StreamResponse) -> bool:
    """Return True if an open page of the console got its newest state. Outcomes and results are no such state."""
    return (
        request.method == hdrs.METH_GET
        and "HX-Request" in request.headers
        and path_in_app(request).startswith("/console")
        and not request.path.endswith(("/outcomes", "/rejected", "/results"))
        and response.status < HTTPStatus.BAD_REQUEST
    )


class ConnectionRunner(web.AppRunner):
    """Runs the application on connections of the class below."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        logs = {"access_log_class": AccessLog} if app[SETTINGS].access_log else {"access_log": None}
        super().__init__(app, **logs, **options)

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _Server(server.request_handler, request_factory=server.request_factory, **server._kwargs)  # noqa: SLF001


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it shows bytes of the request
    ) -> web.StreamResponse:
        """Answer a request that cannot be parsed. Raise ConnectionError if an answer has started already."""
        id_ = new_request_id()  # the headers of the request may not be known
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            get_log().error(Event.REQUEST_BROKE, request_id=id_, exc_info=exc)
        else:
            get_log().info(Event.REQUEST_UNREADABLE, request_id=id_, status=status, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("The answer has started, so the error cannot be answered.")
        answer = protocol_problem(status, id_)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        # An Expect header that is not supported: aiohttp rejects it outside the middleware.
        answer = as_problem(resp) if isinstance(resp, web.HTTPException) else resp
        return await super().finish_response(request, answer, start_time)
