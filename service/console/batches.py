"""GET /console: the batches, newest first."""

from aiohttp import web

from penstock.service.console.rendering import page


async def show(request: web.Request) -> web.Response:
    return page(request, "batches.html")
