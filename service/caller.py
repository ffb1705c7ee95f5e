"""What a request tells about its caller: the tenant, the key, and the headers that forwarded operations get."""

import re

from aiohttp import web

from penstock.api_key import DEFAULT_TENANT
from penstock.errors import MalformedRequest
from penstock.forwarding.headers import is_plain
from penstock.service.keys import CALLER, OPERATIONS, SETTINGS

MOST_HEADER_BYTES = 32_768  # of all headers that are passed on: they become part of the batch's item in the table
_TENANT = re.compile(r"[!-~]{1,128}")  # what SQS accepts as a message group


def tenant_of(request: web.Request) -> str:
    """Return the tenant of the caller."""
    return request[CALLER].tenant


def named_tenant(request: web.Request) -> str:
    """Return the tenant that the gateway in front of this service names. Raises MalformedRequest if it is invalid."""
    settings = request.app[SETTINGS]
    header = settings.tenant_header
    if header is None:
        return DEFAULT_TENANT
    tenants = request.headers.getall(header, [])
    if len(tenants) != 1:
        fault = "is missing" if not tenants else f"is there {len(tenants)} times"
        raise MalformedRequest(f"The header {header} {fault}. Send it once: it names the tenant.")
    [tenant] = tenants
    if settings.redaction.finds_key(tenant):
        raise MalformedRequest(f"The header {header} has a key of Penstock. Send the name of the tenant in it.")
    if not is_tenant(tenant):
        raise MalformedRequest(
            f"The header {header} is not a valid tenant. Use 1 to 128 printable ASCII characters without spaces."
        )
    return tenant


def is_tenant(name: str) -> bool:
    return _TENANT.fullmatch(name) is not None


def tenant_or_none(request: web.Request) -> str | None:
    """Return the tenant for a line of the log. Return None if it is not known."""
    caller = request.get(CALLER)
    if caller is not None or request.app[SETTINGS].needs_keys:
        return None if caller is None else caller.tenant
    try:
        return named_tenant(request)
    except MalformedRequest:
        return None


def key_id_or_none(request: web.Request) -> str | None:
    """Return the id of the caller's key, or None if the request has no valid key."""
    caller = request.get(CALLER)
    return None if caller is None else caller.key_id


def headers_to_pass_on(request: web.Request) -> tuple[tuple[str, str], ...]:
    """Return the headers that the forwarded operations of a batch get from its request. Raises MalformedRequest."""
    passed = []
    redaction = request.app[SETTINGS].redaction
    for name in sorted(request.app[OPERATIONS].passed_headers):
        if name.lower() == "authorization" and request[CALLER].key_id is not None:
            continue  # it is a key of Penstock, which is no business of an upstream
        if values := request.headers.getall(name, []):
            value = ", ".join(values)
            if not is_plain(value):
                raise MalformedRequest(
                    f"The header {name} is passed on with forwarded operations, so use printable ASCII only."
                )
            if redaction.finds_key(value):
                raise MalformedRequest(
                    f"The header {name} is passed on with forwarded operations, so it must not have a key of Penstock. "
                    "Send the key in the header Authorization."
                )
            passed.append((name, value))
    size = sum(len(name) + len(value) for name, value in passed)
    if size > MOST_HEADER_BYTES:
        raise MalformedRequest(
            f"The headers that are passed on with forwarded operations have {size:,} bytes. "
            f"The limit is {MOST_HEADER_BYTES:,} bytes for all of them together."
        )
    return tuple(passed)
