"""GET /metrics: reports what this front end has done since it started. A middleware counts its answers to clients."""

from http import HTTPStatus

from aiohttp import web

from penstock.metrics.exposition import expose
from penstock.metrics.names import Metric, Program
from penstock.service.keys import METER
from penstock.service.problems import Endpoint
from penstock.service.public_urls import path_in_app

# Load balancers and the pages of the console ask these every few seconds, which would hide the answers to clients. And
# a front end that is stopping answers 503 on purpose.
UNCOUNTED = ("/health/", "/console")

_BY_CLASS = {2: Metric.HTTP_ANSWERS_2XX, 4: Metric.HTTP_ANSWERS_4XX, 5: Metric.HTTP_ANSWERS_5XX}
_OF_LIMITS = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.TOO_MANY_REQUESTS}


async def metrics(request: web.Request) -> web.Response:
    body, content_type = expose(request.app[METER], Program.SERVICE, request.headers.get("Accept"))
    return web.Response(body=body, headers={"Content-Type": content_type})


@web.middleware
async def counted(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """Count the answers. This middleware is outside the others, so it sees the status that the client gets."""
    answer = await handler(request)
    if not path_in_app(request).startswith(UNCOUNTED):
        meter = request.app[METER]
        if (metric := _BY_CLASS.get(answer.status // 100)) is not None:
            meter.count(metric)
        if answer.status in _OF_LIMITS:
            meter.count(Metric.REJECTED_BY_LIMIT)
    return answer
