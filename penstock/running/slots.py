"""The slots of a process limit how many handlers run together, and decide who is next when a slot becomes free.

Nobody waits while a slot is free. While somebody waits, each priority gets a share of the slots' time by its weight: so
urgent operations go first, and the others still make progress. Within a priority the tenants take turns.

A slot is never taken back. So taking turns is not enough where a caller waits for the answer: a tenant whose operations
take long would hold all slots. With `tenants_share`, a tenant gets another slot only while more slots are free than it
holds. So one tenant holds at most half of them, and another one finds a free slot.

With `memory`, no slot is given while the memory for results is full.
"""

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.running.result_memory import ResultMemory

GIVEN_SECONDS = 1.0  # charged when a slot is given; otherwise the priority that is behind would get all slots

Waiter = asyncio.Future[None]


@dataclass(slots=True)
class Lane:
    """The waiters of one priority, and the number of slots that it holds.

    `used` is the time for which it held slots while anybody waited, divided by its weight. The least used comes next.
    """

    weight: int
    used: float = 0.0
    held: int = 0
    waiting: dict[str, deque[Waiter]] = field(default_factory=dict)  # by tenant; the first tenant is next

    @property
    def standing(self) -> float:
        return self.used + self.held * GIVEN_SECONDS / self.weight

    def add(self, tenant: str, waiter: Waiter) -> None:
        self.waiting.setdefault(tenant, deque()).append(waiter)

    def discard(self, tenant: str, waiter: Waiter) -> bool:
        """Remove a waiter. Return True if it was waiting."""
        waiters = self.waiting.get(tenant, deque())
        if waiter not in waiters:
            return False
        waiters.remove(waiter)
        if not waiters:
            del self.waiting[tenant]
        return True

    def next_tenant(self, may_take: Callable[[str], bool]) -> str | None:
        """Return the tenant whose turn it is, among those that may take a slot."""
        return next(filter(may_take, self.waiting), None)

    def take_next(self, tenant: str) -> Waiter:
        """Return the next waiter of the tenant, and put that tenant at the end."""
        waiters = self.waiting.pop(tenant)
        waiter = waiters.popleft()
        if waiters:
            self.waiting[tenant] = waiters
        return waiter


def choose(lanes: Iterable[Lane]) -> Lane:
    """Return the lane that is next among those where somebody waits. If several have used the same, take the first."""
    return min((lane for lane in lanes if lane.waiting), key=lambda lane: lane.standing)


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
            memory.when_free(self._pass_on)
        self._held_by: Counter[str] = Counter()  # slots of each tenant
        self._waiters = 0
        self._monotonic = monotonic
        self._charged_at = 0.0
        self._least_used = 0.0  # by those that waited: time without waiters gives no claim to more slots later

    async def acquire(self, priority: Priority = Priority.NORMAL, tenant: str = "") -> None:
        await self._acquire(self._lanes[priority], tenant)

    def release(self, priority: Priority = Priority.NORMAL, tenant: str = "") -> None:
        """Pass the slot on to the next waiter."""
        self._release(self._lanes[priority], tenant)

    def overdraw(self, priority: Priority = Priority.NORMAL, tenant: str = "") -> None:
        """Take a slot even if none is free. In that case, the next slot to be released goes to nobody."""
        if self._waiters:
            self._charge()
        self._take(self._lanes[priority], tenant)

    def lift(self) -> None:
        """Give a slot to everybody who waits for one, now and later. Call this only when nothing starts any more."""
        self._free = sys.maxsize
        self._memory = None
        self._pass_on()

    @property
    def are_wanted(self) -> bool:
        """Return True if somebody waits for a slot, so that whoever holds one should release it."""
        return self._waiters > 0

    @property
    def are_all_wanted(self) -> bool:
        """Return True if somebody waits until all slots are free."""
        return bool(self._ahead.waiting)

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
        if self._free > 0 and (lane is self._ahead or self._may_take(tenant)):
            self._take(lane, tenant)
            return
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if self._waiters:
            self._charge()
        else:
            self._charged_at = self._monotonic()
        self._waiters += 1
        if not lane.waiting:
            lane.used = max(lane.used, self._least_used)
        lane.add(tenant, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._release(lane, tenant)  # the slot had been given just before
            elif lane.discard(tenant, waiter):
                self._waiters -= 1
            raise

    def _release(self, lane: Lane, tenant: str) -> None:
        if self._waiters:
            self._charge()
        lane.held -= 1
        self._free += 1
        if self._tenants_share:
            self._held_by[tenant] -= 1
            if not self._held_by[tenant]:
                del self._held_by[tenant]
        self._pass_on()

    def _take(self, lane: Lane, tenant: str) -> None:
        self._free -= 1
        lane.held += 1
        if self._tenants_share:
            self._held_by[tenant] += 1

    def _may_take(self, tenant: str) -> bool:
        if self._memory is not None and self._memory.is_full:
            return False
        return not self._tenants_share or self._held_by[tenant] < self._free

    def _pass_on(self) -> None:
        """Give free slots to those who wait."""
        while self._free > 0 and self._waiters and (next_ := self._next_in_turn()) is not None:
            lane, tenant = next_
            waiter = lane.take_next(tenant)
            self._waiters -= 1
            if not waiter.cancelled():  # it may have been cancelled just now, and not have left its lane yet
                self._take(lane, tenant)
                waiter.set_result(None)

    def _next_in_turn(self) -> tuple[Lane, str] | None:
        if self._ahead.waiting:
            return self._ahead, ""
        able = [lane for lane in self._lanes.values() if lane.next_tenant(self._may_take) is not None]
        if not able:
            return None
        lane = choose(able)
        self._least_used = max(self._least_used, lane.used)
        tenant = lane.next_tenant(self._may_take)
        assert tenant is not None
        return lane, tenant

    def _charge(self) -> None:
        """Charge each lane for the slots it held since the last charge. Somebody has waited all that time."""
        now = self._monotonic()
        passed, self._charged_at = now - self._charged_at, now
        for lane in self._lanes.values():
            if lane.held:
                lane.used += lane.held * passed / lane.weight


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
