"""Decides who sent a request, and whether the endpoint is for this caller. This is the only check of its kind.

A key always counts. PENSTOCK_AUTH says what a request without a key is:

    none      on the listener for clients, the default tenant; on the listener for operators, an operator
    header    the same, with the tenant that the gateway names
    keys      rejected

Where operators need no key, a web page in an operator's browser could call, too. So such requests are rejected.
"""

import re

from aiohttp import hdrs, web

from penstock.api_key import Scope, has_form_of_key, id_in
from penstock.errors import MissingScope, NotAuthenticated
from penstock.hosts import check_caller
from penstock.service.caller import named_tenant
from penstock.service.callers import OPERATOR, Caller
from penstock.service.content import JSON, check_type
from penstock.service.keys import CALLER, CALLERS, OPERATOR_HOST, PRESENTED_KEY_ID, SCOPES, SETTINGS
from penstock.service.problems import Endpoint

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)")
_CLIENT = frozenset({Scope.WRITE, Scope.READ})


@web.middleware
async def access(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """Let a request through to its endpoint if its caller may use it."""
    scope = _scope(request)
    key = None if scope is None else _key(request)
    if key is None:
        _check_no_page(request)
    if scope is not None:
        request[CALLER] = caller = await _caller(request, key)
        if scope not in caller.scopes:
            raise MissingScope(scope)
    return await handler(request)


async def _caller(request: web.Request, key: str | None) -> Caller:
    if key is not None:
        request[PRESENTED_KEY_ID] = id_in(key)
        return await request.app[CALLERS].find(key)
    if request.app[SETTINGS].needs_keys:
        raise NotAuthenticated(
            "This needs a key. Send it in the header Authorization, as: Bearer pk_...", has_key=False
        )
    return OPERATOR if OPERATOR_HOST in request.app else Caller(named_tenant(request), _CLIENT)


def _scope(request: web.Request) -> Scope | None:
    """Return the scope that the endpoint needs, or None if it is for everybody or does not exist (404, 405).

    Raises KeyError if nobody has decided that for the route. The answer is then 500, because no caller may use it.
    """
    if request.match_info.http_exception is not None:
        return None
    return request.app[SCOPES][request.match_info.route]


def _key(request: web.Request) -> str | None:
    """Return the key of a request. Where none is needed, another kind of token is not a key.

    Raises NotAuthenticated if there are several.
    """
    headers = request.headers.getall(hdrs.AUTHORIZATION, [])
    tokens = [match[1] for header in headers if (match := _BEARER.fullmatch(header.strip()))]
    if not request.app[SETTINGS].needs_keys:
        tokens = [token for token in tokens if _is_meant_as_key(request, token)]
    if len(tokens) > 1:
        raise NotAuthenticated("The request has several keys. Send one.", has_key=True)
    return tokens[0] if tokens else None


def _is_meant_as_key(request: web.Request, token: str) -> bool:
    return has_form_of_key(token) or request.app[CALLERS].is_operator_key(token)


def _check_no_page(request: web.Request) -> None:
    """Raise Misdirected, FromWebPage or UnsupportedContent if a web page may be acting as an operator."""
    if request.app[SETTINGS].needs_keys or OPERATOR_HOST not in request.app:
        return
    check_caller(request.headers, request.headers.getall(hdrs.HOST, []), request.app[OPERATOR_HOST])
    if request.method == hdrs.METH_POST and request.match_info.http_exception is None:
        check_type(request, [JSON])  # a form of a web page cannot send this type
