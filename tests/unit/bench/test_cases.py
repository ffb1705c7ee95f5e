"""What a run measures, and in which order."""

from bench.cases import BARE, FIRST, IN_A_ROW, LATER, LINES, NONE_FAILS, PENSTOCK, QUICK, Plan, rounds
from bench.servers import EMBEDDED


def test_a_quick_run_has_the_cases_of_a_full_run() -> None:
    full, quick = list(rounds(Plan(), EMBEDDED)), list(rounds(QUICK, EMBEDDED))
    shown = [
        {
            (step.case.handler, step.case.consumers, step.case.latency_ms, step.contender)
            for one in run
            for step in one.steps
        }
        for run in (full, quick)
    ]
    assert shown[0] == shown[1]
    assert {contender for *_, contender in shown[0]} == {PENSTOCK, NONE_FAILS, LINES, BARE, FIRST, LATER, IN_A_ROW}


def test_contenders_take_turns() -> None:
    speed = next(rounds(QUICK, EMBEDDED))
    turns = [step.contender for step in speed.steps if (step.case.handler, step.case.size) == ("wait", 1_000)]
    assert turns == [PENSTOCK, BARE, BARE, PENSTOCK]


def test_only_another_handler_has_run_before_a_first_batch() -> None:
    """What programs load at their start belongs to no handler."""
    first = [one for one in rounds(QUICK, EMBEDDED) if one.steps[0].contender == FIRST]
    assert not any(one.has_bare for one in first)
    for one in first:
        handler, warmed_up = one.steps[0].case.handler, {step.case.handler for step in one.warm_up}
        assert len(warmed_up) == 1
        assert handler not in warmed_up
    assert {(one.steps[0].case.handler, one.consumers) for one in first} == {
        (handler, consumers) for handler in ("noop", "wait", "slow") for consumers in (2, 8)
    }
    assert all([step.contender for step in one.steps] == [FIRST, LATER, LATER, LATER] for one in first)


def test_sizes_can_be_chosen() -> None:
    speed, latency, *_ = rounds(Plan(sizes=[1_000_000], repeat=3), EMBEDDED)
    assert [step.contender for step in speed.steps if step.case.handler == "wait"] == [PENSTOCK, BARE]  # once
    assert {step.case.size for step in latency.steps} == {1_000}
