"""The tenants of one priority share its slots by the time for which they use them, not by the number of operations.

The tenant that has used least comes next. So a tenant of long operations and a tenant of short ones have slots for the
same time. A slot that is given counts immediately, and then for as long as it is held.

Only the time counts in which anybody waited for a slot. A tenant that was away has no claim to that time: it starts
where the tenant was that got the last slot. In everything here, `now` is the time for which anybody has waited so far.
"""

from asyncio import Future
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace

GIVEN_SECONDS = 1.0  # charged when a slot is given; otherwise the one that is behind would get all slots
MOST_IDLE = 200  # tenants that are remembered although they neither hold a slot nor wait for one

Waiter = Future[None]
Entry = tuple[float, int, "Share"]


@dataclass(slots=True, eq=False)
class Share:
    """One tenant: its waiters, the slots that it holds, and the seconds for which it has held slots."""

    tenant: str
    used: float
    charged_at: float
    held: int = 0
    waiting: deque[Waiter] = field(default_factory=deque)
    entry: int = 0  # the number of its valid entry in the order

    def standing(self, now: float) -> float:
        """Charge the share for the slots that it held until now, and return what counts for its turn."""
        self.used += self.held * (now - self.charged_at)
        self.charged_at = now
        return self.used + self.held * GIVEN_SECONDS


class Shares:
    """The tenants of a priority.

    Their order is a heap, so a choice among a thousand tenants costs little more than one among two. An entry may be
    lower than the standing of its share, which grows while it holds slots. So the first entry is corrected before it is
    used. A share whose standing declines gets a new entry.
    """

    def __init__(self) -> None:
        self.waiting = 0  # tenants
        self._shares: dict[str, Share] = {}
        self._order: list[Entry] = []
        self._last_entry = 0
        self._start = 0.0  # what a tenant has used if it was away
        self._most_used = 0.0
        self._most_shares = MOST_IDLE

    def add(self, tenant: str, waiter: Waiter, now: float) -> None:
        share = self._shares.get(tenant) or self._create(tenant, now)
        share.waiting.append(waiter)
        if len(share.waiting) == 1:
            self.waiting += 1
            share.standing(now)
            share.used = max(share.used, self._start)
            if self.waiting == 2:
                self._sort(now)  # `release` has not kept the order of a single tenant
            self._enter(share, now)

    def discard(self, tenant: str, waiter: Waiter) -> bool:
        """Remove a waiter. Return True if it was waiting."""
        share = self._shares.get(tenant)
        if share is None or waiter not in share.waiting:
            return False
        share.waiting.remove(waiter)
        if not share.waiting:
            self._leave(share)
        return True

    def next(self, now: float, may_take: Callable[[str], bool] | None = None) -> Share | None:
        """Return the share that comes next, among those of tenants that may take a slot."""
        skipped: list[Entry] = []
        found = None
        order = self._order
        while order:
            standing, entry, share = order[0]
            if entry != share.entry:
                heappop(order)
            elif self.waiting > 1 and (actual := share.standing(now)) > standing:
                heapreplace(order, (actual, entry, share))
            elif may_take is None or may_take(share.tenant):
                found = share
                break
            else:
                skipped.append(heappop(order))
        for skip in skipped:
            heappush(order, skip)
        return found

    def take_waiter(self, share: Share, now: float) -> Waiter:
        """Return the next waiter of the share that comes next."""
        share.standing(now)
        self._start = max(self._start, share.used)
        waiter = share.waiting.popleft()
        if not share.waiting:
            self._leave(share)
        return waiter

    def hold(self, tenant: str, now: float) -> None:
        share = self._shares.get(tenant) or self._create(tenant, now)
        if share.charged_at != now:
            share.standing(now)
        share.held += 1

    def release(self, tenant: str, now: float) -> None:
        share = self._shares[tenant]
        if share.charged_at != now:
            share.standing(now)
        self._most_used = max(self._most_used, share.used)
        share.held -= 1
        if self.waiting > 1 and share.waiting:
            self._enter(share, now)

    def forget_past(self) -> None:
        """Let all tenants start equal. Nobody holds a slot or waits for one."""
        self._start = self._most_used

    def _create(self, tenant: str, now: float) -> Share:
        if len(self._shares) >= self._most_shares:
            self._shares = {name: share for name, share in self._shares.items() if share.held or share.waiting}
            self._most_shares = 2 * len(self._shares) + MOST_IDLE
        share = self._shares[tenant] = Share(tenant, self._start, now)
        return share

    def _enter(self, share: Share, now: float) -> None:
        """Give a share a new entry. Its earlier one is no longer valid."""
        share.entry = self._last_entry = self._last_entry + 1
        heappush(self._order, (share.used + share.held * GIVEN_SECONDS, share.entry, share))
        if len(self._order) > 2 * self.waiting + MOST_IDLE:
            self._sort(now)

    def _sort(self, now: float) -> None:
        """Keep only the valid entries, with the standings of now."""
        valid = (share for _, entry, share in self._order if entry == share.entry)
        self._order = [(share.standing(now), share.entry, share) for share in valid]
        heapify(self._order)

    def _leave(self, share: Share) -> None:
        share.entry = 0
        self.waiting -= 1
