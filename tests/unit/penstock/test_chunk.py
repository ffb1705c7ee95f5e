"""How operations are cut into chunks: by count, by bytes, and every operation into exactly one."""

import itertools
import math
import random

import pytest

from penstock.chunk import (
    GROUP_CHUNKS,
    QUICK_SECONDS,
    UNMEASURED_SECONDS,
    Chunk,
    Fit,
    Planner,
    follow_up_id,
    from_sort_key,
    group_of,
    next_round_id,
    plan_groups,
    planned_number,
    redriven_from,
    sort_key,
)

SEEDS = range(20)


def plan_chunks(sizes: list[int], *, max_operations: int, max_bytes: int) -> list[range]:
    """The operations of each chunk."""
    planner = Planner(Fit(max_operations, max_bytes, seconds=1, least_chunks=1))
    begun = [index for index, size in enumerate(sizes) if planner.begins_chunk(size, 0)]
    assert begun == list(planner.starts)
    return [range(start, end) for start, end in itertools.pairwise([*begun, len(sizes)])]


@pytest.mark.parametrize("seed", SEEDS)
def test_operations_added_together_are_cut_like_those_added_one_by_one(seed: int) -> None:
    draw = random.Random(seed)
    fit = Fit(draw.choice([1, 7, 50]), draw.choice([100, 1_000]), seconds=draw.choice([0.5, 5]), least_chunks=8)
    one_by_one, together = Planner(fit), Planner(fit)
    for _ in range(20):
        expected_seconds = draw.uniform(0, 100)
        for planner in (one_by_one, together):
            planner.expect(expected_seconds)
        sizes = [draw.randrange(100) for _ in range(draw.randrange(40))]
        seconds = [draw.choice([0, 0.01, 0.2, 9]) for _ in sizes]
        added = [one_by_one.begins_chunk(*one) for one in zip(sizes, seconds, strict=True)]
        assert together.cut(sizes, seconds) == [place for place, begins in enumerate(added) if begins]
    assert together.starts == one_by_one.starts
    assert together.total == one_by_one.total


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


def lengths_by_time(seconds: list[float], fit: Fit, batch_seconds: float | None = None) -> list[int]:
    planner = Planner(fit)
    planner.expect(sum(seconds) if batch_seconds is None else batch_seconds)
    for one in seconds:
        planner.begins_chunk(1, one)
    return [end - start for start, end in itertools.pairwise([*planner.starts, len(seconds)])]


@pytest.mark.parametrize(
    ("seconds", "least_chunks", "lengths"),
    [
        ([0.02] * 300, 1, [100, 100, 100]),
        ([0.5] * 9, 1, [5, 4]),
        ([1.5] * 3, 1, [2, 1]),
        ([5.0] * 3, 1, [1, 1, 1]),  # one does, and goes alone
        ([0.1, 5.0, 0.1, 0.1], 1, [1, 1, 2]),
        ([0.0001] * 2_500, 1, [1_000, 1_000, 500]),  # as many as are allowed
        ([1.0] * 8, 4, [2, 2, 2, 2]),
        ([1.0] * 8, 16, [1] * 8),
        ([0.02] * 1_000, 16, [63, 62] * 8),  # so that every consumer finds one
        ([0.005] * 1_000, 16, [125] * 8),  # fewer chunks for less work, because each costs requests
        ([0.001] * 1_000, 16, [250] * 4),
        ([0.02] * 20, 16, [10] * 2),
        ([0.001] * 100, 16, [100]),  # it does not pay to distribute 0.1 s of work
        ([0.0055] * 10_000, 16, [417, 416, 417] * 8),  # a multiple of 8, so that consumers finish at the same time
        ([0.5] * 1_000, 16, [4] * 250),  # a long batch needs no equal shares
        ([0.501] * 100, 4, [4] * 25),  # not 3, although 4 take a little longer than the target time
        ([0.0001] * 1_000, 16, [1_000]),
        ([0.0] * 1_500, 16, [1_000, 500]),
    ],
)
def test_chunks_aim_at_a_time_and_leave_enough_of_them(
    seconds: list[float], least_chunks: int, lengths: list[int]
) -> None:
    assert lengths_by_time(seconds, Fit(1_000, 1_000_000, seconds=2, least_chunks=least_chunks)) == lengths


