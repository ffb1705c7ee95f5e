"""The state of a limit that a whole fleet shares, and what each consumer may start under it. Pure: no clock, no table.

A consumer *leases* a block of tokens for about a second, and starts one operation for each token. A front end that runs
small batches does the same, and counts as a consumer. With each lease it reports what happened to the operations
before. So the state also shows the rate that the upstream allows:

- If an operation was throttled, the rate is cut to 70 %, at most once in a window. The rate before the cut is the
  *ceiling*. Nobody starts anything as long as the upstream asks for.
- After a cut, the rate rises quickly to just below the ceiling and stays there for half a minute. Then it rises
  slowly, and faster with time, until the next cut. It rises only while the tokens are used up.
  If the rate is cut again within that time, the ceiling is a little less than the rate before the cut: the sooner, the
  less.
- If nothing has passed since the last cut, the upstream is *away*. Further cuts would say nothing about its rate. So
  the rate returns to what it was, and one operation at a time is tried until one passes.

A learnt limit has no rate until the first operation is throttled. Then each consumer adds 70 % of what the upstream
has just let it do, and the search starts from the sum. If the upstream has let nothing through, there is no ceiling
yet, and the rate rises as quickly as a search can.

Times are those of the *fleet*: the clock that is furthest ahead. Each consumer learns it from the state (`FleetTime`),
so that a clock that is behind gets its share. In any x seconds, at most `rate * (x + skew) + burst` tokens are given.
The skew is the most by which clocks differ. The burst is at least `HORIZON_SECONDS` of the rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from penstock.fleet_permits import Holders
from penstock.limit import Limit

BLOCK_SECONDS = 1.1  # a consumer starts the operations of a block evenly in this time
HORIZON_SECONDS = 1.3  # of tokens can be given in advance, because blocks do not begin at the same time
WINDOW_SECONDS = 2.5  # longer than two blocks, so that every consumer has followed a cut before the next one
WINDOW_TOKENS = 3  # a window may take as long as this many tokens, because the state is only written with a token
LONGEST_PAUSE_SECONDS = 3_600.0
CUT = 0.7
USED_UP = 0.75  # the share of the rate that must be used in a window before the rate rises
SEARCH = 1.1  # how much the rate rises in a window after the first cut, which has only an estimate as its ceiling
SEARCH_SECONDS = 15.0  # until it rises twice as fast
LARGEST_SEARCH = 1.4
GROWTH = 1.05  # how much it rises in a window after that, at most, unless it is below the ceiling
NEAR_CEILING = 0.96
LEAST_CEILING = 0.92  # of the rate, if it is cut again immediately
ROUNDING = 0.00001  # the table has six decimals, so a rate that has reached its target may be a little below it
HOLD_SECONDS = 30.0  # near the ceiling after a cut
HOLD_PAUSES = 25  # and at least this many times as long as the upstream asked for a pause
CREEP = 1.01  # how much the rate rises in the first window after that
CREEP_SECONDS = 10.0  # until it rises twice as fast
LEAST_RATE = 0.1
LEAST_FREE_RATE = 1.0  # the first rate is an estimate: one second in which nothing passed does not mean a rate of 0
SHARE = 1.25  # how many times its equal share of the tokens a consumer gets, at most
LEAST_PROBE_SECONDS = 1.1  # between two attempts while the upstream is away
LONGEST_PROBE_SECONDS = 30.0
PROBE_SHARE = 0.0125  # the time between two attempts, as a share of the time for which it has been away
FOLLOWING_SHARE = 0.01  # of that time may pass until each consumer has noticed that the upstream is back
LEAST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class LimitState:
    """The state of a limit, as it is in the table. Times are those of the fleet."""

    rate: float | None = None  # operations a second; None if nothing was throttled and no rate is declared
    tat: float = 0.0  # the theoretical arrival time, as in `quota.py`
    not_before: float = 0.0  # nothing starts before this time
    cut_at: float = 0.0
    ceiling: float | None = None  # the rate before the last cut, or a little less; None or 0 if it is not known
    earlier_ceiling: float | None = None  # the ceiling before that
    away_at: float = 0.0  # when the upstream seemed to be away for the first time; 0 if it does not
    passed_from: float = 0.0  # the latest start of an operation that passed
    window_at: float = 0.0
    used: int = 0  # tokens given in this window, without those that were not used
    throttled: int = 0  # operations that were throttled in this window
    leases: int = 0  # blocks given in this window
    consumers: int = 1  # how many seem to share the limit
    at: float = 0.0  # the time of the last write
    lease: str = ""  # the id of the last write
    holders: Holders = field(default_factory=dict)  # of permits, see `fleet_permits.py`


@dataclass(frozen=True, slots=True)
class Report:
    """What happened to a consumer's operations since its last report. Times are those of the fleet."""

    unused: int = 0  # tokens that no operation needed
    throttled: int = 0
    passed_from: float = 0.0  # the latest start of an operation that passed
    throttled_from: float = 0.0  # the latest start of an operation that was throttled
    not_before: float = 0.0  # until when the upstream asked to start nothing
    free_rate: float | None = None  # how many passed in a second, if this consumer knew of no limit

    @property
    def is_urgent(self) -> bool:
        """Return True if the other consumers must know it, even if this one wants no tokens."""
        return self.throttled > 0 or self.not_before > 0

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.unused + other.unused,
            self.throttled + other.throttled,
            max(self.passed_from, other.passed_from),
            max(self.throttled_from, other.throttled_from),
            max(self.not_before, other.not_before),
            other.free_rate if self.free_rate is None else self.free_rate,
        )


