"""The queue port spoken to SQS. SQS's limits are named here, next to the code that obeys them."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.aws.clients import explained
from penstock.aws.gathering import Gatherer, up_to
from penstock.errors import Unavailable
from penstock.queue import MESSAGES_IN_CALL, Delivery, Message, TraceContext

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.type_defs import MessageTypeDef, SendMessageBatchRequestEntryTypeDef

CALLS_AT_ONCE = 8
TRIES_FOR_REFUSED_ENTRIES = 5
REFUSED_ENTRY_WAIT_SECONDS = 0.1
_REASON = "reason"
_TRACEPARENT = "traceparent"
_TRACESTATE = "tracestate"
_STRING = "String"


class SqsQueue:
    """`call_bytes` is what one SendMessageBatch may carry, all its entries together."""

    def __init__(self, client: "SQSClient", url: str, *, polls: "SQSClient", call_bytes: int) -> None:
        self._client = client
        self._polls = polls
        self._url = url
        self._call_bytes = call_bytes
        self._sends = Gatherer(self._send_call, self._fitting, at_once=CALLS_AT_ONCE)
        self._deletes = Gatherer(self._delete_call, up_to(MESSAGES_IN_CALL))

    async def send(self, messages: Sequence[Message]) -> None:
        # All of them come to their end even if one fails: none goes on behind the back of who handles the failure.
        fitting = map(self._lightened, messages)
        results = await asyncio.gather(*map(self._sends.ask, fitting), return_exceptions=True)
        _raise_first(results)

    async def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        with explained():
            answer = await self._polls.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(limit, MESSAGES_IN_CALL),
                WaitTimeSeconds=wait_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "MessageGroupId", "SentTimestamp"],
                MessageAttributeNames=[_TRACEPARENT, _TRACESTATE],
            )
        return [_delivery(message) for message in answer.get("Messages", [])]

    async def delete(self, delivery: Delivery) -> None:
        _raise_first([await self._deletes.ask(delivery)])

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

    def _lightened(self, message: Message) -> Message:
        """A message that is too large with its trace goes without: it matters more than what is told of it."""
        if message.trace is None or len(message.body.encode()) + _attribute_bytes(message) <= self._call_bytes:
            return message
        return replace(message, trace=None)

    def _fitting(self, messages: Sequence[Message]) -> int:
        """How many of these messages go into one call, by number and by bytes."""
        total = 0
        for count, message in enumerate(messages[:MESSAGES_IN_CALL]):
            total += len(message.body.encode()) + _attribute_bytes(message)
            if count and total > self._call_bytes:
                return count
        return min(len(messages), MESSAGES_IN_CALL)

    async def _send_call(self, messages: Sequence[Message]) -> list[Exception | None]:
        """One SendMessageBatch, repeated for the entries that it refused while they are not the fault of the sender."""
        results: dict[str, Exception | None] = {str(number): None for number in range(len(messages))}
        entries = {str(number): message for number, message in enumerate(messages)}
        for attempt in range(TRIES_FOR_REFUSED_ENTRIES):
            with explained():
                answer = await self._client.send_message_batch(
                    QueueUrl=self._url, Entries=[_entry(key, message) for key, message in entries.items()]
                )
            refused = answer.get("Failed", [])
            for entry in refused:
                if entry["SenderFault"]:
                    text = f"SQS refuses a message: {entry['Code']}: {entry.get('Message', '')}"
                    results[entry["Id"]] = ValueError(text)
            entries = {entry["Id"]: entries[entry["Id"]] for entry in refused if not entry["SenderFault"]}
            if not entries:
                return list(results.values())
            await asyncio.sleep(REFUSED_ENTRY_WAIT_SECONDS * 2**attempt)
        text = f"SQS went on refusing {len(entries)} of {len(messages)} messages of a call."
        return list((results | dict.fromkeys(entries, Unavailable(text))).values())

    async def _delete_call(self, deliveries: Sequence[Delivery]) -> list[Exception | None]:
        """One DeleteMessageBatch. Refused with a fault of ours: the lease is over, the message another's to delete."""
        with explained():
            answer = await self._client.delete_message_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": delivery.receipt} for number, delivery in enumerate(deliveries)
                ],
            )
        results: list[Exception | None] = [None] * len(deliveries)
        for entry in answer.get("Failed", []):
            if not entry["SenderFault"]:
                results[int(entry["Id"])] = Unavailable(f"SQS did not delete a message: {entry['Code']}.")
        return results

    async def _extend_call(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        with explained():
            answer = await self._client.change_message_visibility_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": delivery.receipt, "VisibilityTimeout": seconds}
                    for number, delivery in enumerate(deliveries)
                ],
            )
        refused = answer.get("Failed", [])
        if not all(entry["SenderFault"] for entry in refused):
            raise Unavailable(f"SQS did not extend {len(refused)} of {len(deliveries)} leases of a call.")
        return [deliveries[int(entry["Id"])] for entry in refused]


def _raise_first(results: Sequence[BaseException | None]) -> None:
    for result in results:
        if result is not None:
            raise result


def _entry(key: str, message: Message) -> "SendMessageBatchRequestEntryTypeDef":
    entry: SendMessageBatchRequestEntryTypeDef = {"Id": key, "MessageBody": message.body}
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
    return attributes


def _attribute_bytes(message: Message) -> int:
    """SQS counts names, types and values of attributes as it counts the body."""
    return sum(
        len(name) + len(_STRING) + len(value.encode("utf-8", "replace")) for name, value in _attributes(message).items()
    )


def _delivery(message: "MessageTypeDef") -> Delivery:
    attributes = message["Attributes"]
    return Delivery(
        message_id=message["MessageId"],
        body=message["Body"],
        receipt=message["ReceiptHandle"],
        receive_count=int(attributes["ApproximateReceiveCount"]),
        tenant=attributes.get("MessageGroupId"),
        sent_at=int(attributes["SentTimestamp"]) / 1000,
        trace=_trace(message),
    )


def _trace(message: "MessageTypeDef") -> TraceContext | None:
    attributes = message.get("MessageAttributes", {})
    if _TRACEPARENT not in attributes:
        return None
    state = attributes.get(_TRACESTATE)
    return TraceContext(
        attributes[_TRACEPARENT].get("StringValue", ""), None if state is None else state.get("StringValue")
    )
