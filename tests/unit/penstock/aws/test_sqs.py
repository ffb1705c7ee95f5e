"""An entry that SQS's answer does not name has failed, although the call itself has succeeded."""

import asyncio
from typing import Any

import pytest

from penstock.aws.sqs import SqsQueue, _attribute_bytes
from penstock.errors import Unavailable
from penstock.message import ATTRIBUTE_BYTES
from penstock.queue import Delivery, Message, SentAhead, TraceContext

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
