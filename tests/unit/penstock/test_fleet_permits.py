"""How consumers share the permits of a limit: never more than there are, and in fair shares."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from penstock import fleet_permits
from penstock.fleet_permits import LEASE_SECONDS, TURN_SECONDS, Holder, Holders, Permits, share_out

POLL_SECONDS = 1.1
SETTLING_SECONDS = 6.0


def wanting(*wanted: int) -> Holders:
    return {str(place): Holder(0, number, place, 1) for place, number in enumerate(wanted)}


@pytest.mark.parametrize(
    ("concurrency", "wanted", "shares"),
    [
        (10, [20, 20], [5, 5]),
        (10, [2, 20], [2, 8]),
        (10, [1, 2, 3], [1, 2, 3]),
        (10, [20, 20, 20], [4, 3, 3]),
        (2, [5, 5, 5], [1, 1, 0]),
        (2, [0, 5, 5], [0, 1, 1]),
        (5, [], []),
    ],
)
def test_shares_are_fair(concurrency: int, wanted: list[int], shares: list[int]) -> None:
    assert list(share_out(concurrency, wanting(*wanted)).values()) == shares


@dataclass
class Table:
    holders: Holders = field(default_factory=dict)
    version: int = 0


@dataclass
class Consumer:
    """A consumer whose clock is ahead by `skew`. Its operations start and end at random."""

    name: str
    permits: Permits
    skew: float
    waiting: int
    next_poll: float
    seconds: float = 2.0  # of an operation
    runs: list[tuple[float, float]] = field(default_factory=list)  # when they start and end
    crashes_at: float = float("inf")

    def is_alive(self, now: float) -> bool:
        return now < self.crashes_at


@dataclass
class Fleet:
    """Consumers that share a table in virtual time. Calls take up to 0.2 seconds, and may fail in every way."""

    seed: int
    concurrency: int
    count: int
    faults: float = 0.0
    now: float = 0.0
    most: int = 0  # operations that ran at the same time

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.table = Table()
        self.consumers: list[Consumer] = []
        for _ in range(self.count):
            self.join()

    def join(self, waiting: int = 1_000) -> Consumer:
        name = f"c{len(self.consumers)}"
        skew = self.chance.uniform(-1_000, 1_000)
        consumer = Consumer(name, Permits(self.concurrency, name), skew, waiting, self.now + self.chance.random())
        self.consumers.append(consumer)
        return consumer

    @property
    def alive(self) -> list[Consumer]:
        return [consumer for consumer in self.consumers if consumer.is_alive(self.now)]

    @property
    def running(self) -> int:
        return sum(len(consumer.runs) for consumer in self.alive)

    def run(self, seconds: float, step: float = 0.05) -> float:
        """Run for some time. Return the share of the permits that was used."""
        until, used = self.now + seconds, 0.0
        while self.now < until:
            self.now += step
            for consumer in self.alive:
                if self.now >= consumer.next_poll:
                    self._poll(consumer)
                self._work(consumer)
            self.most = max(self.most, self.running)
            used += self.running * step
        return used / (self.concurrency * seconds)

    def _work(self, consumer: Consumer) -> None:
        permits, clock = consumer.permits, self.now + consumer.skew
        # Operations that outlive a lease that cannot be renewed are not covered, so they end shortly after it.
        lapsed_at = permits._until - consumer.skew
        latest = lapsed_at if self.now > lapsed_at + 0.9 else -1.0
        for run in [run for run in consumer.runs if run[1] <= self.now or run[0] <= latest]:
            consumer.runs.remove(run)
            permits.release()
        while consumer.waiting and permits.is_free(clock):
            permits.take()
            consumer.waiting -= 1
            consumer.runs.append((self.now, self.now + consumer.seconds * self.chance.uniform(0.5, 1.5)))

    def _poll(self, consumer: Consumer) -> None:
        consumer.next_poll = self.now + POLL_SECONDS * self.chance.uniform(1.0, 1.1)
        permits, seen, version = consumer.permits, self.table.holders, self.table.version
        clock = self.now + consumer.skew
        planned = permits.plan(seen, consumer.waiting, clock)
        if not permits.must_write(seen, planned, clock):
            return
        permits.send(planned)
        has_reached = self.chance.random() >= self.faults
        if has_reached and self.table.version == version:
            self.table = Table(planned, version + 1)
            if self.chance.random() >= self.faults:
                permits.confirm(planned, clock - self.chance.uniform(0.0, 0.2))
        if self.chance.random() < self.faults / 5:
            consumer.crashes_at = self.now + self.chance.random()


def permits_of(fleet: Fleet) -> list[int]:
    return [fleet.table.holders[one.name].permits if one.name in fleet.table.holders else 0 for one in fleet.alive]


def play(seed: int) -> Fleet:
    """Let consumers crash, join, wait for nothing, come back, and lose their connection. Calls are lost, too."""
    chance = random.Random(seed)
    fleet = Fleet(seed, concurrency=chance.choice([1, 3, 10, 25]), count=8, faults=0.2)
    for _ in range(15):
        fleet.run(chance.uniform(1, 8))
        if len(fleet.alive) < 8:
            fleet.join()
        for consumer in fleet.alive:
            consumer.waiting = chance.choice([0, 3, 1_000])
            consumer.seconds = chance.choice([0.2, 2.0, 8.0])
        chance.choice(fleet.alive).next_poll += chance.uniform(0, 2 * LEASE_SECONDS)
    return fleet


@pytest.mark.parametrize("seed", range(6))
def test_never_more_operations_run_than_allowed(seed: int) -> None:
    fleet = play(seed)
    assert 0 < fleet.most <= fleet.concurrency


def test_permits_are_shared_fairly_when_consumers_come_and_go() -> None:
    fleet = Fleet(1, concurrency=20, count=2)
    fleet.run(SETTLING_SECONDS)
    assert permits_of(fleet) == [10, 10]
    fleet.join()
    fleet.join(waiting=2).seconds = 100.0
    fleet.run(SETTLING_SECONDS)
    assert sorted(permits_of(fleet)) == [2, 6, 6, 6]
    for consumer in fleet.consumers[1:3]:
        consumer.waiting = 0
    fleet.run(SETTLING_SECONDS)
    assert sorted(permits_of(fleet)) == [0, 0, 2, 18]
    assert fleet.run(10) > 0.95


def test_permits_of_a_consumer_that_died_are_used_after_its_lease() -> None:
    fleet = Fleet(1, concurrency=8, count=2)
    fleet.run(SETTLING_SECONDS)
    fleet.consumers[0].crashes_at = fleet.now
    fleet.run(LEASE_SECONDS - 2)
    assert fleet.running == 4
    fleet.run(5)
    assert permits_of(fleet) == [8]


def test_permit_in_use_is_kept_for_as_long_as_its_operation_runs() -> None:
    fleet = Fleet(1, concurrency=2, count=1)
    fleet.consumers[0].seconds = 300.0
    fleet.run(3)
    fleet.join()
    fleet.run(60)
    assert permits_of(fleet) == [2, 0]
    assert fleet.most == 2


def test_consumer_that_cannot_renew_its_permits_starts_nothing() -> None:
    fleet = Fleet(1, concurrency=2, count=1)
    fleet.run(3)
    fleet.consumers[0].next_poll = float("inf")
    fleet.run(LEASE_SECONDS + 5)
    assert fleet.running == 0
    fleet.consumers[0].next_poll = fleet.now
    fleet.run(1)
    assert fleet.running == 2


@pytest.mark.parametrize("concurrency", [1, 3, 7])
def test_more_consumers_than_permits_take_turns(concurrency: int) -> None:
    fleet = Fleet(1, concurrency, count=8)
    for consumer in fleet.consumers:
        consumer.seconds = 0.3
    fleet.run(5)
    assert fleet.run(8 * TURN_SECONDS + 10) > 0.9
    assert fleet.most == concurrency
    performed = [1_000 - consumer.waiting for consumer in fleet.consumers]
    assert min(performed) > sum(performed) / len(performed) / 3


def test_fewer_permits_than_before_are_enough_once_operations_have_ended() -> None:
    fleet = Fleet(1, concurrency=20, count=4)
    fleet.run(SETTLING_SECONDS)
    fleet.concurrency, fleet.most = 5, 0
    for consumer in fleet.consumers:
        consumer.permits.concurrency = 5
    fleet.run(SETTLING_SECONDS)
    fleet.most = 0
    assert fleet.run(20) > 0.9
    assert fleet.most == 5


# --- Faults that must be found


def let_others_lapse_early(patching: pytest.MonkeyPatch) -> None:
    def mutant(self: Permits, seen: Holders, now: float) -> Holders:
        with patching.context() as patch:
            patch.setattr(fleet_permits, "LEASE_SECONDS", 5.0)
            return original(self, seen, now)

    original = Permits._without_lapsed
    patching.setattr(Permits, "_without_lapsed", mutant)


def start_after_the_lease(patching: pytest.MonkeyPatch) -> None:
    patching.setattr(Permits, "is_free", lambda self, _now: self.running < self._usable)


def count_the_lease_from_the_answer(patching: pytest.MonkeyPatch) -> None:
    patching.setattr(fleet_permits, "MARGIN_SECONDS", -2.0)


def give_up_what_is_in_use(patching: pytest.MonkeyPatch) -> None:
    def mutant(self: Permits, seen: Holders, waiting: int, now: float) -> Holders:
        planned = original(self, seen, waiting, now)
        mine = planned.get(self._holder)
        return planned if mine is None else {**planned, self._holder: replace(mine, permits=max(0, self._share))}

    original = Permits.plan
    patching.setattr(Permits, "plan", mutant)


def use_permits_before_the_write(patching: pytest.MonkeyPatch) -> None:
    def mutant(self: Permits, planned: Holders) -> None:
        original(self, planned)
        self._usable = self._share

    original = Permits.send
    patching.setattr(Permits, "send", mutant)


def keep_permits_until_the_answer(patching: pytest.MonkeyPatch) -> None:
    def mutant(self: Permits, seen: Holders, waiting: int, now: float) -> Holders:
        before = self._usable
        planned = original(self, seen, waiting, now)
        self._usable = before
        return planned

    original = Permits.plan
    patching.setattr(Permits, "plan", mutant)


def take_the_share_at_once(patching: pytest.MonkeyPatch) -> None:
    """Take the fair share although others still have it."""

    def mutant(self: Permits, seen: Holders, waiting: int, now: float) -> Holders:
        return original(self, {name: replace(holder, permits=0) for name, holder in seen.items()}, waiting, now)

    original = Permits.plan
    patching.setattr(Permits, "plan", mutant)


@pytest.mark.parametrize(
    "mutation",
    [
        let_others_lapse_early,
        start_after_the_lease,
        count_the_lease_from_the_answer,
        give_up_what_is_in_use,
        use_permits_before_the_write,
        keep_permits_until_the_answer,
        take_the_share_at_once,
    ],
)
def test_mutation_is_found(mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    assert any(fleet.most > fleet.concurrency for fleet in map(play, range(12)))
