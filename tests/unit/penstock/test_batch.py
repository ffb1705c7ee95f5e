"""A batch's counts, its end, and when the end is due."""

from dataclasses import replace

import pytest

from penstock.batch import (
    FINAL_STATES,
    LONGEST_PAUSE_SECONDS,
    OPEN_STATES,
    UNACCEPTED_STATES,
    Batch,
    BatchState,
    Counts,
    Ending,
    FailureLimit,
    estimate_finish,
    final_state,
    sum_counts,
)

BATCH = Batch(
    id="b",
    tenant="t",
    state=BatchState.PROCESSING,
    total=100,
    chunk_count=1,
    group_totals=(100,),
    created_at=900.0,
    accept_by=960.0,
    deadline_at=5_000.0,
    expires_at=9_000.0,
    accepted_at=901.0,
    started_at=1_000.0,
)


def test_counts_add_up_field_by_field() -> None:
    counts = sum_counts([Counts(1, 2, 3, 4), Counts(10, 20, 30, 40)])
    assert counts == Counts(11, 22, 33, 44)
    assert counts.completed == 110
    assert sum_counts([]) == Counts(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("counts", "ending", "state"),
    [
        (Counts(succeeded=1, failed=99), None, BatchState.COMPLETED),  # one that succeeded is enough
        (Counts(succeeded=5), None, BatchState.COMPLETED),
        (Counts(failed=5), None, BatchState.FAILED),
        # A cancel that came when all had ended already changed nothing.
        (Counts(succeeded=5), Ending.CANCELLED, BatchState.COMPLETED),
        (Counts(succeeded=5, cancelled=1), Ending.CANCELLED, BatchState.CANCELLED),
        (Counts(cancelled=5), Ending.CANCELLED, BatchState.CANCELLED),
        (Counts(succeeded=5, expired=1), None, BatchState.EXPIRED),
        (Counts(cancelled=1, expired=1), Ending.CANCELLED, BatchState.CANCELLED),
        # Stopped for killing consumers: failed, however much of it had succeeded.
        (Counts(succeeded=99, failed=1), Ending.FAILED, BatchState.FAILED),
        # Until a retry has made up for all of it.
        (Counts(succeeded=100), Ending.FAILED, BatchState.COMPLETED),
    ],
)
def test_batch_ends_as_what_became_of_its_operations(counts: Counts, ending: Ending | None, state: BatchState) -> None:
    assert final_state(counts, ending) is state


@pytest.mark.parametrize(
    ("counts", "ending", "state"),
    [
        (Counts(failed=5), None, BatchState.COMPLETED),
        (Counts(succeeded=99, failed=1), Ending.FAILED, BatchState.COMPLETED),
        (Counts(failed=4, cancelled=1), Ending.CANCELLED, BatchState.CANCELLED),
        (Counts(failed=4, expired=1), None, BatchState.EXPIRED),
    ],
)
def test_batch_that_completes_anyway_never_fails(counts: Counts, ending: Ending | None, state: BatchState) -> None:
    assert final_state(counts, ending, completes_anyway=True) is state


@pytest.mark.parametrize(
    ("state", "given", "now", "ending"),
    [
        (BatchState.PROCESSING, None, 4_999.0, None),
        (BatchState.PROCESSING, None, 5_000.0, None),  # the deadline's last moment
        (BatchState.PROCESSING, None, 5_000.1, Ending.EXPIRED),
        (BatchState.QUEUED, None, 5_000.1, Ending.EXPIRED),
        (BatchState.CANCELLING, Ending.CANCELLED, 1_000.0, Ending.CANCELLED),
        (BatchState.CANCELLING, Ending.FAILED, 9_000.0, Ending.FAILED),  # it was to end before its deadline came
        (BatchState.ACCEPTING, None, 9_000.0, None),  # of it nothing begins anyway
        (BatchState.COMPLETED, None, 9_000.0, None),
        (BatchState.CANCELLED, Ending.CANCELLED, 9_000.0, None),  # over: what is redriven may run
    ],
)
def test_operations_may_begin_until_the_batch_is_to_end(
    state: BatchState, given: Ending | None, now: float, ending: Ending | None
) -> None:
    assert replace(BATCH, state=state, ending=given).ending_at(now) is ending