@dataclass(frozen=True, slots=True)
class Block:
    """The tokens that a consumer gets, None for any number. It asks again after `seconds`."""

    tokens: int | None
    seconds: float = BLOCK_SECONDS


class FleetTime:
    """The time of the fleet, as far as this process knows it. It only goes forward."""

    def __init__(self, now: float, monotonic: float) -> None:
        self._ahead = now - monotonic

    def at(self, monotonic: float) -> float:
        return monotonic + self._ahead

    def learn(self, at: float, monotonic: float) -> None:
        """Note that another process has just seen the time `at`."""
        self._ahead = max(self._ahead, at - monotonic)


class LimitStore(Protocol):
    """The part of the store that has the states of limits."""

    async def read_limit(self, name: str) -> LimitState:
        """Return the state of a limit. One that nobody has leased from has no rate."""

    async def read_limits(self, names: Sequence[str]) -> dict[str, LimitState]:
        """Return the states of those limits that the table has."""

    async def lease_limit(self, name: str, seen: LimitState, state: LimitState) -> bool:
        """Replace the state `seen` by `state`, which has a new id in `lease`.

        Returns False, and changes nothing, if the table has another state than `seen`. A repetition returns True,
        unless somebody has replaced `state` in the meantime.
        """


def lease(state: LimitState, limit: Limit, report: Report, wanted: int, now: float) -> tuple[LimitState, Block]:
    """Return the state after a consumer has reported, and the block that it gets. It wants up to `wanted` tokens."""
    state = _with_report(_with_window(_with_declared(state, limit), limit, now), report, now)
    state = replace(state, at=max(state.at, now))
    if state.rate is None:
        tokens = None if state.not_before <= now else 0
        return state, Block(tokens, max(BLOCK_SECONDS, min(state.not_before - now, LONGEST_WAIT_SECONDS)))
    tokens = _tokens(state, state.rate, limit, wanted, now)
    if not tokens:
        return state, Block(0, _wait_seconds(state, state.rate, limit, now))
    return _with_tokens(state, state.rate, tokens, now), Block(tokens)


def _with_declared(state: LimitState, limit: Limit) -> LimitState:
    if limit.rate is None or (state.rate is not None and state.rate <= limit.rate):
        return state
    return replace(state, rate=limit.rate)


def _with_window(state: LimitState, limit: Limit, now: float) -> LimitState:
    """Start a new window if the last one is over. The rate rises if all of that one was used and nothing throttled."""
    passed = now - state.window_at
    if passed < WINDOW_SECONDS:
        return state
    if passed < _longest_window(state):
        rate = _grown(state, now) if _may_grow(state, now) else state.rate
        if rate is not None and limit.rate is not None:
            rate = min(rate, limit.rate)
        # While the upstream is away, only one of the consumers leases at a time.
        seen = state.consumers if state.away_at else round(state.leases * BLOCK_SECONDS / passed)
        state = replace(state, rate=rate, consumers=max(1, seen))
    return replace(state, window_at=now, used=0, throttled=0, leases=0)


def _longest_window(state: LimitState) -> float:
    """Return after how many seconds without a write a window says nothing, because nothing was wanted."""
    return 2 * WINDOW_SECONDS if state.rate is None else max(2 * WINDOW_SECONDS, WINDOW_TOKENS / state.rate)


def _may_grow(state: LimitState, now: float) -> bool:
    if state.rate is None or state.throttled or state.away_at:
        return False
    active_seconds = now - max(state.window_at, state.not_before)
    # Tokens are whole. At a rate of 1.5, a lone consumer gets one token a block.
    return active_seconds > 0 and state.used >= max(1, math.floor(USED_UP * state.rate * active_seconds))


