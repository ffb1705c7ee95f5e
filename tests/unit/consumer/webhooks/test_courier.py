"""Events become deliveries, and deliveries are attempted until they succeed or their schedule is over."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from standardwebhooks import Webhook

from penstock.batch import Batch, BatchState, Counts, Ending
from penstock.consumer.consumer import Consumer
from penstock.consumer.finisher import Finisher
from penstock.consumer.sweeper import Sweeper
from penstock.consumer.webhooks import courier as module
from penstock.consumer.webhooks.courier import ATTEMPTS_OF_ENDPOINT, ATTEMPTS_OF_TENANT, Courier
from penstock.errors import Unavailable
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric
from penstock.operations import Operations
from penstock.store import Group
from penstock.telemetry import Event
from penstock.testing import FakeClock, MemoryStore
from penstock.testing.memory import MemoryParts, MemoryQueue
from penstock.webhooks.delivery import KEPT_SECONDS, DeliveryState, EventDelivery
from penstock.webhooks.endpoint import CALLBACK, Endpoint, Secrets
from penstock.webhooks.schedule import DELAYS, JITTER, Answer
from tests.support.builders import NOW, build_batch, build_settings
from tests.unit.consumer.conftest import Logs

MASTER = Secrets("a master secret with more than 32 characters")
ALL_SUCCEEDED = Counts(2)
URL = "https://receiver.example/hook?token=secret"


@dataclass
class Receiver:
    """Notes what arrives, and answers with what it was told."""

    answers: list[Answer] = field(default_factory=list)
    calls: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    is_slow: bool = False
    waiting: int = 0
    before_answer: Callable[[], Awaitable[None]] | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, _tenant: str) -> Answer:
        self.calls.append((url, headers, body))
        if self.is_slow:
            self.waiting += 1
            await asyncio.Event().wait()
        if self.before_answer is not None:
            await self.before_answer()
        return self.answers.pop(0) if self.answers else Answer(204)


class Told:
    """A store with a batch, a finisher and a courier."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        self.store = MemoryStore()
        self.receiver = Receiver()
        self.meter = Meter()
        self.courier = self.another_courier()
        self.finisher = Finisher(self.store, self.clock, self.courier.expand_soon)

    def another_courier(self) -> Courier:
        return Courier(self.store, self.receiver.post, MASTER, self.clock, self.meter, may_poll=lambda: True)

    async def make(self, **changes: Any) -> Batch:
        batch = build_batch(2, **{"state": BatchState.PROCESSING, "callback_url": URL, **changes})
        await self.store.create_batch(batch)
        return batch

    async def finish(self, batch: Batch, counts: Counts = ALL_SUCCEEDED) -> None:
        await self.finisher.finish(batch, 0, Group(counts))
        await self.rest()

    async def endpoint(self, endpoint: Endpoint) -> None:
        endpoints = await self.store.read_endpoints("default")
        assert await self.store.write_endpoints(endpoints.with_endpoint(endpoint), f"after {endpoints.revision}")

    async def rest(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def poll(self, after_seconds: float = 0.001) -> None:
        self.clock.advance(after_seconds)
        await self.courier.poll()
        await self.rest()

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, _, body in self.receiver.calls]

    @property
    def deliveries(self) -> list[EventDelivery]:
        return sorted(self.store._deliveries.values(), key=lambda delivery: delivery.id)

    @property
    def delivery(self) -> EventDelivery:
        [delivery] = self.deliveries
        return delivery


@pytest.fixture
def told() -> Told:
    return Told()


async def test_callback_gets_the_event_immediately_and_once(told: Told) -> None:
    await told.finish(await told.make())
    await told.poll()
    [(url, headers, body)] = told.receiver.calls
    assert url == URL
    secret = MASTER.current("default", Endpoint(CALLBACK, "", 0))
    assert headers["webhook-id"] == json.loads(body)["id"]
    assert headers["webhook-timestamp"] == str(int(NOW))
    assert headers["webhook-signature"] == _signature(secret, headers, body)
    assert (told.bodies[0]["type"], told.bodies[0]["data"]["succeeded"]) == ("batch.completed", 2)
    assert (told.delivery.state, told.delivery.attempt, told.delivery.status) == (DeliveryState.DELIVERED, 1, 204)


def _signature(secret: str, headers: Mapping[str, str], body: bytes) -> str:
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    return Webhook(secret).sign(headers["webhook-id"], at, body.decode())


