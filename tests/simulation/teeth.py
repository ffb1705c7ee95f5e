"""Checks that each fault put into Penstock on purpose is found, and searches for a seed or a call that finds it."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.simulation.mixes import LARGE_MIXES, MIXES, mix_named
from tests.simulation.mutations import MUTATIONS, MUTATIONS_AT_CALLS, Mutation, MutationAtCall
from tests.simulation.scenario import run_seed
from tests.simulation.situations import SITUATIONS, Hit, play
from tests.simulation.world import PromiseBroken

SEEDS = 300  # of a mix, at most; most faults are found within ten
SETTLE_SECONDS = 3600.0  # some faults are found by work that never ends, and waiting for it takes most of the time


def mix_of(mutation: Mutation) -> str:
    """Return the mix that the mutation's seed is played with. The large mixes may have any seed."""
    is_large = mutation.mix in {mix.name for mix in LARGE_MIXES}
    return mutation.mix if is_large else MIXES[mutation.seed % len(MIXES)].name


def is_found(mutation: Mutation, seed: int) -> bool:
    with pytest.MonkeyPatch.context() as patching:
        mutation.patch(patching)
        return _breaks_a_promise(lambda: play_seed(seed, mutation.mix))


def play_seed(seed: int, mix: str) -> None:
    """Raises PromiseBroken."""
    run_seed(seed, mix_named(mix), SETTLE_SECONDS)


def is_found_at(mutation: MutationAtCall, call: int, hit: Hit) -> bool:
    with pytest.MonkeyPatch.context() as patching:
        mutation.patch(patching)
        return _breaks_a_promise(lambda: play(SITUATIONS[mutation.situation], {call: hit}))


def _breaks_a_promise(run: Callable[[], object]) -> bool:
    try:
        run()
    except PromiseBroken:
        return True
    return False


def find_seed(mutation: Mutation) -> int | None:
    """Return the first seed of the mutation's mix that finds it."""
    place = next((number for number, mix in enumerate(MIXES) if mix.name == mutation.mix), 0)
    seeds = range(place, place + SEEDS * len(MIXES), len(MIXES))
    return next((seed for seed in seeds if is_found(mutation, seed)), None)


def find_call(mutation: MutationAtCall) -> tuple[int, Hit] | None:
    """Return the first call of the mutation's situation at which it is found, and what must happen there."""
    calls = len(play(SITUATIONS[mutation.situation]).calls)
    places = itertools.product(range(calls), Hit)
    return next((place for place in places if is_found_at(mutation, *place)), None)


def check_teeth() -> Iterator[tuple[str, str, bool]]:
    """Yield for each mutation its name, what finds it, and whether that is what `mutations.py` stores."""
    for name, mutation in MUTATIONS.items():
        is_stored = mix_of(mutation) == mutation.mix and is_found(mutation, mutation.seed)
        seed = mutation.seed if is_stored else find_seed(mutation)
        yield name, "nothing finds it" if seed is None else f"seed {seed}", is_stored
    for name, at_call in MUTATIONS_AT_CALLS.items():
        is_stored = is_found_at(at_call, at_call.call, at_call.hit)
        place = (at_call.call, at_call.hit) if is_stored else find_call(at_call)
        yield name, "nothing finds it" if place is None else f"call {place[0]}, Hit.{place[1].name}", is_stored
