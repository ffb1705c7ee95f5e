"""When a batch will finish: a band that is right as often as it says, and that says nothing too early."""

import heapq
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.batch import BatchState
from penstock.eta import SLICES, Band, estimate, estimate_end, slice_at
from tests.support.builders import NOW, build_batch
from tests.support.full import full

TWO_WEEKS = 14 * 24 * 3600.0


def history_of(times: list[float], now: float, operations: int = 1) -> Counter[int]:
    return Counter({number: operations * n for number, n in Counter(slice_at(t) for t in times if t <= now).items()})


def steadily(each_second: float, until: float, start: float = 0.0) -> list[float]:
    return [start + number / each_second for number in range(1, int((until - start) * each_second) + 1)]


def test_slices_become_longer_and_reach_for_two_weeks() -> None:
    assert [slice_at(seconds) for seconds in (-1, 0, 3.9, 4, 4.7, 4.9)] == [0, 0, 0, 1, 1, 2]
    assert slice_at(TWO_WEEKS) < SLICES - 1
    assert slice_at(1e12) == SLICES - 1


@given(st.dictionaries(st.integers(0, 40), st.integers(0, 10**6)), st.floats(0, 10**6), st.integers(0, 10**9))
@settings(max_examples=100, deadline=None, database=None)
def test_band_is_in_order_and_in_the_future(history: dict[int, int], seconds: float, left: int) -> None:
    band = estimate(history, seconds, left)
    assert band is None or 0 < band.earliest <= band.likely <= band.latest


@pytest.mark.parametrize("start", [0.0, 41.0])
def test_a_steady_batch_finishes_when_it_is_said(start: float) -> None:
    """What came before the first outcomes does not count: `start` is the time that programs and caches needed."""
    now = start + 100
    band = estimate(history_of(steadily(10, now, start), now), now, left=500)
    assert band is not None
    assert band.earliest < 50 < band.latest
    assert band.latest - band.earliest < 10
    assert band.likely == pytest.approx(50, rel=0.03)


def test_only_the_last_half_of_a_run_counts() -> None:
    now = 400.0
    slow_then_quick = [*steadily(1, 150), *(150 + t for t in steadily(20, 250))]
    band = estimate(history_of(slow_then_quick, now), now, left=2_000)
    assert band is not None
    assert band.likely == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("pause", [600.0, 3600.0, 36_000.0])
@pytest.mark.parametrize("since", [20.0, 300.0, *full([7_200.0])])
def test_what_came_before_a_pause_does_not_count(pause: float, since: float) -> None:
    """100 a second for ten minutes, a pause, and 100 a second again: 1,200 seconds are left."""
    resumed, now = 600 + pause, 600 + pause + since
    band = estimate(history_of([*steadily(100, 600), *steadily(100, now, resumed)], now), now, left=120_000)
    assert band is None or (band.earliest < 1_320 and band.latest > 1_080 and band.latest < 3_600)


def test_end_is_estimated_again_after_a_pause() -> None:
    now = 600 + 600 + 3_600.0
    history = history_of([*steadily(100, 600), *steadily(100, now, 1_200)], now)
    assert estimate(history, now, left=120_000) is not None


@pytest.mark.parametrize(
    ("seconds", "each_second", "is_known"),
    [(10, 100, False), (20, 100, True), (100, 0.3, False), (200, 1, True), (0, 100, False)],
)
def test_nothing_is_said_too_early(seconds: float, each_second: float, is_known: bool) -> None:
    history = history_of(steadily(each_second, seconds), seconds)
    assert (estimate(history, seconds, 1_000) is not None) is is_known


def test_a_batch_that_stands_still_takes_longer_and_longer() -> None:
    history = history_of(steadily(10, 100), 100)
    bands = [estimate(history, now, 500) for now in (100, 110, 120)]
    likely = [band.likely for band in bands if band is not None]
    assert len(likely) == 3
    assert likely == sorted(likely)
    assert estimate(history, 1_000, 500) is None


def finish_times(draw: random.Random, slots: int, seconds: float, spread: float, chunks: int) -> list[float]:
    """Return when chunks finish that take lognormal times, in slots that start at different times."""
    free = [draw.uniform(0, 20) for _ in range(slots)]
    heapq.heapify(free)
    times = []
    for _ in range(chunks):
        times.append(heapq.heappop(free) + seconds * draw.lognormvariate(0, spread))
        heapq.heappush(free, times[-1])
    return sorted(times)


def test_four_of_five_batches_finish_within_their_band() -> None:
    draw = random.Random(1)
    said = right = 0
    for _ in range(80):
        slots, seconds = draw.choice([1, 4, 10]), draw.choice([1.0, 2.0, 5.0])
        times = finish_times(draw, slots, seconds, draw.choice([0.1, 0.5, 1.0]), int(200 / seconds * slots))
        for share in (0.3, 0.5, 0.7, 0.9):
            now = times[-1] * share
            done = sum(time <= now for time in times)
            band = estimate(history_of(times, now, operations=50), now, 50 * (len(times) - done))
            if band is not None:
                said += 1
                right += now + band.earliest <= times[-1] <= now + band.latest
    assert said > 200
    assert 0.75 <= right / said <= 0.95


def test_only_a_batch_that_runs_has_an_end_and_it_is_not_after_its_deadline() -> None:
    batch = replace(
        build_batch(total=10_000), state=BatchState.PROCESSING, started_at=NOW, deadline_at=NOW + 150, total=10_000
    )
    histories = [history_of(steadily(5, 100), 100), history_of(steadily(5, 100), 100)]
    band = estimate_end(batch, 1_000, histories, NOW + 100)
    assert band is not None
    assert band.likely == band.latest == NOW + 150
    later = estimate_end(replace(batch, deadline_at=NOW + 10_000), 1_000, histories, NOW + 100)
    assert later is not None
    assert later.likely == pytest.approx(NOW + 1_000, abs=20)
    for state in (BatchState.CANCELLING, BatchState.COMPLETED):
        assert estimate_end(replace(batch, state=state), 1_000, histories, NOW + 100) is None
    assert estimate_end(replace(batch, started_at=None), 1_000, histories, NOW + 100) is None
    assert estimate_end(batch, 0, [], NOW + 100) is None


@pytest.mark.parametrize("pause", [60.0, 36_000.0])
def test_pause_of_a_batch_does_not_change_the_band(pause: float) -> None:
    batch = replace(
        build_batch(total=10_000), state=BatchState.PROCESSING, started_at=NOW, deadline_at=NOW + 90_000, total=10_000
    )
    history = [history_of(steadily(10, 100), 100)]
    before, after = (
        estimate_end(replace(batch, paused_seconds=seconds), 1_000, history, NOW + 100 + seconds)
        for seconds in (0.0, pause)
    )
    assert before is not None
    assert after == Band(before.earliest + pause, before.likely + pause, before.latest + pause)
