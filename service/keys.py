"""The typed keys under which endpoints find the parts of the application."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from penstock.api_key import Scope
from penstock.backend import Backend
from penstock.clock import Clock
from penstock.metrics.meter import Meter
from penstock.operations import Operations
from penstock.quota import Limit
from penstock.running.runner import Runner
from penstock.service.callers import Caller, Callers
from penstock.service.group_numbers import GroupNumbers
from penstock.service.handler_times import HandlerTimes
from penstock.service.known_metadata import KnownMetadata
from penstock.service.ledger import Ledger
from penstock.service.memory import Memory, Share
from penstock.service.open_ledger import OpenLedger
from penstock.service.table_outage import TableOutage
from penstock.service.turns import Turns
from penstock.service.webhook_tenants import WebhookTenants
from penstock.settings import Settings

CheckKey = Callable[..., Awaitable[Caller]]
"""Finds the caller of a request with a key again, as `Callers.find` does, to see if the key is still valid."""

BACKEND = web.AppKey("backend", Backend)
CALLERS = web.AppKey("callers", Callers)
CLOCK: web.AppKey[Clock] = web.AppKey("clock", Clock)
GROUP_NUMBERS = web.AppKey("group_numbers", GroupNumbers)
HANDLER_TIMES = web.AppKey("handler_times", HandlerTimes)
LEDGER = web.AppKey("ledger", Ledger)
LEAVING = web.AppKey("leaving", asyncio.Event)  # set before listening stops, so that load balancers stop sending
MARKER = web.AppKey("marker", web.AbstractResource)  # a resource whose path tells where the application is mounted
MEMORY = web.AppKey("memory", Memory)
METADATA = web.AppKey("metadata", KnownMetadata)
METER = web.AppKey("meter", Meter)
OPEN_LEDGER = web.AppKey("open_ledger", OpenLedger)
OPERATOR_HOST = web.AppKey("operator_host", str)  # the host that the operator listener listens on
OPERATIONS: web.AppKey[Operations[Any]] = web.AppKey("operations", Operations)
PAGES: web.AppKey[frozenset[web.AbstractRoute]] = web.AppKey("pages", frozenset)  # the routes of the console
PATHS_HINT = web.AppKey("paths_hint", str)  # says which paths exist, in the answer to one that does not
RUNNER = web.AppKey("runner", Runner)
SCOPES: web.AppKey[Mapping[web.AbstractRoute, Scope | None]] = web.AppKey("scopes", Mapping)  # None: for everybody
SETTINGS = web.AppKey("settings", Settings)
TABLE_OUTAGE = web.AppKey("table_outage", TableOutage)
TURNS = web.AppKey("turns", Turns)
WEBHOOK_TENANTS = web.AppKey("webhook_tenants", WebhookTenants)

BATCH_ID = web.RequestKey("batch_id", str)  # the batch that a request submits
PRESENTED_KEY_ID = web.RequestKey("presented_key_id", str)  # the key of a request, whether it is valid or not
CHECK_KEY: web.RequestKey[CheckKey] = web.RequestKey("check_key", Callable)  # type: ignore[arg-type]
CALLER = web.RequestKey("caller", Caller)  # who sent the request, if its endpoint needs a scope
LIMITS: web.RequestKey[tuple[Limit, ...]] = web.RequestKey("limits", tuple)  # the quotas of the caller
REQUEST_ID = web.RequestKey("request_id", str)  # as `request_ids.py` decides it
SHARE = web.RequestKey("share", Share)  # the memory of a request until it is answered
