"""Answers the errors of a dialect's paths as its API writes them."""

from aiohttp import hdrs, web
from pydantic_core import from_json

from penstock.service.dialects.dialect import Dialect, Problem
from penstock.service.problems import CONTENT_TYPE, Endpoint
from penstock.service.public_urls import path_in_app

SPOKEN: web.AppKey[tuple[Dialect, ...]] = web.AppKey("spoken", tuple)

_OF_THE_BODY = frozenset({hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH})


@web.middleware
async def in_dialects(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """Let the dialect of a path write each problem. The answers of its endpoints are its own already."""
    answer = await handler(request)
    if answer.content_type != CONTENT_TYPE or not isinstance(answer, web.Response):
        return answer
    dialect = _dialect_of(request)
    if dialect is None:
        return answer
    assert isinstance(answer.body, bytes)
    headers = {name: value for name, value in answer.headers.items() if name not in _OF_THE_BODY}
    written = dialect.write_problem(request, Problem(answer.status, from_json(answer.body), headers))
    for name, value in headers.items():
        written.headers.setdefault(name, value)
    return written


def _dialect_of(request: web.Request) -> Dialect | None:
    path = path_in_app(request)
    return next((dialect for dialect in request.app[SPOKEN] if dialect.has_path(path)), None)
