"""The event that tells receivers that a batch is final, and its body, as in Standard Webhooks 1.0. Pure."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

if TYPE_CHECKING:
    from penstock.batch import Batch, Counts

MOST_BODY_BYTES = 20_000
TEST_TYPE = "webhook.test"


class EventType(StrEnum):
    """The types of events that an endpoint can ask for."""

    COMPLETED = "batch.completed"
    FAILED = "batch.failed"
    CANCELLED = "batch.cancelled"
    EXPIRED = "batch.expired"


@dataclass(frozen=True, slots=True)
class FinalEvent:
    """A batch has become final. The write that makes it final contains the event, so there is one for each final state.

    `counts` are the numbers of operations by outcome at that time.
    """

    id: str
    state: str
    at: float
    counts: tuple[tuple[str, int], ...]

    @property
    def type(self) -> EventType:
        return EventType(f"batch.{self.state}")

    def encode(self) -> str:
        """Return the event as a text. Equal events have equal texts, because the table keeps the texts in a set."""
        return json.dumps([self.id, self.state, round(self.at, 3), dict(self.counts)], separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> "FinalEvent":
        id_, state, at, counts = from_json(text)
        return cls(id_, state, at, tuple(counts.items()))


def event_id(at: float, randomness: str) -> str:
    """Return the id of an event. Ids sort by time. `randomness` is 20 hexadecimal digits."""
    return f"evt_{int(at * 1_000):012x}{randomness}"


def new_event(batch: "Batch", state: str, counts: "Counts", now: float) -> FinalEvent | None:
    """Return the event of a batch that becomes final, or None if nobody wants to know."""
    if not batch.wants_events:
        return None
    return FinalEvent(event_id(now, secrets.token_hex(10)), state, now, tuple(asdict(counts).items()))


def body_of_batch(event: FinalEvent, batch: "Batch", metadata: Mapping[str, str], base_url: str = "") -> bytes:
    """Return the body of an event, without the metadata of the batch if it were too long with them.

    The URLs in it start with `base_url`. Without one they are paths.
    """
    body = _body(event, batch, metadata, base_url)
    return body if len(body) <= MOST_BODY_BYTES else _body(event, batch, None, base_url)


def body_of_test(id_: str, at: float) -> bytes:
    return _envelope(id_, TEST_TYPE, at, {})


def _body(event: FinalEvent, batch: "Batch", metadata: Mapping[str, str] | None, base_url: str) -> bytes:
    counts = dict(event.counts)
    data = {
        "id": batch.id,  # libraries for events of other APIs look for it under this name
        "batchId": batch.id,
        "status": event.state,
        "total": batch.total,
        "completed": sum(counts.values()),
        **counts,
        "createdAt": time_text(batch.created_at),
        "acceptedAt": time_text(batch.accepted_at),
        "startedAt": time_text(batch.started_at),
        "finishedAt": time_text(batch.finished_at),
        "reason": batch.reason,
        "statusUrl": f"{base_url}/batch/{batch.id}/status",
        "resultsUrl": f"{base_url}/batch/{batch.id}/results",
        "metadata": metadata,
    }
    return _envelope(event.id, event.type, event.at, data)


def _envelope(id_: str, kind: str, at: float, data: Mapping[str, Any]) -> bytes:
    return to_json(
        {
            "id": id_,
            "object": "event",
            "type": kind,
            "created_at": int(at),
            "timestamp": time_text(at),
            "data": data,
        }
    )


def time_text(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
