"""What endpoints find in the application, by typed keys."""

import asyncio
import re
from typing import Any

from aiohttp import web

from penstock.backend import Backend
from penstock.clock import Clock
from penstock.errors import MalformedRequest
from penstock.forwarding.headers import is_plain
from penstock.metrics.meter import Meter
from penstock.operations import Operations
from penstock.running.runner import Runner
from penstock.service.handler_times import HandlerTimes
from penstock.settings import Settings

BACKEND = web.AppKey("backend", Backend)
CLOCK: web.AppKey[Clock] = web.AppKey("clock", Clock)
HANDLER_TIMES = web.AppKey("handler_times", HandlerTimes)
LEAVING = web.AppKey("leaving", asyncio.Event)  # set before it stops listening, so that no balancer sends any more
METER = web.AppKey("meter", Meter)
OPERATIONS: web.AppKey[Operations[Any]] = web.AppKey("operations", Operations)
RUNNER = web.AppKey("runner", Runner)
SETTINGS = web.AppKey("settings", Settings)

BATCH_ID = web.RequestKey("batch_id", str)  # of the batch that a request brings

DEFAULT_TENANT = "default"
_TENANT = re.compile(r"[!-~]{1,128}")  # what SQS takes as a message group


def headers_to_pass_on(request: web.Request) -> tuple[tuple[str, str], ...]:
    """Those of a batch's request that its forwarded operations take along. Raises MalformedRequest."""
    passed = []
    for name in sorted(request.app[OPERATIONS].passed_headers):
        if values := request.headers.getall(name, []):
            value = ", ".join(values)
            if not is_plain(value):
                raise MalformedRequest(
                    f"Write the header {name} in printable ASCII: it goes along with the operations."
                )
            passed.append((name, value))
    return tuple(passed)


def tenant_of(request: web.Request) -> str:
    """Who asks, as the gateway in front of us says. Raises MalformedRequest for a name that cannot be kept."""
    header = request.app[SETTINGS].tenant_header
    tenant = request.headers.get(header, DEFAULT_TENANT) if header else DEFAULT_TENANT
    if not _TENANT.fullmatch(tenant):
        raise MalformedRequest(f"The header {header} names no tenant: 1 to 128 characters of ASCII, without spaces.")
    return tenant
