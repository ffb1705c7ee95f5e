"""Which limits apply to a request: those of its tenant, and those of its key."""

from aiohttp import web

from penstock.api_key import Scope
from penstock.open_limit import OpenLimit
from penstock.quota import Account, Limit, Quota
from penstock.service.callers import Caller
from penstock.service.keys import CALLER, LIMITS, SETTINGS
from penstock.settings import Settings


def limits_of(request: web.Request) -> tuple[Limit, ...]:
    """Return the quotas of the caller, that of the tenant first. Return none if the caller is not known.

    An operator has none. Otherwise an operator who retries a batch would use up the quota of the operator's own tenant.
    """
    caller = _limited(request)
    if caller is None:
        return ()
    if LIMITS not in request:
        request[LIMITS] = _quotas_of(caller, request.app[SETTINGS])
    return request[LIMITS]


def _quotas_of(caller: Caller, settings: Settings) -> tuple[Limit, ...]:
    limits = []
    if (quota := settings.tenant_quota) is not None:
        limits.append(Limit("operations", Account(caller.tenant), quota))
    if caller.limit is not None and caller.key_id is not None:
        limits.append(Limit("operations-of-key", Account(caller.tenant, caller.key_id), Quota.parse(caller.limit)))
    return tuple(limits)


def open_limits_of(request: web.Request) -> tuple[OpenLimit, ...]:
    """Return the limits of open operations, that of the tenant first. The same callers have them as have quotas."""
    caller = _limited(request)
    if caller is None:
        return ()
    limits = []
    if (most := request.app[SETTINGS].tenant_max_open) is not None:
        limits.append(OpenLimit("open", Account(caller.tenant), most))
    if caller.max_open is not None and caller.key_id is not None:
        limits.append(OpenLimit("open-of-key", Account(caller.tenant, caller.key_id), caller.max_open))
    return tuple(limits)


def _limited(request: web.Request) -> Caller | None:
    caller = request.get(CALLER)
    return None if caller is None or Scope.OPERATE in caller.scopes else caller
