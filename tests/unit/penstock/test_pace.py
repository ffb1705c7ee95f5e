"""The moving average of a handler's seconds: it follows a change within a few chunks, and forgives an outlier."""

import pytest

from penstock.pace import Pace


def observed(*chunks: tuple[int, float]) -> Pace:
    """After chunks of so many operations, each of which took so long."""
    pace = Pace()
    for count, seconds_each in chunks:
        pace.observe(count, count * seconds_each)
    return pace


def planned(pace: Pace) -> int:
    """How many operations a chunk of two seconds has next."""
    assert pace.seconds is not None
    return max(1, min(1_000, int(2 / pace.seconds)))


def test_before_anything_is_measured_it_says_nothing() -> None:
    assert Pace().seconds is None
    assert observed((0, 0)).seconds is None


def test_first_chunk_is_taken_as_it_is() -> None:
    assert observed((100, 0.02)).seconds == pytest.approx(0.02)


def test_steady_handler_keeps_its_pace() -> None:
    assert observed(*[(100, 0.02)] * 50).seconds == pytest.approx(0.02)


@pytest.mark.parametrize(("before", "after"), [(0.001, 1.0), (1.0, 0.001), (0.00005, 10.0), (10.0, 0.0001)])
def test_it_follows_a_change_within_a_few_chunks(before: float, after: float) -> None:
    pace = observed(*[(planned(observed((1, before))), before)] * 20)
    for chunk in range(6):
        count = planned(pace)
        if before < after and chunk == 0:
            count = min(count, 30)  # one chunk costs no more than its time budget
        pace.observe(count, count * after)
    assert pace.seconds is not None
    assert after / 3 < pace.seconds < after * 3


def test_one_operation_that_hangs_is_soon_forgotten() -> None:
    pace = observed(*[(100, 0.02)] * 10, (1, 60.0))
    for _ in range(8):
        count = planned(pace)
        pace.observe(count, count * 0.02)
    assert pace.seconds == pytest.approx(0.02, rel=0.5)
