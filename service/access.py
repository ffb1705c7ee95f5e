"""Decides who sent a request, and whether the endpoint is for this caller. This is the only check of its kind.

A key always counts. PENSTOCK_AUTH says what a request without a key is:

    none      on the listener for clients, the default tenant; on the listener for operators, an operator
    header    the same, with the tenant that the gateway names
    keys      rejected

Where operators need no key, a web page in an operator's browser could call, too. So such requests are rejected.

The pages of the console are for browsers. Their key is in a cookie, which counts nowhere else. Only these pages may
change something there. On the listener for operators, if it needs no key, they are for everybody.
"""

import base64
import binascii
import re
from contextlib import suppress
from functools import partial

from aiohttp import hdrs, web

from penstock.api_key import DEFAULT_TENANT, Scope, id_in
from penstock.errors import MissingScope, NotAuthenticated, PenstockError
from penstock.hosts import check_caller, check_host, check_same_origin
from penstock.service import cookie
from penstock.service.caller import named_tenant
from penstock.service.callers import OPERATOR, Caller
from penstock.service.content import JSON, check_type
from penstock.service.keys import (
    CALLER,
    CALLERS,
    CHECK_KEY,
    OPERATOR_HOST,
    PAGES,
    PRESENTED_KEY_ID,
    SCOPES,
    SETTINGS,
    CheckKey,
)
from penstock.service.problems import Endpoint
from penstock.service.public_urls import path_in_app

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)")
_BASIC = re.compile(r"[Bb][Aa][Ss][Ii][Cc] +([A-Za-z0-9+/]+=*)")
_CLIENT = frozenset({Scope.WRITE, Scope.READ})
_OPERATOR_OF_PAGES = Caller(DEFAULT_TENANT, frozenset(Scope))
_READING = {hdrs.METH_GET, hdrs.METH_HEAD}


@web.middleware
async def access(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """Let a request through to its endpoint if its caller may use it."""
    scope, is_page = _scope(request), _is_page(request)
    if is_page:
        _check_page(request)
        key = None if scope is None else cookie.key_in(request)
    else:
        key = None if scope is None else _key(request)
        if key is None:
            _check_no_page(request)
    if scope is not None:
        request[CALLER] = caller = await _caller(request, key, is_page=is_page)
        if scope not in caller.scopes:
            raise MissingScope(scope)
    elif is_page and request.match_info.http_exception is not None:
        with suppress(PenstockError):  # this page only lacks its navigation without a caller
            request[CALLER] = await _caller(request, key=cookie.key_in(request), is_page=True)
    return await handler(request)


def _is_page(request: web.Request) -> bool:
    """Return True if the request is for the console. Its paths that do not exist are pages, too."""
    is_unknown = request.match_info.http_exception is not None
    return request.match_info.route in request.app[PAGES] or (is_unknown and cookie.is_sent_to(path_in_app(request)))


async def _caller(request: web.Request, key: str | None, *, is_page: bool) -> Caller:
    if key is not None:
        request[PRESENTED_KEY_ID] = id_in(key)
        check: CheckKey = partial(request.app[CALLERS].find, key)
        request[CHECK_KEY] = check
        return await check()
    if request.app[SETTINGS].needs_keys:
        raise NotAuthenticated(
            "This needs a key. Send it in the header Authorization, as: Bearer pk_...", has_key=False
        )
    if OPERATOR_HOST not in request.app:
        return Caller(named_tenant(request), _CLIENT)
    return _OPERATOR_OF_PAGES if is_page else OPERATOR


def _scope(request: web.Request) -> Scope | None:
    """Return the scope that the endpoint needs, or None if it is for everybody or does not exist (404, 405).

    Raises KeyError if nobody has decided that for the route. The answer is then 500, because no caller may use it.
    """
    if request.match_info.http_exception is not None:
        return None
    return request.app[SCOPES][request.match_info.route]


def _key(request: web.Request) -> str | None:
    """Return the key of a request, or None if it has none.

    Raises NotAuthenticated if there are several, or if the header is not exactly `Bearer` and the key. Such a key must
    not be ignored: the request would get the rights of one without a key, and an upstream would get the key.
    """
    headers = [header.strip() for header in request.headers.getall(hdrs.AUTHORIZATION, [])]
    meant = [header for header in headers if _is_meant_as_key(request, header)]
    if len(meant) > 1:
        raise NotAuthenticated("The request has several keys. Send one.", has_key=True)
    return _token(meant[0]) if meant else None


def _is_meant_as_key(request: web.Request, header: str) -> bool:
    """Return True if a header was meant as a key. Where no key is needed, other tokens are not."""
    settings = request.app[SETTINGS]
    finds_key = settings.redaction.finds_key
    if finds_key(header) or finds_key(_basic_credentials(header)):
        return True
    return settings.needs_keys and _BEARER.fullmatch(header) is not None


def _basic_credentials(header: str) -> str:
    """Return the user and password of `Basic` credentials. Many APIs take a key as one of them."""
    match = _BASIC.fullmatch(header)
    if match is None:
        return ""
    with suppress(binascii.Error):
        return base64.b64decode(match[1]).decode("latin-1")
    return ""


def _token(header: str) -> str:
    match = _BEARER.fullmatch(header)
    if match is None:
        raise NotAuthenticated(
            "The header Authorization has a key in another form. Send one key, as: Bearer pk_...", has_key=True
        )
    return match[1]


def _check_page(request: web.Request) -> None:
    """Raise FromWebPage or Misdirected if another web page may have sent a request to the console."""
    if request.method not in _READING:
        check_same_origin(request.headers)
    if OPERATOR_HOST in request.app and not request.app[SETTINGS].needs_keys:
        check_host(request.headers.getall(hdrs.HOST, []), request.app[OPERATOR_HOST])


def _check_no_page(request: web.Request) -> None:
    """Raise Misdirected, FromWebPage or UnsupportedContent if a web page may be acting as an operator."""
    if request.app[SETTINGS].needs_keys or OPERATOR_HOST not in request.app:
        return
    check_caller(request.headers, request.headers.getall(hdrs.HOST, []), request.app[OPERATOR_HOST])
    if request.method == hdrs.METH_POST and request.match_info.http_exception is None:
        check_type(request, [JSON])  # a form of a web page cannot send this type
