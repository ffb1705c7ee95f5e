"""Faults in how the fleet keeps a limit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from penstock import fleet_limit
from penstock.fleet_limit import Block, LimitState, Report
from penstock.running import limit_gate, limit_line
from tests.simulation.rewriting import drop_condition, rewrite

Patching = pytest.MonkeyPatch


def lease_without_a_condition(patching: Patching) -> None:
    rewrite(patching, "lease_limit", drop_condition)


def cut_with_every_report(patching: Patching) -> None:
    """Cut the rate again although the fleet has not followed the last cut yet."""

    def mutant(state: LimitState, report: Report, now: float) -> LimitState:
        if state.rate is None:
            return original(state, report, now)
        return replace(state, rate=fleet_limit.CUT * state.rate, ceiling=state.rate, cut_at=now)

    original = fleet_limit._with_throttled
    patching.setattr(fleet_limit, "_with_throttled", mutant)


def never_cut(patching: Patching) -> None:
    def mutant(state: LimitState, report: Report, now: float) -> LimitState:
        return original(state, report, now) if state.rate is None else state

    original = fleet_limit._with_throttled
    patching.setattr(fleet_limit, "_with_throttled", mutant)


def grow_although_something_was_throttled(patching: Patching) -> None:
    original = fleet_limit._may_grow
    patching.setattr(fleet_limit, "_may_grow", lambda state, now: original(replace(state, throttled=0), now))


def grow_as_if_there_were_no_ceiling(patching: Patching) -> None:
    original = fleet_limit._grown
    patching.setattr(fleet_limit, "_grown", lambda state, now: original(replace(state, ceiling=None), now))


def never_grow(patching: Patching) -> None:
    patching.setattr(fleet_limit, "_may_grow", lambda _state, _now: False)


def cut_while_the_upstream_is_away(patching: Patching) -> None:
    """Take every throttled operation for a sign of its rate, even if nothing has passed since the last cut."""

    def mutant(state: LimitState, report: Report, now: float) -> LimitState:
        return original(replace(state, away_at=0.0, passed_from=max(state.passed_from, state.cut_at)), report, now)

    original = fleet_limit._with_throttled
    patching.setattr(fleet_limit, "_with_throttled", mutant)


def try_with_many_while_the_upstream_is_away(patching: Patching) -> None:
    def mutant(state: LimitState, rate: float, limit: Any, wanted: int, now: float) -> int:
        return original(replace(state, away_at=0.0), rate, limit, wanted, now)

    original = fleet_limit._tokens
    patching.setattr(fleet_limit, "_tokens", mutant)


def pause_alone(patching: Patching) -> None:
    """Keep to oneself how long the upstream asks to wait."""
    _change_report(patching, lambda report: replace(report, not_before=0.0))


def release_permits_early(patching: Patching) -> None:
    """Release the permit of an operation when it starts."""

    def start(self: limit_line.Line, operations: int) -> None:
        original(self, operations)
        self.gate.end()

    def end(self: limit_gate.LimitGate) -> None:
        if self._permits is not None and self._permits.running:
            end_of_gate(self)

    original, end_of_gate = limit_line.Line.start, limit_gate.LimitGate.end
    patching.setattr(limit_line.Line, "start", start)
    patching.setattr(limit_gate.LimitGate, "end", end)


def give_what_is_wanted(patching: Patching) -> None:
    patching.setattr(fleet_limit, "_tokens", lambda _state, _rate, _limit, wanted, _now: min(wanted, 1_000))


def give_a_token_less(patching: Patching) -> None:
    """Give each block one token less than it should have, unless that would be none."""

    def mutant(*args: Any) -> int:
        tokens = original(*args)
        return max(tokens - 1, min(tokens, 1))

    original = fleet_limit._tokens
    patching.setattr(fleet_limit, "_tokens", mutant)


def run_small_batches_without_tokens(patching: Patching) -> None:
    patching.setattr("penstock.service.app._gates", lambda *_: None)


def _change_report(patching: Patching, change: Callable[[Report], Report]) -> None:
    original = fleet_limit.lease

    def mutant(state: LimitState, limit: Any, report: Report, wanted: int, now: float) -> tuple[LimitState, Block]:
        return original(state, limit, change(report), wanted, now)

    patching.setattr(limit_gate, "lease", mutant)
