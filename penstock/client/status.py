"""The status of a batch."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from penstock.client.errors import BatchError, NotPenstock, errors_of
from penstock.client.outcome import Outcome

FINAL = frozenset({"completed", "failed", "cancelled", "expired"})


class Cost(msgspec.Struct, frozen=True, rename="camel"):
    """What the AWS calls for a batch have cost."""

    usd: float
    requests: float
    as_of: datetime | None = None


class FileProgress(msgspec.Struct, frozen=True, rename="camel"):
    """How far the server has read an uploaded file, and then how far its operations are on the queue."""

    bytes: int
    bytes_read: int
    operations_read: int
    operations_sent: int
    error_count: int = 0


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """The status of a batch at one time: its state, its counts and its times.

    `status` is the state: validating, queued, processing, paused, cancelling, completed, failed, cancelled or expired.
    While a large uploaded file is validating, `total` is 0, because it is not known, and `validation` says how far that
    is. If the file is invalid, the batch has failed: `errors` lists the first errors, `error_count` counts all, and no
    operation has run. Times are aware datetimes in UTC. `document` is the status as the server has written it. A batch
    that was answered immediately has counts, but no id and no times.
    """

    batch_id: str
    status: str
    total: int
    completed: int
    succeeded: int
    failed: int
    cancelled: int = 0
    expired: int = 0
    redelivered: int = 0
    progress: float = 0.0
    priority: str = "normal"
    tenant: str = ""
    metadata: Mapping[str, str] = {}
    created_at: datetime | None = None
    accepted_at: datetime | None = None
    not_before: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    paused_at: datetime | None = None
    paused_until: datetime | None = None
    concurrency: int | None = None
    max_failures: int | None = None
    max_failed_percent: float | None = None
    reason: str | None = None
    eta: datetime | None = None
    eta_earliest: datetime | None = None
    eta_latest: datetime | None = None
    cost: Cost | None = None
    validation: FileProgress | None = None
    error_count: int = 0
    document: Mapping[str, Any] = {}

    @property
    def id(self) -> str:
        return self.batch_id

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def all_succeeded(self) -> bool:
        """Return True if the batch is final and every operation succeeded.

        A batch whose file was never accepted has no operations, and none succeeded.
        """
        return self.is_final and self.succeeded == self.total > 0

    @property
    def errors(self) -> list[BatchError]:
        """Return the first errors in the file of a batch that has failed because of them."""
        return errors_of(self.document)

    @property
    def title(self) -> str:
        """Return the title that the batch was submitted with, or ""."""
        return self.metadata.get("title", "")

    def __repr__(self) -> str:
        counts = f"{self.succeeded:,} succeeded, {self.failed:,} failed"
        return f"<Status {self.batch_id} {self.status}: {self.completed:,} of {self.total:,}, {counts}>"


class Validation(msgspec.Struct, frozen=True, rename="camel"):
    """What a batch would be: its operations by their handlers, and what it would take.

    With `invalid_rows="fail"`, `invalid_rows` is how many invalid rows would fail. Otherwise it is None.
    """

    total: int
    chunks: int
    by_handler: Mapping[str, int]
    invalid_rows: int | None = None
    estimated_seconds: float | None = None
    estimated_usd: float | None = None


def read_status(document: Mapping[str, Any]) -> Status:
    """Return the status that the server has written. Raises NotPenstock."""
    try:
        return msgspec.convert({**document, "document": document}, Status)
    except (msgspec.ValidationError, TypeError) as error:
        raise NotPenstock(f"The server answered, but not with the status of a batch ({error}).") from error


def status_of(outcomes: Sequence[Outcome]) -> Status:
    """Return the status of a batch that was answered immediately with its outcomes."""
    total, succeeded = len(outcomes), sum(outcome.succeeded for outcome in outcomes)
    state = "completed" if succeeded else "failed"
    counts = {"total": total, "completed": total, "succeeded": succeeded, "failed": total - succeeded}
    return read_status({"batchId": "", "status": state, **counts, "progress": 1.0})
