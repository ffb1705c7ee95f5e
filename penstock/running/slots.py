"""The slots of a process limit how many handlers run together, and decide who is next when a slot becomes free.

Nobody waits while a slot is free. While somebody waits, each priority gets a share of the slots' time by its weight: so
urgent operations go first, and the others still make progress. Within a priority, each tenant that waits gets the same
share of the time (`shares.py`).

A slot is never taken back. So this is not enough where a caller waits for the answer: a tenant whose operations take
long would hold all slots. With `tenants_share`, a tenant gets another slot only while more slots are free than it
holds. So one tenant holds at most half of them, and another one finds a free slot.

With `memory`, no slot is given while the memory for results is full.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.running.result_memory import ResultMemory
from penstock.running.shares import GIVEN_SECONDS, Share, Shares, Waiter


@dataclass(slots=True)
class Lane:
    """One priority: its tenants with their waiters, and the number of slots that it holds.

    `used` is the time for which it held slots while anybody waited, divided by its weight. The least used comes next.
    """

    weight: int
    used: float = 0.0
    held: int = 0
    charged_at: float = 0.0
    shares: Shares = field(default_factory=Shares)

    def charge(self, now: float) -> None:
        """Charge the lane for the slots that it held until now."""
        self.used += self.held * (now - self.charged_at) / self.weight
        self.charged_at = now

    @property
    def standing(self) -> float:
        return self.used + self.held * GIVEN_SECONDS / self.weight


def in_turn(lanes: Iterable[Lane], now: float) -> list[Lane]:
    """Return the lanes in which somebody waits, the next one first. Lanes that have used the same keep their order."""
    waiting = [lane for lane in lanes if lane.shares.waiting]
    for lane in waiting:
        lane.charge(now)
    if len(waiting) > 1:
        waiting.sort(key=lambda lane: lane.standing)
    return waiting


class Slots:
    def __init__(
        self,
        count: int,
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        tenants_share: bool = False,
        memory: ResultMemory | None = None,
    ) -> None:
        self.count = count
        self._free = count
        self._lanes = {priority: Lane(weights[priority]) for priority in Priority}
        self._ahead = Lane(weight=1)  # for the caller that wants all slots: it gets each one that becomes free
        self._tenants_share = tenants_share
        self._memory = memory
        if memory is not None:
            memory.when_free(self._resume)
        self._held_by: Counter[str] = Counter()  # slots of each tenant
        self._waiters = 0
        self._monotonic = monotonic
        self._waited = 0.0  # the time for which anybody has waited, until `_counted_at`
        self._counted_at = 0.0
        self._least_used = 0.0  # by those that waited: time without waiters gives no claim to more slots later

    async def acquire(self, priority: Priority = Priority.NORMAL, tenant: str = "") -> None:
        await self._acquire(self._lanes[priority], tenant)

    def release(self, priority: Priority = Priority.NORMAL, tenant: str = "") -> None:
        """Pass the slot on to the next waiter."""
        self._release(self._lanes[priority], tenant)

    def overdraw(self, priority: Priority = Priority.NORMAL, tenant: str = "") -> None:
        """Take a slot even if none is free. In that case, the next slot to be released goes to nobody."""
        self._take(self._lanes[priority], tenant, self._now())

    def lift(self) -> None:
        """Give a slot to everybody who waits for one, now and later. Call this only when nothing starts any more."""
        self._free = sys.maxsize
        self._memory = None
        self._resume()

    @property
    def are_wanted(self) -> bool:
        """Return True if somebody waits for a slot, so that whoever holds one should release it."""
        return self._waiters > 0

    @property
    def are_all_wanted(self) -> bool:
        """Return True if somebody waits until all slots are free."""
        return self._ahead.shares.waiting > 0

    @asynccontextmanager
    async def all(self) -> AsyncIterator[None]:
        """Hold all slots, ahead of everybody who waits. The slots it has stay idle until it has the last one.

        Only one caller may do this: two would wait for each other for ever.
        """
        async with AsyncExitStack() as stack:
            for _ in range(self.count):
                await self._acquire(self._ahead, "")
                stack.callback(self._release, self._ahead, "")
            yield

    async def _acquire(self, lane: Lane, tenant: str) -> None:
        now = self._now() if self._waiters else self._waited
        if self._free > 0 and (lane is self._ahead or self._may_take(tenant)):
            self._take(lane, tenant, now)
            return
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if not self._waiters:
            self._counted_at = self._monotonic()
        self._waiters += 1
        if not lane.shares.waiting:
            lane.charge(now)
            lane.used = max(lane.used, self._least_used)
        lane.shares.add(tenant, waiter, now)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._release(lane, tenant)  # the slot had been given just before
            elif lane.shares.discard(tenant, waiter):
                self._waiters -= 1
            raise

    def _release(self, lane: Lane, tenant: str) -> None:
        now = self._now() if self._waiters else self._waited
        if lane.charged_at != now:
            lane.charge(now)
        lane.held -= 1
        lane.shares.release(tenant, now)
        self._free += 1
        if self._tenants_share:
            self._held_by[tenant] -= 1
            if not self._held_by[tenant]:
                del self._held_by[tenant]
        if not (lane.held or lane.shares.waiting):
            lane.shares.forget_past()
        if self._waiters:
            self._pass_on(now)

    def _take(self, lane: Lane, tenant: str, now: float) -> None:
        self._free -= 1
        if lane.charged_at != now:
            lane.charge(now)
        lane.held += 1
        lane.shares.hold(tenant, now)
        if self._tenants_share:
            self._held_by[tenant] += 1

    def _may_take(self, tenant: str) -> bool:
        if self._memory is not None and self._memory.is_full:
            return False
        return not self._tenants_share or self._held_by[tenant] < self._free

    def _resume(self) -> None:
        """Give slots to those who wait: some have become free without a release."""
        self._pass_on(self._now())

    def _pass_on(self, now: float) -> None:
        """Give free slots to those who wait."""
        while self._free > 0 and self._waiters and (next_ := self._next_in_turn(now)) is not None:
            lane, share = next_
            waiter = lane.shares.take_waiter(share, now)
            self._waiters -= 1
            if not waiter.cancelled():  # it may have been cancelled just now, and not have left its lane yet
                self._take(lane, share.tenant, now)
                waiter.set_result(None)

    def _next_in_turn(self, now: float) -> tuple[Lane, Share] | None:
        if self._ahead.shares.waiting:
            share = self._ahead.shares.next(now)
            assert share is not None
            return self._ahead, share
        if self._memory is not None and self._memory.is_full:
            return None
        for lane in in_turn(self._lanes.values(), now):
            if (share := lane.shares.next(now, self._may_take if self._tenants_share else None)) is not None:
                self._least_used = max(self._least_used, lane.used)
                return lane, share
        return None

    def _now(self) -> float:
        """Return the time for which anybody has waited so far."""
        if self._waiters:
            now = self._monotonic()
            self._waited += now - self._counted_at
            self._counted_at = now
        return self._waited


@dataclass(frozen=True, slots=True)
class Turn:
    """The slots, seen by one priority and tenant."""

    slots: Slots
    priority: Priority
    tenant: str

    @property
    def count(self) -> int:
        return self.slots.count

    @property
    def are_wanted(self) -> bool:
        return self.slots.are_wanted

    async def acquire(self) -> None:
        await self.slots.acquire(self.priority, self.tenant)

    def release(self) -> None:
        self.slots.release(self.priority, self.tenant)


class Room(Protocol):
    """Another limited resource that is given in the same turns: threads or processes."""

    @property
    def are_wanted(self) -> bool: ...

    async def acquire(self, priority: Priority, tenant: str) -> None: ...

    def release(self, priority: Priority, tenant: str) -> None: ...


@dataclass(frozen=True, slots=True)
class TurnWithRoom:
    """A turn for operations whose handlers need a thread or a process too.

    The turn for the room comes first. So an operation that waits for a process holds no slot, and does not block
    operations that need no process.
    """

    room: Room
    turn: Turn

    @property
    def count(self) -> int:
        return self.turn.count

    @property
    def are_wanted(self) -> bool:
        return self.turn.are_wanted or self.room.are_wanted

    async def acquire(self) -> None:
        await self.room.acquire(self.turn.priority, self.turn.tenant)
        try:
            await self.turn.acquire()
        except BaseException:
            self.room.release(self.turn.priority, self.turn.tenant)
            raise

    def release(self) -> None:
        self.turn.release()
        self.room.release(self.turn.priority, self.turn.tenant)
