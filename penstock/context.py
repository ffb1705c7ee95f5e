"""What a handler is given, and what it may raise."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from typing_extensions import TypeVar

T = TypeVar("T", default=Any)

LONGEST_WAIT_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Context(Generic[T]):
    """What a handler may know of the operation it performs.

    `key` is the same for every attempt and every delivery of an operation: store it with what the handler writes, and a
    second run changes nothing. `attempt` counts from 1. `transaction` is what the application's transaction yields,
    None where it has none: write `Context[AsyncSession]` to have it typed. `headers` are those of the batch's request
    that its forwarded operations take along, named by `forward(headers=...)`.
    """

    operation_id: str
    batch_id: str
    attempt: int
    key: str
    transaction: T
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Reject(Exception):
    """Refuse this operation for good: `raise Reject(409, "This e-mail is taken.")`. It is not tried again.

    `status` is the outcome's, 400 to 599; `detail` says why, for the client.
    """

    def __init__(self, status: int, detail: str) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"Reject takes a status from 400 to 599, not {status}.")
        super().__init__(detail)
        self.status = status
        self.detail = str(detail)


class Retry(Exception):
    """Ask for another attempt: `raise Retry(after_seconds=30)`. Without a time the backoff decides when.

    It counts as an attempt: after `max_attempts` the operation fails with `detail`.
    """

    def __init__(
        self, detail: str = "The operation could not be performed yet.", *, after_seconds: float | None = None
    ) -> None:
        if after_seconds is not None and not 0 <= after_seconds <= LONGEST_WAIT_SECONDS:
            raise ValueError(f"Retry takes after_seconds from 0 to {LONGEST_WAIT_SECONDS:,}, not {after_seconds}.")
        super().__init__(detail)
        self.detail = str(detail)
        self.after_seconds = after_seconds
