"""Every crash point: each AWS call of a small batch in each situation, and a crash just before and just after it.

Also each call failing where it stands, before and after its effect. What died is replaced, and all promises must hold.
This is no sample: the calls of an undisturbed run are counted, and each is hit once in each way.
"""

import itertools

import pytest

from tests.simulation.situations import SITUATIONS, Hit, Situation, play
from tests.simulation.world import PromiseBroken

pytestmark = pytest.mark.timeout(600)

CRASHES = (Hit.CRASH_BEFORE, Hit.CRASH_AFTER)


@pytest.mark.parametrize("hit", Hit, ids=lambda hit: hit.name.lower())
@pytest.mark.parametrize("name", SITUATIONS)
def test_promises_hold_whichever_call_is_hit(name: str, hit: Hit) -> None:
    situation = SITUATIONS[name]
    undisturbed = play(situation)
    assert undisturbed.seen[situation.shows], f"{name} did not come about"
    broken = [words for number in range(len(undisturbed.calls)) if (words := _broken(situation, {number: hit}))]
    assert not broken, "\n\n".join(broken)


@pytest.mark.parametrize("name", ["all well", "some fail", "handed over"])
def test_promises_hold_when_the_recovery_crashes_too(name: str) -> None:
    """Each pair of a crash and a second one at most a dozen calls later, when its successor picks up the work."""
    situation = SITUATIONS[name]
    count = len(play(situation).calls)
    pairs = [(first, first + later) for first in range(count) for later in range(1, 13)]
    broken = [
        words
        for (first, second), hit, other in itertools.product(pairs, CRASHES, CRASHES)
        if (words := _broken(situation, {first: hit, second: other}))
    ]
    assert not broken, "\n\n".join(broken)


def _broken(situation: Situation, hits: dict[int, Hit]) -> str | None:
    try:
        play(situation, hits)
    except PromiseBroken as error:
        places = ", ".join(f"{hit.name} at call {number}" for number, hit in hits.items())
        return f"{places}:\n{error}"
    return None
