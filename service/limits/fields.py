"""Writes the RateLimit fields of draft-ietf-httpapi-ratelimit-headers-11. It is a draft, so only this file knows them.

`r` is what is left as this front end last saw it. See `ledger.py` and `open_ledger.py` for how fresh that is.
"""

import math
from functools import lru_cache
from typing import Any

from aiohttp import web
from http_sf import ser

from penstock.open_limit import OpenLimit
from penstock.quota import Limit, Usage
from penstock.service.keys import CLOCK, LEDGER, OPEN_LEDGER
from penstock.service.limits.applied import limits_of, open_limits_of

POLICY = "RateLimit-Policy"
LEFT = "RateLimit"


async def set_limit_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Tell a limited caller its limits and what is left of them, in any answer."""
    limits, open_limits = limits_of(request), open_limits_of(request)
    if not limits and not open_limits:
        return
    response.headers[POLICY] = policies(limits, open_limits)
    app, now = request.app, request.app[CLOCK].now()
    parts: list[Any] = []
    for limit in limits:
        if (usage := await app[LEDGER].usage(limit.account)) is not None:
            parts.append(_left(limit, usage, now))
    for open_limit in open_limits:
        if (is_open := await app[OPEN_LEDGER].open(open_limit.account)) is not None:
            parts.append((open_limit.name, {"r": max(0, open_limit.operations - is_open.total)}))
    if parts:
        response.headers[LEFT] = ser(parts)


@lru_cache(maxsize=1_000)
def policies(limits: tuple[Limit, ...], open_limits: tuple[OpenLimit, ...]) -> str:
    """Return the fields of all limits. A limit of open operations has no window."""
    listed: list[Any] = [
        (limit.name, {"q": limit.quota.operations, "w": limit.quota.window_seconds}) for limit in limits
    ]
    listed += [(limit.name, {"q": limit.operations}) for limit in open_limits]
    return ser(listed)


def _left(limit: Limit, usage: Usage, now: float) -> tuple[str, dict[str, int]]:
    """Return how many operations are left. `t` is the time in seconds until there is more, if not all is left."""
    parameters = {"r": limit.quota.remaining(usage.tat, now)}
    if seconds := limit.quota.seconds_to_more(usage.tat, now):
        parameters["t"] = math.ceil(seconds)
    return limit.name, parameters
