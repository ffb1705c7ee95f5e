"""The moving average of a handler's seconds: it follows a change within a few chunks, and forgives an outlier."""

import pytest

from penstock.pace import MOST_PIECES, ChunkPace, Pace


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


AIM = 2.0


def runs(pace: ChunkPace, count: int, seconds_each: float) -> list[bool]:
    """Let operations end one by one, and return after each of them whether the rest should be handed over."""
    return [pace.observe(1, seconds_each) for _ in range(count)]


def new_pace(operations: int = 1_000, warm_up: int = 10) -> ChunkPace:
    return ChunkPace(operations, warm_up, lambda _each: AIM)


def test_nothing_measured_leaves_the_rest_in_one_piece() -> None:
    assert new_pace().pieces(500) == 1
    assert new_pace().seconds is None


@pytest.mark.parametrize("seconds_each", [0.0, 0.00005, 0.002, 0.0039])
def test_chunk_that_is_a_little_too_long_goes_on(seconds_each: float) -> None:
    assert not any(runs(new_pace(), 1_000, seconds_each))


@pytest.mark.parametrize("seconds_each", [0.005, 0.01, 0.05, 0.5])
def test_slow_chunk_is_cut_once_its_target_time_was_measured(seconds_each: float) -> None:
    pace = new_pace()
    needed = 10 + int(AIM / seconds_each)
    assert not any(runs(pace, needed - 1, seconds_each))
    assert any(runs(pace, int(AIM / seconds_each / 4) + 2, seconds_each))


def test_operation_that_takes_the_target_time_alone_decides_at_once() -> None:
    assert runs(new_pace(), 1, AIM) == [True]


def test_slow_first_operations_decide_nothing() -> None:
    pace = new_pace()
    assert not any(runs(pace, 10, 0.5) + runs(pace, 990, 0.001))
    assert pace.pieces(500) == 1


def test_rest_is_not_cut_by_the_time_of_the_first_operations() -> None:
    pace = new_pace()
    runs(pace, 5, 0.5)
    assert pace.pieces(900) == 1
    runs(pace, 5, 0.5)
    assert pace.pieces(900) == 1


def test_short_chunk_is_not_cut_for_a_rest_that_is_not_worth_it() -> None:
    assert not any(runs(new_pace(16), 16, 0.5))


def test_handler_that_becomes_slower_is_noticed() -> None:
    pace = new_pace()
    assert not any(runs(pace, 500, 0.001))
    assert any(runs(pace, 100, 0.5))


@pytest.mark.parametrize(("seconds_each", "pieces"), [(0.025, 11), (0.5, 225), (3.0, MOST_PIECES), (0.001, 1)])
def test_pieces_take_about_the_target_time(seconds_each: float, pieces: int) -> None:
    pace = new_pace()
    runs(pace, 20, seconds_each)
    assert pace.pieces(900) == pieces
    assert pace.pieces(1) == 1
