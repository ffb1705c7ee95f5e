"""Runs are neighbouring items, as many as two limits allow."""

import pytest

from penstock.runs import in_runs


@pytest.mark.parametrize(
    ("costs", "runs"),
    [
        ([], []),
        ([4], [[4]]),
        ([4, 6, 1], [[4, 6], [1]]),  # a full run
        ([4, 7, 3], [[4], [7, 3]]),
        ([4, 11, 4], [[4], [11], [4]]),  # an item that costs more than a run may
        ([11, 12], [[11], [12]]),
        ([1, 1, 1, 1, 1], [[1, 1, 1], [1, 1]]),  # no more than three items
        ([0, 0, 0, 0], [[0, 0, 0], [0]]),
    ],
)
def test_run_is_as_long_as_its_costs_and_its_items_allow(costs: list[int], runs: list[list[int]]) -> None:
    assert list(in_runs(costs, int, 10, most_items=3)) == runs


def test_run_may_have_any_number_of_items_if_nothing_limits_it() -> None:
    assert list(in_runs([0] * 5_000, int, 10)) == [[0] * 5_000]
