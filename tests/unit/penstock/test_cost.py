"""What a batch costs: units, their price, and who reports them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.aws.attributes import text
from penstock.aws.billing import batch_of
from penstock.bills import Bills
from penstock.cost import Cost, Prices, Units, cost_of, estimate_usd, sum_units

AHEAD = Units(writes=1, requests=1)
units = st.builds(Units, *[st.integers(0, 1_000)] * 4)


def taken(bills: Bills, batch_id: str, ahead: Units = AHEAD, *, is_done: bool = True) -> Units:
    with bills.report(batch_id, ahead) as report:
        report.is_done = is_done
    return report.units


def test_cost_is_the_sum_of_the_reports_until_the_last_one() -> None:
    reports = [Units(2, 3, 4, 5), Units(1, 1, 1, 1.6)]
    usd = (3 * 0.40 + 4 * 0.625 + 5 * 0.125) / 1_000_000
    assert cost_of(reports, [1.0, None, 7.0, 3.0]) == Cost(float(f"{usd:.3g}"), 7, 7.0)
    assert cost_of([Units()], [1.0]) is None
    assert cost_of(reports, [None]) is None


@pytest.mark.parametrize(
    ("operations", "chunks", "usd"),
    [(1, 1, 5.95), (20, 2, 9.15), (400, 40, 93.0), (640, 64, 154.1), (1_000, 16, 39.7)],  # as the simulation bills them
)
def test_estimate_is_near_to_the_cost_of_real_batches(operations: int, chunks: int, usd: float) -> None:
    sizes = [operations // chunks * 100] * chunks
    assert estimate_usd(operations, sizes) * 1_000_000 == pytest.approx(usd, rel=0.3)


def test_estimate_grows_with_the_size_of_the_messages() -> None:
    assert estimate_usd(100, []) == 0
    assert estimate_usd(100, [1_000_000]) - estimate_usd(100, [1_000]) == pytest.approx(30 * 0.4e-6, rel=0.05)


@given(st.lists(st.tuples(st.sampled_from("ab"), units)), st.lists(st.booleans(), min_size=1))
@settings(max_examples=50, deadline=None, database=None)
def test_what_is_spent_is_reported_once(calls: list[tuple[str, Units]], outcomes: list[bool]) -> None:
    """A write that does not take effect reports nothing. What is reported in advance is subtracted later."""
    bills, reported = Bills(), dict.fromkeys("ab", Units())
    for number, (batch_id, spent) in enumerate(calls):
        bills.add_units(batch_id, spent)
        is_done = outcomes[number % len(outcomes)]
        report = taken(bills, batch_id, is_done=is_done)
        if is_done:
            reported[batch_id] += report
    for batch_id in "ab":
        total = sum_units(spent for name, spent in calls if name == batch_id)
        assert reported[batch_id] + taken(bills, batch_id, Units()) == total


def test_an_error_is_no_report() -> None:
    bills = Bills()
    bills.add("a", sqs=1, requests=1)
    with pytest.raises(ConnectionError), bills.report("a", AHEAD):
        raise ConnectionError
    assert taken(bills, "a", Units()) == Units(sqs=1, requests=1)


def test_batches_that_are_never_reported_are_forgotten() -> None:
    bills = Bills()
    for number in range(1_001):
        bills.add(str(number), reads=1)
    assert [taken(bills, one, Units()).reads for one in ("0", "1", "1000")] == [0, 1, 1]


def test_a_price_is_for_a_million() -> None:
    assert Prices().usd(Units(1e6, 1e6, 1e6)) == pytest.approx(0.40 + 0.625 + 0.125)


def test_limit_of_a_batch_is_paid_by_the_batch() -> None:
    assert batch_of({"pk": text("limit#batch#01J"), "sk": text("limit")}) == "01J"
    assert batch_of({"pk": text("limit#upstream"), "sk": text("limit")}) is None
