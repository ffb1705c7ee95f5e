"""GET /limits: shows the limits that the whole fleet shares, as the consumers last wrote them.

This endpoint is for operators. It shows the limits that this front end's application names.
"""

from collections.abc import Iterator
from typing import Any

from aiohttp import web

from penstock.fleet_limit import LimitState
from penstock.limit import Limit
from penstock.operations import Operations
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, OPERATIONS
from penstock.service.schemas import time_text


async def list_limits(request: web.Request) -> web.Response:
    return json_answer({"limits": await read_limits(request.app)})


async def read_limits(app: web.Application) -> list[dict[str, Any]]:
    """Return the present state of each limit, in the order of their names."""
    declared = limits_of(app[OPERATIONS])
    states = await app[BACKEND].store.read_limits(list(declared))
    now = app[CLOCK].now()
    return [_describe(name, declared[name], states.get(name), now) for name in declared]


def limits_of(operations: Operations[Any]) -> dict[str, Limit]:
    """Return all limits that the application declares or only names, in the order of their names."""
    declared = operations.limits
    return {name: declared.get(name, Limit()) for name in sorted({*declared, *_named(operations)})}


def _named(operations: Operations[Any]) -> Iterator[str]:
    return (route.policy.limit for route in operations.routes if route.policy.limit is not None)


def _describe(name: str, declared: Limit, state: LimitState | None, now: float) -> dict[str, Any]:
    state = state or LimitState(consumers=0)
    rates = [rate for rate in (state.rate, declared.rate) if rate is not None]
    return {
        "name": name,
        "rate": round(min(rates), 3) if rates else None,
        "declaredRate": declared.rate,
        "declaredBurst": declared.burst,
        "declaredConcurrency": declared.concurrency,
        "permits": _permits(declared, state),
        "notBefore": time_text(state.not_before) if state.not_before > now else None,
        "cutAt": _time_or_none(state.cut_at),
        "awaySince": _time_or_none(state.away_at),
        "consumers": max(state.consumers, len(state.holders)),
        "asOf": _time_or_none(state.at),
    }


def _permits(declared: Limit, state: LimitState) -> dict[str, int] | None:
    """Return how many permits consumers have and could use, or None if the limit has no concurrency."""
    if declared.concurrency is None:
        return None
    holders = state.holders.values()
    return {"held": sum(one.permits for one in holders), "wanted": sum(one.wanted for one in holders)}


def _time_or_none(at: float) -> str | None:
    return time_text(at) if at else None
