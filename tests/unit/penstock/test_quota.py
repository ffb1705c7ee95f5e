"""The limit of operations in a time window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.quota import Charged, NeverFits, Quota, TooSoon, give_back, nanoseconds

NOW = 1_700_000_000.0
TEN_A_MINUTE = Quota(10, 60)


@pytest.mark.parametrize("text", ["100000/3600", " 100000 / 3600 "])
def test_a_quota_is_written_as_operations_and_seconds(text: str) -> None:
    assert Quota.parse(text) == Quota(100_000, 3600)
    assert str(Quota.parse(text)) == "100000/3600"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "such as 100000/3600"),
        ("100000", "such as 100000/3600"),
        ("100000/hour", "such as 100000/3600"),
        ("-1/60", "such as 100000/3600"),
        ("1.5/60", "such as 100000/3600"),
        ("٣/60", "such as 100000/3600"),  # digits of another script
        ("0/60", "from 1 to 1,000,000,000"),
        ("1000000001/60", "from 1 to 1,000,000,000"),
        ("10/0", "from 1 to 2,678,400"),
        ("10/2678401", "from 1 to 2,678,400"),
    ],
)
def test_an_invalid_quota_is_explained(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Quota.parse(text)


def test_the_whole_quota_can_be_used_at_once_and_then_comes_back_at_an_even_rate() -> None:
    used_up = TEN_A_MINUTE.charge(10, 0, NOW)
    assert used_up == Charged(nanoseconds(NOW + 60))
    assert TEN_A_MINUTE.charge(1, used_up.tat, NOW) == TooSoon(6.0)
    assert TEN_A_MINUTE.charge(2, used_up.tat, NOW + 6) == TooSoon(6.0)
    assert TEN_A_MINUTE.charge(1, used_up.tat, NOW + 6) == Charged(nanoseconds(NOW + 66))


def test_more_than_the_quota_never_fits() -> None:
    assert TEN_A_MINUTE.charge(11, 0, NOW) == NeverFits()


@pytest.mark.parametrize(
    ("used", "later", "remaining", "seconds"),
    [
        (0, 0, 10, 0),
        (3, 0, 7, 6),
        (3, 5, 7, 1),
        (3, 6, 8, 6),
        (10, 0, 0, 6),
        (10, 120, 10, 0),
    ],
)
def test_what_remains_and_when_there_is_more(used: int, later: float, remaining: int, seconds: float) -> None:
    decision = TEN_A_MINUTE.charge(used, 0, NOW)
    assert isinstance(decision, Charged)
    assert TEN_A_MINUTE.remaining(decision.tat, NOW + later) == remaining
    assert TEN_A_MINUTE.seconds_to_more(decision.tat, NOW + later) == pytest.approx(seconds)


def test_a_limit_that_was_lowered_leaves_nothing_until_the_larger_charge_is_over() -> None:
    before = Quota(100, 3600).charge(100, 0, NOW)
    assert isinstance(before, Charged)
    assert TEN_A_MINUTE.remaining(before.tat, NOW) == 0
    assert TEN_A_MINUTE.charge(1, before.tat, NOW) == TooSoon(3600 - 60 + 6)


def test_a_charge_is_given_back_except_for_what_has_come_back_by_itself() -> None:
    cost, until = TEN_A_MINUTE.cost(10), nanoseconds(NOW + 60)
    assert give_back(cost, until, NOW) == cost
    assert give_back(cost, until, NOW + 45) == nanoseconds(15)
    assert give_back(cost, until, NOW + 61) == 0


quotas = st.builds(Quota, st.integers(1, 50), st.integers(1, 20))
steps = st.lists(
    st.tuples(st.floats(0, 10), st.integers(1, 50), st.booleans(), st.floats(0, 5)), min_size=1, max_size=30
)


@given(quotas, steps)
def test_never_more_than_the_quota_is_kept_in_any_time(
    quota: Quota, steps: list[tuple[float, int, bool, float]]
) -> None:
    """Charges at any times. Some are given back, later than they were made, and other charges in between."""
    now, tat = NOW, 0
    kept: list[tuple[float, int]] = []
    to_give_back: list[tuple[float, int, int]] = []
    for pause, operations, is_kept, given_back_after in steps:
        now += pause
        for at, cost, until in [one for one in to_give_back if one[0] <= now]:
            to_give_back.remove((at, cost, until))
            tat -= give_back(cost, until, now)
        match quota.charge(operations, tat, now):
            case Charged(after):
                tat = after
                if is_kept:
                    kept.append((now, operations))
                else:
                    to_give_back.append((now + given_back_after, quota.cost(operations), after))
            case TooSoon(seconds):
                assert isinstance(quota.charge(operations, tat, now + seconds + 0.001), Charged)
            case NeverFits():
                assert operations > quota.operations
    for first, (start, _) in enumerate(kept):
        total = 0
        for at, operations in kept[first:]:
            total += operations
            assert total <= quota.operations * (1 + (at - start) / quota.window_seconds) + 0.001
