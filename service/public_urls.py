"""The URLs in answers: what a client must put in front of a path to reach this program.

    PENSTOCK_PUBLIC_URL       is put in front of every path
    X-Forwarded-...           the same, from the headers of a proxy; only with PENSTOCK_TRUST_PROXY
    otherwise                 URLs are paths; an application that is mounted puts its prefix in front of them

Anybody can send X-Forwarded-Host. An answer that believed it could lead a client, with its key, to another server.
"""

import re

from aiohttp import web

from penstock.service.base_url import BASE
from penstock.service.keys import MARKER, SETTINGS
from penstock.service.problems import Endpoint

MARKER_PATH = "/openapi.json"  # every listener has it
_PROTOS = frozenset({"http", "https"})
_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")


@web.middleware
async def public_urls(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """Let everything that answers a request know what comes in front of its paths."""
    token = BASE.set(base_of(request))
    try:
        return await handler(request)
    finally:
        BASE.reset(token)


def base_of(request: web.Request) -> str:
    settings = request.app[SETTINGS]
    if settings.public_url is not None:
        return settings.public_url.rstrip("/")
    mounted = mount_prefix(request)
    return _forwarded(request) + mounted if settings.trust_proxy else mounted


def mount_prefix(request: web.Request) -> str:
    """Return the path under which the application of this program is mounted in another one, such as /bulk."""
    return request.app[MARKER].canonical.removesuffix(MARKER_PATH)


def path_in_app(request: web.Request) -> str:
    """Return the path of a request as `routes.py` has it."""
    return request.path.removeprefix(mount_prefix(request))


def path_and_query_in_app(request: web.Request) -> str:
    return request.path_qs.removeprefix(mount_prefix(request))


def _forwarded(request: web.Request) -> str:
    """Return what a proxy says about the URL that its client used. What is not valid is ignored."""
    proto, host = _last(request, "X-Forwarded-Proto").lower(), _last(request, "X-Forwarded-Host")
    prefix = _last(request, "X-Forwarded-Prefix")
    is_known = proto in _PROTOS and _HOST.fullmatch(host) is not None
    origin = f"{proto}://{host}" if is_known else ""
    return origin + (prefix.rstrip("/") if _PREFIX.fullmatch(prefix) else "")


def _last(request: web.Request, name: str) -> str:
    """Return the last value of a header: that of the nearest proxy. It may have added it to those of its client."""
    return ",".join(request.headers.getall(name, ())).rpartition(",")[2].strip()
