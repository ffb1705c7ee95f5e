"""Slots: never more than there are, none idle while something waits, and shares by weight and by tenant."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from penstock.priority import Priority
from penstock.running.shares import MOST_IDLE, Shares
from penstock.running.slots import Lane, Slots, in_turn
from tests.support.full import full
from tests.support.waiting import settle

HIGH, NORMAL, LOW = Priority
WEIGHTS = {HIGH: 16, NORMAL: 4, LOW: 1}


def lane(weight: int, used: float = 0.0, held: int = 0, *, waits: bool = True) -> Lane:
    shares = Shares()
    shares.waiting = int(waits)
    return Lane(weight, used, held, shares=shares)


@pytest.mark.parametrize(
    ("lanes", "chosen"),
    [
        ([lane(16), lane(4), lane(1)], 0),  # all the same: the most urgent
        ([lane(16, waits=False), lane(4), lane(1)], 1),
        ([lane(16, waits=False), lane(4, waits=False), lane(1, used=9)], 2),
        ([lane(16, used=1.1), lane(4, used=1.2), lane(1, used=1.0)], 2),  # who has used least
        ([lane(16, held=9), lane(4), lane(1)], 1),  # what is held counts at once
        ([lane(16, held=9), lane(4, waits=False), lane(1)], 2),
        ([lane(16, held=9), lane(4, held=3), lane(1, held=1)], 0),
    ],
)
def test_lane_that_is_next(lanes: list[Lane], chosen: int) -> None:
    assert in_turn(lanes, 0.0)[0] is lanes[chosen]


@dataclass
class Bench:
    """Work of given lengths on slots, in its own time: `shares` is the time that each kind had, up to a moment."""

    slots: Slots
    now: float = 0.0
    shares: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    first: dict[str, float] = field(default_factory=dict)  # when one of a kind was first given a slot
    here: int = 0
    most: int = 0
    _running: list[tuple[float, asyncio.Event]] = field(default_factory=list)

    async def work(self, kind: str, seconds: float, priority: Priority, tenant: str = "") -> None:
        await self.slots.acquire(priority, tenant)
        try:
            await self._run(kind, seconds)
        finally:
            self.slots.release(priority, tenant)

    async def _run(self, kind: str, seconds: float) -> None:
        self.first.setdefault(kind, self.now)
        self.here += 1
        self.most = max(self.most, self.here)
        ended = asyncio.Event()
        self._running.append((self.now + seconds, ended))
        await ended.wait()
        self.shares[kind] += seconds
        self.here -= 1

    async def pass_time(self, until: float) -> None:
        await settle()
        while self._running and min(self._running, key=at)[0] <= until:
            ending = min(self._running, key=at)
            self._running.remove(ending)
            self.now = ending[0]
            ending[1].set()
            await settle()
        self.now = until


def at(running: tuple[float, asyncio.Event]) -> float:
    return running[0]


def open_bench(count: int) -> Bench:
    bench: Bench

    def now() -> float:
        return bench.now

    bench = Bench(Slots(count, WEIGHTS, now))
    return bench


async def cancel(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def submit(bench: Bench, kind: str, count: int, seconds: float, priority: Priority) -> list["asyncio.Task[None]"]:
    """The kind is the tenant, too."""
    return [asyncio.create_task(bench.work(kind, seconds, priority, kind)) for _ in range(count)]


def flood(bench: Bench, kind: str, seconds: float, priority: Priority) -> list["asyncio.Task[None]"]:
    """Submit more than there will ever be slots for."""

    async def go_on() -> None:
        while True:
            await bench.work(kind, seconds, priority, kind)

    return [asyncio.create_task(go_on()) for _ in range(20)]


@pytest.mark.parametrize("slots", [1, 3, *full([10])])
@pytest.mark.parametrize(("high_seconds", "low_seconds"), [(0.01, 0.01), (0.01, 0.5), (0.5, 0.01)])
async def test_shares_are_by_weight_however_long_things_take(
    slots: int, high_seconds: float, low_seconds: float
) -> None:
    bench = open_bench(slots)
    tasks = flood(bench, "low", low_seconds, LOW) + flood(bench, "high", high_seconds, HIGH)
    await bench.pass_time(20)
    share = bench.shares["low"] / sum(bench.shares.values())
    assert share == pytest.approx(1 / 17, abs=0.04)
    assert sum(bench.shares.values()) == pytest.approx(20 * slots, rel=0.1)  # no slot was idle
    assert bench.most == slots
    await cancel(tasks)


async def test_what_is_urgent_is_next_however_much_waits() -> None:
    bench = open_bench(10)
    tasks = flood(bench, "low", 1.0, LOW)
    await bench.pass_time(50)
    tasks += submit(bench, "high", 9, 0.1, HIGH)
    await bench.pass_time(52)
    assert bench.first["high"] <= 51  # when the next slot comes free
    assert bench.shares["high"] == pytest.approx(0.9)
    await cancel(tasks)


async def test_a_priority_that_did_not_wait_has_no_claim_to_what_the_others_had() -> None:
    """Or what is less urgent, after a pause, would take all slots for as long as the pause was."""
    bench = open_bench(2)
    tasks = flood(bench, "high", 1.0, HIGH)
    await bench.pass_time(100)
    tasks += flood(bench, "low", 1.0, LOW)
    had = bench.shares["high"]
    await bench.pass_time(150)
    assert bench.shares["low"] == pytest.approx(100 / 17, abs=2)
    assert bench.shares["high"] - had == pytest.approx(100 * 16 / 17, abs=2)
    await cancel(tasks)


async def test_free_slots_are_for_anyone_and_nobody_owes_for_them() -> None:
    bench = open_bench(4)
    tasks = submit(bench, "low", 3, 100.0, LOW)
    await bench.pass_time(90)
    tasks += flood(bench, "low", 1.0, LOW) + submit(bench, "high", 5, 1.0, HIGH)
    await bench.pass_time(100)
    assert bench.shares["high"] == 5
    assert bench.shares["low"] >= 3  # of the one slot that was left
    await cancel(tasks)


async def test_tenant_with_few_operations_does_not_wait_behind_one_with_many() -> None:
    bench = open_bench(2)
    tasks = flood(bench, "big", 1.0, NORMAL)
    await bench.pass_time(10)
    tasks += submit(bench, "small", 10, 1.0, NORMAL) + submit(bench, "other", 10, 1.0, NORMAL)
    await bench.pass_time(26)
    assert (bench.shares["small"], bench.shares["other"]) == (10, 10)
    await cancel(tasks)


@pytest.mark.parametrize("slots", [1, 10])
@pytest.mark.parametrize("seconds", [(0.5, 0.005), (0.5, 0.05, 0.005)])
async def test_tenants_share_the_time_however_long_their_operations_take(
    slots: int, seconds: tuple[float, ...]
) -> None:
    bench = open_bench(slots)
    tasks = [task for one in seconds for task in flood(bench, f"{one}", one, NORMAL)]
    await bench.pass_time(20 / slots + 1)
    total = sum(bench.shares.values())
    assert [bench.shares[f"{one}"] / total for one in seconds] == pytest.approx(
        [1 / len(seconds)] * len(seconds), abs=0.05
    )
    assert bench.most == slots
    await cancel(tasks)


async def test_tenant_that_was_away_has_no_claim_to_the_time_of_the_others() -> None:
    bench = open_bench(2)
    tasks = flood(bench, "first", 0.5, NORMAL) + flood(bench, "second", 0.05, NORMAL)
    await bench.pass_time(20)
    before = dict(bench.shares)
    tasks += flood(bench, "late", 0.1, NORMAL)
    await bench.pass_time(50)
    since = [bench.shares[kind] - before.get(kind, 0.0) for kind in ("first", "second", "late")]
    assert since == pytest.approx([20, 20, 20], abs=1.5)
    await cancel(tasks)


async def test_tenant_that_had_all_slots_alone_owes_nothing_for_it() -> None:
    bench = open_bench(2)
    tasks = flood(bench, "first", 0.5, NORMAL)
    await bench.pass_time(50)
    before = bench.shares["first"]
    tasks += flood(bench, "late", 0.5, NORMAL)
    await bench.pass_time(70)
    assert bench.shares["first"] - before == pytest.approx(20, abs=1.5)
    await cancel(tasks)


async def test_all_start_equal_after_nobody_of_a_priority_had_anything_to_do() -> None:
    bench = open_bench(1)
    tasks = submit(bench, "first", 1, 10.0, NORMAL)
    await bench.pass_time(1)
    tasks += submit(bench, "second", 1, 0.1, NORMAL)
    await bench.pass_time(20)
    before = bench.shares["first"]
    tasks += flood(bench, "first", 0.1, NORMAL) + flood(bench, "second", 0.1, NORMAL)
    await bench.pass_time(40)
    assert bench.shares["first"] - before == pytest.approx(10, abs=0.5)
    await cancel(tasks)


async def test_priorities_keep_their_weights_whatever_their_tenants_do() -> None:
    bench = open_bench(3)
    tasks = flood(bench, "long", 0.5, HIGH) + flood(bench, "short", 0.01, HIGH) + flood(bench, "low", 0.1, LOW)
    await bench.pass_time(30)
    assert bench.shares["low"] / sum(bench.shares.values()) == pytest.approx(1 / 17, abs=0.04)
    assert bench.shares["long"] == pytest.approx(bench.shares["short"], rel=0.1)
    await cancel(tasks)


async def test_tenants_that_have_left_are_forgotten() -> None:
    bench = open_bench(1)
    await bench.slots.acquire(NORMAL, "holds")
    waiting = asyncio.create_task(bench.slots.acquire(NORMAL, "waits"))
    for number in range(5 * MOST_IDLE):
        task = asyncio.create_task(bench.slots.acquire(NORMAL, f"tenant-{number}"))
        await asyncio.sleep(0)
        await cancel([task])
    shares = bench.slots._lanes[NORMAL].shares
    assert len(shares._shares) <= 2 * MOST_IDLE
    assert len(shares._order) <= 2 * MOST_IDLE
    bench.slots.release(NORMAL, "holds")
    await waiting


async def test_all_slots_are_taken_ahead_of_what_waits() -> None:
    bench = open_bench(3)
    tasks = submit(bench, "high", 30, 1.0, HIGH)
    alone: list[float] = []

    async def take_all() -> None:
        async with bench.slots.all():
            alone.append(bench.now)
            assert bench.here == 0

    await bench.pass_time(0.5)
    taking = asyncio.create_task(take_all())
    await bench.pass_time(2)
    assert alone == [1.0]
    await taking
    await bench.pass_time(20)
    assert bench.shares["high"] == 30
    await cancel(tasks)


@pytest.mark.parametrize("is_given", [False, True])
async def test_cancelled_while_it_waits_it_takes_no_slot(*, is_given: bool) -> None:
    slots = Slots(1, WEIGHTS)
    await slots.acquire(LOW)
    waiting = [asyncio.create_task(slots.acquire(priority)) for priority in (HIGH, LOW)]
    await settle()
    if is_given:
        slots.release(LOW)  # to the first, who is cancelled before it knows
        waiting[0].cancel()
    else:
        waiting[0].cancel()
        slots.release(LOW)  # when the first is cancelled, but has not heard of it
    await asyncio.wait(waiting)
    assert waiting[0].cancelled()
    assert not waiting[1].cancelled()
    slots.release(LOW)
    async with asyncio.timeout(1):
        await slots.acquire(LOW)


async def test_all_slots_given_up_half_way_come_free() -> None:
    slots = Slots(3, WEIGHTS)
    await slots.acquire(LOW)

    async def take_all() -> None:
        async with slots.all():
            pass

    taking = asyncio.create_task(take_all())
    await settle()
    taking.cancel()
    await asyncio.wait([taking])
    async with asyncio.timeout(1):
        await slots.acquire(LOW)
        await slots.acquire(HIGH)


# Tenants that share


async def hold(slots: Slots, tenant: str, count: int) -> list[asyncio.Task[None]]:
    """Ask for slots for a tenant, and return the requests that still wait."""
    asking = [asyncio.create_task(slots.acquire(NORMAL, tenant)) for _ in range(count)]
    await settle()
    return [task for task in asking if not task.done()]


@pytest.mark.parametrize(
    ("count", "held"),
    [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [2, 1, 0]), (4, [2, 1, 1]), (10, [5, 3, 1]), (100, [50, 25, 13])],
)
async def test_tenant_holds_at_most_as_many_slots_as_it_leaves_free(count: int, held: list[int]) -> None:
    slots = Slots(count, WEIGHTS, tenants_share=True)
    waiting = {tenant: await hold(slots, tenant, count) for tenant in "abc"}
    assert [count - len(waiting[tenant]) for tenant in "abc"] == held
    for task in itertools.chain(*waiting.values()):
        task.cancel()


async def test_tenant_that_waits_for_its_share_gets_the_next_slot_that_it_may_hold() -> None:
    slots = Slots(4, WEIGHTS, tenants_share=True)
    [waiting, _] = await hold(slots, "a", 4)
    assert not await hold(slots, "b", 1)
    slots.release(NORMAL, "b")
    await settle()
    assert not waiting.done()  # it holds two, and two are free
    assert not await hold(slots, "b", 1)
    slots.release(NORMAL, "a")
    await settle()
    assert waiting.done()
    assert not await hold(slots, "c", 1)


async def test_slots_are_not_shared_where_nobody_waits_for_an_answer() -> None:
    assert not await hold(Slots(4, WEIGHTS), "a", 4)


async def test_tenants_of_all_priorities_share() -> None:
    slots = Slots(2, WEIGHTS, tenants_share=True)
    await slots.acquire(LOW, "a")
    waiting = asyncio.create_task(slots.acquire(HIGH, "a"))
    await settle()
    assert not waiting.done()
    await slots.acquire(LOW, "b")
    slots.release(LOW, "a")
    await settle()
    assert waiting.done()


async def test_slot_that_is_overdrawn_is_paid_for_by_the_next_release() -> None:
    slots = Slots(1, WEIGHTS)
    await slots.acquire()
    slots.overdraw()
    [waiting] = await hold(slots, "", 1)
    slots.release()
    await settle()
    assert not waiting.done()
    slots.release()
    await settle()
    assert waiting.done()
