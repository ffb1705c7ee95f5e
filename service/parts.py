"""What endpoints find in the application, by typed keys."""

from typing import Any

from aiohttp import web

from penstock.backend import Backend
from penstock.clock import Clock
from penstock.operations import Operations
from penstock.runner import Runner
from penstock.settings import Settings

BACKEND = web.AppKey("backend", Backend)
CLOCK: web.AppKey[Clock] = web.AppKey("clock", Clock)
OPERATIONS: web.AppKey[Operations[Any]] = web.AppKey("operations", Operations)
RUNNER = web.AppKey("runner", Runner)
SETTINGS = web.AppKey("settings", Settings)

DEFAULT_TENANT = "default"


def tenant_of(request: web.Request) -> str:
    """Who asks, as the gateway in front of us says."""
    header = request.app[SETTINGS].tenant_header
    return request.headers.get(header, DEFAULT_TENANT) if header else DEFAULT_TENANT