async def test_urls_in_events_start_with_the_public_url(told: Told) -> None:
    settings = build_settings(webhook_secret="m" * 32, public_url="https://api.example/bulk/")
    backend = MemoryParts({}, MemoryQueue(), told.store).backend
    courier = Consumer(backend, Operations(), settings, told.clock, post=told.receiver.post)._courier
    assert courier is not None
    told.finisher = Finisher(told.store, told.clock, courier.expand_soon)
    batch = await told.make()
    await told.finish(batch)
    assert told.bodies[0]["data"]["statusUrl"] == f"https://api.example/bulk/batch/{batch.id}/status"


async def test_batch_without_receivers_has_no_event(told: Told) -> None:
    batch = await told.make(callback_url=None)
    await told.finish(batch)
    await told.poll()
    stored = await told.store.read_batch(batch.id)
    assert stored is not None
    assert (stored.state, stored.events, told.receiver.calls) == (BatchState.COMPLETED, (), [])


async def test_endpoints_that_want_the_type_get_the_event(told: Told) -> None:
    await told.endpoint(Endpoint("we_all", "https://all.example", NOW))
    await told.endpoint(Endpoint("we_failed", "https://failed.example", NOW, frozenset({"batch.failed"})))
    await told.endpoint(Endpoint("we_off", "https://off.example", NOW).disabled(NOW))
    await told.finish(await told.make(has_webhooks=True), Counts(0, 2))
    assert sorted(url for url, _, _ in told.receiver.calls) == ["https://all.example", "https://failed.example", URL]
    await told.finish(await told.make(id="another", has_webhooks=True, callback_url=None))
    assert [url for url, _, _ in told.receiver.calls][3:] == ["https://all.example"]


async def test_tenant_whose_mark_is_that_of_another_has_no_deliveries(told: Told) -> None:
    batch = await told.make(callback_url=None, has_webhooks=True)
    await told.finish(batch)
    stored = await told.store.read_batch(batch.id)
    assert stored is not None
    assert (stored.events, told.deliveries) == ((), [])


@pytest.mark.parametrize(
    ("counts", "ending", "kind"),
    [
        (Counts(1, 1), None, "batch.completed"),
        (Counts(0, 2), None, "batch.failed"),
        (Counts(1, 0, 1), Ending.CANCELLED, "batch.cancelled"),
        (Counts(1, 0, 0, 1), None, "batch.expired"),
    ],
)
async def test_type_says_how_the_batch_has_ended(told: Told, counts: Counts, ending: Ending | None, kind: str) -> None:
    await told.finish(await told.make(ending=ending), counts)
    assert [body["type"] for body in told.bodies] == [kind]


async def test_swept_batch_has_its_event(told: Told) -> None:
    await told.make(accept_by=NOW - 60, deadline_at=NOW - 1)
    await Sweeper(told.store, 30, told.clock, owner="sweeper", on_event=told.courier.expand_soon).sweep()
    await told.rest()
    assert [body["type"] for body in told.bodies] == ["batch.expired"]


async def test_retry_that_changes_the_state_is_another_event(told: Told) -> None:
    batch = await told.make()
    await told.finish(batch, Counts(0, 2))
    final = await told.store.read_batch(batch.id)
    assert final is not None
    told.store._groups[batch.id, 0] = Group(Counts(1, 1))
    for _ in range(2):
        await told.finish(final, Counts(1, 1))
    assert [body["type"] for body in told.bodies] == ["batch.failed", "batch.completed"]
    assert len({body["id"] for body in told.bodies}) == 2


async def test_failed_attempts_follow_the_schedule_until_it_is_over(told: Told, logs: Logs) -> None:
    told.receiver.answers = [Answer(500, text="a secret of the receiver")] * len(DELAYS)
    await told.finish(await told.make())
    for attempt, delay in enumerate(DELAYS[1:], start=1):
        await told.poll(delay - 1)
        assert len(told.receiver.calls) == attempt
        await told.poll(1 + JITTER * delay)
        assert len(told.receiver.calls) == attempt + 1
    await told.poll(1_000_000)
    assert (told.delivery.state, told.delivery.attempt) == (DeliveryState.FAILED, len(DELAYS))
    assert len({headers["webhook-id"] for _, headers, _ in told.receiver.calls}) == 1
    assert told.meter.totals().counts[Metric.WEBHOOKS_FAILED] == 1
    assert logs[-1]["event"] == Event.WEBHOOK_FAILED
    assert not [line for line in logs if "secret" in str(line) or "receiver.example" in str(line)]


