"""Delivers events. First each event becomes a delivery for each of its receivers, then each delivery is attempted.

A batch that becomes final has its event in the same write. From then on the batch is due in the index, until all of
its deliveries are written. A delivery is due until it has succeeded, or until its schedule is over. The consumer that
finished the batch continues immediately. What it leaves, because it dies or has much to do, the consumer that sweeps
finds in the index.

    last step                  what happens after a crash
    -------------------------  ---------------------------------------------------------------------------------
    none                       the event is found in the index
    some deliveries written    the others are written. Those that exist stay as they are
    events cleared             the deliveries are found in the index
    attempt claimed            the next attempt is made when the claim ends. The receiver may get the event twice
    result written             the delivery has ended, or its next attempt is found in the index when it is due
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from penstock.batch import Batch
from penstock.clock import Clock
from penstock.consumer.outage import Outage
from penstock.consumer.webhooks.post import Post
from penstock.errors import NewerVersion, PenstockError
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric
from penstock.store import Store
from penstock.telemetry import Event, get_log
from penstock.webhooks.delivery import KEPT_SECONDS, LEASE_SECONDS, DeliveryKey, DeliveryState, EventDelivery
from penstock.webhooks.endpoint import CALLBACK, GONE, Endpoint, Endpoints, Secrets
from penstock.webhooks.event import FinalEvent, body_of_batch
from penstock.webhooks.schedule import Answer, Result
from penstock.webhooks.signature import headers_of

POLL_SECONDS = 5.0
SOONEST_SECONDS = 0.2  # until the next poll, if the last one had no room for something and there is some now
MOST_SCANNED = 1_000  # entries of the index in a poll. The next one continues after them
EXPANDED_AT_ONCE = 10  # batches
# Attempts of this process. A receiver that does not answer holds a few places only, and so does its tenant.
ATTEMPTS_AT_ONCE = 40
ATTEMPTS_OF_TENANT = 12
ATTEMPTS_OF_ENDPOINT = 5
Step: TypeAlias = Callable[[], Awaitable[None]]

DELETED = "The endpoint was deleted."
DISABLED = "The endpoint is disabled."
EXHAUSTED = "No attempt could be finished."
UNEXPECTED = "The request failed unexpectedly."


@dataclass(frozen=True, slots=True)
class _Receiver:
    """Where a delivery goes. `refusal` says why it must not, if that is so."""

    url: str
    endpoint: Endpoint
    refusal: str | None = None


class Courier:
    def __init__(
        self,
        store: Store,
        post: Post,
        secrets_: Secrets,
        clock: Clock,
        meter: Meter,
        *,
        may_poll: Callable[[], bool],
        base_url: str = "",
    ) -> None:
        """Create a courier. It reads the index while `may_poll` returns True, which one consumer should do.

        The URLs in events start with `base_url`.
        """
        self._store = store
        self._post = post
        self._secrets = secrets_
        self._clock = clock
        self._meter = meter
        self._may_poll = may_poll
        self._base_url = base_url
        self._outage = Outage(Event.WEBHOOKS_FAILED)
        self._expanding: dict[str, asyncio.Task[None]] = {}
        self._attempts: dict[DeliveryKey, asyncio.Task[None]] = {}
        self._scanned_until = 0.0  # where the next poll continues in the index
        self._lacks_room = False  # something that is due was left since the last poll began
        self._has_room_again = asyncio.Event()

    async def keep(self) -> None:
        """Start what is due, until cancelled."""
        try:
            while True:
                await self._wait_for_next_poll()
                if self._may_poll():
                    await self._try_to_poll()
        finally:
            for task in (*self._expanding.values(), *self._attempts.values()):
                task.cancel()  # an attempt under way is repeated when its claim ends

    async def _wait_for_next_poll(self) -> None:
        waiting = [
            asyncio.create_task(self._clock.sleep(POLL_SECONDS)),
            asyncio.create_task(self._has_room_again.wait()),
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if self._has_room_again.is_set():
            await self._clock.sleep(SOONEST_SECONDS)  # so that one poll follows many attempts
            self._has_room_again.clear()

    async def _try_to_poll(self) -> None:
        try:
            await self.poll()
        except PenstockError as error:
            self._outage.report(error)
        except Exception as error:  # noqa: BLE001 - a bug here must not stop the consumer
            get_log().error(Event.WEBHOOKS_FAILED, exc_info=error)
        else:
            self._outage.end()

    async def poll(self) -> None:
        """Start what is due, as far as there is room for it. The rest stays due.

        A poll reads a part of the index, and the next one continues after it. So entries without room hide no others.
        """
        scanned, since = 0, self._scanned_until
        self._scanned_until, self._lacks_room = 0.0, False
        async for due_at, due in self._store.due_webhooks(self._clock.now(), since):
            scanned += 1
            # The next poll continues at a time. So entries of one time are read in one poll, however many there are.
            if scanned > MOST_SCANNED and due_at > since:
                self._scanned_until = due_at
                return
            if isinstance(due, DeliveryKey):
                self._start_attempt(due)
            else:
                self.expand_soon(due)

    def expand_soon(self, batch_id: str) -> None:
        """Start to turn the events of a batch into deliveries. If there is no room, a later poll finds them."""
        if batch_id in self._expanding:
            return
        if len(self._expanding) >= EXPANDED_AT_ONCE:
            self._lacks_room = True
        else:
            self._expanding[batch_id] = self._start(
                partial(self._expand, batch_id), lambda: self._expanding.pop(batch_id), batch_id=batch_id
            )

    def _start_attempt(self, key: DeliveryKey) -> None:
        if key in self._attempts:
            return
        if not self._has_room(key):
            self._lacks_room = True
        else:
            self._attempts[key] = self._start(
                partial(self._attempt, key), lambda: self._attempts.pop(key), delivery_id=key.id, tenant=key.tenant
            )

    def _has_room(self, key: DeliveryKey) -> bool:
        of_tenant = [other.endpoint_id for other in self._attempts if other.tenant == key.tenant]
        return (
            len(self._attempts) < ATTEMPTS_AT_ONCE
            and len(of_tenant) < ATTEMPTS_OF_TENANT
            and of_tenant.count(key.endpoint_id) < ATTEMPTS_OF_ENDPOINT
        )

    def _start(self, step: Step, at_end: Callable[[], object], **fields: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._try(step, fields))
        task.add_done_callback(lambda _: self._end(at_end))
        return task

    def _end(self, at_end: Callable[[], object]) -> None:
        at_end()
        if self._lacks_room:
            self._has_room_again.set()

    async def _try(self, step: Step, fields: Mapping[str, str]) -> None:
        """Take a step. If it fails, the entry in the index brings it back."""
        try:
            await step()
        except NewerVersion as error:  # a consumer of that version continues
            get_log().warning(Event.NEWER_VERSION, error=str(error), **fields)
        except PenstockError as error:
            self._outage.report(error, **fields)
        except Exception as error:  # noqa: BLE001 - it is about this event only
            get_log().error(Event.WEBHOOKS_FAILED, exc_info=error, **fields)

    async def _expand(self, batch_id: str) -> None:
        batch = await self._store.read_batch(batch_id)
        if batch is None or not batch.events:
            return
        endpoints = await self._store.read_endpoints(batch.tenant)
        metadata = await self._store.read_metadata(batch)
        made = [
            delivery
            for event in batch.events
            for delivery in self._deliveries(
                batch, event, body_of_batch(event, batch, metadata, self._base_url), endpoints
            )
        ]
        for delivery in made:
            await self._store.create_delivery(delivery)
        await self._store.clear_events(batch.id, batch.events)  # if there are more by now, a poll finds them
        for delivery in made:
            self._start_attempt(DeliveryKey(delivery.tenant, delivery.id))

    def _deliveries(self, batch: Batch, event: FinalEvent, body: bytes, endpoints: Endpoints) -> list[EventDelivery]:
        receivers = [endpoint.id for endpoint in endpoints.own if endpoint.wants(event.type)]
        if batch.callback_url is not None:
            receivers.append(CALLBACK)
        now = self._clock.now()
        return [
            EventDelivery(
                tenant=batch.tenant,
                event_id=event.id,
                endpoint_id=receiver,
                type=event.type,
                body=body,
                created_at=event.at,
                expires_at=max(batch.expires_at, now + KEPT_SECONDS),
                batch_id=batch.id,
                url=batch.callback_url if receiver == CALLBACK else None,
                due_at=event.at,
            )
            for receiver in receivers
        ]

    async def _attempt(self, key: DeliveryKey) -> None:
        now = self._clock.now()
        delivery = await self._store.claim_delivery(key, secrets.token_hex(8), now, now + LEASE_SECONDS)
        if delivery is None:
            return  # it has ended, or another consumer makes this attempt
        receiver = self._receiver(delivery, await self._store.read_endpoints(key.tenant))
        refusal = EXHAUSTED if delivery.is_exhausted else receiver.refusal
        if refusal is None:
            delivery = await self._send(delivery, receiver)
        else:
            delivery = delivery.given_up(refusal)
        if await self._store.settle_delivery(delivery):
            self._tell(delivery)

    def _receiver(self, delivery: EventDelivery, endpoints: Endpoints) -> _Receiver:
        endpoint = endpoints.find(delivery.endpoint_id)
        if endpoint is None:
            return _Receiver("", Endpoint(delivery.endpoint_id, "", 0.0), DELETED)
        return _Receiver(delivery.url or endpoint.url, endpoint, None if endpoint.is_enabled else DISABLED)

    async def _send(self, delivery: EventDelivery, receiver: _Receiver) -> EventDelivery:
        now = self._clock.now()
        valid = self._secrets.valid(delivery.tenant, receiver.endpoint, now)
        headers = headers_of(valid, delivery.event_id, int(now), delivery.body)
        answer = await self._try_to_post(receiver.url, headers, delivery)
        if answer.result is Result.GONE and not delivery.is_callback:
            await self._disable(delivery.tenant, receiver.endpoint)
        draw = random.random()  # noqa: S311 - spreads attempts, keeps no secret
        return delivery.after(answer, self._clock.now(), draw)

    async def _try_to_post(self, url: str, headers: Mapping[str, str], delivery: EventDelivery) -> Answer:
        try:
            return await self._post(url, headers, delivery.body, delivery.tenant)
        except Exception as error:  # noqa: BLE001 - a bug here counts as a failed attempt, or it would repeat for ever
            get_log().error(Event.WEBHOOKS_FAILED, exc_info=error, delivery_id=delivery.id, tenant=delivery.tenant)
            return Answer(error=UNEXPECTED)

    async def _disable(self, tenant: str, attempted: Endpoint) -> None:
        """Disable an endpoint that answered 410, unless it has another URL by now.

        Repeat it if its tenant changes the endpoints at the same time.
        """
        while True:
            endpoints = await self._store.read_endpoints(tenant)
            endpoint = endpoints.find(attempted.id)
            if endpoint is None or not endpoint.is_enabled or endpoint.url != attempted.url:
                return
            changed = endpoints.with_endpoint(endpoint.disabled(self._clock.now(), GONE))
            if await self._store.write_endpoints(changed, secrets.token_hex(8)):
                return

    def _tell(self, delivery: EventDelivery) -> None:
        fields = {
            "delivery_id": delivery.id,
            "tenant": delivery.tenant,
            "batch_id": delivery.batch_id,
            "attempt": delivery.attempt,
            "status": delivery.status,
            "error": delivery.error,
        }
        if delivery.state is DeliveryState.DELIVERED:
            get_log().info(Event.WEBHOOK_DELIVERED, **fields)
        elif delivery.state is DeliveryState.FAILED:
            self._meter.count(Metric.WEBHOOKS_FAILED)
            get_log().warning(Event.WEBHOOK_FAILED, **fields)
        else:
            get_log().info(Event.WEBHOOK_REPEATED, **fields)
