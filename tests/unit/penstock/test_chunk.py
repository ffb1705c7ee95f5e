"""How operations are cut into chunks: by count, by bytes, and every operation into exactly one."""

import itertools
import random

import pytest

from penstock.chunk import GROUP_CHUNKS, Chunk, Planner, group_of, plan_groups, planned_number, redriven_from

SEEDS = range(20)


def plan_chunks(sizes: list[int], *, max_operations: int, max_bytes: int) -> list[range]:
    """The operations of each chunk."""
    planner = Planner(max_operations=max_operations, max_bytes=max_bytes)
    begun = [index for index, size in enumerate(sizes) if planner.begins_chunk(size)]
    assert begun == list(planner.starts)
    return [range(start, end) for start, end in itertools.pairwise([*begun, len(sizes)])]


@pytest.mark.parametrize(
    ("sizes", "max_operations", "max_bytes", "lengths"),
    [
        ([], 3, 100, []),  # nothing is planned as nothing, not as one empty chunk
        ([1], 3, 100, [1]),
        ([1] * 3, 3, 100, [3]),  # exactly the count
        ([1] * 4, 3, 100, [3, 1]),  # one more
        ([1] * 6, 3, 100, [3, 3]),
        ([1] * 3, 1, 100, [1, 1, 1]),
        ([50, 50], 3, 100, [2]),  # exactly the bytes
        ([50, 51], 3, 100, [1, 1]),  # one byte more
        ([100, 100], 3, 100, [1, 1]),  # an operation that fills a chunk
        ([100, 1, 1], 3, 100, [1, 2]),
        ([1, 1, 100], 3, 100, [2, 1]),
        ([40, 40, 40, 1], 3, 100, [2, 2]),  # bytes first, and the count starts anew
        ([0, 0, 0, 0], 3, 0, [3, 1]),
    ],
)
def test_chunks_are_as_full_as_the_limits_allow(
    sizes: list[int], max_operations: int, max_bytes: int, lengths: list[int]
) -> None:
    runs = plan_chunks(sizes, max_operations=max_operations, max_bytes=max_bytes)
    assert [len(run) for run in runs] == lengths


@pytest.mark.parametrize("seed", SEEDS)
def test_every_operation_is_in_exactly_one_chunk_that_fits(seed: int) -> None:
    draw = random.Random(seed)
    max_operations, max_bytes = draw.randint(1, 20), draw.randint(10, 500)
    sizes = [draw.randint(1, max_bytes) for _ in range(draw.randint(0, 300))]

    runs = plan_chunks(sizes, max_operations=max_operations, max_bytes=max_bytes)

    assert [index for run in runs for index in run] == list(range(len(sizes)))
    assert all(1 <= len(run) <= max_operations for run in runs)
    assert all(sum(sizes[index] for index in run) <= max_bytes for run in runs)
    for run, following in itertools.pairwise(runs):  # none ends before it must
        is_full = sum(sizes[index] for index in run) + sizes[following.start] > max_bytes
        assert len(run) == max_operations or is_full


@pytest.mark.parametrize(
    ("chunks", "groups"),
    [
        (0, ()),
        (1, (1,)),
        (GROUP_CHUNKS, (64,)),
        (GROUP_CHUNKS + 1, (64, 1)),
        (2 * GROUP_CHUNKS, (64, 64)),
        (130, (64, 64, 2)),
    ],
)
def test_sixty_four_neighbouring_chunks_make_a_group(chunks: int, groups: tuple[int, ...]) -> None:
    assert plan_groups(range(chunks), chunks) == groups


@pytest.mark.parametrize("seed", SEEDS)
def test_group_totals_count_the_operations_whose_chunks_count_in_that_group(seed: int) -> None:
    draw = random.Random(seed)
    runs = plan_chunks([1] * draw.randint(1, 2_000), max_operations=draw.randint(1, 9), max_bytes=100)
    groups = plan_groups([run.start for run in runs], runs[-1].stop)
    totals = [0] * len(groups)
    for number, run in enumerate(runs):
        totals[group_of(str(number))] += len(run)
    assert tuple(totals) == groups


@pytest.mark.parametrize(
    ("chunk_id", "number", "group"),
    [
        ("0", 0, 0),
        ("63", 63, 0),
        ("64", 64, 1),
        ("64.1", 64, 1),
        ("128.2.1", 128, 2),
        ("17.d1", 17, 0),
        ("65.1.d2.1", 65, 1),
    ],
)
def test_whatever_follows_from_a_chunk_counts_in_its_group(chunk_id: str, number: int, group: int) -> None:
    assert planned_number(chunk_id) == number
    assert Chunk("b", chunk_id, 1, ()).group == group


@pytest.mark.parametrize(
    ("chunk_id", "origin"),
    [
        ("17", None),
        ("17.1", None),
        ("17.d1", "17"),
        ("17.1.d2", "17.1"),
        ("17.d1.1", "17"),  # what follows from a redrive still runs the failures of 17
        ("17.d1.2.1", "17"),
        ("17.d1.d1", "17.d1"),  # what failed again, and was redriven again
        ("17.d1.1.d2.1", "17.d1.1"),
    ],
)
def test_redriven_chunk_says_whose_failures_it_runs_again(chunk_id: str, origin: str | None) -> None:
    assert redriven_from(chunk_id) == origin
