"""Gives every request a share of the memory, which is released when its endpoint has finished."""

from aiohttp import web

from penstock.service.keys import MEMORY, SHARE
from penstock.service.problems import Endpoint


@web.middleware
async def sharing(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    with request.app[MEMORY].share() as share:
        request[SHARE] = share
        return await handler(request)
