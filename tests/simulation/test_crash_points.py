"""Every crash point: each AWS call of a small batch in each situation, and a crash just before and just after it.

Also each call failing where it stands, before and after its effect. What died is replaced, and all promises must hold.
This is no sample: the calls of an undisturbed run are counted, and each is hit once in each way.
"""

import itertools

import pytest

from tests.simulation.situations import CRASHES, SITUATIONS, Hit, Situation, play
from tests.simulation.world import PromiseBroken

pytestmark = pytest.mark.timeout(600)

RECOVERY_CALLS = 5


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
    """Each pair of a crash and a second one within the next calls, when its successor picks up the work."""
    count = len(play(SITUATIONS[name]).calls)
    pairs = [(first, first + later) for first in range(count) for later in range(1, RECOVERY_CALLS + 1)]
    broken = [
        words
        for (first, second), hit in itertools.product(pairs, CRASHES)
        if (words := _broken(SITUATIONS[name], {first: hit, second: hit}))
    ]
    assert not broken, "\n\n".join(broken)


def _broken(situation: Situation, hits: dict[int, Hit]) -> str | None:
    try:
        play(situation, hits)
    except PromiseBroken as error:
        places = ", ".join(f"{hit.name} at call {number}" for number, hit in hits.items())
        return f"{places}:\n{error}"
    return None
