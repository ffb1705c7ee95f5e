"""What a batch becomes once everything is counted, before a consumer has written it."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.batch import Batch, BatchState, Counts, Ending, FailureLimit
from penstock.ending import as_ended
from penstock.store import Group
from tests.support.builders import NOW, build_batch

RUNNING = build_batch(3, 2, state=BatchState.PROCESSING, started_at=NOW)


def counter(counts: Counts, at: float | None = NOW + 5, **changes: Any) -> Group:
    return Group(counts, counted_at=at, **changes)


def ended(batch: Batch, *groups: Group) -> Batch:
    return as_ended(batch, dict(enumerate(groups)))


@pytest.mark.parametrize(
    ("changes", "second", "state"),
    [
        ({}, Counts(2), BatchState.COMPLETED),
        ({}, Counts(cancelled=2), BatchState.CANCELLED),
        ({}, Counts(expired=2), BatchState.EXPIRED),
        ({"state": BatchState.QUEUED}, Counts(1, 1), BatchState.COMPLETED),
        ({"state": BatchState.CANCELLING, "ending": Ending.CANCELLED}, Counts(2), BatchState.COMPLETED),
        ({"state": BatchState.CANCELLING, "ending": Ending.FAILED}, Counts(1, 1), BatchState.FAILED),
        ({"failure_limit": FailureLimit(1)}, Counts(1, 1), BatchState.COMPLETED),
    ],
)
def test_batch_is_final_with_its_last_count(changes: dict[str, Any], second: Counts, state: BatchState) -> None:
    batch = replace(RUNNING, **changes)
    expected = replace(batch, state=state, finished_at=NOW + 9)
    assert ended(batch, counter(Counts(3)), counter(second, NOW + 9)) == expected
    assert ended(batch, counter(Counts(3), NOW + 9), counter(second)) == expected


@pytest.mark.parametrize(("completes_anyway", "state"), [(False, BatchState.FAILED), (True, BatchState.COMPLETED)])
def test_batch_without_any_success_has_failed_unless_it_completes_anyway(
    completes_anyway: bool, state: BatchState
) -> None:
    batch = replace(RUNNING, completes_anyway=completes_anyway)
    assert ended(batch, counter(Counts(0, 3)), counter(Counts(0, 2))).state is state


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param([counter(Counts(3)), counter(Counts(1))], id="an operation is open"),
        pytest.param([counter(Counts(3))], id="a counter was not read"),
        pytest.param([counter(Counts(3)), counter(Counts(2), None)], id="an earlier version counted"),
        pytest.param([counter(Counts(3)), counter(Counts(0, 0, 0, 2), closed=Ending.EXPIRED)], id="a sweep closed it"),
    ],
)
def test_batch_runs_while_its_end_or_the_time_of_it_is_not_known(groups: list[Group]) -> None:
    assert ended(RUNNING, *groups) is RUNNING


@pytest.mark.parametrize("changes", [{"failure_limit": FailureLimit(1)}, {"died": frozenset({"p1"})}])
def test_batch_runs_while_a_consumer_may_still_stop_it(changes: dict[str, Any]) -> None:
    batch = replace(RUNNING, **changes)
    groups = [counter(Counts(2, 1)), counter(Counts(1, 1))]
    assert ended(batch, *groups) is batch
    stopped = replace(batch, state=BatchState.CANCELLING, ending=Ending.FAILED)
    assert ended(stopped, *groups).state is BatchState.FAILED
    assert ended(batch, counter(Counts(3)), counter(Counts(2))).state is BatchState.COMPLETED


@pytest.mark.parametrize("state", [BatchState.COMPLETED, BatchState.ACCEPTING, BatchState.VALIDATING])
def test_batch_that_is_final_or_not_accepted_stays_as_it_is(state: BatchState) -> None:
    batch = replace(RUNNING, state=state)
    assert ended(batch, counter(Counts(3)), counter(Counts(2))) is batch


def test_start_is_in_the_counter_if_one_count_had_everything() -> None:
    batch = build_batch(3, state=BatchState.QUEUED)
    final = ended(batch, counter(Counts(2, 1), started_at=NOW + 1))
    assert (final.state, final.started_at, final.finished_at) == (BatchState.COMPLETED, NOW + 1, NOW + 5)
    assert ended(batch, counter(Counts(2, 1))) is batch


def test_batch_of_which_nothing_has_run_never_started() -> None:
    batch = build_batch(3, state=BatchState.CANCELLING, ending=Ending.CANCELLED)
    final = ended(batch, counter(Counts(cancelled=3)))
    assert (final.state, final.started_at, final.finished_at) == (BatchState.CANCELLED, None, NOW + 5)
