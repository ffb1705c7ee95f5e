"""The port to a queue: send, receive, delete, and change the visibility timeout.

Every call may wait for the network and may raise Unavailable, and every call may be repeated. The adapter is
`aws/sqs.py`; the queue for tests is in `testing.py`. One contract suite (`tests/contract/test_queue.py`) tests both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.clock import SKEW_SECONDS
from penstock.cost import Units
from penstock.priority import Priority
from penstock.settings import (
    DAY_SECONDS,
    LONGEST_ACCEPT_SECONDS,
    LONGEST_DEADLINE_SECONDS,
    LONGEST_RETENTION_SECONDS,
    MOST_DAYS_AHEAD,
)

MESSAGES_IN_CALL = 10  # SQS sends, delivers or deletes at most 10 messages in a call
LONGEST_DELAY_SECONDS = 900  # SQS delays a message for at most 15 minutes
LONGEST_HIDDEN_SECONDS = 42_000  # SQS hides a received message for at most 12 hours in all (43,200 s)
LONGEST_LIFE_SECONDS = (
    MOST_DAYS_AHEAD * DAY_SECONDS + LONGEST_DEADLINE_SECONDS + LONGEST_RETENTION_SECONDS
)  # of a batch


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The trace that a message is part of, in W3C's format. Penstock does not read it, it only passes it on."""

    traceparent: str
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class SentAhead:
    """What a message says that is sent before its batch is written: until when the table may have the batch.

    The table decides if the batch is accepted. These times only say when it makes sense to ask.
    """

    accept_by: float  # until when its front end writes the batch
    expires_at: float  # the table deletes no batch before this time

    def is_overdue(self, now: float) -> bool:
        """Return True if a batch that the table does not have should have been written by now."""
        return now > self.accept_by

    def is_forgotten(self, now: float) -> bool:
        """Return True if a batch that the table does not have may be past its retention. Clocks differ."""
        return now >= self.expires_at - SKEW_SECONDS

    def is_possible(self, sent_at: float) -> bool:
        """Return True if the settings of a front end allow these times in a message of this time. Clocks differ."""
        latest = sent_at + SKEW_SECONDS
        return self.accept_by <= latest + LONGEST_ACCEPT_SECONDS and self.expires_at <= latest + LONGEST_LIFE_SECONDS


@dataclass(frozen=True, slots=True)
class Message:
    """A message to send. `reason`, `trace` and `sent_ahead` travel as message attributes.

    `batch_id` is the batch that pays for it. It is not sent.
    """

    body: str
    delay_seconds: int = 0  # at most LONGEST_DELAY_SECONDS
    tenant: str | None = None  # the queue shares its deliveries fairly between tenants
    reason: str | None = None  # why the message was moved to the dead letter queue
    trace: TraceContext | None = None
    sent_ahead: SentAhead | None = None  # of a chunk that is sent before its batch is written
    batch_id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it was received once. Until the lease ends, the receipt gives us the right to delete or extend it.

    Handlers never see a delivery. `cost` is its share of the receive, and the batch `batch_id` pays for its deletion.
    """

    message_id: str
    body: str
    receipt: str
    receive_count: int  # from 1; above 1, an earlier delivery was released, or its consumer crashed or was too slow
    tenant: str | None = None
    sent_at: float = 0.0  # seconds since the epoch, by the queue's clock
    trace: TraceContext | None = None
    sent_ahead: SentAhead | None = None
    priority: Priority = Priority.NORMAL  # the queue that it came from; its receipt is only valid there
    asked_at: float | None = None  # when the receive was sent, by our monotonic clock. The lease did not start earlier
    cost: Units = field(default=Units(), compare=False)
    batch_id: str | None = field(default=None, compare=False)

    @property
    def mark(self) -> str:
        """Return the name of this delivery in notes. It has the message id, since two messages may carry one chunk."""
        return f"{self.message_id}#{self.receive_count}"

    def count_own(self, marks: Iterable[str]) -> int:
        """Count the marks of deliveries of this message.

        Earlier deliveries of this message have ended. Those of another message with the same chunk may still run.
        """
        return sum(mark.rpartition("#")[0] == self.message_id for mark in marks)


class Queue(Protocol):
    async def send(self, messages: Sequence[Message]) -> None:
        """Send messages. When it returns, all of them are durable; when it raises, some may have been sent.

        A repetition sends them again, so that a message may arrive twice.
        """

    async def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        """Return up to `limit` deliveries, at most 10. If there are none, wait for up to `wait_seconds`.

        Do not cancel this call: messages that are on their way would stay invisible until their visibility timeout.
        """

    async def delete(self, delivery: Delivery) -> None:
        """Acknowledge a delivery. If its lease has ended, the call may have no effect; it reports no error then."""

    async def extend(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        """Make deliveries invisible for `seconds` from now; 0 releases them. Returns those whose lease is lost."""

    async def depth(self) -> int:
        """Return about how many messages wait. It also shows if the queue answers."""