async def test_endpoint_that_answers_410_is_disabled(told: Told) -> None:
    await told.endpoint(Endpoint("we_1", "https://gone.example", NOW))
    told.receiver.answers = [Answer(410)]
    await told.finish(await told.make(has_webhooks=True, callback_url=None))
    [endpoint] = (await told.store.read_endpoints("default")).all
    assert (endpoint.disabled_at, endpoint.disabled_reason) == (NOW, "The receiver answered 410.")
    assert told.delivery.state is DeliveryState.FAILED
    await told.finish(await told.make(id="another", has_webhooks=True, callback_url=None))
    assert len(told.receiver.calls) == 1


async def test_410_of_an_old_url_does_not_disable_the_endpoint(told: Told) -> None:
    await told.endpoint(Endpoint("we_1", "https://old.example", NOW))
    changed = Endpoint("we_1", "https://new.example", NOW)
    told.receiver.before_answer = lambda: told.endpoint(changed)
    told.receiver.answers = [Answer(410)]
    await told.finish(await told.make(has_webhooks=True, callback_url=None))
    assert (await told.store.read_endpoints("default")).all == (changed,)


async def test_unexpected_error_of_a_request_is_a_failed_attempt(told: Told, logs: Logs) -> None:
    async def fail() -> None:
        raise RuntimeError("a bug")

    told.receiver.before_answer = fail
    await told.finish(await told.make())
    assert (told.delivery.error, told.delivery.due_at is not None) == (module.UNEXPECTED, True)
    assert Event.WEBHOOKS_FAILED in [line["event"] for line in logs]


