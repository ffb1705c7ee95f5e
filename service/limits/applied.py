"""Which limits apply to a request: that of its tenant, and that of its key."""

from aiohttp import web

from penstock.quota import Account, Limit, Quota
from penstock.service.keys import CALLER, SETTINGS


def limits_of(request: web.Request) -> tuple[Limit, ...]:
    """Return the limits of the caller; none if it is not known who calls, or if the endpoint is for everybody."""
    caller = request.get(CALLER)
    if caller is None:
        return ()
    limits = []
    if (quota := request.app[SETTINGS].tenant_quota) is not None:
        limits.append(Limit("operations", Account(caller.tenant), quota))
    if caller.limit is not None and caller.key_id is not None:
        limits.append(Limit("operations-of-key", Account(caller.tenant, caller.key_id), Quota.parse(caller.limit)))
    return tuple(limits)
