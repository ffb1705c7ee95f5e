"""Every crash point: for each AWS call of a small batch in each situation, a crash just before and just after it.

Each call also fails once before it takes effect, and once after. A process that dies is replaced, and all promises must
hold. This is not a sample: each call of an undisturbed run is hit once in each way. Only polls of idle queues are
skipped, between the first and the last round of them.
"""

import itertools
from collections.abc import Iterator, Sequence

import pytest

from penstock.priority import Priority
from tests.simulation.situations import CRASHES, SITUATIONS, Hit, Situation, play
from tests.simulation.world import PromiseBroken
from tests.support.full import full

pytestmark = pytest.mark.timeout(600)

RECOVERY_CALLS = 5
ROUND = len(Priority)  # an idle consumer polls one queue after another

# `make test` has a batch that runs, one whose consumer dies, and one without a consumer. A full run has all of them.
FEW = ["all well", "its consumer dies", "answered at once"]


@pytest.mark.parametrize("hit", Hit, ids=lambda hit: hit.name.lower())
@pytest.mark.parametrize("name", [*FEW, *full(name for name in SITUATIONS if name not in FEW)])
def test_promises_hold_whichever_call_is_hit(name: str, hit: Hit) -> None:
    situation = SITUATIONS[name]
    undisturbed = play(situation)
    assert undisturbed.seen[situation.shows], f"{name} did not come about"
    broken = [words for number in points_of(undisturbed.calls) if (words := _broken(situation, {number: hit}))]
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


def points_of(calls: Sequence[str]) -> Iterator[int]:
    """Yield the numbers of the calls to hit.

    Nothing changes between the polls of an idle consumer: of a long run of them the first and the last round are hit.
    """
    start = 0
    for call, run in itertools.groupby(calls):
        numbers = range(start, start + len(list(run)))
        start = numbers.stop
        is_idle = call.endswith(" ReceiveMessage") and len(numbers) > 2 * ROUND
        yield from [*numbers[:ROUND], *numbers[-ROUND:]] if is_idle else numbers


def test_polls_of_an_idle_consumer_are_hit_at_both_ends() -> None:
    polls, work = "consumer ReceiveMessage", "consumer PutItem"
    assert list(points_of([work, *[polls] * 8, work])) == [0, 1, 2, 3, 6, 7, 8, 9]
    assert list(points_of([*[polls] * 6, *[work] * 9])) == list(range(15))


def _broken(situation: Situation, hits: dict[int, Hit]) -> str | None:
    try:
        play(situation, hits)
    except PromiseBroken as error:
        places = ", ".join(f"{hit.name} at call {number}" for number, hit in hits.items())
        return f"{places}:\n{error}"
    return None
