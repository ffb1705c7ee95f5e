"""A batch is what a client submits. This module defines its fields, its states and its counts. Pure."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from penstock.cost import Units
from penstock.planning import Planning
from penstock.priority import Priority
from penstock.webhooks.event import FinalEvent

LONGEST_PAUSE_SECONDS = 7 * 24 * 3600  # then a paused batch resumes by itself
EARLY_SECONDS = 1.0  # clocks differ by less than this, so a chunk that is early by less runs immediately


class BatchState(StrEnum):
    """The state of a batch. In every final state each operation has an outcome."""

    VALIDATING = "validating"  # a consumer reads its file, and then sends its chunks; no operation may run yet
    ACCEPTING = "accepting"  # the front end is sending its chunks; no operation may run yet
    ABANDONED = "abandoned"  # it was not accepted in time; no operation will ever run
    QUEUED = "queued"  # it is accepted, and no consumer has started it
    PROCESSING = "processing"
    CANCELLING = "cancelling"  # no further operation starts; running operations may finish
    COMPLETED = "completed"  # final: at least one operation succeeded
    FAILED = "failed"  # final: no operation succeeded, or the batch was stopped and at least one operation failed
    CANCELLED = "cancelled"  # final: at least one operation was cancelled
    EXPIRED = "expired"  # final: at least one operation expired


UNACCEPTED_STATES = frozenset({BatchState.ACCEPTING, BatchState.ABANDONED})
FINAL_STATES = frozenset({BatchState.COMPLETED, BatchState.FAILED, BatchState.CANCELLED, BatchState.EXPIRED})
OPEN_STATES = frozenset({BatchState.QUEUED, BatchState.PROCESSING, BatchState.CANCELLING})
RUNNING_STATES = frozenset({BatchState.QUEUED, BatchState.PROCESSING})  # operations may still start


class Ending(StrEnum):
    """Why a batch ends early. Operations that have not started get the outcome of this name."""

    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"  # too many consumers died while they ran its chunks


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of operations with each outcome.

    The counts of a redriven chunk have a negative `failed`: they take back the failures that were counted before.
    """

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0

    @property
    def completed(self) -> int:
        """Return the number of operations that have an outcome."""
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
    """The rest of a batch is cancelled when more than `count` of its operations have failed."""

    count: int

    @classmethod
    def of_percent(cls, percent: float, total: int) -> "FailureLimit":
        return cls(int(round(total * percent / 100, 6)))  # 0.57 % of 10,000 is 56.99999999999999 in floats

    def is_stricter_than(self, other: "FailureLimit | None") -> bool:
        return other is None or self.count < other.count

    def is_passed(self, counts: Counts) -> bool:
        return counts.failed > self.count

    @property
    def reason(self) -> str:
        return f"More than {self.count:,} of its operations failed."


