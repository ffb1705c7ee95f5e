"""Says what a batch becomes once all of its operations are counted. Pure.

The consumer that counts the last operations makes the batch final afterwards, which takes it one to three more calls.
What these calls write follows from the batch and its counters. So who reads both need not wait for them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from penstock.batch import OPEN_STATES, Batch, BatchState, Counts, final_state, sum_counts
from penstock.outcome import ChunkRecord
from penstock.store import Group


def as_ended(batch: Batch, groups: Mapping[int, Group]) -> Batch:
    """Return the batch as it will be when it is final, if everything is counted and nothing can change that any more.

    Otherwise return it as it is. `groups` are its counters, by their numbers.
    """
    counters, counts = groups.values(), counts_of(groups.values())
    finished_at, started_at = counted_at(counters), start_in(counters) or batch.started_at
    is_counted = len(groups) == len(batch.group_totals) and counts.completed == batch.total
    if batch.state not in OPEN_STATES or not is_counted or finished_at is None or _may_be_stopped(batch, counts):
        return batch
    if started_at is None and has_run(counts):
        return batch  # only the consumer that ran it knows when it started
    return replace(batch, state=state_of(batch, counts), started_at=started_at, finished_at=finished_at)


def counts_of(groups: Iterable[Group]) -> Counts:
    return sum_counts(group.counts for group in groups)


def state_of(batch: Batch, counts: Counts) -> BatchState:
    """Return the final state of a batch once all of its operations have these counts."""
    return final_state(counts, batch.ending, completes_anyway=batch.completes_anyway)


def counted_at(groups: Collection[Group]) -> float | None:
    """Return when the last operation of full groups was counted, which is when their batch has finished.

    Return None if nobody knows: a sweep has closed a group, or the counter is empty or of an earlier version.
    """
    times = [group.counted_at for group in groups if group.closed is None and group.counted_at is not None]
    return max(times) if times and len(times) == len(groups) else None


def start_in(groups: Collection[Group]) -> float | None:
    """Return when the batch started, if its start was left out: then the counter of its only group has it.

    It holds whatever the batch says: another consumer may run a second copy of its chunk, and start it once more.
    """
    return next((group.started_at for group in groups if group.started_at is not None), None)


def start_left_out(batch: Batch, records: Sequence[ChunkRecord]) -> float | None:
    """Return what `start_in` returns once these records are counted together, before anything else of their group.

    A consumer whose only record completes the batch does not write the start into the batch.
    """
    is_completed = len(records) == 1 and records[0].counts.completed == batch.total
    return batch.started_at if is_completed else None


def has_run(counts: Counts) -> bool:
    """Return True if any operation has run."""
    return counts.succeeded + counts.failed > 0


def _may_be_stopped(batch: Batch, counts: Counts) -> bool:
    """Return True if a consumer may still end the batch early, because of its failures or because processes died of it.

    That gives a batch with failures another reason, and perhaps another final state.
    """
    limit = batch.failure_limit
    is_over_limit = limit is not None and limit.is_passed(counts)
    return batch.ending is None and counts.failed > 0 and (is_over_limit or bool(batch.died))
