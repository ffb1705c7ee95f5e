"""Teeth: each fault that is put into Penstock on purpose is found by some seed, which passes without it."""

import pytest

from tests.simulation.mixes import MIXES
from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.scenario import run_seed
from tests.simulation.world import PromiseBroken

SEEDS = 300  # of a mix, at most; most faults are found within ten


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_found(name: str) -> None:
    seed = _seed_that_finds(MUTATIONS[name])
    assert seed is not None, f"{name} goes unnoticed for {SEEDS} seeds of the mix {MUTATIONS[name].mix!r}"
    run_seed(seed)


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
