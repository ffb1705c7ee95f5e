"""Writes the RateLimit fields of draft-ietf-httpapi-ratelimit-headers-11. It is a draft, so only this file knows them.

`r` is what is left as this front end last saw it. See `ledger.py` for how fresh that is.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from aiohttp import web
from http_sf import ser

from penstock.quota import Limit, Usage
from penstock.service.keys import CLOCK, LEDGER
from penstock.service.limits.applied import limits_of

POLICY = "RateLimit-Policy"
LEFT = "RateLimit"


async def set_limit_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Tell a limited caller its limits and what is left of them, in any answer."""
    limits = limits_of(request)
    if not limits:
        return
    response.headers[POLICY] = policies(limits)
    ledger, usages = request.app[LEDGER], []
    for limit in limits:
        if (usage := await ledger.usage(limit.account)) is not None:
            usages.append((limit, usage))
    if usages:
        response.headers[LEFT] = left(usages, request.app[CLOCK].now())


@lru_cache(maxsize=1_000)
def policies(limits: tuple[Limit, ...]) -> str:
    listed: list[Any] = [
        (limit.name, {"q": limit.quota.operations, "w": limit.quota.window_seconds}) for limit in limits
    ]
    return ser(listed)


def left(usages: Sequence[tuple[Limit, Usage]], now: float) -> str:
    """Return how many operations are left. `t` is the time in seconds until there is more, if not all is left."""
    parts: list[Any] = []
    for limit, usage in usages:
        parameters = {"r": limit.quota.remaining(usage.tat, now)}
        if seconds := limit.quota.seconds_to_more(usage.tat, now):
            parameters["t"] = math.ceil(seconds)
        parts.append((limit.name, parameters))
    return ser(parts)
