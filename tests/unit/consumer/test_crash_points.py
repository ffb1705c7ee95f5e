"""A consumer is killed, or AWS fails it, at every single call it makes: each time every promise is kept.

The batch has all kinds of endings: successes, one at the second attempt, a rejection, a failure for good.
"""

import asyncio
import itertools
import random
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from penstock import Context, Operations, Reject, Retry
from penstock.batch import BatchState, Counts
from penstock.consumer.consumer import Consumer
from penstock.errors import Unavailable
from penstock.message import encode_chunk
from penstock.queue import Message
from tests.support.builders import build_operations, build_settings
from tests.support.faults import Moment
from tests.support.full import full
from tests.support.rig import Rig, take_turn

PATHS = ["/succeed", "/second-time-right", "/reject", "/break", "/succeed", "/succeed", "/break"]
STATUSES = {"id-0": 201, "id-1": 201, "id-2": 409, "id-3": 500, "id-4": 201, "id-5": 201, "id-6": 500}
COUNTS = Counts(succeeded=4, failed=3)
FAILURES = {("id-2", 409), ("id-3", 500), ("id-6", 500)}
ATTEMPTS = [
    *[("id-0", 1), ("id-1", 1), ("id-1", 2), ("id-2", 1), ("id-3", 1), ("id-3", 2), ("id-3", 3)],
    *[("id-4", 1), ("id-5", 1), ("id-6", 1), ("id-6", 2), ("id-6", 3)],
]
MOST_CALLS = 1_000


class Killed(BaseException):
    """The process is gone. It makes no further call."""


def build_rig() -> Rig:
    rig = Rig(Operations(), build_settings(visibility_seconds=30, chunk_operations=1))

    @rig.operations.post("/succeed", status=201)
    async def succeed(context: Context) -> None:
        rig.note(context)

    @rig.operations.post("/second-time-right", status=201)
    async def second_time_right(context: Context) -> None:
        rig.note(context)
        if context.attempt == 1:
            raise Retry

    @rig.operations.post("/reject")
    async def reject(context: Context) -> None:
        rig.note(context)
        raise Reject(409, "Not this one.")

    @rig.operations.post("/break")
    async def break_(context: Context) -> None:
        rig.note(context)
        raise RuntimeError

    return rig


@dataclass
class Strike:
    """What befalls the consumer once, at its `at`-th call: before it takes effect or after. `call` is which it was."""

    at: int
    moment: Moment
    kind: Literal["killed", "unavailable"]
    calls: int = 0
    call: str | None = None
    is_dead: bool = False

    def __call__(self, call: str, moment: Moment) -> None:
        if self.is_dead:
            raise Killed
        self.calls += moment == self.moment
        if (self.calls, moment) != (self.at, self.moment) or self.call:
            return
        self.call = call
        self.is_dead = self.kind == "killed"
        raise Killed if self.is_dead else Unavailable("AWS does not answer.")


async def run_until_struck_dead(rig: Rig, strike: Strike) -> None:
    """One consumer's life: to the end of the work, or to its own."""
    consumer = rig.consumer(strike)
    try:
        for _ in range(MOST_CALLS):
            if strike.is_dead or not rig.parts.chunks.messages:
                return
            if not await rig.parts.chunks.depth():
                rig.clock.advance(31)
            await take_turn(consumer)
    except Killed:
        return
    finally:
        await abandon(consumer)


async def abandon(consumer: Consumer) -> None:
    """What else the process had in hand goes with it: chunks, and receives under way, which may have been its death."""
    receives = [inlet._receiving for inlet in consumer._inlets.values() if inlet._receiving is not None]
    tasks = [*consumer._held, *receives]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def assert_everything_is_as_promised(rig: Rig) -> None:
    assert rig.parts.chunks.messages == []
    assert rig.statuses() == STATUSES  # and none has two outcomes
    assert await rig.counts() == COUNTS
    assert (await rig.batch()).state is BatchState.COMPLETED
    assert set(rig.failures()) == FAILURES
    assert rig.late_runs == []
    assert set(rig.runs) == set(STATUSES)


def strikes(kind: Literal["killed", "unavailable"], moment: Moment) -> Iterator[Strike]:
    return (Strike(at, moment, kind) for at in itertools.count(1))


@pytest.mark.parametrize("chunk_operations", [3, 100, *full([1])])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_whenever_a_consumer_is_killed_the_next_carries_on(
    moment: Moment, chunk_operations: int, logs: list[MutableMapping[str, Any]]
) -> None:
    for strike in strikes("killed", moment):
        rig = build_rig()
        await rig.submit(build_operations(*PATHS), chunk_operations)
        await run_until_struck_dead(rig, strike)
        if strike.call is None:
            break
        rig.clock.advance(31)
        await rig.work_off()
        try:
            await assert_everything_is_as_promised(rig)
        except AssertionError as error:
            raise AssertionError(f"killed {moment} call {strike.at}, {strike.call}") from error
    assert strike.at > 20
    logs.clear()


