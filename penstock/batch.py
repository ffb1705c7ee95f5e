"""A batch: what a client submits, its states, its counts. Pure."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from penstock.priority import Priority

EARLY_SECONDS = 1.0  # clocks differ by less; what comes sooner before its time than this just runs


class BatchState(StrEnum):
    ACCEPTING = "accepting"  # its chunks are being sent; nothing of it may run
    ABANDONED = "abandoned"  # it was not accepted in time: nothing of it will ever run
    QUEUED = "queued"  # accepted; no consumer has begun
    PROCESSING = "processing"
    CANCELLING = "cancelling"  # nothing more of it begins; what runs may finish
    COMPLETED = "completed"  # every operation has its outcome, and one at least succeeded
    FAILED = "failed"  # every operation has its outcome, and none succeeded; or it was stopped, and some are failed
    CANCELLED = "cancelled"  # every operation has its outcome, some of them cancelled
    EXPIRED = "expired"  # every operation has its outcome, some of them expired


UNACCEPTED_STATES = frozenset({BatchState.ACCEPTING, BatchState.ABANDONED})
FINAL_STATES = frozenset({BatchState.COMPLETED, BatchState.FAILED, BatchState.CANCELLED, BatchState.EXPIRED})
OPEN_STATES = frozenset({BatchState.QUEUED, BatchState.PROCESSING, BatchState.CANCELLING})


class Ending(StrEnum):
    """What becomes of the operations of a batch that have not begun, once no more of them shall."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"  # it has cost too many consumers their lives


@dataclass(frozen=True, slots=True)
class Counts:
    """How many operations have which outcome. Counts add up; those of a redrive take back what failed before."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0

    @property
    def completed(self) -> int:
        return self.succeeded + self.failed + self.cancelled + self.expired

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.expired + other.expired,
        )


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """More failures than `count`, and the rest of the batch is cancelled."""

    count: int

    @classmethod
    def of_percent(cls, percent: float, total: int) -> "FailureLimit":
        return cls(int(round(total * percent / 100, 6)))  # 0.57 % of 10,000 are 56.99999999999999 in floats

    def is_passed(self, counts: Counts) -> bool:
        return counts.failed > self.count

    @property
    def reason(self) -> str:
        return f"More than {self.count:,} of its operations failed."


@dataclass(frozen=True, slots=True)
class Batch:
    """Times are seconds since the epoch. `group_totals[g]` is the number of operations in group g."""

    id: str
    tenant: str
    state: BatchState
    total: int
    chunk_count: int
    group_totals: tuple[int, ...]
    created_at: float
    accept_by: float  # the acceptance lease: whoever finds it over and the batch not accepted, abandons it
    deadline_at: float  # what has not ended by then is expired
    expires_at: float  # when the table may forget it
    priority: Priority = Priority.NORMAL
    not_before: float | None = None  # nothing of it runs sooner
    failure_limit: FailureLimit | None = None
    has_own_ids: bool = False  # the client gave its operations ids; else they are their places
    keys_from: str | None = None  # the batch whose id is in the operations' keys, where it is not this one
    # Of its request, what forwarded operations take along: it may be a secret, and is shown nowhere.
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    accepted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    finished_groups: frozenset[int] = frozenset()
    ending: Ending | None = None  # why it is cancelling
    reason: str | None = None  # the same in words, for people

    @property
    def key_prefix(self) -> str:
        return self.keys_from or self.id

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    def first_index(self, group: int) -> int:
        return sum(self.group_totals[:group])

    def group_at(self, index: int) -> int:
        """The group that operation `index` is in."""
        ends = itertools.accumulate(self.group_totals)
        return next(group for group, end in enumerate(ends) if index < end)

    def is_overdue(self, now: float) -> bool:
        """Whether its acceptance lease is over by this clock. Clocks differ: the table decides what comes of it."""
        return self.state is BatchState.ACCEPTING and now > self.accept_by

    def is_early(self, now: float) -> bool:
        """Whether it waits for its time to run."""
        if self.not_before is None or self.state not in {BatchState.QUEUED, BatchState.PROCESSING}:
            return False
        return self.not_before - now > EARLY_SECONDS

    def ending_at(self, now: float) -> Ending | None:
        """Whether operations may still begin: None; or what becomes of those that have not."""
        if self.state is BatchState.CANCELLING:
            return self.ending or Ending.CANCELLED
        if self.state in OPEN_STATES and now > self.deadline_at:
            return Ending.EXPIRED
        return None


def sum_counts(counts: Iterable[Counts]) -> Counts:
    return sum(counts, start=Counts())


def final_state(counts: Counts, ending: Ending | None = None) -> BatchState:
    """The state of a batch whose every operation is counted."""
    if counts.cancelled:
        return BatchState.CANCELLED
    if counts.expired:
        return BatchState.EXPIRED
    is_stopped = ending is Ending.FAILED and counts.failed > 0  # a retry may make up for all that was stopped
    if is_stopped or not counts.succeeded:
        return BatchState.FAILED
    return BatchState.COMPLETED


def estimate_finish(batch: Batch, completed: int, now: float) -> float | None:
    """When the last outcome is due at the pace kept so far (seconds since the epoch); None while there is no pace."""
    if batch.is_final or batch.started_at is None or completed == 0:
        return None
    seconds_each = max(now - batch.started_at, 0.0) / completed
    return now + seconds_each * (batch.total - completed)
