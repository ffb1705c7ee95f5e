"""An SQS standard queue as a server: it delivers at least once, in any order, and does everything that SQS may do.

Visibility timeouts use virtual time. A message may be delivered although it is in flight, come back although it was
deleted, or exist twice although it was sent once. A receive may find nothing although there are messages. An old
receipt may have an effect or not, and succeeds in both cases. The limits are those of SQS.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.dynamodb import refusal
from tests.simulation.process import EPOCH

Request = Mapping[str, Any]
Reply = Callable[[dict[str, Any]], None]

ENTRIES_IN_CALL = 10
LONGEST_DELAY_SECONDS = 900
LONGEST_WAIT_SECONDS = 20
LONGEST_VISIBILITY_SECONDS = 12 * 3600
MOST_BYTES = 1024 * 1024


@dataclass
class Oddities:
    """The probabilities of what SQS may do, although it is unusual."""

    stands_twice: float = 0.0  # a message exists twice, as after a repeated send whose answer was lost
    delivered_though_held: float = 0.0
    comes_back: float = 0.0  # a deleted message is delivered again
    finds_nothing: float = 0.0  # a receive returns nothing although there are messages
    refuses_entry: float = 0.0  # one entry of a batch call fails, and the others succeed
    old_receipt_acts: float = 0.0
    strands: float = 0.0  # messages are delivered to a receiver that is gone


@dataclass
class Kept:
    """A message on the queue. `receipt` belongs to its last delivery."""

    id: str
    body: str
    group: str | None
    attributes: Mapping[str, Any]
    sent_at: float
    visible_at: float
    receive_count: int = 0
    receipt: str | None = None
    released: bool = True  # it was released, or not delivered yet
    has_lost_holder: Callable[[], bool] = lambda: False  # the process that received it last has died


@dataclass
class _Poll:
    limit: int
    reply: Reply
    is_gone: Callable[[], bool]
    until: float


@dataclass
class Queue:
    """A queue. `lapses` are the bodies of messages that were delivered again although they had not been released."""

    name: str
    loop: asyncio.AbstractEventLoop
    context: Context  # the world's, so that no process can stop what the queue does
    chance: random.Random
    visibility_seconds: float
    oddities: Oddities = field(default_factory=Oddities)
    backstop: "Queue | None" = None
    backstop_receives: int = 100
    lapses: list[str] = field(default_factory=list)
    on_send: Callable[[str, float], None] = lambda _body, _visible_at: None
    on_lapse: Callable[[str], None] = lambda _body: None
    on_given_back: Callable[[str], None] = lambda _body: None
    backstopped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._numbers = itertools.count(1)
        self._polls: list[_Poll] = []

    @property
    def messages(self) -> list[Kept]:
        return list(self._kept.values())

    def put(self, body: str) -> None:
        """Send a message that is not from Penstock."""
        self._keep({"MessageBody": body})
        self._serve()

    def lose(self, kept: Kept) -> None:
        """Lose a message, as by a purge or at the end of its retention."""
        del self._kept[kept.id]

    # the calls of SQS

    def send_batch(self, request: Request) -> dict[str, Any]:
        entries = request["Entries"]
        _check_entries(entries, "SendMessageBatch")
        if sum(map(_size, entries)) > MOST_BYTES:
            raise refusal("AWS.SimpleQueueService.BatchRequestTooLong", "SendMessageBatch", "too long")
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in entries:
            if self._happens(self.oddities.refuses_entry):
                answer["Failed"].append({"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"})
                continue
            for _ in range(2 if self._happens(self.oddities.stands_twice) else 1):
                self._keep(entry)
            answer["Successful"].append({"Id": entry["Id"]})
        self._serve()
        return answer

    def receive(self, request: Request, reply: Reply, is_gone: Callable[[], bool]) -> None:
        """Reply as soon as there is a message, or when the wait time is over."""
        limit, wait = request["MaxNumberOfMessages"], request["WaitTimeSeconds"]
        if not 1 <= limit <= ENTRIES_IN_CALL or not 0 <= wait <= LONGEST_WAIT_SECONDS:
            raise refusal("InvalidParameterValue", "ReceiveMessage", f"{limit} messages, {wait} s")
        if self._happens(self.oddities.finds_nothing):
            self._at(self.loop.time() + wait, lambda: reply({}))
            return
        poll = _Poll(limit, reply, is_gone, self.loop.time() + wait)
        self._polls.append(poll)
        self._at(poll.until, lambda: self._give_up(poll))
        self._serve()

    def delete_batch(self, request: Request) -> dict[str, Any]:
        _check_entries(request["Entries"], "DeleteMessageBatch")
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in request["Entries"]:
            if self._happens(self.oddities.refuses_entry):
                answer["Failed"].append({"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"})
                continue
            self._delete(entry["ReceiptHandle"])
            answer["Successful"].append({"Id": entry["Id"]})
        return answer

    def _delete(self, receipt: str) -> None:
        """Delete a message. With an old receipt this may do nothing, and still succeeds."""
        kept = self._by_receipt(receipt)
        if kept is None:
            return
        if self._happens(self.oddities.comes_back):
            kept.visible_at = self.loop.time() + self.chance.uniform(0, 2 * self.visibility_seconds)
            kept.released = True
            self._at(kept.visible_at, self._serve)
        else:
            del self._kept[kept.id]

    def change_visibility_batch(self, request: Request) -> dict[str, Any]:
        _check_entries(request["Entries"], "ChangeMessageVisibilityBatch")
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in request["Entries"]:
            if not 0 <= entry["VisibilityTimeout"] <= LONGEST_VISIBILITY_SECONDS:
                raise refusal("InvalidParameterValue", "ChangeMessageVisibilityBatch", str(entry))
            failure = self._change_visibility(entry)
            answer["Failed" if failure else "Successful"].append({"Id": entry["Id"], **failure})
        self._serve()
        return answer

    def count(self) -> int:
        return sum(kept.visible_at <= self.loop.time() for kept in self._kept.values())

    def move_all_to(self, target: "Queue") -> None:
        """Move all messages, as a message move task does. They keep their bodies, and their receive counts restart."""
        for kept in list(self._kept.values()):
            del self._kept[kept.id]
            target.take_over(kept)

    def take_over(self, kept: Kept) -> None:
        message_id = self._next_id()
        self._kept[message_id] = Kept(
            message_id, kept.body, kept.group, kept.attributes, self.loop.time(), self.loop.time()
        )
        self._serve()

    def _keep(self, entry: Mapping[str, Any]) -> None:
        delay = entry.get("DelaySeconds", 0)
        if not entry["MessageBody"] or not isinstance(delay, int) or not 0 <= delay <= LONGEST_DELAY_SECONDS:
            raise refusal("InvalidParameterValue", "SendMessageBatch", f"DelaySeconds {delay!r}")
        message_id = self._next_id()
        now = self.loop.time()
        attributes = entry.get("MessageAttributes", {})
        kept = Kept(message_id, entry["MessageBody"], entry.get("MessageGroupId"), attributes, now, now + delay)
        self._kept[message_id] = kept
        self._at(kept.visible_at, self._serve)
        self.on_send(kept.body, kept.visible_at)

    def _next_id(self) -> str:
        return f"{self.name}-{next(self._numbers)}"

    def _change_visibility(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Change the visibility. Return the failure, or an empty dict on success."""
        if self._happens(self.oddities.refuses_entry):
            return {"SenderFault": False, "Code": "InternalError"}
        kept = self._by_receipt(entry["ReceiptHandle"])
        if kept is None:
            return {"SenderFault": True, "Code": "ReceiptHandleIsInvalid"}
        if kept.visible_at <= self.loop.time():
            return {"SenderFault": True, "Code": "MessageNotInflight"}
        if kept.receipt != entry["ReceiptHandle"]:
            self._lapse(kept)  # whoever has the message now does not know that its lease is changed
        if entry["VisibilityTimeout"] == 0 and kept.has_lost_holder():
            self.on_given_back(kept.body)
        kept.visible_at = self.loop.time() + entry["VisibilityTimeout"]
        kept.released = entry["VisibilityTimeout"] != self.visibility_seconds  # the full timeout is a heartbeat
        self._at(kept.visible_at, self._serve)
        return {}

    def _by_receipt(self, receipt: str) -> Kept | None:
        kept = self._kept.get(receipt.partition("#")[0])
        if kept is None or kept.receipt == receipt or self._happens(self.oddities.old_receipt_acts):
            return kept
        return None

    # long polls

    def _serve(self) -> None:
        """Deliver visible messages to the polls that wait for them."""
        while self._polls:
            poll = self._polls[0]
            if poll.is_gone() and not self._happens(self.oddities.strands):
                self._polls.remove(poll)
                continue
            taken = self._take(poll)
            if not taken:
                return
            self._polls.remove(poll)
            poll.reply({"Messages": [_as_answer(kept) for kept in taken]})

    def _give_up(self, poll: _Poll) -> None:
        if poll in self._polls:
            self._polls.remove(poll)
            poll.reply({})

    def _take(self, poll: _Poll) -> list[Kept]:
        visible = [kept for kept in self._kept.values() if kept.visible_at <= self.loop.time()]
        if not visible:
            return []
        self.chance.shuffle(visible)
        return [kept for kept in visible[: self.chance.randint(1, poll.limit)] if self._deliver(kept, poll.is_gone)]

    def _deliver(self, kept: Kept, has_lost_holder: Callable[[], bool]) -> bool:
        """Deliver a message with a new receipt. After too many deliveries, move it to the dead letter queue instead."""
        if not kept.released:
            self._lapse(kept)
        if self.backstop is not None and kept.receive_count >= self.backstop_receives:
            del self._kept[kept.id]
            self.backstopped.append(kept.body)
            self.backstop.take_over(kept)
            return False
        kept.receive_count += 1
        kept.receipt = f"{kept.id}#{kept.receive_count}"
        kept.released, kept.has_lost_holder = False, has_lost_holder
        hidden = self.chance.random() if self._happens(self.oddities.delivered_though_held) else 1.0
        kept.visible_at = self.loop.time() + hidden * self.visibility_seconds
        self._at(kept.visible_at, self._serve)
        return True

    def _lapse(self, kept: Kept) -> None:
        self.lapses.append(kept.body)
        self.on_lapse(kept.body)

    def _at(self, when: float, what: Callable[[], None]) -> None:
        self.loop.call_at(when, what, context=self.context)

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self.chance.random() < probability


def _as_answer(kept: Kept) -> dict[str, Any]:
    attributes = {
        "ApproximateReceiveCount": str(kept.receive_count),
        "SentTimestamp": str(int((EPOCH + kept.sent_at) * 1000)),
    }
    if kept.group is not None:
        attributes["MessageGroupId"] = kept.group
    answer = {"MessageId": kept.id, "Body": kept.body, "ReceiptHandle": kept.receipt, "Attributes": attributes}
    return {**answer, "MessageAttributes": kept.attributes} if kept.attributes else answer


def _size(entry: Mapping[str, Any]) -> int:
    """Return the size of a message: its body, and the names, types and values of its attributes."""
    attributes = [(name, *value.values()) for name, value in entry.get("MessageAttributes", {}).items()]
    return sum(len(text.encode()) for text in (entry["MessageBody"], *itertools.chain.from_iterable(attributes)))


def _check_entries(entries: Iterable[Mapping[str, Any]], action: str) -> None:
    ids = [entry["Id"] for entry in entries]
    if not 1 <= len(ids) <= ENTRIES_IN_CALL or len(set(ids)) != len(ids):
        raise refusal("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", action, f"the entries {ids}")
