"""A histogram in little room: quantiles within its stated error, count, total and largest exact."""

import math
import random
from collections.abc import Callable

import pytest

from penstock.metrics.histogram import BUCKETS_PER_DECADE, RELATIVE_ERROR, SMALLEST, Histogram, upper_bound

SHARES = [0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]
ROUNDING = 1e-9

SPREADS: dict[str, Callable[[random.Random], float]] = {
    "even": lambda chance: chance.uniform(0.001, 1),
    "many quick, few slow": lambda chance: chance.lognormvariate(-5, 2),
    "memoryless": lambda chance: chance.expovariate(10),
    "all the same": lambda _: 0.0421,
    "two kinds": lambda chance: chance.choice([0.0002, 30.0]),
    "hours": lambda chance: chance.uniform(3_600, 86_400),
}


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def exact_quantile(values: list[float], share: float) -> float:
    """By nearest rank."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("count", [1, 7, 5_000])
def test_quantiles_are_within_the_error(spread: str, share: float, count: int) -> None:
    chance = random.Random(f"{spread} {count}")
    values = [SPREADS[spread](chance) for _ in range(count)]
    exact = exact_quantile(values, share)
    assert abs(filled(values).quantile(share) - exact) <= exact * (RELATIVE_ERROR + ROUNDING)


def test_error_is_below_five_percent() -> None:
    assert RELATIVE_ERROR < 0.05


def test_count_total_mean_and_largest_are_exact() -> None:
    histogram = filled([0.5, 0.25, 4.0])
    assert (histogram.count, histogram.total, histogram.largest) == (3, 4.75, 4.0)
    assert histogram.mean == pytest.approx(4.75 / 3)


def test_empty_one_answers_nothing_but_zeros() -> None:
    histogram = Histogram()
    assert (histogram.count, histogram.mean, histogram.largest, histogram.quantile(0.99)) == (0, 0.0, 0.0, 0.0)
    assert list(histogram.values()) == []


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-12, SMALLEST])  # clocks may stand still, or be set back
def test_what_is_too_small_to_tell_shares_the_first_bucket(value: float) -> None:
    histogram = filled([value])
    assert histogram.buckets == {0: 1}
    assert histogram.quantile(0.5) <= SMALLEST


@pytest.mark.parametrize("exponent", range(-5, 6))
def test_every_power_of_ten_is_a_bound(exponent: int) -> None:
    bucket = (exponent + 6) * BUCKETS_PER_DECADE
    assert upper_bound(bucket) == pytest.approx(10.0**exponent)
    assert filled([10.0**exponent]).buckets == {bucket: 1}
    assert filled([10.0**exponent * 1.0001]).buckets == {bucket + 1: 1}


def test_values_stand_for_all_in_their_order() -> None:
    values = list(filled([1.0, 0.01, 0.01, 1.0, 1.0]).values())
    assert [count for _, count in values] == [2, 3]
    assert [value for value, _ in values] == pytest.approx([0.01, 1.0], rel=RELATIVE_ERROR)


def test_no_value_is_above_the_largest() -> None:
    assert max(value for value, _ in filled([1.0001]).values()) == 1.0001


def test_merged_is_as_if_all_had_been_added_to_one() -> None:
    first, second = [0.1, 0.2, 3.0], [0.15, 7.0]
    merged = filled(first)
    merged.merge(filled(second))
    together = filled(first + second)
    assert merged.buckets == together.buckets
    assert merged.total == pytest.approx(together.total)
    assert merged.largest == together.largest


def test_counts_up_to_a_bound() -> None:
    histogram = filled([0.001, 0.0011, 0.5])
    assert [histogram.count_up_to(bucket) for bucket in (0, 72, 73, 200)] == [0, 1, 2, 3]


@pytest.mark.parametrize("values", [[0.5], [0.001, 0.0, 7.5, 0.001, 1e-9]])
def test_values_can_be_added_together(values: list[float]) -> None:
    together = Histogram()
    together.add(1.0)
    together.add_all(values)
    one_by_one = filled([1.0, *values])
    assert together.buckets == one_by_one.buckets
    assert together.total == pytest.approx(one_by_one.total)
    assert together.largest == one_by_one.largest
