"""The slots of a process: how many handlers run at once, and whose turn it is when one comes free.

Nothing waits while a slot is free. While something waits, each priority has its share of the slots' time by weight, so
that what is urgent goes first and what is not keeps moving; within a priority the tenants take turns.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from penstock.priority import DEFAULT_WEIGHTS, Priority

GIVEN_SECONDS = 1.0  # what a slot counts for as soon as it is given: or whoever is behind would be given all of them

Waiter = asyncio.Future[None]


@dataclass(slots=True)
class Lane:
    """What waits, and what holds slots, of one priority.

    `used` is the time of slots it has had, by its weight, while anything waited: who has used least comes next.
    """

    weight: int
    used: float = 0.0
    held: int = 0
    waiting: dict[str, deque[Waiter]] = field(default_factory=dict)  # by tenant, whose turn it is first

    @property
    def standing(self) -> float:
        return self.used + self.held * GIVEN_SECONDS / self.weight

    def add(self, tenant: str, waiter: Waiter) -> None:
        self.waiting.setdefault(tenant, deque()).append(waiter)

    def discard(self, tenant: str, waiter: Waiter) -> bool:
        """Whether it was there."""
        waiters = self.waiting.get(tenant, deque())
        if waiter not in waiters:
            return False
        waiters.remove(waiter)
        if not waiters:
            del self.waiting[tenant]
        return True

    def take_next(self) -> Waiter:
        """The next of the tenant whose turn it is; then it is the others' turn."""
        tenant = next(iter(self.waiting))
        waiters = self.waiting.pop(tenant)
        waiter = waiters.popleft()
        if waiters:
            self.waiting[tenant] = waiters
        return waiter


def choose(lanes: Iterable[Lane]) -> Lane:
    """Whose turn it is, of those where something waits; the first, where several have used as little."""
    return min((lane for lane in lanes if lane.waiting), key=lambda lane: lane.standing)


class Slots:
    def __init__(
        self,
        count: int,
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count = count
        self._free = count
        self._lanes = {priority: Lane(weights[priority]) for priority in Priority}
        self._ahead = Lane(weight=1)  # of one who wants all slots: it has each that comes free
        self._waiters = 0
        self._monotonic = monotonic
        self._charged_at = 0.0
        self._least_used = 0.0  # of those that waited: who begins to wait has no claim to what it did not want before

    async def acquire(self, priority: Priority = Priority.NORMAL, tenant: str = "") -> None:
        await self._acquire(self._lanes[priority], tenant)

    def release(self, priority: Priority = Priority.NORMAL) -> None:
        """Hands the slot on to whoever is next."""
        self._release(self._lanes[priority])

    @asynccontextmanager
    async def all(self) -> AsyncIterator[None]:
        """All of them, ahead of whatever waits: those it has are idle until it has the last.

        One caller at a time: two would wait for each other for ever.
        """
        async with AsyncExitStack() as stack:
            for _ in range(self.count):
                await self._acquire(self._ahead, "")
                stack.callback(self._release, self._ahead)
            yield

    async def _acquire(self, lane: Lane, tenant: str) -> None:
        if self._free:
            self._free -= 1
            lane.held += 1
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
                self._release(lane)  # it had been given just before
            elif lane.discard(tenant, waiter):
                self._waiters -= 1
            raise

    def _release(self, lane: Lane) -> None:
        if self._waiters:
            self._charge()
        lane.held -= 1
        while self._waiters:
            following, waiter = self._take_next()
            if not waiter.cancelled():  # just now, so that it could not say so yet
                following.held += 1
                waiter.set_result(None)
                return
        self._free += 1

    def _take_next(self) -> tuple[Lane, Waiter]:
        self._waiters -= 1
        if self._ahead.waiting:
            return self._ahead, self._ahead.take_next()
        lane = choose(self._lanes.values())
        self._least_used = max(self._least_used, lane.used)
        return lane, lane.take_next()

    def _charge(self) -> None:
        """Everyone, for the slots held since this was last done: somebody has waited for one all the while."""
        now = self._monotonic()
        passed, self._charged_at = now - self._charged_at, now
        for lane in self._lanes.values():
            if lane.held:
                lane.used += lane.held * passed / lane.weight


@dataclass(frozen=True, slots=True)
class Turn:
    """The slots as those see them who wait in the lane of one priority and tenant."""

    slots: Slots
    priority: Priority
    tenant: str

    @property
    def count(self) -> int:
        return self.slots.count

    async def acquire(self) -> None:
        await self.slots.acquire(self.priority, self.tenant)

    def release(self) -> None:
        self.slots.release(self.priority)


class Room(Protocol):
    """What else there is a bounded number of, given in the same turns: threads, processes."""

    async def acquire(self, priority: Priority, tenant: str) -> None: ...

    def release(self, priority: Priority) -> None: ...


@dataclass(frozen=True, slots=True)
class TurnWithRoom:
    """A turn for operations whose handlers need room elsewhere too.

    That is taken first: what waits for a process holds no slot, and cannot keep those out that need none.
    """

    room: Room
    turn: Turn

    @property
    def count(self) -> int:
        return self.turn.count

    async def acquire(self) -> None:
        await self.room.acquire(self.turn.priority, self.turn.tenant)
        try:
            await self.turn.acquire()
        except BaseException:
            self.room.release(self.turn.priority)
            raise

    def release(self) -> None:
        self.turn.release()
        self.room.release(self.turn.priority)
