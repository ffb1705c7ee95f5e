"""Teeth: each fault that is put into Penstock on purpose is found by some seed, which passes without it."""

import itertools

import pytest

from tests.simulation.mixes import MIXES
from tests.simulation.mutations import MUTATIONS, MUTATIONS_AT_CALLS, Mutation
from tests.simulation.scenario import run_seed
from tests.simulation.situations import SITUATIONS, Hit, Situation, play
from tests.simulation.world import PromiseBroken

SEEDS = 300  # of a mix, at most; most faults are found within ten


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_found(name: str) -> None:
    seed = _seed_that_finds(MUTATIONS[name])
    assert seed is not None, f"{name} goes unnoticed for {SEEDS} seeds of the mix {MUTATIONS[name].mix!r}"
    run_seed(seed)


@pytest.mark.parametrize("name", MUTATIONS_AT_CALLS)
def test_mutation_is_found_where_a_call_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it they all pass: see test_crash_points.py."""
    calls = len(play(SITUATIONS[name]).calls)
    MUTATIONS_AT_CALLS[name](monkeypatch)
    assert any(_is_broken_by(SITUATIONS[name], {number: hit}) for number, hit in itertools.product(range(calls), Hit))


def _is_broken_by(situation: Situation, hits: dict[int, Hit]) -> bool:
    try:
        play(situation, hits)
    except PromiseBroken:
        return True
    return False


def _seed_that_finds(mutation: Mutation) -> int | None:
    place = next(number for number, mix in enumerate(MIXES) if mix.name == mutation.mix)
    with pytest.MonkeyPatch.context() as patching:
        mutation.patch(patching)
        for seed in range(place, place + SEEDS * len(MIXES), len(MIXES)):
            try:
                run_seed(seed)
            except PromiseBroken:
                return seed
    return None
