"""Faults in how the end of a batch is told."""

from typing import Any

import pytest

from penstock.aws import webhook_items
from penstock.aws.attributes import seconds, text
from penstock.aws.items import batch_key
from penstock.aws.store import DynamoDbStore
from penstock.aws.webhooks import DynamoDbWebhooks
from penstock.batch import BatchState
from penstock.consumer.webhooks.courier import Courier
from penstock.service.webhook_tenants import WebhookTenants
from penstock.webhooks.endpoint import mark_of
from penstock.webhooks.event import FinalEvent
from tests.simulation.rewriting import rewrite

Patching = pytest.MonkeyPatch


def write_the_event_apart(patching: Patching) -> None:
    """Write the event just after the write that makes the batch final."""
    finish = DynamoDbStore.finish_batch

    async def mutant(
        self: DynamoDbStore,
        batch_id: str,
        state: BatchState,
        at: float,
        *,
        event: FinalEvent | None = None,
        **rest: Any,
    ) -> bool:
        finished = await finish(self, batch_id, state, at, **rest)
        if finished and event is not None:
            await self._table.update(
                batch_key(batch_id),
                "SET #open = :due, due_at = :at ADD events :event",
                {
                    "event": webhook_items.events_value([event]),
                    "due": text(webhook_items.DUE),
                    "at": seconds(at),
                },
            )
        return finished

    patching.setattr(DynamoDbStore, "finish_batch", mutant)


def forget_the_event_of_a_retry(patching: Patching) -> None:
    revise = DynamoDbStore.revise_batch

    async def mutant(self: DynamoDbStore, batch_id: str, before: BatchState, after: BatchState, _: Any = None) -> None:
        await revise(self, batch_id, before, after)

    patching.setattr(DynamoDbStore, "revise_batch", mutant)


def clear_events_first(patching: Patching) -> None:
    """Take the events out of the batch before their deliveries are written."""
    read = DynamoDbWebhooks.read_endpoints

    async def mutant(self: Any, tenant: str) -> Any:
        for batch_id in EXPANDING:
            batch = await self.read_batch(batch_id)
            await self.clear_events(batch_id, batch.events)
        return await read(self, tenant)

    expand = Courier._expand

    async def remember(self: Courier, batch_id: str) -> None:
        EXPANDING.append(batch_id)
        try:
            await expand(self, batch_id)
        finally:
            EXPANDING.remove(batch_id)

    patching.setattr(DynamoDbWebhooks, "read_endpoints", mutant)
    patching.setattr(Courier, "_expand", remember)


EXPANDING: list[str] = []


def deliver_again_when_written_again(patching: Patching) -> None:
    rewrite(patching, "create_delivery", lambda request: request.pop("ConditionExpression"))


def leave_retries_to_the_consumer_that_failed(patching: Patching) -> None:
    async def mutant(_: Courier) -> None:
        pass

    patching.setattr(Courier, "poll", mutant)


def use_old_marks(patching: Patching) -> None:
    """Answer before all front ends know of the endpoint."""
    patching.setattr("penstock.service.webhook_tenants.FRESH_SECONDS", 600.0)

    async def add(self: WebhookTenants, tenant: str) -> None:
        await self._store.add_webhook_mark(mark_of(tenant))

    patching.setattr(WebhookTenants, "add", add)
