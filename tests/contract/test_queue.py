"""The contract of every queue: the one in memory, and the SQS adapter on the embedded AWS and on ElasticMQ.

Where servers differ, a test only asserts what they have in common. AWS may change the order of messages and may deliver
them twice. The servers here do not, so "exactly once" below is about the adapter.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from penstock.aws.backend import open_backend
from penstock.aws.sqs import SqsQueue
from penstock.errors import Misconfigured, Unavailable
from penstock.infra.provision import provision
from penstock.priority import Priority
from penstock.queue import LONGEST_HIDDEN_SECONDS, Delivery, Message, Queue, SentAhead, TraceContext
from penstock.settings import MIB, Settings
from penstock.testing import MemoryQueue
from tests.conftest import MakeSettings
from tests.contract.conftest import LEASE_SECONDS, Servers
from tests.support.aws import Aws
from tests.support.lossy_proxy import Entry, LossyProxy, lossy_proxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

on_all = pytest.mark.parametrize("aws", ["memory", "embedded", "real"], indirect=True)
on_servers = pytest.mark.parametrize("aws", ["embedded", "real"], indirect=True)


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(visibility_seconds=LEASE_SECONDS)


@pytest_asyncio.fixture(loop_scope="module")
async def queue(servers: Servers | None, settings: Settings) -> Queue:
    if servers is None:
        return MemoryQueue(visibility_seconds=LEASE_SECONDS)
    provision(settings)
    return SqsQueue(
        servers.clients.sqs,
        await find_url(servers, settings.chunk_queues[Priority.NORMAL]),
        polls=servers.clients.polls,
        call_bytes=MIB,
    )


async def find_url(servers: Servers, name: str) -> str:
    return (await servers.clients.sqs.get_queue_url(QueueName=name))["QueueUrl"]


async def receive(queue: Queue, count: int) -> list[Delivery]:
    """Receive this number of deliveries, in as many calls as needed. Fail if there are fewer."""
    deliveries: list[Delivery] = []

    async def are_there() -> bool:
        deliveries.extend(await queue.receive(min(10, count - len(deliveries)), wait_seconds=1))
        return len(deliveries) == count

    await eventually(are_there)
    return deliveries


async def receive_one(queue: Queue) -> Delivery:
    (delivery,) = await receive(queue, 1)
    return delivery


async def bodies_on(queue: Queue, count: int) -> Counter[str]:
    """Receive this number of messages, and check that the queue has no more."""
    deliveries = await receive(queue, count)
    assert await queue.receive(10, wait_seconds=0) == []
    return Counter(delivery.body for delivery in deliveries)


# --- Sending and receiving


@on_all
async def test_message_arrives_as_it_was_sent(queue: Queue) -> None:
    body = 'Grüße, 世界 🛠\t\r\n"\\u0000\\uffff" \x7f\u2028\ufeff\ud7ff\ue000\ufffd{}'
    await queue.send([Message(body)])
    delivery = await receive_one(queue)
    assert delivery.body == body
    assert delivery.receive_count == 1
    assert delivery.tenant is None


@on_all
async def test_delivery_says_when_its_message_was_sent(queue: Queue) -> None:
    before = time.time()
    await queue.send([Message("a", delay_seconds=1)])
    after = time.time()
    delivery = await receive_one(queue)
    assert before - 1 <= delivery.sent_at <= after + 0.5  # by the queue's clock, which counts milliseconds at best
    await queue.extend([delivery], 0)
    assert (await receive_one(queue)).sent_at == delivery.sent_at


@on_all
async def test_nothing_to_send_sends_nothing(queue: Queue) -> None:
    await queue.send([])
    assert await queue.receive(10, wait_seconds=0) == []


@on_all
async def test_more_messages_than_a_call_takes_arrive_all(queue: Queue) -> None:
    sent = [f"message {number}" for number in range(203)]
    await queue.send([Message(body) for body in sent])
    assert await bodies_on(queue, len(sent)) == Counter(sent)


@on_all
async def test_more_bytes_than_a_call_takes_arrive_all(queue: Queue) -> None:
    """Size is counted in bytes, not in characters: a euro sign has three bytes."""
    sent = [f"{number}" + "€" * 120_000 for number in range(9)] + ["x" * MIB, "small", "y" * (MIB - 1), "z"]
    await queue.send([Message(body) for body in sent])
    assert await bodies_on(queue, len(sent)) == Counter(sent)


@on_all
async def test_deliveries_of_a_receive_have_receipts_of_their_own(queue: Queue) -> None:
    await queue.send([Message("a")] * 5)
    deliveries = await receive(queue, 5)
    assert len({delivery.message_id for delivery in deliveries}) == 5
    assert len({delivery.receipt for delivery in deliveries}) == 5


@on_all
async def test_receive_returns_no_more_than_asked_for_and_never_more_than_ten(queue: Queue) -> None:
    await queue.send([Message(str(number)) for number in range(25)])
    assert 1 <= len(await queue.receive(3, wait_seconds=1)) <= 3
    assert 1 <= len(await queue.receive(50, wait_seconds=1)) <= 10


@on_all
async def test_receive_that_does_not_wait_finds_an_empty_queue_empty(queue: Queue) -> None:
    assert await asyncio.wait_for(queue.receive(10, wait_seconds=0), 5) == []


@on_all
async def test_message_ends_the_wait_for_it(queue: Queue) -> None:
    waiting = asyncio.create_task(queue.receive(1, wait_seconds=20))
    await asyncio.sleep(0.1)  # so that it waits; without that, the test would still hold
    await queue.send([Message("a")])
    (delivery,) = await asyncio.wait_for(waiting, 10)
    assert delivery.body == "a"


@on_all
async def test_delayed_message_comes_after_its_time_and_not_before(queue: Queue) -> None:
    sent_at = asyncio.get_running_loop().time()
    await queue.send([Message("later", delay_seconds=2), Message("now")])
    assert (await receive_one(queue)).body == "now"
    assert (await receive_one(queue)).body == "later"
    assert asyncio.get_running_loop().time() - sent_at > 1.5  # servers count in whole seconds


@on_all
async def test_tenant_goes_along(queue: Queue) -> None:
    await queue.send([Message("a", tenant="acme"), Message("b", tenant="acme"), Message("c"), Message("d", tenant="x")])
    tenants = {delivery.body: delivery.tenant for delivery in await receive(queue, 4)}
    assert tenants == {"a": "acme", "b": "acme", "c": None, "d": "x"}


@on_all
async def test_trace_goes_along_and_comes_again_with_every_delivery(queue: Queue) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traces = {
        "whole": TraceContext(parent, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        "bare": TraceContext(parent),
        "none": None,
    }
    await queue.send([Message(body, tenant="acme", trace=trace) for body, trace in traces.items()])
    for _ in range(2):
        deliveries = await receive(queue, len(traces))
        assert {delivery.body: delivery.trace for delivery in deliveries} == traces
        assert await queue.extend(deliveries, 0) == []


@on_all
async def test_message_sent_ahead_of_its_batch_says_so_with_every_delivery(queue: Queue) -> None:
    trace = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    ahead = SentAhead(accept_by=1_700_000_060, expires_at=1_700_600_000)
    await queue.send([Message("a", trace=trace, sent_ahead=ahead), Message("b", sent_ahead=ahead), Message("c")])
    for _ in range(2):
        deliveries = await receive(queue, 3)
        assert {one.body: one.sent_ahead for one in deliveries} == {"a": ahead, "b": ahead, "c": None}
        await queue.extend(deliveries, 0)


@on_all
async def test_trace_counts_towards_what_a_call_carries(queue: Queue) -> None:
    trace = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", f"a={'x' * 500}")
    sent = [f"{number}" + "x" * (MIB // 10 - 100) for number in range(10)]
    await queue.send([Message(body, trace=trace) for body in sent])
    assert await bodies_on(queue, len(sent)) == Counter(sent)


@on_servers
async def test_message_that_is_too_large_with_its_trace_goes_without(queue: Queue) -> None:
    trace = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    attribute = len("traceparent" + "String" + trace.traceparent)
    await queue.send([Message("x" * size, trace=trace) for size in (MIB, MIB - attribute)])
    traces = {len(delivery.body): delivery.trace for delivery in await receive(queue, 2)}
    assert traces == {MIB: None, MIB - attribute: trace}


@on_all
async def test_messages_of_a_tenant_are_not_kept_waiting_for_each_other(queue: Queue) -> None:
    """On a standard queue, message groups only affect fairness: a message in flight delays no other of its group."""
    await queue.send([Message(str(number), tenant="acme") for number in range(5)])
    assert len(await receive(queue, 5)) == 5


@on_all
async def test_depth_is_about_what_waits(queue: Queue) -> None:
    async def is_depth(depth: int) -> bool:
        return await queue.depth() == depth

    await eventually(lambda: is_depth(0))
    await queue.send([Message(str(number)) for number in range(12)])
    await eventually(lambda: is_depth(12))
    await receive(queue, 2)
    await eventually(lambda: is_depth(10))


# --- Leases


@on_all
async def test_message_in_flight_is_not_delivered_again(queue: Queue) -> None:
    await queue.send([Message("a")])
    await receive_one(queue)
    assert await queue.receive(10, wait_seconds=1) == []


@on_all
async def test_released_message_is_delivered_again_and_counted(queue: Queue) -> None:
    await queue.send([Message("a", tenant="acme")])
    for receive_count in (1, 2, 3):
        delivery = await receive_one(queue)
        assert (delivery.body, delivery.receive_count, delivery.tenant) == ("a", receive_count, "acme")
        assert await queue.extend([delivery], 0) == []


@on_all
async def test_message_whose_lease_ends_is_delivered_again_under_another_receipt(queue: Queue) -> None:
    await queue.send([Message("a")])
    first = await receive_one(queue)
    assert await queue.extend([first], 1) == []
    second = await receive_one(queue)
    assert second.receive_count == 2
    assert second.message_id == first.message_id
    assert second.receipt != first.receipt


@on_all
async def test_extended_lease_outlives_its_first_end(queue: Queue) -> None:
    await queue.send([Message("a")])
    delivery = await receive_one(queue)
    await queue.extend([delivery], 1)
    assert await queue.extend([delivery], 20) == []
    assert await queue.receive(1, wait_seconds=2) == []


@on_all
async def test_more_leases_than_a_call_takes_are_all_extended(queue: Queue) -> None:
    await queue.send([Message(str(number)) for number in range(23)])
    deliveries = await receive(queue, 23)
    assert await queue.extend(deliveries, 20) == []
    assert await queue.receive(10, wait_seconds=0) == []
    assert await queue.extend(deliveries, 0) == []
    again = await receive(queue, 23)
    assert {delivery.receive_count for delivery in again} == {2}


@on_all
async def test_delivery_can_be_hidden_for_half_a_day(queue: Queue) -> None:
    await queue.send([Message("later")])
    delivery = await receive_one(queue)
    assert await queue.extend([delivery], LONGEST_HIDDEN_SECONDS) == []
    assert await queue.receive(1, 0) == []


@on_all
async def test_no_leases_to_extend_is_none_lost(queue: Queue) -> None:
    assert await queue.extend([], 20) == []


@on_all
async def test_lost_lease_is_told_or_at_least_changes_nothing(queue: Queue) -> None:
    """AWS reports it, and so do the embedded AWS and ElasticMQ. On all of them, the current delivery stays valid."""
    await queue.send([Message("a")])
    lost = await receive_one(queue)
    await queue.extend([lost], 0)
    held = await receive_one(queue)

    assert await queue.extend([lost], 0) == [lost]
    assert await queue.receive(1, wait_seconds=1) == []
    assert await queue.extend([held], 20) == []


@on_all
async def test_lost_leases_are_told_among_those_that_are_held(queue: Queue) -> None:
    await queue.send([Message(str(number)) for number in range(12)])
    deliveries = await receive(queue, 12)
    gone = [deliveries[2], deliveries[11]]
    for delivery in gone:
        await queue.delete(delivery)
    assert await queue.extend(deliveries, 20) == gone


# --- Acknowledging


@on_all
async def test_deleted_message_never_comes_back(queue: Queue) -> None:
    await queue.send([Message("a"), Message("b")])
    first, second = await receive(queue, 2)
    await queue.delete(first)
    await queue.extend([second], 0)
    assert (await receive_one(queue)).body == second.body
    assert await queue.receive(10, wait_seconds=0) == []


@on_all
async def test_deleting_twice_is_no_error(queue: Queue) -> None:
    await queue.send([Message("a")])
    delivery = await receive_one(queue)
    await queue.delete(delivery)
    await queue.delete(delivery)


@on_all
async def test_deleting_with_an_old_receipt_is_no_error_and_leaves_the_message_to_who_has_it(queue: Queue) -> None:
    await queue.send([Message("a")])
    old = await receive_one(queue)
    await queue.extend([old], 0)
    held = await receive_one(queue)

    await queue.delete(old)
    await queue.extend([held], 0)
    assert (await receive_one(queue)).receive_count == 3


@on_all
async def test_deleting_once_the_lease_is_over_is_no_error(queue: Queue) -> None:
    """Servers differ in whether the message is deleted."""
    await queue.send([Message("a")])
    delivery = await receive_one(queue)
    await queue.extend([delivery], 0)
    await queue.delete(delivery)


@on_servers
async def test_receipt_that_was_never_issued_is_a_lost_lease(queue: Queue) -> None:
    stranger = Delivery("m", "a", "nonsense", 1)
    await queue.delete(stranger)
    assert await queue.extend([stranger], 20) == [stranger]


# --- SQS's own


@on_servers
async def test_reason_goes_along_as_an_attribute(queue: Queue, servers: Servers, settings: Settings) -> None:
    await queue.send([Message("{}", reason="The message is not a chunk: v: Field required.")])
    answer = await servers.clients.polls.receive_message(
        QueueUrl=await find_url(servers, settings.chunk_queues[Priority.NORMAL]),
        MessageAttributeNames=["All"],
        WaitTimeSeconds=5,
    )
    (message,) = answer["Messages"]
    assert message["MessageAttributes"]["reason"]["StringValue"] == "The message is not a chunk: v: Field required."


@pytest.mark.parametrize("aws", ["real"], indirect=True)
async def test_message_that_sqs_takes_never_is_told_and_not_repeated(queue: Queue) -> None:
    with pytest.raises(ValueError, match="SQS rejected a message"):
        await asyncio.wait_for(queue.send([Message("fine"), Message("\uffff")]), 5)


@on_servers
async def test_backend_that_nobody_provisioned_is_told(settings: Settings) -> None:
    with pytest.raises(Misconfigured, match="Run `penstock provision`"):
        async with open_backend(settings):
            pass


@on_servers
async def test_queue_that_is_deleted_meanwhile_is_told(queue: Queue, servers: Servers, settings: Settings) -> None:
    await servers.clients.sqs.delete_queue(QueueUrl=await find_url(servers, settings.chunk_queues[Priority.NORMAL]))
    for call in (queue.send([Message("a")]), queue.receive(1, 0), queue.depth()):
        with pytest.raises(Misconfigured, match="Run `penstock provision`"):
            await call


# --- Calls that fail in part, or whose answer is lost


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(aws: Aws) -> AsyncIterator[LossyProxy]:
    server = aws.environment.get("AWS_ENDPOINT_URL_SQS") or aws.environment["AWS_ENDPOINT_URL"]
    async with lossy_proxy(server) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def proxied(
    queue: Queue, proxy: LossyProxy, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Queue]:
    """Yield the queue behind the proxy. Repetitions do not wait."""
    monkeypatch.setattr("penstock.aws.sqs.SEND_WAIT_SECONDS", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", proxy.url)
    async with open_backend(settings) as through:
        yield through.queues[Priority.NORMAL]


@on_servers
async def test_entries_that_sqs_refused_through_no_fault_of_ours_are_repeated_alone(
    proxied: Queue, proxy: LossyProxy
) -> None:
    proxy.refuse_entries("SendMessageBatch", lambda entry: entry["Id"] in "147", sender_fault=False, times=2)
    sent = [f"message {number}" for number in range(10)]
    await proxied.send([Message(body) for body in sent])
    assert await bodies_on(proxied, 10) == Counter(sent)
    assert proxy.calls["SendMessageBatch"] == 3


@on_servers
async def test_call_of_which_every_entry_is_refused_is_repeated(proxied: Queue, proxy: LossyProxy) -> None:
    proxy.refuse_entries("SendMessageBatch", lambda _: True, sender_fault=False, times=4)
    await proxied.send([Message("a"), Message("b")])
    assert await bodies_on(proxied, 2) == Counter("ab")


@on_servers
async def test_entries_refused_again_and_again_are_an_outage(proxied: Queue, proxy: LossyProxy) -> None:
    def is_third(entry: Entry) -> bool:
        return bool(entry["MessageBody"] == "message 3")

    proxy.refuse_entries("SendMessageBatch", is_third, sender_fault=False, times=100)
    with pytest.raises(Unavailable, match="SQS failed 5 times to send 1 of 10 messages"):
        await proxied.send([Message(f"message {number}") for number in range(10)])
    assert proxy.calls["SendMessageBatch"] == 5


@on_servers
async def test_entry_refused_by_our_fault_is_an_error_at_once(proxied: Queue, proxy: LossyProxy) -> None:
    proxy.refuse_entries("SendMessageBatch", lambda entry: entry["Id"] == "1", sender_fault=True, times=100)
    with pytest.raises(ValueError, match="SQS rejected a message: Refused: by the proxy"):
        await proxied.send([Message("a"), Message("b")])
    assert proxy.calls["SendMessageBatch"] == 1


@on_servers
async def test_send_that_fails_leaves_no_call_under_way(proxied: Queue, proxy: LossyProxy) -> None:
    """No send is still in flight while the caller handles the failure."""
    proxy.refuse_entries("SendMessageBatch", lambda entry: entry["MessageBody"] == "0", sender_fault=True)
    with pytest.raises(ValueError, match="SQS rejected a message"):
        await proxied.send([Message(str(number)) for number in range(200)])
    assert proxy.calls["SendMessageBatch"] == 20


@on_servers
async def test_lease_that_sqs_did_not_extend_through_no_fault_of_ours_is_not_taken_for_lost(
    proxied: Queue, proxy: LossyProxy
) -> None:
    await proxied.send([Message("a"), Message("b")])
    deliveries = await receive(proxied, 2)
    proxy.refuse_entries("ChangeMessageVisibilityBatch", lambda entry: entry["Id"] == "0", sender_fault=False)
    with pytest.raises(Unavailable, match="did not extend 1 of 2 leases"):
        await proxied.extend(deliveries, 20)
    assert await proxied.extend(deliveries, 20) == []


@on_servers
async def test_message_that_sqs_did_not_delete_is_an_error_of_its_own(proxied: Queue, proxy: LossyProxy) -> None:
    await proxied.send([Message("a"), Message("b")])
    deliveries = await receive(proxied, 2)
    refused = deliveries[1].receipt
    proxy.refuse_entries("DeleteMessageBatch", lambda entry: entry["ReceiptHandle"] == refused, sender_fault=False)
    results = await asyncio.gather(*map(proxied.delete, deliveries), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), Unavailable]
    await proxied.delete(deliveries[1])
    assert await proxied.extend(deliveries, 0) == deliveries


@on_servers
async def test_throttled_entry_is_no_fault_of_its_message_whatever_sqs_calls_it(
    proxied: Queue, proxy: LossyProxy
) -> None:
    """SQS calls it the sender's fault if the sender asks too often, or if it may not use the key of the queue."""
    proxy.refuse_entries("SendMessageBatch", lambda _: True, sender_fault=True, code="KmsThrottled")
    await proxied.send([Message("a"), Message("b")])
    deliveries = await receive(proxied, 2)
    for action in ("ChangeMessageVisibilityBatch", "DeleteMessageBatch"):
        proxy.refuse_entries(action, lambda _: True, sender_fault=True, code="KMS.AccessDeniedException")
    with pytest.raises(Unavailable, match="did not extend 2 of 2 leases"):
        await proxied.extend(deliveries, 20)
    with pytest.raises(Unavailable, match=r"did not delete a message: KMS\.AccessDenied"):
        await proxied.delete(deliveries[0])


@on_servers
async def test_send_whose_answer_is_lost_is_repeated_so_that_every_message_arrives(
    proxied: Queue, proxy: LossyProxy
) -> None:
    """It arrives twice. That is fine, because every step of a consumer may be repeated."""
    proxy.lose_answers("SendMessageBatch")
    await proxied.send([Message("a"), Message("b")])
    assert await bodies_on(proxied, 4) == Counter(a=2, b=2)


@on_servers
async def test_delete_whose_answer_is_lost_is_no_error(proxied: Queue, proxy: LossyProxy) -> None:
    await proxied.send([Message("a")])
    delivery = await receive_one(proxied)
    proxy.lose_answers("DeleteMessageBatch")
    await proxied.delete(delivery)
    assert proxy.calls["DeleteMessageBatch"] == 2
    assert await proxied.extend([delivery], 0) == [delivery]


@on_servers
async def test_server_that_answers_nothing_is_unavailable(proxied: Queue, proxy: LossyProxy) -> None:
    proxy.lose_answers("GetQueueAttributes", times=100)
    with pytest.raises(Unavailable, match="AWS does not answer"):
        await proxied.depth()