@pytest.mark.parametrize("seed", SEEDS)
def test_chunks_take_about_their_target_time(seed: int) -> None:
    draw = random.Random(seed)
    fit = Fit(1_000, 1_000_000, seconds=draw.uniform(0.2, 5), least_chunks=draw.randint(1, 40))
    seconds = [draw.expovariate(1 / draw.choice([0.0001, 0.02, 0.5])) for _ in range(draw.randint(1, 2_000))]
    aim = fit.aim(sum(seconds))
    assert QUICK_SECONDS <= aim <= fit.seconds * 1.2 + QUICK_SECONDS
    lengths = lengths_by_time(seconds, fit)
    assert sum(lengths) == len(seconds)
    ends = list(itertools.accumulate(lengths))
    chunks = [seconds[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    for chunk, following in itertools.pairwise(chunks):
        assert len(chunk) == 1 or sum(chunk) - chunk[-1] / 2 <= aim * 9 / 8 + 1e-6
        assert len(chunk) == 1_000 or sum(chunk) + following[0] / 2 >= aim * 7 / 8 - 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_operations_make_equal_chunks_without_a_small_one_at_the_end(seed: int) -> None:
    draw = random.Random(seed)
    count, each = draw.randint(100, 5_000), draw.uniform(0.001, 0.02)
    fit = Fit(5_000, 1_000_000, seconds=2, least_chunks=16)
    lengths = lengths_by_time([each] * count, fit)
    assert len(lengths) == pytest.approx(count * each / fit.aim(count * each), abs=0.5)
    assert max(lengths) - min(lengths) <= 1


def test_batch_of_unknown_size_counts_as_large() -> None:
    assert lengths_by_time([0.02] * 200, Fit(1_000, 1_000_000, 2, least_chunks=16), math.inf) == [100, 100]


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
        ("65.0.1000.203", 65, 1),
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
        ("17.0.2.203", None),
        ("17.0.2.203.d1", "17.0.2.203"),
        ("17.d1.0.2.203", "17"),
        ("17.d1.0.2.203.d2", "17.d1.0.2.203"),
    ],
)
def test_redriven_chunk_says_whose_failures_it_runs_again(chunk_id: str, origin: str | None) -> None:
    assert redriven_from(chunk_id) == origin


@pytest.mark.parametrize(
    ("chunk_id", "followed_by"),
    [
        ("17", "17.0.1.203"),
        ("17.0.1.203", "17.0.2.203"),
        ("17.0.9999.7", "17.0.10000.203"),
        ("17.d1", "17.d1.0.1.203"),
        ("17.0.3.7.d1", "17.0.3.7.d1.0.1.203"),
        # an earlier version made these, from an id of its own and from one of ours
        ("17.1.1", "17.1.1.0.1.203"),
        ("17.0.3.7.1", "17.0.3.7.1.0.1.203"),
    ],
)
def test_follow_up_is_named_by_its_steps_and_its_first_operation(chunk_id: str, followed_by: str) -> None:
    assert follow_up_id(chunk_id, 203) == followed_by


def test_rounds_of_a_dead_letter_have_every_second_number() -> None:
    assert next_round_id("17.d1") == "17.d3"
    assert next_round_id("17.0.2.5.d2.d8") == "17.0.2.5.d2.d10"
    assert [next_round_id(chunk_id) for chunk_id in ("17", "17.0.1.5", "17.d1.0.1.5", "17.d1.2")] == [None] * 4
    assert redriven_from("17.d3") == redriven_from("17.d3.0.1.5") == "17"


def test_ids_stay_short_however_often_a_chunk_is_followed() -> None:
    chunk_id = "17"
    for _ in range(10_000):
        chunk_id = follow_up_id(chunk_id, 999_999)
    assert chunk_id == "17.0.10000.999999"


def test_chunks_are_sorted_by_their_operations_and_each_before_its_follow_ups() -> None:
    ids = [
        "2",
        "17",
        "17.0.2.5",
        "17.0.10.5",
        "17.0.10.5.d1",
        "17.0.10.5.d1.0.1.5",
        "17.0.10.40",
        "17.1",
        "17.d1",
        "100",
    ]
    assert sorted(ids, key=sort_key) == ids
    assert [from_sort_key(sort_key(chunk_id)) for chunk_id in ids] == ids


@pytest.mark.parametrize(
    ("batch_operations", "chunk_operations"),
    [(math.inf, 1_200), (100_000, 12_500), (10_000, 1_250), (2_000, 250), (1_000, 125), (101, 12.6)],
)
def test_unmeasured_batch_is_spread_if_it_is_small_and_has_full_chunks_if_it_is_large(
    batch_operations: float, chunk_operations: float
) -> None:
    fit = Fit(1_000, 2**20, seconds=2, least_chunks=16)
    seconds = fit.unmeasured_seconds(batch_operations)
    assert fit.aim(batch_operations * seconds) / seconds == pytest.approx(chunk_operations, abs=0.5)
    assert fit.unmeasured_seconds(0) == pytest.approx(UNMEASURED_SECONDS)