@pytest.mark.parametrize(
    ("percent", "total", "limit"),
    [
        (0, 1_000, 0),
        (100, 1_000, 1_000),
        (10, 1_000, 100),
        (10, 1_009, 100),  # no more than a tenth
        (0.1, 999, 0),
        (0.57, 10_000, 57),  # in floats a little less
        (29, 100, 29),
    ],
)
def test_limit_in_percent_is_the_whole_operations_within_it(percent: float, total: int, limit: int) -> None:
    assert FailureLimit.of_percent(percent, total) == FailureLimit(limit)


def test_failure_limit_is_passed_by_the_first_failure_beyond_it() -> None:
    assert not FailureLimit(2).is_passed(Counts(succeeded=50, failed=2, cancelled=9))
    assert FailureLimit(2).is_passed(Counts(failed=3))
    assert FailureLimit(0).is_passed(Counts(failed=1))


def test_operations_know_their_group() -> None:
    batch = replace(BATCH, group_totals=(100, 50, 1), total=151)
    assert [batch.first_index(group) for group in range(3)] == [0, 100, 150]
    assert [batch.group_at(index) for index in (0, 99, 100, 149, 150)] == [0, 0, 1, 1, 2]


def test_keys_begin_with_the_batch_unless_it_took_over_anothers() -> None:
    assert BATCH.key_prefix == "b"
    assert replace(BATCH, keys_from="a").key_prefix == "a"


def test_every_state_is_unaccepted_validating_open_or_final_and_only_one_of_them() -> None:
    states = [*UNACCEPTED_STATES, BatchState.VALIDATING, *OPEN_STATES, *FINAL_STATES]
    assert sorted(states) == sorted(BatchState)
    assert {state for state in BatchState if replace(BATCH, state=state).is_final} == FINAL_STATES


@pytest.mark.parametrize(
    ("state", "now", "is_overdue"),
    [
        (BatchState.ACCEPTING, 960.0, False),  # the lease's last moment
        (BatchState.ACCEPTING, 960.1, True),
        (BatchState.ABANDONED, 960.1, False),  # that is settled
        (BatchState.QUEUED, 5_000.0, False),  # accepted in time, and for good
        (BatchState.FAILED, 5_000.0, False),
    ],
)
def test_batch_is_overdue_once_its_acceptance_lease_is_over(state: BatchState, now: float, is_overdue: bool) -> None:
    assert replace(BATCH, state=state).is_overdue(now) is is_overdue


@pytest.mark.parametrize(
    ("batch", "completed", "now", "finish"),
    [
        (BATCH, 25, 1_010.0, 1_040.0),  # 0.4 s each, 75 to go
        (replace(BATCH, paused_seconds=900.0), 25, 1_910.0, 1_940.0),  # the pause does not count
        (BATCH, 100, 1_010.0, 1_010.0),  # all counted, not yet final
        (BATCH, 0, 1_010.0, None),  # no pace yet
        (BATCH, 50, 990.0, 990.0),  # the clock of who started it is ahead of ours
        (replace(BATCH, started_at=None), 5, 1_010.0, None),
        (replace(BATCH, state=BatchState.COMPLETED), 100, 1_010.0, None),
    ],
)
def test_end_is_due_at_the_pace_kept_so_far(batch: Batch, completed: int, now: float, finish: float | None) -> None:
    assert estimate_finish(batch, completed, now) == (None if finish is None else pytest.approx(finish))


@pytest.mark.parametrize(
    ("started_at", "paused_at", "now", "seconds"),
    [
        (None, None, 1_010.0, 0.0),
        (1_000.0, None, 1_010.0, 5.0),
        (1_000.0, 1_008.0, 1_010.0, 3.0),
        (1_000.0, 1_008.0, 5_000.0, 3.0),
        (1_000.0, 990.0, 5_000.0, 0.0),  # it was paused while its first operations started
        (1_000.0, 1_008.0, 1_008.0 + LONGEST_PAUSE_SECONDS + 7, 10.0),  # it has resumed by itself
    ],
)
def test_batch_does_not_run_while_it_is_paused(
    started_at: float | None, paused_at: float | None, now: float, seconds: float
) -> None:
    """There was another pause of 5 seconds before."""
    batch = replace(BATCH, started_at=started_at, paused_at=paused_at, paused_seconds=5.0)
    assert batch.running_seconds(now) == seconds