async def test_delivery_whose_attempts_never_finish_is_given_up(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose(_: EventDelivery) -> bool:
        return False

    with monkeypatch.context() as patching:
        patching.setattr(told.store, "settle_delivery", lose)
        await told.finish(await told.make())
        for _ in DELAYS[1:]:
            await told.poll(61)
    await told.poll(61)
    assert (told.delivery.state, told.delivery.error) == (DeliveryState.FAILED, module.EXHAUSTED)
    assert len(told.receiver.calls) == len(DELAYS)


async def test_delivery_is_kept_until_its_schedule_is_over(told: Told) -> None:
    told.receiver.answers = [Answer(500, retry_after=86_400)] * len(DELAYS)
    await told.finish(await told.make())
    for _ in DELAYS[1:]:
        assert told.delivery.due_at is not None
        assert told.delivery.expires_at >= told.delivery.due_at + KEPT_SECONDS
        await told.poll(100_000)


@pytest.mark.parametrize(("is_deleted", "reason"), [(True, module.DELETED), (False, module.DISABLED)])
async def test_delivery_ends_with_its_endpoint(told: Told, is_deleted: bool, reason: str) -> None:
    endpoint = Endpoint("we_1", "https://one.example", NOW)
    await told.endpoint(endpoint)
    told.receiver.answers = [Answer(500)]
    await told.finish(await told.make(has_webhooks=True, callback_url=None))
    endpoints = await told.store.read_endpoints("default")
    changed = endpoints.without("we_1") if is_deleted else endpoints.with_endpoint(endpoint.disabled(NOW))
    await told.store.write_endpoints(changed, "changed")
    await told.poll(6)
    assert (told.delivery.state, told.delivery.error) == (DeliveryState.FAILED, reason)
    assert len(told.receiver.calls) == 1


async def test_next_attempt_goes_to_the_new_url_of_an_endpoint(told: Told) -> None:
    await told.endpoint(Endpoint("we_1", "https://old.example", NOW))
    told.receiver.answers = [Answer(500)]
    await told.finish(await told.make(has_webhooks=True, callback_url=None))
    await told.endpoint(Endpoint("we_1", "https://new.example", NOW))
    await told.poll(6)
    assert [url for url, _, _ in told.receiver.calls] == ["https://old.example", "https://new.example"]


async def test_event_of_a_consumer_that_died_is_delivered_by_another(told: Told) -> None:
    await Finisher(told.store, told.clock).finish(await told.make(), 0, Group(Counts(2)))
    await told.poll()
    assert len(told.receiver.calls) == 1


async def test_attempt_of_a_consumer_that_died_is_repeated_when_its_claim_ends(told: Told) -> None:
    told.receiver.is_slow = True
    await told.finish(await told.make())
    told.receiver.is_slow, told.courier = False, told.another_courier()
    await told.poll(50)
    assert len(told.receiver.calls) == 1
    await told.poll(11)
    assert len(told.receiver.calls) == 2
    assert (told.delivery.state, told.delivery.attempt) == (DeliveryState.DELIVERED, 2)


async def test_slow_receiver_holds_few_places(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(ATTEMPTS_OF_ENDPOINT + 3):
        await told.finish(await told.make(id=f"slow-{number}"))
    told.receiver.is_slow = True
    slow = build_batch(2, id="slow", state=BatchState.PROCESSING, callback_url=URL)
    for number in range(ATTEMPTS_OF_TENANT):
        batch = replace(slow, id=f"of-one-{number}")
        await told.store.create_batch(batch)
        await told.finisher.finish(batch, 0, Group(Counts(2)))
        await told.rest()
    assert told.receiver.waiting == ATTEMPTS_OF_ENDPOINT
    told.receiver.is_slow = False
    other = replace(slow, id="of-another", tenant="another", callback_url="https://quick.example")
    await told.store.create_batch(other)
    await told.finish(other)
    assert told.receiver.calls[-1][0] == "https://quick.example"


async def test_what_had_no_room_is_attempted_as_soon_as_there_is_some(told: Told) -> None:
    class Unhurried(FakeClock):
        async def sleep(self, seconds: float) -> None:
            if seconds >= module.POLL_SECONDS:
                await asyncio.Event().wait()
            await super().sleep(seconds)

    told.clock = Unhurried(NOW)
    told.courier, count = told.another_courier(), 4 * ATTEMPTS_OF_ENDPOINT
    for number in range(count):
        await Finisher(told.store, told.clock).finish(await told.make(id=f"b{number}"), 0, Group(Counts(2)))
    told.clock.advance(1)
    await told.courier.poll()
    keeping = asyncio.create_task(told.courier.keep())
    for _ in range(10):
        await told.rest()
    keeping.cancel()
    assert len(told.receiver.calls) == count


async def test_many_deliveries_without_room_do_not_hide_those_of_others(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SCANNED", 10)
    told.receiver.is_slow = True
    for number in range(ATTEMPTS_OF_ENDPOINT + 15):
        await told.store.create_delivery(_callback("busy", number))
    await told.store.create_delivery(_callback("another", 99))
    for _ in range(3):
        await told.poll(1)
    assert [url for url, _, _ in told.receiver.calls].count("https://another.example") == 1
    assert told.receiver.waiting == ATTEMPTS_OF_ENDPOINT + 1


async def test_many_deliveries_due_at_the_same_time_do_not_hide_those_of_others(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SCANNED", 10)
    told.receiver.is_slow = True
    for number in range(ATTEMPTS_OF_ENDPOINT + 15):
        await told.store.create_delivery(replace(_callback("busy", number), due_at=NOW - 200))
    await told.store.create_delivery(replace(_callback("another", 98), due_at=NOW - 200))
    await told.store.create_delivery(_callback("later", 99))
    for _ in range(3):
        await told.poll(1)
    assert {url for url, _, _ in told.receiver.calls} == {
        f"https://{one}.example" for one in ("busy", "another", "later")
    }


def _callback(tenant: str, number: int) -> EventDelivery:
    return EventDelivery(
        tenant=tenant,
        event_id=f"evt_{number:032x}",
        endpoint_id=CALLBACK,
        type="batch.completed",
        body=b"{}",
        created_at=NOW,
        expires_at=NOW + KEPT_SECONDS,
        url=f"https://{tenant}.example",
        due_at=NOW - 200 + number,
    )


async def test_failure_of_the_table_leaves_the_event_in_the_index(
    told: Told, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    async def fail(*_: Any) -> None:
        raise Unavailable("AWS is away.")

    with monkeypatch.context() as patching:
        patching.setattr(told.store, "create_delivery", fail)
        await told.finish(await told.make())
    assert [line["event"] for line in logs].count(Event.WEBHOOKS_FAILED) == 1
    await told.poll()
    assert len(told.receiver.calls) == 1


async def test_bug_in_a_poll_does_not_stop_the_consumer(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    await Finisher(told.store, told.clock).finish(await told.make(), 0, Group(Counts(2)))
    due, fails = told.store.due_webhooks, [True]

    def fail_once(now: float, since: float) -> Any:
        if fails and fails.pop():
            raise KeyError("sk")
        return due(now, since)

    monkeypatch.setattr(told.store, "due_webhooks", fail_once)
    keeping = asyncio.create_task(told.courier.keep())
    await told.rest()
    keeping.cancel()
    assert len(told.receiver.calls) == 1


async def test_only_one_consumer_reads_the_index(told: Told) -> None:
    await Finisher(told.store, told.clock).finish(await told.make(), 0, Group(Counts(2)))
    idle = Courier(told.store, told.receiver.post, MASTER, told.clock, told.meter, may_poll=lambda: False)
    for courier, calls in ((idle, 0), (told.courier, 1)):
        keeping = asyncio.create_task(courier.keep())
        await told.rest()
        keeping.cancel()
        assert len(told.receiver.calls) == calls
