"""The operations of one priority that wait for tokens of a limit. A token is one operation, so tenants take turns."""

from asyncio import Future
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

Waiter = Future[None]


@dataclass(slots=True)
class TokenLane:
    """The waiters of one priority. `used` is its number of tokens, divided by its weight: the least used is next."""

    weight: int
    used: float = 0.0
    waiting: dict[str, deque[Waiter]] = field(default_factory=dict)  # by tenant; the first tenant is next

    def add(self, tenant: str, waiter: Waiter) -> None:
        self.waiting.setdefault(tenant, deque()).append(waiter)

    def discard(self, tenant: str, waiter: Waiter) -> None:
        """Remove a waiter, if it still waits."""
        waiters = self.waiting.get(tenant, deque())
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self.waiting[tenant]

    def take_next(self) -> Waiter:
        """Return the next waiter of the next tenant, and put that tenant at the end."""
        tenant = next(iter(self.waiting))
        waiters = self.waiting.pop(tenant)
        waiter = waiters.popleft()
        if waiters:
            self.waiting[tenant] = waiters
        return waiter


def choose(lanes: Iterable[TokenLane]) -> TokenLane:
    """Return the lane that is next among those where somebody waits. If several have used the same, take the first."""
    return min((lane for lane in lanes if lane.waiting), key=lambda lane: lane.used)