@pytest.mark.parametrize("chunk_operations", [3, 100, *full([1])])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_whichever_call_fails_it_is_repeated_and_no_attempt_is_used_up(
    moment: Moment, chunk_operations: int
) -> None:
    for strike in strikes("unavailable", moment):
        rig = build_rig()
        await rig.submit(build_operations(*PATHS), chunk_operations)
        await rig.work_off(rig.consumer(strike))
        if strike.call is None:
            break
        try:
            await assert_everything_is_as_promised(rig)
            assert_no_attempt_was_used_up(rig, strike)
        except AssertionError as error:
            raise AssertionError(f"unavailable {moment} call {strike.at}, {strike.call}") from error
    assert strike.at > 20


def assert_no_attempt_was_used_up(rig: Rig, strike: Strike) -> None:
    match strike.call, strike.moment:
        case "chunks.receive", "after":
            return  # deliveries whose answer is lost are nobody's until their lease ends, and look like deaths then
        case "chunks.send", "after":
            assert set(rig.attempts) == set(ATTEMPTS)  # the chunk is on the queue twice, and both may run at once
        case _:
            assert sorted(rig.attempts) == ATTEMPTS


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_consumers_may_be_killed_one_after_another(moment: Moment, logs: list[MutableMapping[str, Any]]) -> None:
    """Each successor dies a few calls later than the one before: however many die, the batch comes to its end."""
    for step in range(7, 30):
        rig = build_rig()
        await rig.submit(build_operations(*PATHS), 3)
        for at in itertools.count(step, step):
            strike = Strike(at, moment, "killed")
            await run_until_struck_dead(rig, strike)
            rig.clock.advance(31)
            if strike.call is None:
                break
        assert rig.parts.chunks.messages == []
        assert set(rig.statuses()) == set(STATUSES)
        assert (await rig.counts()).completed == len(PATHS)
        assert (await rig.batch()).is_final
    logs.clear()


class Chaos:
    """Seeded trouble for many consumers at once: calls fail, take so long that leases end, or kill their process."""

    def __init__(self, rig: Rig, draw: random.Random) -> None:
        self._rig = rig
        self._draw = draw
        self.is_over = False
        self.completed = 0

    def watch(self) -> "_OneLife":
        return _OneLife(self)

    def strike(self, life: "_OneLife") -> None:
        self._check_counts()
        if self.is_over:
            return
        match self._draw.random():
            case fate if fate < 0.004:
                life.is_dead = True
                raise Killed
            case fate if fate < 0.03:
                raise Unavailable("AWS does not answer.")
            case fate if fate < 0.045:
                self._rig.clock.advance(31)

    def _check_counts(self) -> None:
        """At any moment: what is counted only grows, and never runs ahead of what is recorded."""
        completed = sum(group.counts.completed for group in self._rig.parts.store._groups.values())
        assert self.completed <= completed <= len(self._rig.outcomes())
        self.completed = completed


@dataclass
class _OneLife:
    chaos: Chaos
    is_dead: bool = False

    def __call__(self, call: str, moment: Moment) -> None:
        if self.is_dead:
            raise Killed
        self.chaos.strike(self)


@pytest.mark.parametrize("seed", [*range(8), *full(range(8, 30))])
async def test_in_all_chaos_every_operation_comes_to_one_counted_end(
    seed: int, logs: list[MutableMapping[str, Any]]
) -> None:
    draw = random.Random(seed)
    rig = build_rig()
    paths = [draw.choice(PATHS) for _ in range(draw.randint(3, 25))]
    await rig.submit(build_operations(*paths), draw.randint(1, 8))
    await rig.parts.chunks.send([Message(encode_chunk(chunk)) for chunk in rig.chunks if draw.random() < 0.3])
    chaos = Chaos(rig, draw)
    lives = [chaos.watch() for _ in range(3)]
    consumers = [rig.consumer(life) for life in lives]
    for turn in range(MOST_CALLS):
        if not rig.parts.chunks.messages:
            break
        if not await rig.parts.chunks.depth():
            rig.clock.advance(31)
        chaos.is_over = turn > 200
        await asyncio.gather(*map(take_turn, consumers), return_exceptions=True)
        for number, life in enumerate(lives):
            if life.is_dead:
                await abandon(consumers[number])
                lives[number] = chaos.watch()
                consumers[number] = rig.consumer(lives[number])
    assert rig.parts.chunks.messages == []
    await assert_every_operation_has_its_end(rig, len(paths))
    sent = next(rig.parts.chunks._numbers)
    assert sent < 4 * len(rig.parts.store._records) + 20  # duplicates die out
    logs.clear()


async def assert_every_operation_has_its_end(rig: Rig, total: int) -> None:
    statuses = rig.statuses()
    assert len(statuses) == total
    failed = {(operation_id, status) for operation_id, status in statuses.items() if status >= 400}
    assert await rig.counts() == Counts(succeeded=total - len(failed), failed=len(failed))
    assert set(rig.failures()) == failed
    assert (await rig.batch()).is_final
