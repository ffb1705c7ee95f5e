"""What a consumer may start under a limit of the fleet, and how the limit is learnt."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from penstock.fleet_limit import (
    BLOCK_SECONDS,
    CUT,
    GROWTH,
    HOLD_SECONDS,
    HORIZON_SECONDS,
    LEAST_FREE_RATE,
    LEAST_RATE,
    LONGEST_PAUSE_SECONDS,
    NEAR_CEILING,
    WINDOW_SECONDS,
    FleetTime,
    LimitState,
    Report,
    lease,
)
from penstock.limit import Limit

LEARNT = Limit()
NOW = 1_700_000_000.0
MANY = 1_000_000
NOTHING = Report()


def known(rate: float = 100.0, **changes: object) -> LimitState:
    """Return the state of a limit that was cut long ago, and whose tokens are all available."""
    state = LimitState(rate=rate, cut_at=NOW - 1_000, passed_from=NOW - 1, window_at=NOW, ceiling=110.0)
    return replace(state, earlier_ceiling=120.0, **changes)  # type: ignore[arg-type]


def throttled(at: float, **changes: object) -> Report:
    return replace(Report(throttled=1, throttled_from=at), **changes)  # type: ignore[arg-type]


def state_after(state: LimitState, report: Report, now: float, limit: Limit = LEARNT) -> LimitState:
    return lease(state, limit, report, 0, now)[0]


# --- Tokens


def test_limit_that_was_never_exceeded_allows_everything() -> None:
    state, block = lease(LimitState(), LEARNT, NOTHING, MANY, NOW)
    assert block.tokens is None
    assert state.rate is None


def test_declared_limit_allows_its_rate_and_burst() -> None:
    state, block = lease(LimitState(), Limit(rate=10, burst=50), NOTHING, MANY, NOW)
    assert block.tokens == 50
    state, block = lease(state, Limit(rate=10, burst=50), NOTHING, MANY, NOW)
    assert block.tokens == 0
    assert block.seconds > 0
    assert lease(state, Limit(rate=10, burst=50), NOTHING, MANY, NOW + 2)[1].tokens == 20


def test_slow_limit_allows_one_operation_at_a_time() -> None:
    limit = Limit(rate=0.5)
    state, block = lease(LimitState(), limit, NOTHING, MANY, NOW)
    assert block.tokens == 1
    _, block = lease(state, limit, NOTHING, MANY, NOW)
    assert block.tokens == 0
    assert block.seconds == pytest.approx(2.0)
    assert lease(state, limit, NOTHING, MANY, NOW + 2)[1].tokens == 1


def test_consumer_gets_no_more_than_it_wants_and_little_more_than_its_share() -> None:
    state = known(consumers=8)
    assert lease(state, LEARNT, NOTHING, 3, NOW)[1].tokens == 3
    assert lease(state, LEARNT, NOTHING, MANY, NOW)[1].tokens == 18  # of 110 for all in a block


@pytest.mark.parametrize("skew", [0.0, 2.0])
def test_no_more_tokens_are_given_than_the_limit_allows(skew: float) -> None:
    """Eight consumers ask at random times, by clocks that differ. Half of them crash and never use their tokens."""
    chance, limit, state = random.Random(1), Limit(rate=100.0), LimitState()
    clocks = [FleetTime(NOW + chance.uniform(-skew, skew), 0.0) for _ in range(8)]
    given: list[tuple[float, int]] = []
    seconds = 0.0
    while seconds < 120:
        seconds += chance.expovariate(20)
        clock = chance.choice(clocks)
        clock.learn(state.at, seconds)
        state, block = lease(state, limit, NOTHING, MANY, clock.at(seconds))
        assert block.tokens is not None
        given.append((seconds, block.tokens))
    for start, _ in given[::50]:
        for length in (0.5, 10.0, 60.0):
            tokens = sum(count for at, count in given if start <= at <= start + length)
            assert tokens <= 100 * (length + 2 * skew + HORIZON_SECONDS) + 1
    assert sum(count for _, count in given) >= 0.99 * 100 * seconds


def test_consumer_whose_clock_is_behind_gets_its_tokens() -> None:
    chance, state, seconds = random.Random(1), known(), 0.0
    clocks = {"fast": FleetTime(NOW + 2, 0.0), "slow": FleetTime(NOW - 2, 0.0)}
    tokens = dict.fromkeys(clocks, 0)
    for name in chance.choices(list(clocks), k=400):
        seconds += chance.expovariate(2)
        clocks[name].learn(state.at, seconds)
        state, block = lease(state, Limit(rate=100.0), NOTHING, MANY, clocks[name].at(seconds))
        tokens[name] += block.tokens or 0
    assert tokens["slow"] > tokens["fast"] / 2


# --- Learning


def test_first_throttled_operation_sets_the_rate_from_what_passed_and_others_add_theirs() -> None:
    state = state_after(LimitState(), throttled(NOW, free_rate=30.0), NOW)
    assert state.rate == pytest.approx(CUT * 30)
    state = state_after(state, throttled(NOW + 3.5, free_rate=20.0), NOW + 4)  # even if its clock is ahead
    assert state.rate == pytest.approx(CUT * 50)
    assert state.ceiling == 50


def test_rate_is_cut_once_in_a_window() -> None:
    state = state_after(known(), throttled(NOW), NOW)
    assert (state.rate, state.ceiling, state.cut_at) == (CUT * 100, 100, NOW)
    state = replace(state, passed_from=NOW + 1)
    assert state_after(state, throttled(NOW + WINDOW_SECONDS - 0.1), NOW + WINDOW_SECONDS + 1).rate == CUT * 100
    assert state_after(state, throttled(NOW + WINDOW_SECONDS), NOW + WINDOW_SECONDS + 1).rate == pytest.approx(49)


@pytest.mark.parametrize(("asked", "pause"), [(5.0, 5.0), (10 * LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)])
def test_nobody_starts_anything_while_the_upstream_asks_for_a_pause(asked: float, pause: float) -> None:
    state = state_after(known(), throttled(NOW, not_before=NOW + asked), NOW)
    assert state.not_before == NOW + pause
    assert lease(state, LEARNT, NOTHING, MANY, NOW + pause - 0.1)[1].tokens == 0
    assert lease(state, LEARNT, NOTHING, MANY, NOW + pause)[1].tokens != 0


def test_pause_does_not_need_a_rate() -> None:
    state = state_after(LimitState(), Report(not_before=NOW + 5), NOW)
    assert state.rate is None
    assert lease(state, LEARNT, NOTHING, MANY, NOW + 1)[1].tokens == 0
    assert lease(state, LEARNT, NOTHING, MANY, NOW + 5)[1].tokens is None


@pytest.mark.parametrize(
    ("used", "rate"),
    [(0.7, 50.0), (0.9, (50 + NEAR_CEILING * 110) / 2)],
)
def test_rate_rises_towards_the_ceiling_while_it_is_used_up(used: float, rate: float) -> None:
    state = known(50.0, used=int(used * 50 * WINDOW_SECONDS))
    assert state_after(state, NOTHING, NOW + WINDOW_SECONDS).rate == pytest.approx(rate)


def test_tokens_that_came_back_unused_do_not_count_as_used() -> None:
    state = known(50.0, used=int(0.9 * 50 * WINDOW_SECONDS))
    unused = replace(NOTHING, unused=int(0.3 * 50 * WINDOW_SECONDS))
    assert state_after(state_after(state, unused, NOW + 1), NOTHING, NOW + WINDOW_SECONDS).rate == 50


def test_rate_does_not_rise_after_a_window_with_a_throttled_operation() -> None:
    state = known(50.0, used=MANY, throttled=1)
    assert state_after(state, NOTHING, NOW + WINDOW_SECONDS).rate == 50


def test_operation_that_started_before_the_cut_says_nothing_about_the_rate_after_it() -> None:
    cut = state_after(known(), throttled(NOW), NOW)
    cut = state_after(cut, throttled(NOW - 0.5), NOW + 1)
    assert state_after(replace(cut, used=MANY), NOTHING, NOW + WINDOW_SECONDS).rate == pytest.approx((70 + 96) / 2)
    cut = state_after(cut, throttled(NOW + 1), NOW + 1)
    assert state_after(replace(cut, used=MANY), NOTHING, NOW + WINDOW_SECONDS).rate == pytest.approx(70)


@pytest.mark.parametrize(
    ("held_seconds", "ceiling"),
    [(HOLD_SECONDS / 10, 92.8), (HOLD_SECONDS / 2, 96), (HOLD_SECONDS, 100), (2 * HOLD_SECONDS, 100)],
)
def test_ceiling_that_held_for_a_short_time_is_followed_by_a_lower_one(held_seconds: float, ceiling: float) -> None:
    state = known(cut_at=NOW - held_seconds)
    assert state_after(state, throttled(NOW), NOW).ceiling == pytest.approx(ceiling)


@pytest.mark.parametrize("lost", [0.0, 0.000001], ids=["exact", "rounded by the table"])
def test_rate_stays_near_the_ceiling_for_a_while_and_then_rises_slowly(lost: float) -> None:
    near = NEAR_CEILING * 110 - lost

    def rate_after(seconds: float) -> float:
        state = known(near, used=MANY, cut_at=NOW + WINDOW_SECONDS - seconds)
        rate = state_after(state, NOTHING, NOW + WINDOW_SECONDS).rate
        assert rate is not None
        return rate

    assert rate_after(HOLD_SECONDS - 1) == near
    assert near < rate_after(HOLD_SECONDS + 1) < rate_after(HOLD_SECONDS + 30) < near * GROWTH
    assert rate_after(3_600) == near * GROWTH
    assert rate_after(10 * 365 * 86_400) == near * GROWTH


def test_declared_rate_is_never_exceeded() -> None:
    limit = Limit(rate=100.0)
    state = known(100.0, used=MANY, cut_at=NOW - 3_600)
    assert state_after(state, NOTHING, NOW + WINDOW_SECONDS, limit).rate == 100
    assert state_after(known(500.0), NOTHING, NOW, limit).rate == 100


# --- An upstream that is away


def away() -> LimitState:
    """Return the state after an upstream went away: it was cut, and nothing has passed since then."""
    state = state_after(known(), throttled(NOW), NOW)
    return state_after(state, throttled(NOW + WINDOW_SECONDS), NOW + WINDOW_SECONDS)


def test_upstream_from_which_nothing_passes_is_away_and_keeps_its_rate() -> None:
    state = away()
    assert state.away_at == NOW + WINDOW_SECONDS
    assert state.rate == known().rate
    assert state.ceiling == 110
    for second in range(1, 120):
        state = state_after(state, throttled(NOW + 10 + second), NOW + 10 + second)
    assert state.rate == known().rate


def test_upstream_that_is_away_is_tried_by_one_operation_at_a_time() -> None:
    state = replace(away(), not_before=0.0)
    state, block = lease(state, LEARNT, NOTHING, MANY, NOW + 10)
    assert block.tokens == 1
    assert lease(state, LEARNT, NOTHING, MANY, NOW + 10 + BLOCK_SECONDS)[1].tokens == 0
    still_away = state_after(state, throttled(NOW + 10), NOW + 11)
    assert lease(still_away, LEARNT, NOTHING, MANY, NOW + 12)[1].tokens == 0
    back, block = lease(state, LEARNT, Report(passed_from=NOW + 10), MANY, NOW + 11)
    assert back.away_at == 0
    assert block.tokens is not None
    assert block.tokens > 1


@pytest.mark.parametrize(("away_seconds", "longest"), [(10, BLOCK_SECONDS), (3_600, 30)])
def test_consumer_notices_soon_that_the_upstream_is_back(away_seconds: float, longest: float) -> None:
    state = replace(away(), not_before=0.0)
    now = state.away_at + away_seconds
    state, _ = lease(state, LEARNT, NOTHING, MANY, now)
    state = state_after(state, throttled(now), now + 1)
    assert lease(state, LEARNT, NOTHING, MANY, now + 1)[1].seconds <= longest


def test_number_of_consumers_is_remembered_while_the_upstream_is_away() -> None:
    state = replace(away(), consumers=8)
    for second in range(60):
        state, _ = lease(state, LEARNT, NOTHING, 1, state.away_at + second)
    state = state_after(state, Report(passed_from=state.away_at + 60), state.away_at + 61)
    assert (state.away_at, state.consumers, state.used) == (0, 8, 0)


def test_operation_that_started_before_the_upstream_went_away_does_not_bring_it_back() -> None:
    assert state_after(away(), Report(passed_from=NOW - 1), NOW + 11).away_at != 0


# --- Reports


def test_reports_add_up() -> None:
    one, other = Report(1, 2, 3.0, 4.0, 5.0, None), Report(10, 20, 2.0, 6.0, 4.0, 7.0)
    assert one + other == other + one == Report(11, 22, 3.0, 6.0, 5.0, 7.0)
    assert not NOTHING.is_urgent
    assert Report(throttled=1).is_urgent
    assert Report(not_before=1.0).is_urgent


def test_time_of_the_fleet_only_goes_forward() -> None:
    clock = FleetTime(NOW, 10.0)
    assert clock.at(12.0) == NOW + 2
    clock.learn(NOW + 7, 12.0)
    assert clock.at(12.0) == NOW + 7
    clock.learn(NOW, 13.0)
    assert clock.at(13.0) == NOW + 8


# --- Whole lives of a limit


def play(allowed: Callable[[float], float], state: LimitState, limit: Limit, seconds: float) -> dict[float, LimitState]:
    """Return the states by their times. One consumer always wants many tokens; `allowed` is the upstream's rate."""
    states, now, report = dict[float, LimitState](), NOW, NOTHING
    while now < NOW + seconds:
        state, block = lease(state, limit, report, MANY, now)
        tokens = 20 if block.tokens is None else block.tokens
        passing = min(tokens, math.ceil(allowed(now - NOW) * block.seconds))
        free_rate = float(passing) if state.rate is None else None
        report = Report(
            throttled=tokens - passing,
            passed_from=now if passing else 0.0,
            throttled_from=now if tokens > passing else 0.0,
            free_rate=free_rate if tokens > passing else None,
        )
        states[now - NOW] = state
        now += block.seconds
    return states


