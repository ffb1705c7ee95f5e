"""Ids are unique: duplicates are counted, and the first of them are reported."""

import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing

import pytest

from penstock.service.intake import ids as ids_module
from penstock.service.intake.ids import Duplicate, Ids

MIB = 1024 * 1024


Build = Callable[[Iterable[str | None]], Ids]


@pytest.fixture
def build() -> Iterator[Build]:
    with ExitStack() as stack:

        def build_ids(given: Iterable[str | None]) -> Ids:
            ids = stack.enter_context(closing(Ids()))
            for index, one in enumerate(given):
                ids.add(str(index) if one is None else one)
            return ids

        yield build_ids


@pytest.mark.parametrize(
    ("given", "has_own", "found"),
    [
        ([], False, []),
        ([None, None], False, []),
        (["0", "1"], False, []),  # the same as their indexes
        (["a", None], True, []),
        (["1", None], True, [Duplicate(1, "1", 0)]),  # an index is an id like any other
        ([None, "0"], True, [Duplicate(1, "0", 0)]),
        (["a", "b", "a", "b", "a"], True, [Duplicate(2, "a", 0), Duplicate(3, "b", 1), Duplicate(4, "a", 0)]),
        (["", ""], True, [Duplicate(1, "", 0)]),
        (["\n", "\r", "\n"], True, [Duplicate(2, "\n", 0)]),
    ],
)
async def test_each_operation_with_the_id_of_an_earlier_one_is_found(
    build: Build, given: list[str | None], has_own: bool, found: list[Duplicate]
) -> None:
    ids = build(given)
    assert ids.has_own is has_own
    assert await ids.duplicates(10) == (len(found), found)
    assert ids.has_own is has_own
    assert list(ids) == [str(place) if one is None else one for place, one in enumerate(given)]


@pytest.mark.parametrize("most_undivided", [ids_module.MOST_UNDIVIDED, 2_500, 0])
@pytest.mark.parametrize("seed", range(2))
async def test_all_are_found_among_many(
    build: Build, seed: int, most_undivided: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids_module, "MOST_UNDIVIDED", most_undivided)
    draw = random.Random(seed)
    given = [draw.choice([None, str(draw.randrange(9_000)), f"x{draw.randrange(9_000)}"]) for _ in range(5_000)]
    ids = build(given)
    count, found = await ids.duplicates(5_000)
    names = list(ids)
    assert count == len(found) == sum(Counter(names).values()) - len(set(names))
    assert all(names[one.index] == names[one.first] == one.id and one.first < one.index for one in found)
    assert [one.index for one in found] == sorted({one.index for one in found})


async def test_of_very_many_all_are_counted_and_some_are_named(build: Build) -> None:
    ids = build([f"id-{number % 3_000}" for number in range(6_000)])
    count, found = await ids.duplicates(1_000)
    assert count == 3_000
    assert len(found) == 1_000


async def test_only_so_many_as_asked_for_are_named(build: Build) -> None:
    ids = build(["a"] * 3_000)
    count, found = await ids.duplicates(10)
    assert (count, [one.index for one in found]) == (2_999, list(range(1, 11)))
    assert ids.count_repeated() == 2_999


async def test_ids_whose_digests_meet_are_compared_themselves(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_module, "hash", lambda _: 7, raising=False)
    assert await build(["a", "b", "c"]).duplicates(10) == (0, [])


@pytest.mark.full
async def test_a_hundred_thousand_ids_take_a_few_bytes_each(build: Build) -> None:
    tracemalloc.start()
    try:
        ids = build(f"order-{number:030}" for number in range(100_000))
        kept, _ = tracemalloc.get_traced_memory()
        assert await ids.duplicates(10) == (0, [])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * MIB
    assert peak < 8 * MIB  # while the spool goes from memory to the disk
