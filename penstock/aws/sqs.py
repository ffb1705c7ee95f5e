"""The queue port on SQS. SQS's limits are named here and in `queue.py`."""

import asyncio
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penstock.aws.billing import bill_delete, bill_send, body_bytes
from penstock.aws.clients import explain_code, explained
from penstock.aws.gathering import Gatherer, up_to
from penstock.bills import Bills
from penstock.cost import Units, sqs_units
from penstock.errors import Misconfigured, PenstockError, RejectedCall, Unavailable
from penstock.queue import MESSAGES_IN_CALL, Delivery, Message, SentAhead, TraceContext
from penstock.waiting import raise_first

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.type_defs import (
        BatchResultErrorEntryTypeDef,
        MessageTypeDef,
        SendMessageBatchRequestEntryTypeDef,
    )

CALLS_AT_ONCE = 8
SEND_TRIES = 5
SEND_WAIT_SECONDS = 0.1  # doubled after each try
_REASON = "reason"
_TRACEPARENT = "traceparent"
_TRACESTATE = "tracestate"
_SENT_AHEAD = "sent-ahead"
_TWO_TIMES = re.compile(r"([0-9]{1,12}) ([0-9]{1,12})")
_STRING = "String"
_OF_A_FAILURE = frozenset({"Id", "SenderFault", "Code"})  # the members that we read of an entry that failed


class SqsQueue:
    """A queue. `call_bytes` limits the size of one SendMessageBatch call: bodies and attributes of all its messages."""

    def __init__(
        self, client: "SQSClient", url: str, *, polls: "SQSClient", call_bytes: int, bills: Bills | None = None
    ) -> None:
        self._client = client
        self._polls = polls
        self._url = url
        self._call_bytes = call_bytes
        self._bills = bills or Bills()
        self._sends = Gatherer(self._send_call, self._fitting, at_once=CALLS_AT_ONCE)
        self._deletes = Gatherer(self._delete_call, up_to(MESSAGES_IN_CALL))

    async def send(self, messages: Sequence[Message]) -> None:
        # Wait for all of them even if one fails: no send may still be in flight while the caller handles the failure.
        sends = [self._sends.ask(self._drop_trace_if_too_large(message)) for message in messages]
        raise_first(await asyncio.gather(*sends, return_exceptions=True))

    async def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        with explained():
            answer = await self._polls.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(limit, MESSAGES_IN_CALL),
                WaitTimeSeconds=wait_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "MessageGroupId", "SentTimestamp"],
                MessageAttributeNames=[_TRACEPARENT, _TRACESTATE, _SENT_AHEAD],
            )
        messages = answer.get("Messages") or []
        try:
            cost = _share_of_receive(messages)
            return [_delivery(message, cost) for message in messages]
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"SQS's answer is damaged, or it is not from SQS: {error!r}") from error

    async def delete(self, delivery: Delivery) -> None:
        raise_first([await self._deletes.ask(delivery)])

    async def extend(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        lost: list[Delivery] = []
        for start in range(0, len(deliveries), MESSAGES_IN_CALL):
            lost += await self._extend_call(deliveries[start : start + MESSAGES_IN_CALL], seconds)
        return lost

    async def depth(self) -> int:
        with explained():
            answer = await self._client.get_queue_attributes(
                QueueUrl=self._url, AttributeNames=["ApproximateNumberOfMessages"]
            )
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    def _drop_trace_if_too_large(self, message: Message) -> Message:
        """Return the message without its trace if it is too large for a call with it: the message matters more."""
        if message.trace is None or _message_bytes(message) <= self._call_bytes:
            return message
        return replace(message, trace=None)

    def _fitting(self, messages: Sequence[Message]) -> int:
        """Return how many of these messages fit into one call, by number and by size."""
        total = 0
        for count, message in enumerate(messages[:MESSAGES_IN_CALL]):
            total += _message_bytes(message)
            if count and total > self._call_bytes:
                return count
        return min(len(messages), MESSAGES_IN_CALL)

    async def _send_call(self, messages: Sequence[Message]) -> list[Exception | None]:
        """Send messages in one call. Repeat the call for failed entries, unless the failure is the sender's fault."""
        results: list[Exception | None] = [None] * len(messages)
        unsent = dict(enumerate(messages))
        for attempt in range(SEND_TRIES):
            failed = await self._send_entries(unsent)
            for entry in failed:
                if _is_about_message(entry):
                    results[int(entry["Id"])] = _rejection(entry)
            unsent = {int(entry["Id"]): unsent[int(entry["Id"])] for entry in failed if not _is_about_message(entry)}
            if not unsent:
                return results
            await asyncio.sleep(SEND_WAIT_SECONDS * 2**attempt)
        error = Unavailable(f"SQS failed {SEND_TRIES} times to send {len(unsent)} of {len(messages)} messages.")
        return [error if number in unsent else result for number, result in enumerate(results)]

    async def _send_entries(self, messages: Mapping[int, Message]) -> Sequence["BatchResultErrorEntryTypeDef"]:
        """Send messages under their numbers, and return the entries that failed."""
        with explained():
            answer = await self._client.send_message_batch(
                QueueUrl=self._url, Entries=[_entry(number, message) for number, message in messages.items()]
            )
        bill_send(self._bills, list(messages.values()))
        return _failed_entries(answer, map(str, messages))

    async def _delete_call(self, deliveries: Sequence[Delivery]) -> list[Exception | None]:
        """Delete messages in one call.

        An entry that fails with a sender fault is no error, unless SQS throttles it or denies access: its lease has
        ended, and another delivery has the message.
        """
        with explained():
            answer = await self._client.delete_message_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": delivery.receipt} for number, delivery in enumerate(deliveries)
                ],
            )
        bill_delete(self._bills, deliveries)
        results: list[Exception | None] = [None] * len(deliveries)
        for entry in _failed_entries(answer, map(str, range(len(deliveries)))):
            if not _is_about_message(entry):
                results[int(entry["Id"])] = Unavailable(f"SQS did not delete a message: {entry['Code']}.")
        return results

    async def _extend_call(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        """Extend leases in one call.

        An entry that fails with a sender fault is a lost lease, unless SQS throttles it or denies access.
        """
        with explained():
            answer = await self._client.change_message_visibility_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": delivery.receipt, "VisibilityTimeout": seconds}
                    for number, delivery in enumerate(deliveries)
                ],
            )
        failed = _failed_entries(answer, map(str, range(len(deliveries))))
        if not all(map(_is_about_message, failed)):
            raise Unavailable(f"SQS did not extend {len(failed)} of {len(deliveries)} leases in a call.")
        return [deliveries[int(entry["Id"])] for entry in failed]


