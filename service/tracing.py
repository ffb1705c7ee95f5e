"""Opens a span for every request. If the client sends `traceparent`, the span is part of the client's trace."""

from typing import TYPE_CHECKING

from aiohttp import web

from penstock.service.keys import BATCH_ID, SETTINGS
from penstock.service.problems import Endpoint
from penstock.service.public_urls import path_in_app

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware

    from penstock.tracing.spans import Spans

UNTRACED = ("/health/", "/metrics")  # polled every few seconds by machines: nobody needs a trace of these


def tracing(spans: "Spans | None") -> list["Middleware"]:
    """Return the tracing middleware, or nothing if tracing is off."""
    if spans is None:
        return []

    @web.middleware
    async def trace_request(request: web.Request, handler: Endpoint) -> web.StreamResponse:
        if path_in_app(request).startswith(UNTRACED):
            return await handler(request)
        cut = request.app[SETTINGS].redaction.cut
        with spans.answering(request.method, _route(request), cut(request.path), _context(request)) as span:
            response = await handler(request)
            span.end(response.status, request.get(BATCH_ID) or cut(request.match_info.get("batch_id", "")) or None)
            return response

    return [trace_request]


def _route(request: web.Request) -> str | None:
    """Return the route with its placeholders, such as `/batch/{batch_id}/status`. None if there is no such route."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


def _context(request: web.Request) -> dict[str, str]:
    """Return the trace headers of a request. If there are several `traceparent` headers, all are ignored.

    A `tracestate` with a key is ignored, since it would go to the collector, the queue and upstreams.
    """
    parents = request.headers.getall("traceparent", [])
    if len(parents) != 1:
        return {}
    state = ",".join(request.headers.getall("tracestate", []))
    has_key = request.app[SETTINGS].redaction.finds_key(state)
    return {"traceparent": parents[0], "tracestate": "" if has_key else state}
