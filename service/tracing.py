"""A span for every request, as part of its client's trace where it says so (`traceparent`)."""

from typing import TYPE_CHECKING

from aiohttp import web

from penstock.service.keys import BATCH_ID
from penstock.service.problems import Endpoint

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware

    from penstock.tracing.spans import Spans

UNTRACED = ("/health/", "/metrics")  # asked for every few seconds, by nobody who is waiting for a batch


def tracing(spans: "Spans | None") -> list["Middleware"]:
    """The middleware, where there are spans."""
    if spans is None:
        return []

    @web.middleware
    async def trace_request(request: web.Request, handler: Endpoint) -> web.StreamResponse:
        if request.path.startswith(UNTRACED):
            return await handler(request)
        with spans.answering(request.method, _route(request), request.path, _context(request)) as span:
            response = await handler(request)
            span.end(response.status, request.get(BATCH_ID) or request.match_info.get("batch_id"))
            return response

    return [trace_request]


def _route(request: web.Request) -> str | None:
    """`/batch/{batch_id}/status`; None where nothing is."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


def _context(request: web.Request) -> dict[str, str]:
    """The headers of a trace. Of several `traceparent` none is to be believed."""
    parents = request.headers.getall("traceparent", [])
    if len(parents) != 1:
        return {}
    return {"traceparent": parents[0], "tracestate": ",".join(request.headers.getall("tracestate", []))}