def test_rate_is_found_of_an_upstream_that_refused_everything_at_first() -> None:
    states = play(lambda seconds: 0.0 if seconds < 60 else 100.0, LimitState(), LEARNT, 240)
    rates = {at: state.rate or 0.0 for at, state in states.items()}
    assert max(rate for at, rate in rates.items() if at < 60) <= 1
    assert max(rate for at, rate in rates.items() if at < 180) >= 90
    assert min(rate for at, rate in rates.items() if at > 200) >= 60


@pytest.mark.parametrize("ceiling", [None, 0.0, 0.1])  # a state of an earlier version may have 0
def test_least_rate_rises_again(ceiling: float | None) -> None:
    state = LimitState(rate=LEAST_RATE, cut_at=NOW - 20, passed_from=NOW - 10, ceiling=ceiling, window_at=NOW - 10)
    states = play(lambda _: 100.0, state, LEARNT, 300)
    assert max(state.rate or 0.0 for state in states.values()) >= 90


def test_slow_declared_limit_rises_again_to_what_is_declared() -> None:
    limit = Limit(rate=0.25)
    state = state_after(LimitState(rate=0.25, passed_from=NOW - 1), throttled(NOW), NOW, limit)
    assert state.rate == CUT * 0.25
    states = play(lambda _: 100.0, state, limit, 120)
    assert list(states.values())[-1].rate == 0.25


def test_estimates_of_consumers_to_which_nothing_passed_give_no_ceiling() -> None:
    state = state_after(LimitState(), throttled(NOW, free_rate=0.0), NOW)
    assert (state.rate, state.ceiling) == (CUT * LEAST_FREE_RATE, None)
    state = state_after(state, throttled(NOW, free_rate=0.0), NOW)
    assert (state.rate, state.ceiling) == (CUT * LEAST_FREE_RATE, None)
    state = state_after(state, throttled(NOW, free_rate=20.0), NOW)
    assert (state.rate, state.ceiling) == (CUT * (LEAST_FREE_RATE + 20), 20)
