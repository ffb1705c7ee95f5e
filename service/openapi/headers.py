"""The headers of answers, and those of requests that several endpoints read."""

from penstock.service.decompression import MEMBERS
from penstock.service.idempotency import HEADER, LONGEST_KEY
from penstock.service.openapi.values import COUNT, TEXT, Fragment, one_of
from penstock.service.request_ids import HEADER as HEADER_OF_REQUEST_ID

HEADERS: Fragment = {
    HEADER_OF_REQUEST_ID: {
        "description": "The id of the request: its own X-Request-Id if that is valid, otherwise a new one.",
        "schema": TEXT,
    },
    "Accept-Patch": {"description": "The type of a PATCH (RFC 5789).", "schema": TEXT},
    "Accept-Encoding": {"description": "The supported values of Content-Encoding.", "schema": TEXT},
    "WWW-Authenticate": {"description": "What the request needs (RFC 6750).", "schema": TEXT},
    "Location": {"description": "The URL of the status of the batch.", "schema": TEXT},
    "Retry-After": {"description": "The seconds to wait before the next request.", "schema": COUNT},
    "Preference-Applied": {"description": "The preference that was applied (RFC 7240).", "schema": TEXT},
    "Idempotent-Replayed": {
        "description": "The answer to an earlier request, repeated.",
        "schema": {"const": "true"},
    },
    "RateLimit-Policy": {
        "description": "The limits of the caller, if any: `q` operations in `w` seconds, or `q` open operations.",
        "schema": TEXT,
    },
    "RateLimit": {
        "description": "What is left of each limit: `r` operations now. Of a quota there is more in `t` seconds.",
        "schema": TEXT,
    },
    "Link": {"description": 'The URL of the next page, as `<...>; rel="next"`.', "schema": TEXT},
}
PARAMETERS: Fragment = {
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The id of the last event of an earlier stream, which is continued. Browsers send it.",
        "schema": TEXT,
    },
    "Idempotency-Key": {
        "name": HEADER,
        "in": "header",
        "description": f'`"..."` or without quotes, of 1 to {LONGEST_KEY} ASCII characters. It makes one request.',
        "schema": {"type": "string", "pattern": r'^("[ !#-\[\]-~]{1,255}"|[!#-+.-~]{1,255})$'},
    },
    "X-Request-Id": {
        "name": HEADER_OF_REQUEST_ID,
        "in": "header",
        "description": "The id of this request, for its answer and the server's log. Each request may have one.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "Content-Encoding": {
        "name": "Content-Encoding",
        "in": "header",
        "description": "The compression of the body. Limits apply to the decompressed size.",
        "schema": one_of(["identity", *MEMBERS]),
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async`: run in the background. `wait=n`: run in the background after n seconds.",
        "schema": TEXT,
    },
}
