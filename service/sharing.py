"""Gives every request a share of the memory, which is released when its endpoint has finished.

A tenant gets half of the memory. Otherwise it could keep all others out with a few requests that it sends slowly.
"""

from aiohttp import web

from penstock.service.keys import CALLER, MEMORY, SETTINGS, SHARE
from penstock.service.problems import Endpoint


@web.middleware
async def sharing(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    caller = request.get(CALLER) if request.app[SETTINGS].has_tenants else None
    with request.app[MEMORY].share(None if caller is None else caller.tenant) as share:
        request[SHARE] = share
        return await handler(request)
