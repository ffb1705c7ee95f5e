"""What SQS answers is not taken on trust: entries that it does not name, and attributes that nobody can have sent."""

import asyncio
from typing import Any

import pytest

from penstock.aws.sqs import SqsQueue, _attribute_bytes
from penstock.clock import SKEW_SECONDS
from penstock.errors import Unavailable
from penstock.message import ATTRIBUTE_BYTES
from penstock.queue import LONGEST_LIFE_SECONDS, Delivery, Message, SentAhead, TraceContext
from penstock.settings import LONGEST_ACCEPT_SECONDS

DELIVERIES = [Delivery(name, name, receipt=name, receive_count=1) for name in "abc"]


class ForgetfulSqs:
    """Takes one entry of each call, names it in the answer, and forgets the others."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.deleted: list[str] = []

    async def send_message_batch(self, **request: Any) -> Any:
        self.sent.append(request["Entries"][0]["MessageBody"])
        return self._answer(request)

    async def delete_message_batch(self, **request: Any) -> Any:
        self.deleted.append(request["Entries"][0]["ReceiptHandle"])
        return self._answer(request)

    async def change_message_visibility_batch(self, **request: Any) -> Any:
        return self._answer(request)

    def _answer(self, request: dict[str, Any]) -> Any:
        return {"Successful": [{"Id": request["Entries"][0]["Id"]}]}


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> ForgetfulSqs:
    monkeypatch.setattr("penstock.aws.sqs.SEND_WAIT_SECONDS", 0)
    return ForgetfulSqs()


@pytest.fixture
def queue(sqs: ForgetfulSqs) -> SqsQueue:
    client: Any = sqs
    return SqsQueue(client, "url", polls=client, call_bytes=1_000)


async def test_messages_are_sent_again_until_all_are_on_the_queue(queue: SqsQueue, sqs: ForgetfulSqs) -> None:
    await queue.send([Message(body) for body in "abc"])
    assert sqs.sent == ["a", "b", "c"]


async def test_delivery_that_is_not_deleted_is_an_error(queue: SqsQueue, sqs: ForgetfulSqs) -> None:
    results = await asyncio.gather(*map(queue.delete, DELIVERIES), return_exceptions=True)
    failed = [delivery.receipt for delivery, result in zip(DELIVERIES, results, strict=True) if result is not None]
    assert {type(result) for result in results if result is not None} == {Unavailable}
    assert sorted(sqs.deleted + failed) == ["a", "b", "c"]


async def test_lease_that_is_not_extended_is_not_taken_for_lost(queue: SqsQueue) -> None:
    with pytest.raises(Unavailable, match="did not extend 2 of 3 leases"):
        await queue.extend(DELIVERIES, 30)


def test_attributes_fit_into_the_room_that_every_message_has_for_them() -> None:
    longest = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a" * 512)
    message = Message("", trace=longest, sent_ahead=SentAhead(1_764_430_060.5, 9_999_999_999.9))
    assert _attribute_bytes(message) <= ATTRIBUTE_BYTES


# The attribute of a message that is sent before its batch is written.

SENT_AT = 1_764_430_060
LATEST_ACCEPTANCE = SENT_AT + LONGEST_ACCEPT_SECONDS + SKEW_SECONDS
LATEST_END = SENT_AT + LONGEST_LIFE_SECONDS + SKEW_SECONDS


async def receive_with(attribute: dict[str, Any]) -> Delivery:
    class Sqs:
        async def receive_message(self, **_request: Any) -> Any:
            attributes = {"ApproximateReceiveCount": "1", "SentTimestamp": f"{SENT_AT}000"}
            message = {"MessageId": "m", "Body": "{}", "ReceiptHandle": "r", "Attributes": attributes}
            return {"Messages": [message | {"MessageAttributes": {"sent-ahead": attribute}}]}

    client: Any = Sqs()
    [delivery] = await SqsQueue(client, "url", polls=client, call_bytes=1_000).receive(1, 0)
    return delivery


@pytest.mark.parametrize(
    "times",
    [
        (SENT_AT + 60, SENT_AT + 86_400),
        (LATEST_ACCEPTANCE, LATEST_END),  # the longest times that the settings allow
        (SENT_AT - 900, SENT_AT - 60),  # sent late, or moved back from the dead letter queue
    ],
)
async def test_times_that_a_front_end_can_have_sent_are_read(times: tuple[int, int]) -> None:
    text = {"DataType": "String", "StringValue": "{} {}".format(*times)}
    assert (await receive_with(text)).sent_ahead == SentAhead(*times)


@pytest.mark.parametrize(
    "text",
    [
        f"{LATEST_ACCEPTANCE + 1} {LATEST_END}",  # consumers would wait for longer than any batch is accepted
        f"{LATEST_ACCEPTANCE} {LATEST_END + 1}",  # a stand-in would stay for longer than any batch
        "999999999999 999999999999",
        f"{'9' * 400} {'9' * 400}",
        f"nan {LATEST_END}",
        f"{SENT_AT} inf",
        f"-{SENT_AT} {LATEST_END}",
        f"{SENT_AT}.5 {LATEST_END}",
        f"{SENT_AT}",
        f"{SENT_AT} {LATEST_END} 0",
        "\u0661 \u0662",
        "",
    ],
)
async def test_times_that_no_front_end_can_have_sent_are_no_times(text: str) -> None:
    assert (await receive_with({"DataType": "String", "StringValue": text})).sent_ahead is None


async def test_times_in_bytes_are_no_times() -> None:
    assert (await receive_with({"DataType": "Binary", "BinaryValue": b"1 2"})).sent_ahead is None
