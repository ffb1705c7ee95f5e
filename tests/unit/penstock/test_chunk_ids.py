"""The set of the chunks that are counted: exact, and small however many there are."""

import random

import pytest

from penstock.chunk import follow_up_id
from penstock.chunk_ids import ChunkIds

SOME = ["17", "17.0.1.5", "17.0.2.5", "17.0.4.5", "17.0.2.9", "17.d1", "17.d1.0.1.5", "17.1.1", "18"]


def test_set_has_its_members_and_no_others() -> None:
    ids = ChunkIds(SOME)
    assert set(ids) == set(SOME)
    assert frozenset(SOME) == ids  # type: ignore[comparison-overlap]
    assert (len(ids), sorted(ids)) == (len(SOME), sorted(SOME))
    assert all(chunk_id in ids for chunk_id in SOME)
    for other in ("1", "17.0.3.5", "17.0.1.9", "17.0.0.5", "17.0.01.5", "17.0.1", "17.d1.0.2.5", "19", None, 17):
        assert other not in ids


@pytest.mark.parametrize("seed", range(20))
def test_ids_are_included_in_any_order_and_survive_the_encoding(seed: int) -> None:
    draw = random.Random(seed)
    universe = [*SOME, *(f"17.0.{number}.{index}" for number in range(1, 30) for index in (0, 7))]
    ids, expected = ChunkIds(), set[str]()
    for _ in range(15):
        some = draw.sample(universe, draw.randrange(8))
        ids, expected = ChunkIds.decode(ids.including(some).encode()), expected | set(some)
        assert set(ids) == expected
        assert ids == ChunkIds(expected)
        assert {chunk_id for chunk_id in universe if chunk_id in ids} == expected


def test_set_that_gets_more_ids_is_another_one() -> None:
    few = ChunkIds(["17"])
    assert set(few.including(["17.0.1.5"])) == {"17", "17.0.1.5"}
    assert set(few) == {"17"}


def test_chunks_that_were_followed_ten_thousand_times_take_a_few_bytes_each() -> None:
    chunk_ids = [str(number) for number in range(0, 64, 8)]
    ids = ChunkIds(chunk_ids)
    for _ in range(10_000):
        chunk_ids = [follow_up_id(chunk_id, 200 * number) for number, chunk_id in enumerate(chunk_ids)]
        ids = ids.including(chunk_ids)
    assert len(ids) == 8 * 10_001
    assert len(ids.encode()) < 1_024 / 8


@pytest.mark.full
def test_group_whose_chunks_are_all_split_into_single_operations_stays_far_below_an_item() -> None:
    """64 chunks of 1,000 operations each, split in half until every operation is alone."""
    ids = [str(number) for number in range(64)]
    layer = [(str(number), range(1_000 * number, 1_000 * (number + 1))) for number in range(64)]
    while layer:
        halves = [(name, half) for name, run in layer if len(run) > 1 for half in _halves(run)]
        layer = [(follow_up_id(name, half.start), half) for name, half in halves]
        ids += [name for name, _ in layer]
    assert len(ids) == 64 * 1_999
    assert len(ChunkIds(ids).encode()) < 100_000


def _halves(run: range) -> tuple[range, range]:
    middle = len(run) // 2
    return run[:middle], run[middle:]