def _grown(state: LimitState, now: float) -> float:
    assert state.rate is not None
    if not state.ceiling:
        return state.rate * LARGEST_SEARCH
    target = NEAR_CEILING * state.ceiling
    if state.rate < target - ROUNDING:
        return max(min(state.rate * GROWTH, target), (state.rate + target) / 2)
    if state.earlier_ceiling is None:
        return state.rate * min(LARGEST_SEARCH, _power(SEARCH, (now - state.cut_at) / SEARCH_SECONDS))
    held = max(HOLD_SECONDS, HOLD_PAUSES * (state.not_before - state.cut_at))
    over = now - state.cut_at - held
    return state.rate if over < 0 else state.rate * min(GROWTH, _power(CREEP, over / CREEP_SECONDS))


def _power(factor: float, doublings: float) -> float:
    """Return a growth factor that starts with `factor`. The last cut may be so long ago that the power is infinite."""
    return float(factor ** (1 + min(doublings, 100.0)))


def _with_report(state: LimitState, report: Report, now: float) -> LimitState:
    state = replace(
        state,
        used=state.used - report.unused,
        passed_from=max(state.passed_from, report.passed_from),
        not_before=max(state.not_before, min(report.not_before, now + LONGEST_PAUSE_SECONDS)),
    )
    if state.away_at and state.passed_from > state.away_at:
        state = replace(state, away_at=0.0, not_before=now, cut_at=now, window_at=now, used=0, throttled=0, leases=0)
    return _with_throttled(state, report, now) if report.throttled else state


def _with_throttled(state: LimitState, report: Report, now: float) -> LimitState:
    if report.throttled_from >= state.cut_at:  # what started before says nothing about the rate of now
        state = replace(state, throttled=state.throttled + report.throttled)
    if state.away_at:
        pause = min(LONGEST_PROBE_SECONDS, max(LEAST_PROBE_SECONDS, PROBE_SHARE * (now - state.away_at)))
        return replace(state, not_before=max(state.not_before, now + pause))
    if state.rate is None:
        free_rate = report.free_rate or 0.0
        return replace(_with_cut(state, max(free_rate, LEAST_FREE_RATE), now), ceiling=free_rate or None)
    if report.free_rate is not None:
        ceiling = (state.ceiling or 0.0) + report.free_rate or None
        return replace(state, rate=state.rate + CUT * report.free_rate, ceiling=ceiling)
    if report.throttled_from < state.cut_at + WINDOW_SECONDS:
        return state
    if state.passed_from < state.cut_at:
        # The last cut was because the upstream went away. So it says nothing about its rate.
        rate = max(state.rate, state.ceiling or 0.0)
        return replace(state, away_at=now, ceiling=state.earlier_ceiling or state.ceiling, rate=rate)
    # An upstream may let a burst through. The sooner the rate is cut again, the more of what passed was the burst.
    held = min(1.0, (now - state.cut_at) / HOLD_SECONDS)
    ceiling = state.rate * (LEAST_CEILING + (1 - LEAST_CEILING) * held)
    return replace(_with_cut(state, state.rate, now), ceiling=ceiling, earlier_ceiling=state.ceiling)


def _with_cut(state: LimitState, rate: float, now: float) -> LimitState:
    return replace(state, rate=max(LEAST_RATE, CUT * rate), cut_at=now, window_at=now, used=0, throttled=0, leases=0)


def _tokens(state: LimitState, rate: float, limit: Limit, wanted: int, now: float) -> int:
    if state.not_before > now or not wanted:
        return 0
    if state.away_at:
        return 1
    share = max(SHARE * rate * BLOCK_SECONDS, limit.burst or 0) / state.consumers
    available = math.floor((now + _horizon(rate, limit) - max(state.tat, now)) * rate + 1e-6)
    return max(0, min(wanted, available, math.ceil(share)))


def _with_tokens(state: LimitState, rate: float, tokens: int, now: float) -> LimitState:
    # While the upstream is away, nobody else tries anything until this token has been used and reported.
    not_before = now + LEAST_PROBE_SECONDS + BLOCK_SECONDS if state.away_at else state.not_before
    tat = state.tat if state.away_at else max(state.tat, now) + tokens / rate
    return replace(state, tat=tat, used=state.used + tokens, leases=state.leases + 1, not_before=not_before)


def _horizon(rate: float, limit: Limit) -> float:
    """Return by how many seconds the TAT may be ahead: the time in which the whole burst becomes available again."""
    return max(HORIZON_SECONDS, max(limit.burst or 0, 1) / rate)


def _wait_seconds(state: LimitState, rate: float, limit: Limit, now: float) -> float:
    token_at = max(state.tat, now) + 1 / rate - _horizon(rate, limit)
    wait = max(token_at, state.not_before) - now
    longest = LONGEST_WAIT_SECONDS
    if state.away_at:
        longest = min(longest, max(BLOCK_SECONDS, FOLLOWING_SHARE * (now - state.away_at)))
    return min(longest, max(LEAST_WAIT_SECONDS, wait))
