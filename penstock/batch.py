"""A batch: what a client submits, its states, its counts. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class BatchState(StrEnum):
    ACCEPTING = "accepting"  # its chunks are being sent; nothing of it may run
    ABANDONED = "abandoned"  # it was not accepted in time: nothing of it will ever run
    QUEUED = "queued"  # accepted; no consumer has begun
    PROCESSING = "processing"
    COMPLETED = "completed"  # every operation has its outcome, and one at least succeeded
    FAILED = "failed"  # every operation has its outcome, and none succeeded


UNACCEPTED_STATES = frozenset({BatchState.ACCEPTING, BatchState.ABANDONED})
FINAL_STATES = frozenset({BatchState.COMPLETED, BatchState.FAILED})
OPEN_STATES = frozenset({BatchState.QUEUED, BatchState.PROCESSING})


@dataclass(frozen=True, slots=True)
class Counts:
    """How many operations have which outcome. Counts add up."""

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
    expires_at: float  # when the table may forget it
    accepted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    finished_groups: frozenset[int] = frozenset()

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    def is_overdue(self, now: float) -> bool:
        """Whether its acceptance lease is over by this clock. Clocks differ: the table decides what comes of it."""
        return self.state is BatchState.ACCEPTING and now > self.accept_by


def sum_counts(counts: Iterable[Counts]) -> Counts:
    return sum(counts, start=Counts())


def final_state(counts: Counts) -> BatchState:
    """The state in which a batch ends whose every operation is counted."""
    return BatchState.COMPLETED if counts.succeeded else BatchState.FAILED


def estimate_finish(batch: Batch, completed: int, now: float) -> float | None:
    """When the last outcome is due at the pace kept so far (seconds since the epoch); None while there is no pace."""
    if batch.is_final or batch.started_at is None or completed == 0:
        return None
    seconds_each = max(now - batch.started_at, 0.0) / completed
    return now + seconds_each * (batch.total - completed)
