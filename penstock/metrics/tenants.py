"""Chooses the tenants that have metrics of their own. The others are counted together: CloudWatch bills each name.

Pure. Nothing here reads a clock.
"""

NAMED = 10
CANDIDATES = 100
# No tenant can have these names, because they have a space.
OTHER_TENANTS = "other tenants"
NO_TENANT = "no tenant"  # of a request without a valid key

_HOUR_SECONDS = 3600
_LEAD = 2  # how many times as busy a tenant must be to replace another


class Busiest:
    """The ten tenants with the most operations in the last hours, as far as this process knows.

    A free place goes to the first tenant that needs one. After that the tenants change on the hour only, because
    CloudWatch bills each name for every hour in which it appears. A tenant replaces another if it has more than twice
    as many operations. Operations count half after an hour, a quarter after two hours, and so on.

    Only 100 tenants are counted. A further tenant continues the count of the least busy one, so a tenant with more than
    a hundredth of all operations is always among them (the "space-saving" algorithm).
    """

    def __init__(self) -> None:
        self._named: set[str] = set()
        self._operations: dict[str, float] = {}
        self._hour: int | None = None

    def name_of(self, tenant: str) -> str:
        """Return the name under which a tenant is counted."""
        if tenant not in self._named:
            if len(self._named) >= NAMED:
                return OTHER_TENANTS
            self._named.add(tenant)
        return tenant

    def add(self, tenant: str, operations: int) -> None:
        """Note that a tenant had this many operations."""
        counted = self._operations
        if tenant in counted or len(counted) < CANDIDATES:
            counted[tenant] = counted.get(tenant, 0) + operations
        else:
            counted[tenant] = counted.pop(min(counted, key=counted.__getitem__)) + operations

    def choose(self, now: float) -> set[str]:
        """Choose again if a new hour has begun. Return the tenants that have no name of their own any more."""
        hour = int(now // _HOUR_SECONDS)
        if self._hour is None or hour == self._hour:
            self._hour = hour
            return set()
        before = set(self._named)
        for tenant in sorted(self._operations.keys() - before, key=self._count, reverse=True):
            if len(self._named) >= NAMED:
                least = min(self._named, key=self._count)
                if self._count(tenant) <= _LEAD * self._count(least):
                    break
                self._named.remove(least)
            self._named.add(tenant)
        self._forget(hour - self._hour)
        self._hour = hour
        return before - self._named

    def _count(self, tenant: str) -> float:
        return self._operations.get(tenant, 0)

    def _forget(self, hours: int) -> None:
        share = 0.5 ** max(1, hours)
        self._operations = {tenant: left for tenant, count in self._operations.items() if (left := count * share) >= 1}
