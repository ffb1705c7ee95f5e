"""Every crash point: for each AWS call of a small batch in each situation, a crash just before and just after it.

Each call also fails once before it takes effect, and once after. A process that dies is replaced, and all promises must
hold. Each call of an undisturbed run is hit once in each way, with two exceptions. A step that is repeated often, as by
another attempt, is hit every second time. Polls of idle queues are hit in the first and in the last round of them.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

from penstock.priority import Priority
from tests.simulation.situations import CRASHES, FAILURES, SITUATIONS, Hit, Situation, play
from tests.simulation.world import PromiseBroken
from tests.support.full import full

pytestmark = pytest.mark.timeout(600)

RECOVERY_CALLS = 5
ROUND = len(Priority)  # an idle consumer polls one queue after another
FEW_TIMES = 3  # a step that is taken more often than this is hit every second time

# `make test` has a batch that runs, one whose consumer dies, and one without a consumer. A full run has all of them.
HIT = [name for name, situation in SITUATIONS.items() if not situation.kills_by_itself]
FEW = ["all well", "its consumer dies", "answered at once"]
LATE = [
    "all well",
    "some fail",
    "answered at once",
    "handed over",
    "same key until it is answered",
    "same key for later",
]


@pytest.mark.parametrize("hit", [*CRASHES, *FAILURES], ids=lambda hit: hit.name.lower())
@pytest.mark.parametrize("name", [*FEW, *full(name for name in HIT if name not in FEW)])
def test_promises_hold_whichever_call_is_hit(name: str, hit: Hit) -> None:
    situation = SITUATIONS[name]
    undisturbed = play(situation)
    assert undisturbed.seen[situation.shows], f"{name} did not come about"
    broken = [words for number in points_of(undisturbed.calls) if (words := _broken(situation, {number: hit}))]
    assert not broken, "\n\n".join(broken)


@pytest.mark.parametrize("name", [*full(LATE[:-1]), LATE[-1]])
def test_promises_hold_when_a_call_takes_effect_long_after_its_process_died(name: str) -> None:
    situation = SITUATIONS[name]
    points = points_of(play(situation).calls)
    broken = [words for number in points if (words := _broken(situation, {number: Hit.CRASH_LONG_BEFORE}))]
    assert not broken, "\n\n".join(broken)


@pytest.mark.full
@pytest.mark.parametrize("name", ["all well", "some fail", "handed over"])
def test_promises_hold_when_the_recovery_crashes_too(name: str) -> None:
    """Each pair of a crash and a second one within the next calls, when its successor picks up the work."""
    count = len(play(SITUATIONS[name]).calls)
    pairs = [(first, first + later) for first in range(count) for later in range(1, RECOVERY_CALLS + 1)]
    broken = [
        words
        for (first, second), hit in itertools.product(pairs, CRASHES)
        if (words := _broken(SITUATIONS[name], {first: hit, second: hit}))
    ]
    assert not broken, "\n\n".join(broken)


def points_of(calls: Sequence[str]) -> list[int]:
    """Return the numbers of the calls to hit.

    A step is a call with the one before it, whichever process of a program makes them. A step that is repeated often is
    hit every second time, and the last time.
    """
    steps: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    kinds = [_kind_of(call) for call in calls]
    for number in _without_idle_polls(calls):
        steps[kinds[number - 1] if number else "", kinds[number]].append(number)
    hit = [numbers if len(numbers) <= FEW_TIMES else [*numbers[:-1:2], numbers[-1]] for numbers in steps.values()]
    return sorted(itertools.chain(*hit))


def _kind_of(call: str) -> str:
    """Return the action and the program that made the call, without the number of its process."""
    process, _, action = call.partition(" ")
    return f"{process.partition('-')[0]} {action}"


def _without_idle_polls(calls: Sequence[str]) -> Iterator[int]:
    """Yield the numbers of all calls. Of a long run of idle polls, yield the first and the last round."""
    start = 0
    for call, run in itertools.groupby(calls):
        numbers = range(start, start + len(list(run)))
        start = numbers.stop
        is_idle = call.endswith(" ReceiveMessage") and len(numbers) > 2 * ROUND
        yield from [*numbers[:ROUND], *numbers[-ROUND:]] if is_idle else numbers


def test_polls_of_an_idle_consumer_are_hit_at_both_ends() -> None:
    polls, work = "consumer-0.1 ReceiveMessage", "consumer-0.1 PutItem"
    assert list(_without_idle_polls([work, *[polls] * 8, work])) == [0, 1, 2, 3, 6, 7, 8, 9]
    assert list(_without_idle_polls([*[polls] * 6, *[work] * 9])) == list(range(15))


def test_steps_that_are_repeated_are_hit_every_second_time_and_at_both_ends() -> None:
    attempt = ["consumer-0.{} GetItem", "consumer-0.{} PutItem"]
    calls = [call.format(number) for number in range(6) for call in attempt]
    assert points_of(calls[:6]) == list(range(6))
    assert points_of(["service-0.1 PutItem", *calls]) == [0, 1, 2, 3, 6, 7, 10, 11, 12]


def _broken(situation: Situation, hits: dict[int, Hit]) -> str | None:
    try:
        play(situation, hits)
    except PromiseBroken as error:
        places = ", ".join(f"{hit.name} at call {number}" for number, hit in hits.items())
        return f"{places}:\n{error}"
    return None
