from itertools import count

import pytest

from penstock.consumer.count_pace import GROUPS_KEPT, MOST_SECONDS, CountPaces

GROUP = ("batch", 0)


def paces(*counts: tuple[int, float]) -> CountPaces:
    """Return what is remembered after counts that found so many completed operations at these times."""
    remembered = CountPaces()
    for completed, at in counts:
        remembered.note(GROUP, completed, at)
    return remembered


def test_without_two_counts_nothing_waits() -> None:
    assert paces().pause(GROUP, 1_000, 0.0) == 0
    assert paces((100, 1.0)).pause(GROUP, 1_000, 1.0) == 0


def test_a_count_waits_for_a_quarter_of_the_time_that_is_left() -> None:
    remembered = paces((100, 1.0), (200, 2.0))  # 100 a second, so 100 more take a second

    assert remembered.pause(GROUP, 300, 2.0) == pytest.approx(0.25)


def test_the_time_since_the_last_count_is_part_of_the_pause() -> None:
    remembered = paces((100, 1.0), (200, 2.0))

    assert remembered.pause(GROUP, 300, 2.125) == pytest.approx(0.125)
    assert remembered.pause(GROUP, 300, 9.0) == 0


def test_chunks_that_are_counted_together_count_once() -> None:
    assert paces((100, 1.0), (200, 2.0), (200, 2.0)).pause(GROUP, 300, 2.0) == pytest.approx(0.25)


def test_no_pause_is_long() -> None:
    assert paces((1, 1.0), (2, 2.0)).pause(GROUP, 1_000_000, 2.0) == MOST_SECONDS


def test_nothing_waits_once_all_are_completed() -> None:
    assert paces((100, 1.0), (200, 2.0)).pause(GROUP, 200, 2.0) == 0


@pytest.mark.parametrize(
    "second", [pytest.param((50, 2.0), id="a redrive subtracts"), pytest.param((200, 1.0), id="at the same time")]
)
def test_counts_that_tell_no_speed_let_nothing_wait(second: tuple[int, float]) -> None:
    assert paces((100, 1.0), second).pause(GROUP, 1_000, 2.0) == 0


def test_the_last_chunk_of_an_even_group_does_not_wait() -> None:
    remembered, completed, now = CountPaces(), 0, 0.0
    for _ in count():
        completed, now = completed + 10, now + 0.1
        pause = remembered.pause(GROUP, 1_000, now)
        if completed == 1_000:
            assert pause == 0
            return
        if pause == 0:
            remembered.note(GROUP, completed, now)


def test_only_the_last_groups_are_remembered() -> None:
    remembered = paces((100, 1.0), (200, 2.0))
    for number in range(GROUPS_KEPT):
        remembered.note(("other", number), 1, 1.0)

    assert remembered.pause(GROUP, 1_000, 2.0) == 0
    assert len(remembered._paces) == GROUPS_KEPT
