"""The wait before another attempt stays within its bounds, whatever the attempt."""

import pytest

from penstock.backoff import Backoff

ALMOST_ONE = 1 - 2**-53  # the largest number that random() draws


@pytest.mark.parametrize(
    ("attempt", "bound"),
    [
        (1, 2),
        (2, 4),
        (3, 8),
        (6, 64),
        (7, 100),  # 128, were it not for the limit
        (65, 100),
        (2_000, 100),  # 2.0**2000 would overflow
        (10**9, 100),
    ],
)
def test_each_bound_is_twice_the_last_up_to_the_limit(attempt: int, bound: float) -> None:
    backoff = Backoff(base_seconds=2, max_seconds=100)
    assert backoff.delay_seconds(attempt, 0.0) == 0
    assert backoff.delay_seconds(attempt, 0.5) == bound / 2
    assert backoff.delay_seconds(attempt, ALMOST_ONE) <= bound


def test_no_wait_where_none_is_set() -> None:
    assert Backoff(base_seconds=0, max_seconds=300).delay_seconds(50, ALMOST_ONE) == 0


def test_limit_below_the_first_bound_holds_for_the_first_wait_too() -> None:
    assert Backoff(base_seconds=3_600, max_seconds=10).delay_seconds(1, ALMOST_ONE) <= 10
