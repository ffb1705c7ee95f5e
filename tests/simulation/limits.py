"""Checks the state of a limit: it only changes as its rules allow, and nobody starts anything in a pause."""

from collections.abc import Callable
from dataclasses import dataclass

from penstock.fleet_limit import CUT, HORIZON_SECONDS, WINDOW_SECONDS
from tests.simulation.expressions import Item
from tests.simulation.process import EPOCH
from tests.simulation.truth import Run, Truth

ROUNDING = 0.001
FOLLOWING_SECONDS = 5.0  # until every consumer follows a new state


@dataclass
class Limits:
    now: Callable[[], float]
    truth: Truth
    check: Callable[[bool, int, str], None]
    following_seconds: float = FOLLOWING_SECONDS
    writes: int = 0
    paused_until: float = 0.0
    written_at: float = 0.0  # when the pause was written

    def on_write(self, before: Item, after: Item) -> None:
        self.writes += 1
        for name in ("tat", "at", "cut_at"):
            self.check(_number(after, name) >= _number(before, name), 9, f"{name} of the limit goes back: {after}")
        self._check_cut(before, after)
        rate = _number(after, "rate")
        latest = EPOCH + self.now() + self.truth.most_skew + max(HORIZON_SECONDS, 1 / rate if rate else 0.0)
        has_tokens = _number(after, "tat") > _number(before, "tat")
        self.check(
            not has_tokens or _number(after, "tat") <= latest + ROUNDING, 9, f"too many tokens are given: {after}"
        )
        self._note_pause(after)

    def _check_cut(self, before: Item, after: Item) -> None:
        rate, rate_before = _number(after, "rate"), _number(before, "rate")
        if not rate < rate_before - ROUNDING:
            return
        passed = _number(after, "cut_at") - _number(before, "cut_at")
        words = f"the rate is cut from {rate_before} to {rate}, {passed:.1f} s after the last cut"
        self.check(passed >= WINDOW_SECONDS and rate >= CUT * rate_before - ROUNDING, 9, words)

    def _note_pause(self, after: Item) -> None:
        """While the upstream is away, a state has a pause although its consumer may try one operation."""
        paused_until = 0.0 if _number(after, "away_at") else _number(after, "not_before") - EPOCH
        if paused_until != self.paused_until:
            self.paused_until, self.written_at = paused_until, self.now()

    def on_start(self, run: Run) -> None:
        toy = self.truth.submission_of(run.batch_id).toys[int(run.operation_id.partition("-")[2])]
        if toy.path != "/limited":
            return
        is_known = self.now() > self.written_at + self.following_seconds
        is_early = self.now() < self.paused_until - 2 * self.truth.most_skew
        self.check(not (is_known and is_early), 9, f"{run} starts, but nothing may before {self.paused_until:.1f}")


def _number(item: Item, name: str) -> float:
    return float(item[name]["N"]) if name in item else 0.0
