"""The queue port spoken to SQS. SQS's limits are named here, next to the code that obeys them."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from penstock.aws import error_code, explained
from penstock.errors import Unavailable
from penstock.queue import MESSAGES_IN_CALL, Delivery, Message

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.type_defs import MessageTypeDef, SendMessageBatchRequestEntryTypeDef

ENTRIES_IN_CALL = MESSAGES_IN_CALL
CALLS_AT_ONCE = 8
TRIES_FOR_REFUSED_ENTRIES = 5
REFUSED_ENTRY_WAIT_SECONDS = 0.1
_LEASE_LOST = {"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"}
_REASON = "reason"


class SqsQueue:
    """`call_bytes` is what one SendMessageBatch may carry, all its entries together."""

    def __init__(self, client: "SQSClient", url: str, *, polls: "SQSClient", call_bytes: int) -> None:
        self._client = client
        self._polls = polls
        self._url = url
        self._call_bytes = call_bytes
        self._sends = asyncio.Semaphore(CALLS_AT_ONCE)

    async def send(self, messages: Sequence[Message]) -> None:
        calls = [self._send_call(call) for call in _calls(messages, self._call_bytes)]
        with explained():
            # All calls run to their end even if one fails: none goes on behind the back of who handles the failure.
            results = await asyncio.gather(*calls, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        with explained():
            answer = await self._polls.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(limit, ENTRIES_IN_CALL),
                WaitTimeSeconds=wait_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "MessageGroupId", "SentTimestamp"],
            )
        return [_delivery(message) for message in answer.get("Messages", [])]

    async def delete(self, delivery: Delivery) -> None:
        with explained():
            try:
                await self._client.delete_message(QueueUrl=self._url, ReceiptHandle=delivery.receipt)
            except ClientError as error:
                # The lease is over and the message is somebody else's to delete, or gone.
                if error_code(error) not in _LEASE_LOST:
                    raise

    async def extend(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        lost: list[Delivery] = []
        for start in range(0, len(deliveries), ENTRIES_IN_CALL):
            lost += await self._extend_call(deliveries[start : start + ENTRIES_IN_CALL], seconds)
        return lost

    async def depth(self) -> int:
        with explained():
            answer = await self._client.get_queue_attributes(
                QueueUrl=self._url, AttributeNames=["ApproximateNumberOfMessages"]
            )
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    async def _send_call(self, messages: Sequence[Message]) -> None:
        """One SendMessageBatch, repeated for the entries that it refused while they are not the fault of the sender."""
        entries = {str(number): message for number, message in enumerate(messages)}
        for attempt in range(TRIES_FOR_REFUSED_ENTRIES):
            async with self._sends:
                answer = await self._client.send_message_batch(
                    QueueUrl=self._url, Entries=[_entry(key, message) for key, message in entries.items()]
                )
            refused = answer.get("Failed", [])
            if not refused:
                return
            for entry in refused:
                if entry["SenderFault"]:
                    raise ValueError(f"SQS refuses a message: {entry['Code']}: {entry.get('Message', '')}")
            entries = {entry["Id"]: entries[entry["Id"]] for entry in refused}
            await asyncio.sleep(REFUSED_ENTRY_WAIT_SECONDS * 2**attempt)
        raise Unavailable(f"SQS went on refusing {len(entries)} of {len(messages)} messages of a call.")

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


def _calls(messages: Sequence[Message], call_bytes: int) -> Iterator[Sequence[Message]]:
    """Neighbouring messages that fit into one call, by number and by bytes."""
    start = total = 0
    for index, message in enumerate(messages):
        size = len(message.body.encode())
        if index > start and (index - start == ENTRIES_IN_CALL or total + size > call_bytes):
            yield messages[start:index]
            start, total = index, 0
        total += size
    if start < len(messages):
        yield messages[start:]


def _entry(key: str, message: Message) -> "SendMessageBatchRequestEntryTypeDef":
    entry: SendMessageBatchRequestEntryTypeDef = {"Id": key, "MessageBody": message.body}
    if message.delay_seconds:
        entry["DelaySeconds"] = message.delay_seconds
    if message.tenant is not None:
        entry["MessageGroupId"] = message.tenant
    if message.reason is not None:
        entry["MessageAttributes"] = {_REASON: {"DataType": "String", "StringValue": message.reason}}
    return entry


def _delivery(message: "MessageTypeDef") -> Delivery:
    attributes = message["Attributes"]
    return Delivery(
        message_id=message["MessageId"],
        body=message["Body"],
        receipt=message["ReceiptHandle"],
        receive_count=int(attributes["ApproximateReceiveCount"]),
        tenant=attributes.get("MessageGroupId"),
        sent_at=int(attributes["SentTimestamp"]) / 1000,
    )
