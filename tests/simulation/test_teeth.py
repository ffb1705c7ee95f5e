"""Teeth: each fault that is put into Penstock on purpose is found within a few seeds, and without it they all pass."""

import pytest

from tests.simulation.mixes import MIXES
from tests.simulation.mutations import MUTATIONS
from tests.simulation.scenario import run_seed
from tests.simulation.world import PromiseBroken

SEEDS = 60  # within so many of a mix a mutation is found


def seeds_of(mix_name: str) -> range:
    place = next(number for number, mix in enumerate(MIXES) if mix.name == mix_name)
    return range(place, place + SEEDS * len(MIXES), len(MIXES))


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    mutation.patch(monkeypatch)
    for seed in seeds_of(mutation.mix):
        try:
            run_seed(seed)
        except PromiseBroken:
            return
    pytest.fail(f"{name} went unnoticed for {SEEDS} seeds of the mix {mutation.mix!r}")


@pytest.mark.parametrize("mix_name", sorted({mutation.mix for mutation in MUTATIONS.values()}))
def test_without_mutation_the_same_seeds_pass(mix_name: str) -> None:
    for seed in seeds_of(mix_name):
        run_seed(seed)
