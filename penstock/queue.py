"""The port to a queue: send, receive, delete, change visibility.

Every call may block on the network and may raise Unavailable; each may be repeated. The adapter is `sqs.py`; the one
for tests is in `testing.py`; one contract suite holds for both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.priority import Priority

MESSAGES_IN_CALL = 10  # what SQS takes, gives or deletes in one call
LONGEST_DELAY_SECONDS = 900  # SQS holds a message back for 15 minutes at most
LONGEST_HIDDEN_SECONDS = 42_000  # and hides one that was received for 12 hours in all


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Which trace a message is part of, as W3C writes it. Penstock only carries it."""

    traceparent: str
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """`delay_seconds` is a whole number up to 900. `tenant`, where given, is whom the queue should be fair to.

    `reason` and `trace` go along as message attributes: why a message was set aside, and which trace it is part of.
    """

    body: str
    delay_seconds: int = 0
    tenant: str | None = None
    reason: str | None = None
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as received once. The receipt is our right to it, until the lease ends; handlers never see it."""

    message_id: str
    body: str
    receipt: str
    receive_count: int  # from 1; above 1 an earlier delivery was released, or its consumer died or was slow
    tenant: str | None = None
    sent_at: float = 0.0  # seconds since the epoch, by the queue's clock
    trace: TraceContext | None = None
    priority: Priority = Priority.NORMAL  # of the queue it came from: to that one its receipt is good

    @property
    def mark(self) -> str:
        """What a note of this delivery is known by. The same chunk may stand twice on the queue, in two messages."""
        return f"{self.message_id}#{self.receive_count}"

    def count_own(self, marks: Iterable[str]) -> int:
        """How many of these marks are of deliveries of this message: those before are over. Another's may go on."""
        return sum(mark.rpartition("#")[0] == self.message_id for mark in marks)


class Queue(Protocol):
    async def send(self, messages: Sequence[Message]) -> None:
        """Send all of them; when it returns each is durable. When it raises, some may have been sent."""

    async def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        """Up to `limit` (at most 10) deliveries; waits up to `wait_seconds` while there are none.

        Do not cancel it: deliveries already on their way would be stranded until their visibility timeout.
        """

    async def delete(self, delivery: Delivery) -> None:
        """Acknowledge. With a receipt whose lease has ended it may do nothing, and says nothing."""

    async def extend(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        """Keep deliveries invisible for `seconds` from now, 0 to give them back. Returns those whose lease is lost."""

    async def depth(self) -> int:
        """About how many messages wait. Also the way to ask whether the queue answers."""
