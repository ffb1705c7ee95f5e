"""The delivery of an event to one endpoint, with all its attempts. Pure."""

from dataclasses import dataclass, replace
from enum import StrEnum

from penstock.webhooks.endpoint import CALLBACK
from penstock.webhooks.schedule import MOST_ATTEMPTS, Answer, Result, next_delay

# An attempt that is under way belongs to its consumer for this long. Then another consumer may make the next attempt.
LEASE_SECONDS = 60.0
# How long a delivery is kept at least. The whole schedule takes 77 hours.
KEPT_SECONDS = 4 * 24 * 3600


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EventDelivery:
    """An event on its way to an endpoint.

    `attempt` is the number of attempts that were started. A replay starts the schedule again after the first
    `replayed_after` of them. `claim` identifies the last attempt, so that only the consumer that makes it writes what
    came of it.
    """

    tenant: str
    event_id: str
    endpoint_id: str
    type: str
    body: bytes
    created_at: float
    expires_at: float
    batch_id: str | None = None
    url: str | None = None  # of a callback; other endpoints have their own
    state: DeliveryState = DeliveryState.PENDING
    due_at: float | None = None  # of the next attempt; while one is under way, the end of its lease
    attempt: int = 0
    replayed_after: int = 0
    claim: str | None = None
    attempted_at: float | None = None
    status: int | None = None  # of the last response
    error: str | None = None  # why there was no response, or why there is no further attempt
    response: str = ""  # the beginning of the last response, for operators only

    @property
    def id(self) -> str:
        return f"{self.event_id}.{self.endpoint_id}"

    @property
    def is_callback(self) -> bool:
        return self.endpoint_id == CALLBACK

    @property
    def is_exhausted(self) -> bool:
        """Return True if more attempts were started than the schedule has, because their results were not written."""
        return self.attempt - self.replayed_after > MOST_ATTEMPTS

    def after(self, answer: Answer, now: float, draw: float) -> "EventDelivery":
        """Return the delivery after an attempt with this answer."""
        answered = replace(
            self, attempted_at=now, status=answer.status, error=answer.error, response=answer.text, due_at=None
        )
        if answer.result is Result.DELIVERED:
            return replace(answered, state=DeliveryState.DELIVERED)
        delay = None
        if answer.result is not Result.GONE:
            delay = next_delay(self.attempt - self.replayed_after, answer, draw)
        if delay is None:
            return replace(answered, state=DeliveryState.FAILED)
        due_at = now + delay
        return replace(answered, due_at=due_at, expires_at=max(self.expires_at, due_at + KEPT_SECONDS))

    def given_up(self, reason: str) -> "EventDelivery":
        return replace(self, state=DeliveryState.FAILED, error=reason, due_at=None)


@dataclass(frozen=True, slots=True)
class DeliveryKey:
    """Where the table has a delivery."""

    tenant: str
    id: str

    @property
    def endpoint_id(self) -> str:
        return self.id.rpartition(".")[2]