def _failed_entries(answer: Mapping[str, Any], ids: Iterable[str]) -> list["BatchResultErrorEntryTypeDef"]:
    """Return the entries that failed. An entry that the answer does not name, or not completely, has failed, too."""
    asked = list(ids)
    failed: list[BatchResultErrorEntryTypeDef] = [
        entry for entry in answer.get("Failed") or [] if entry.keys() >= _OF_A_FAILURE and entry["Id"] in asked
    ]
    named = {entry.get("Id") for entry in (*failed, *(answer.get("Successful") or []))}
    return failed + [{"Id": one, "SenderFault": False, "Code": "Unanswered"} for one in asked if one not in named]


def _is_about_message(entry: "BatchResultErrorEntryTypeDef") -> bool:
    """Return True if the entry failed because of its message or receipt, so that a repetition cannot help.

    SQS calls it the sender's fault, too, if it throttles the sender or denies access.
    """
    return entry["SenderFault"] and not isinstance(_known(entry), Unavailable | Misconfigured)


def _rejection(entry: "BatchResultErrorEntryTypeDef") -> PenstockError:
    known = _known(entry)
    report = f"SQS rejected a message: {entry['Code']}: {entry.get('Message', '')}"
    return type(known)(report) if isinstance(known, RejectedCall) else RejectedCall(report)


def _known(entry: "BatchResultErrorEntryTypeDef") -> PenstockError | None:
    return explain_code(entry["Code"], entry.get("Message", ""))


def _entry(number: int, message: Message) -> "SendMessageBatchRequestEntryTypeDef":
    entry: SendMessageBatchRequestEntryTypeDef = {"Id": str(number), "MessageBody": message.body}
    if message.delay_seconds:
        entry["DelaySeconds"] = message.delay_seconds
    if message.tenant is not None:
        entry["MessageGroupId"] = message.tenant
    attributes = _attributes(message)
    if attributes:
        entry["MessageAttributes"] = {
            name: {"DataType": _STRING, "StringValue": value} for name, value in attributes.items()
        }
    return entry


def _attributes(message: Message) -> dict[str, str]:
    attributes: dict[str, str] = {}
    if message.reason is not None:
        attributes[_REASON] = message.reason
    if message.trace is not None:
        attributes[_TRACEPARENT] = message.trace.traceparent
        if message.trace.tracestate:
            attributes[_TRACESTATE] = message.trace.tracestate
    if message.sent_ahead is not None:
        attributes[_SENT_AHEAD] = f"{math.ceil(message.sent_ahead.accept_by)} {int(message.sent_ahead.expires_at)}"
    return attributes


def _message_bytes(message: Message) -> int:
    return len(message.body.encode()) + _attribute_bytes(message)


def _attribute_bytes(message: Message) -> int:
    """Return the size of the attributes. SQS counts their names, types and values as it counts the body."""
    return sum(
        len(name) + len(_STRING) + len(value.encode("utf-8", "replace")) for name, value in _attributes(message).items()
    )


def _share_of_receive(messages: Sequence["MessageTypeDef"]) -> Units:
    """Return what a receive costs for each of its messages."""
    if not messages:
        return Units()
    units = sqs_units(sum(body_bytes(message["Body"]) for message in messages))
    return Units(sqs=units / len(messages), requests=1 / len(messages))


def _delivery(message: "MessageTypeDef", cost: Units) -> Delivery:
    attributes = message["Attributes"]
    sent_at = int(attributes["SentTimestamp"]) / 1000
    return Delivery(
        message_id=message["MessageId"],
        body=message["Body"],
        receipt=message["ReceiptHandle"],
        receive_count=int(attributes["ApproximateReceiveCount"]),
        tenant=attributes.get("MessageGroupId"),
        sent_at=sent_at,
        trace=_trace(message),
        sent_ahead=_sent_ahead(message, sent_at),
        cost=cost,
    )


def _trace(message: "MessageTypeDef") -> TraceContext | None:
    attributes = message.get("MessageAttributes", {})
    if _TRACEPARENT not in attributes:
        return None
    state = attributes.get(_TRACESTATE)
    return TraceContext(
        attributes[_TRACEPARENT].get("StringValue", ""), None if state is None else state.get("StringValue")
    )


def _sent_ahead(message: "MessageTypeDef", sent_at: float) -> SentAhead | None:
    """Return what the message says about its batch. A text that no front end can have sent says nothing."""
    attribute: Any = message.get("MessageAttributes", {}).get(_SENT_AHEAD, {})
    times = _TWO_TIMES.fullmatch(attribute.get("StringValue", ""))
    if times is None:
        return None
    ahead = SentAhead(float(times[1]), float(times[2]))
    return ahead if ahead.is_possible(sent_at) else None
