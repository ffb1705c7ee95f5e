"""Webhooks in the DynamoDB table. `webhook_items.py` knows what their items look like."""

from collections.abc import AsyncIterator, Sequence

from penstock.aws import webhook_items as items
from penstock.aws.attributes import (
    number,
    read_optional_seconds,
    read_seconds,
    read_text,
    seconds,
    text,
    texts,
    whole_seconds,
)
from penstock.aws.items import DUE_INDEX, batch_key
from penstock.aws.table import Done, Table
from penstock.webhooks.delivery import DeliveryKey, DeliveryState, EventDelivery
from penstock.webhooks.endpoint import Endpoints
from penstock.webhooks.event import FinalEvent


class DynamoDbWebhooks:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def read_endpoints(self, tenant: str) -> Endpoints:
        return items.endpoints_from_item(tenant, await self._table.get(items.endpoints_key(tenant)))

    async def write_endpoints(self, endpoints: Endpoints, revision: str) -> bool:
        is_new = not endpoints.revision
        written = await self._table.put_if(
            "attribute_not_exists(pk)" if is_new else "revision = :seen",
            items.endpoints_to_item(endpoints, revision),
            {} if is_new else {"seen": text(endpoints.revision)},
            return_blocker=True,
        )
        # A call that took effect, but whose answer was lost, is blocked by its own effect when it is repeated.
        return isinstance(written, Done) or items.endpoints_from_item("", written.item).revision == revision

    async def read_webhook_marks(self) -> frozenset[str]:
        return items.marks_from_item(await self._table.get(items.marks_key()))

    async def add_webhook_mark(self, mark: str) -> None:
        await self._table.update(items.marks_key(), "ADD marks :mark", {"mark": texts([mark])})

    async def due_webhooks(self, now: float, since: float = 0.0) -> AsyncIterator[tuple[float, str | DeliveryKey]]:
        condition = "#open = :open AND due_at BETWEEN :since AND :now"
        values = {"open": text(items.DUE), "since": seconds(min(since, now)), "now": seconds(now)}
        async for item in self._table.query_index(DUE_INDEX, condition, values):
            yield read_seconds(item, "due_at"), items.due_from_item(item)

    async def clear_events(self, batch_id: str, events: Sequence[FinalEvent]) -> bool:
        values = {f"event{position}": text(event.encode()) for position, event in enumerate(events)}
        # The size comes last: moto fails with 500 if it is asked for that of events which are cleared already.
        conditions = [*(f"contains(events, :{name})" for name in values), "size(events) = :count"]
        cleared = await self._table.update_if(
            " AND ".join(conditions),
            batch_key(batch_id),
            "REMOVE events, #open, due_at",
            {**values, "count": number(len(events))},
        )
        return isinstance(cleared, Done)

    async def create_delivery(self, delivery: EventDelivery) -> None:
        await self._table.put_if("attribute_not_exists(pk)", items.delivery_to_item(delivery))

    async def claim_delivery(self, key: DeliveryKey, claim: str, now: float, until: float) -> EventDelivery | None:
        claimed = await self._table.update_if(
            "#state = :pending AND due_at <= :now",
            items.delivery_key(key),
            "SET claim = :claim, due_at = :until ADD attempt :one",
            {
                "pending": text(DeliveryState.PENDING),
                "now": seconds(now),
                "claim": text(claim),
                "until": seconds(until),
                "one": number(1),
            },
            return_new=True,
            return_blocker=True,
        )
        delivery = items.delivery_from_item(claimed.item) if claimed.item else None
        return delivery if delivery is not None and delivery.claim == claim else None

    async def settle_delivery(self, delivery: EventDelivery) -> bool:
        values = items.results_of(delivery)
        removed = [name for name in items.RESULTS if name not in values]
        settled = await self._table.update_if(
            "claim = :claim",
            items.delivery_key(DeliveryKey(delivery.tenant, delivery.id)),
            f"SET {', '.join(f'#{name} = :{name}' for name in values)}"
            + (f" REMOVE {', '.join(f'#{name}' for name in removed)}" if removed else ""),
            {**values, "claim": text(delivery.claim or "")},
        )
        return isinstance(settled, Done)

    async def read_delivery(self, key: DeliveryKey) -> EventDelivery | None:
        item = await self._table.get(items.delivery_key(key))
        return None if item is None else items.delivery_from_item(item)

    async def list_deliveries(self, tenant: str, before: str | None, limit: int) -> list[EventDelivery]:
        first, last = items.DELIVERIES_BEGIN, before or items.DELIVERIES_END
        found = await self._table.query_backwards(items.deliveries_pk(tenant), first, last, limit + 1)
        # A query includes its last key, which may be the delivery that the page comes after.
        return [items.delivery_from_item(item) for item in found if read_text(item, "sk") != before][:limit]

    async def replay_delivery(self, key: DeliveryKey, now: float, expires_at: float) -> EventDelivery | None:
        replayed = await self._table.update_if(
            "attribute_exists(pk) AND #state <> :pending",
            items.delivery_key(key),
            # Without its claim, a late repetition of the last attempt's result cannot end the delivery again.
            "SET #state = :pending, #open = :open, due_at = :now, expires_at = :expires_at, replayed_after = attempt"
            " REMOVE #error, claim",
            {
                "pending": text(DeliveryState.PENDING),
                "open": text(items.DUE),
                "now": seconds(now),
                "expires_at": whole_seconds(expires_at),
            },
            return_new=True,
            return_blocker=True,
        )
        is_ours = isinstance(replayed, Done) or read_optional_seconds(replayed.item, "due_at") == round(now, 3)
        return items.delivery_from_item(replayed.item) if is_ours else None
