"""Rejects requests to the operator listener that a web page may have sent.

Operators need no key yet. The listener is on loopback, but a page in an operator's browser can reach that, too.
"""

from aiohttp import hdrs, web

from penstock.hosts import check_caller
from penstock.service.content import JSON, check_type
from penstock.service.keys import OPERATOR_HOST
from penstock.service.problems import Endpoint


@web.middleware
async def access(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    check_caller(request.headers, request.headers.getall(hdrs.HOST, []), request.app[OPERATOR_HOST])
    if request.method == hdrs.METH_POST and request.match_info.http_exception is None:
        check_type(request, [JSON])  # a form of a web page cannot send this type
    return await handler(request)