def failure_limit_of(max_failures: int | None, max_failed_percent: float | None, total: int) -> FailureLimit | None:
    """Return the limit of failures that a client asked for. If it asked for both limits, the lower one counts."""
    limits = []
    if max_failures is not None:
        limits.append(FailureLimit(max_failures))
    if max_failed_percent is not None:
        limits.append(FailureLimit.of_percent(max_failed_percent, total))
    return min(limits, key=lambda limit: limit.count, default=None)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the table stores it.

    All times are seconds since the epoch. `group_totals[g]` is the number of operations in group g.
    """

    id: str
    tenant: str
    state: BatchState
    total: int
    chunk_count: int
    group_totals: tuple[int, ...]
    created_at: float
    accept_by: float  # end of the acceptance lease: after it, any program may abandon a batch that is not accepted
    deadline_at: float  # operations that have not finished by then expire
    expires_at: float  # when the table may delete the batch
    priority: Priority = Priority.NORMAL
    not_before: float | None = None  # no operation runs before this time
    failure_limit: FailureLimit | None = None  # what follows from the next two
    max_failures: int | None = None
    max_failed_percent: float | None = None
    paused_at: float | None = None  # when a client paused it
    paused_seconds: float = 0.0  # how long it was paused since it started, without the pause that began at `paused_at`
    concurrency: int | None = None  # how many of its operations may run at the same time in the fleet
    has_own_ids: bool = False  # True if the client gave ids to its operations; otherwise an id is the index
    keys_from: str | None = None  # the batch whose id the operations' keys contain, if it is another batch
    # Headers of the request that forwarded operations carry. They may be secrets: never show or log them.
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    has_metadata: bool = False  # the metadata is in the entry of the batch in the list of its tenant
    accepted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    finished_groups: frozenset[int] = frozenset()
    spent: Units = field(default=Units(), compare=False)  # until its acceptance and at its end; see `Group.spent`
    ending: Ending | None = None  # why it ends early
    reason: str | None = None  # the same as a sentence for people
    is_suspect: bool = False  # a delivery of it was lost: from then on, each delivery notes when it starts to run
    died: frozenset[str] = frozenset()  # processes that seem to have died while they ran a chunk of it
    callback_url: str | None = field(default=None, repr=False)  # where its events go. It may have a secret in its query
    has_webhooks: bool = False  # its tenant may have webhook endpoints
    completes_anyway: bool = False  # it never fails as a whole: it is completed even if no operation succeeded
    planning: Planning | None = None  # of a batch that is an uploaded file, which a consumer plans
    events: tuple[FinalEvent, ...] = ()  # events that are not yet on their way to their receivers

    @property
    def wants_events(self) -> bool:
        """Return True if somebody may want to know when the batch is final."""
        return self.has_webhooks or self.callback_url is not None

    @property
    def key_prefix(self) -> str:
        return self.keys_from or self.id

    @property
    def was_never_accepted(self) -> bool:
        """Return True if its operations will never run: its file was invalid, or it ended before that was known."""
        return self.is_final and self.planning is not None and self.accepted_at is None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    def first_index(self, group: int) -> int:
        return sum(self.group_totals[:group])

    def group_at(self, index: int) -> int:
        """Return the number of the group that contains the operation at `index`."""
        ends = itertools.accumulate(self.group_totals)
        return next(group for group, end in enumerate(ends) if index < end)

    def is_forgotten(self, now: float) -> bool:
        """Return True if the retention of the batch is over.

        From then on the table deletes its items, in any order and within days. So it must not be read any more.
        """
        return now >= self.expires_at

    def is_overdue(self, now: float) -> bool:
        """Return True if the acceptance lease has ended by this clock.

        Clocks differ, so this is only a hint: the table's conditional write decides whether the batch is abandoned.
        """
        return self.state is BatchState.ACCEPTING and now > self.accept_by

    def is_early(self, now: float) -> bool:
        """Return True if the batch still waits for its `not_before` time."""
        if self.not_before is None or self.state not in RUNNING_STATES:
            return False
        return self.not_before - now > EARLY_SECONDS

    @property
    def paused_until(self) -> float | None:
        """Return when the batch resumes by itself, or None if no client has paused it."""
        return None if self.paused_at is None else self.paused_at + LONGEST_PAUSE_SECONDS

    def paused_seconds_at(self, now: float) -> float:
        """Return for how many seconds the batch was paused since it started."""
        if self.started_at is None or self.paused_at is None or self.paused_until is None:
            return self.paused_seconds
        return self.paused_seconds + max(0.0, min(now, self.paused_until) - max(self.paused_at, self.started_at))

    def running_seconds(self, now: float) -> float:
        """Return for how many seconds the batch has run. Its pauses do not count."""
        return 0.0 if self.started_at is None else max(0.0, now - self.started_at - self.paused_seconds_at(now))

    def may_run(self, now: float) -> bool:
        """Return True if the batch is neither final nor about to end."""
        return self.state in RUNNING_STATES and self.ending_at(now) is None

    def is_paused(self, now: float) -> bool:
        """Return True if no operation may start because a client has paused the batch.

        A batch that is cancelled or past its deadline is not paused: its operations get their outcomes.
        """
        return self.paused_until is not None and now < self.paused_until and self.may_run(now)

    def ending_at(self, now: float) -> Ending | None:
        """Return None if operations may still start, or the reason why the batch ends early."""
        if self.state is BatchState.CANCELLING:
            return self.ending or Ending.CANCELLED
        if (self.state in OPEN_STATES or self.state is BatchState.VALIDATING) and now > self.deadline_at:
            return Ending.EXPIRED
        return None


STEERED = (
    "priority",
    "deadline_at",
    "paused_at",
    "paused_seconds",
    "concurrency",
    "failure_limit",
    "max_failures",
    "max_failed_percent",
)


def steered_values(batch: Batch) -> dict[str, Any]:
    """Return what a client may change while the batch runs."""
    return {name: getattr(batch, name) for name in STEERED}


def sum_counts(counts: Iterable[Counts]) -> Counts:
    return sum(counts, start=Counts())


def final_state(counts: Counts, ending: Ending | None = None, *, completes_anyway: bool = False) -> BatchState:
    """Return the final state of a batch whose operations are all counted."""
    if counts.cancelled:
        return BatchState.CANCELLED
    if counts.expired:
        return BatchState.EXPIRED
    if completes_anyway:
        return BatchState.COMPLETED
    is_stopped = ending is Ending.FAILED and counts.failed > 0  # after a retry there may be no failure left
    if is_stopped or not counts.succeeded:
        return BatchState.FAILED
    return BatchState.COMPLETED


def estimate_finish(batch: Batch, completed: int, now: float) -> float | None:
    """Return the time (seconds since the epoch) at which the batch will finish if it keeps its average pace.

    Return None if no operation has an outcome yet, or if the batch is final.
    """
    if batch.is_final or batch.started_at is None or completed == 0:
        return None
    seconds_each = batch.running_seconds(now) / completed
    return now + seconds_each * (batch.total - completed)
