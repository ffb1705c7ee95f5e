"""Checks the state of a limit: it only changes as its rules allow, and nobody starts anything in a pause."""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from penstock.fleet_limit import CUT, GROWTH, HORIZON_SECONDS, LARGEST_SEARCH, NEAR_CEILING, WINDOW_SECONDS
from tests.simulation.expressions import Item
from tests.simulation.process import EPOCH
from tests.simulation.truth import LIMITED, Run, Truth

ROUNDING = 0.001
FOLLOWING_SECONDS = 5.0  # until every consumer follows what one of them was told


@dataclass
class Limits:
    now: Callable[[], float]
    truth: Truth
    check: Callable[[bool, int, str], None]

    def on_write(self, before: Item, after: Item) -> None:
        for name in ("tat", "at", "cut_at"):
            self.check(_number(after, name) >= _number(before, name), 9, f"{name} of the limit goes back: {after}")
        self._check_cut(before, after)
        self._check_growth(before, after)
        self._check_tries(before, after)
        rate = _number(after, "rate")
        latest = EPOCH + self.now() + self.truth.most_skew + max(HORIZON_SECONDS, 1 / rate if rate else 0.0)
        has_tokens = _number(after, "tat") > _number(before, "tat")
        self.check(
            not has_tokens or _number(after, "tat") <= latest + ROUNDING, 9, f"too many tokens are given: {after}"
        )

    def _check_cut(self, before: Item, after: Item) -> None:
        rate, rate_before = _number(after, "rate"), _number(before, "rate")
        if not rate < rate_before - ROUNDING:
            return
        passed = _number(after, "cut_at") - _number(before, "cut_at")
        words = f"the rate is cut from {rate_before} to {rate}, {passed:.1f} s after the last cut"
        self.check(passed >= WINDOW_SECONDS and rate >= CUT * rate_before - ROUNDING, 9, words)
        last_passed = EPOCH + max(self.truth.upstream.passed, default=-math.inf) + self.truth.most_skew
        self.check(last_passed >= _number(before, "cut_at"), 9, f"{words}, and nothing has passed since")

    def _check_growth(self, before: Item, after: Item) -> None:
        """Check that the rate rises to just below the ceiling, and beyond it only slowly, after a calm window."""
        rate, rate_before = _number(after, "rate"), _number(before, "rate")
        if not rate > rate_before + ROUNDING or not rate_before:
            return
        words = f"the rate rises from {rate_before} to {rate}"
        has_gone_away = _number(after, "away_at") > _number(before, "away_at")
        if _number(after, "ceiling") > _number(before, "ceiling") and not has_gone_away:
            return  # a consumer that knew of no limit has added its estimate
        if _number(before, "earlier_ceiling") == 0:
            self.check(rate <= LARGEST_SEARCH * rate_before + ROUNDING, 9, words)
            return
        most = max(GROWTH * rate_before, NEAR_CEILING * _number(before, "ceiling"))
        if has_gone_away:
            most = max(most, _number(before, "ceiling"))
        else:
            self.check(_number(before, "throttled") == 0, 9, f"{words} after a window in which something was throttled")
            self.check(_number(before, "away_at") == 0, 9, f"{words} while the upstream is away")
        self.check(rate <= most + ROUNDING, 9, f"{words}, and {most} is the most")

    def _check_tries(self, before: Item, after: Item) -> None:
        """Check that one operation at a time is tried while the upstream is away."""
        if _number(before, "away_at") and _number(after, "away_at"):
            is_new_window = _number(after, "window_at") > _number(before, "window_at")
            tries = _number(after, "used") - (0 if is_new_window else _number(before, "used"))
            self.check(tries <= 1, 9, f"{tries} operations are tried although the upstream is away: {after}")

    def on_start(self, run: Run) -> None:
        """Check that the fleet follows an upstream that has asked to start nothing for some time."""
        label, _, index = run.operation_id.partition("-")
        toy = next(submission for submission in self.truth.submissions if submission.label == label).toys[int(index)]
        upstream, now = self.truth.upstream, self.now()
        if toy.path not in LIMITED or upstream.asks_seconds is None:
            return
        asked = bisect_right(upstream.turned_away, now - FOLLOWING_SECONDS) - 1
        over_at = upstream.turned_away[asked] + upstream.asks_seconds if asked >= 0 else now
        self.check(now >= over_at - ROUNDING, 9, f"{run} starts {over_at - now:.1f} s too early")


def _number(item: Item, name: str) -> float:
    return float(item[name]["N"]) if name in item else 0.0
