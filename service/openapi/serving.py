"""GET /openapi.json: answers the description of the listener."""

from aiohttp import web

from penstock.service.json_answer import json_answer
from penstock.service.keys import DESCRIBED_SCOPES, OPERATIONS, SETTINGS
from penstock.service.openapi.document import describe, describe_for_operators


async def openapi(request: web.Request) -> web.Response:
    return json_answer(describe(request.app[SETTINGS], request.app[OPERATIONS], request.app[DESCRIBED_SCOPES]))


async def openapi_for_operators(request: web.Request) -> web.Response:
    return json_answer(describe_for_operators(request.app[SETTINGS], request.app[DESCRIBED_SCOPES]))
