"""The id of a request: the one that its client or gateway sent, or a new one. It is in the answer and in the log."""

import re
import secrets

from aiohttp import web

from penstock.service.keys import REQUEST_ID, SETTINGS

HEADER = "X-Request-Id"
_SAFE = re.compile(r"[!-~]{1,128}")  # printable ASCII without spaces


def request_id(request: web.Request) -> str:
    """Return the id of a request. It stays the same once it was asked for."""
    if REQUEST_ID not in request:
        request[REQUEST_ID] = _sent_id(request) or new_request_id()
    return request[REQUEST_ID]


def new_request_id() -> str:
    return secrets.token_hex(10)


def _sent_id(request: web.Request) -> str | None:
    """Return the id that came with the request, if it is safe to repeat and is no key."""
    sent = request.headers.getall(HEADER, [])
    if len(sent) != 1 or not _SAFE.fullmatch(sent[0]) or request.app[SETTINGS].redaction.finds_key(sent[0]):
        return None
    return sent[0]
