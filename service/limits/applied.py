"""Which limits apply to a request: that of its tenant, and that of its key."""

from aiohttp import web

from penstock.api_key import Scope
from penstock.quota import Account, Limit, Quota
from penstock.service.keys import CALLER, SETTINGS


def limits_of(request: web.Request) -> tuple[Limit, ...]:
    """Return the limits of the caller, that of the tenant first. Return none if the caller is not known.

    An operator has none. Otherwise an operator who retries a batch would use up the quota of the operator's own tenant.
    """
    caller = request.get(CALLER)
    if caller is None or Scope.OPERATE in caller.scopes:
        return ()
    limits = []
    if (quota := request.app[SETTINGS].tenant_quota) is not None:
        limits.append(Limit("operations", Account(caller.tenant), quota))
    if caller.limit is not None and caller.key_id is not None:
        limits.append(Limit("operations-of-key", Account(caller.tenant, caller.key_id), Quota.parse(caller.limit)))
    return tuple(limits)
