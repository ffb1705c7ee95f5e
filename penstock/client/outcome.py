"""What operations came to: an outcome for each of them, and the failures grouped by cause."""

from datetime import datetime
from typing import Any

import msgspec


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of one operation: its `status`, and either a `result` or an `error`.

    A large result is in a bucket for a limited time. If it is gone, `result_missing` says so, and `result` is None.
    """

    id: str
    status: int
    result: Any = None
    error: dict[str, Any] | None = None
    result_missing: str | None = msgspec.field(default=None, name="resultMissing")

    @property
    def succeeded(self) -> bool:
        return self.error is None

    @property
    def title(self) -> str:
        """Return the short reason of a failure, or "" if the operation succeeded."""
        return str((self.error or {}).get("title") or "")

    @property
    def detail(self) -> str:
        """Return the explanation of a failure, or "" if there is none."""
        return str((self.error or {}).get("detail") or "")


class Sample(msgspec.Struct, frozen=True):
    """One of the operations that failed for the same cause. `index` is its position in the batch, from 0."""

    id: str
    index: int
    detail: str | None = None


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """All operations that failed with the same status and title. `retryable` counts those that can run again."""

    status: int
    title: str
    count: int
    first_at: datetime | None = None
    last_at: datetime | None = None
    samples: list[Sample] = []
    retryable: int = 0


class Failures(msgspec.Struct, frozen=True, rename="camel"):
    """The failures of a batch, the most frequent cause first. `other` counts those that are in no group."""

    failed: int
    counted: int
    groups: list[Failure]
    other: int = 0
    next_cursor: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the failures with the names and the values that they have in the API."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        for group, shown in zip(self.groups, document["groups"], strict=True):
            shown.update(firstAt=_time_text(group.first_at), lastAt=_time_text(group.last_at))
        return document

    def __add__(self, later: "Failures") -> "Failures":
        """Return the failures of two answers together."""
        by_cause: dict[tuple[int, str], Failure] = {}
        for group in [*self.groups, *later.groups]:
            cause = (group.status, group.title)
            by_cause[cause] = _joined(by_cause[cause], group) if cause in by_cause else group
        groups = sorted(by_cause.values(), key=lambda group: -group.count)
        return Failures(later.failed, self.counted + later.counted, groups, self.other + later.other, later.next_cursor)


def _time_text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_MOST_SAMPLES = 3


def _joined(one: Failure, other: Failure) -> Failure:
    times = [time for time in (one.first_at, other.first_at) if time is not None]
    last = [time for time in (one.last_at, other.last_at) if time is not None]
    return Failure(
        one.status,
        one.title,
        one.count + other.count,
        min(times, default=None),
        max(last, default=None),
        [*one.samples, *other.samples][:_MOST_SAMPLES],
        one.retryable + other.retryable,
    )
