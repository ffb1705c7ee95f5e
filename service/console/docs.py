"""GET /docs: shows the description of the API. Swagger UI renders it, without anything from elsewhere.

The description is in the page. On the listener for operators, requests of web pages are rejected, so a page could not
load it there, nor could it try a call.
"""

from aiohttp import web

from penstock.service.console.rendering import page
from penstock.service.keys import OPERATOR_HOST, SETTINGS
from penstock.service.openapi.serving import description_for


async def show(request: web.Request) -> web.Response:
    answers_pages = OPERATOR_HOST not in request.app or request.app[SETTINGS].needs_keys
    description = (await description_for(request)).decode()
    return page(request, "docs.html", description=description, can_try=answers_pages)
