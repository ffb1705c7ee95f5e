"""The port to what the table keeps of webhooks: endpoints, events that wait, and deliveries."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from penstock.webhooks.delivery import DeliveryKey, EventDelivery
from penstock.webhooks.endpoint import Endpoints
from penstock.webhooks.event import FinalEvent


class WebhookStore(Protocol):
    """Every call may be repeated, and may raise Unavailable."""

    async def read_endpoints(self, tenant: str) -> Endpoints:
        """Return the endpoints of a tenant."""

    async def write_endpoints(self, endpoints: Endpoints, revision: str) -> bool:
        """Write the endpoints of a tenant with a new revision. Return False if another call has written meanwhile."""

    async def read_webhook_marks(self) -> frozenset[str]:
        """Return the marks of all tenants that may have endpoints."""

    async def add_webhook_mark(self, mark: str) -> None:
        """Add the mark of a tenant that makes an endpoint. It stays."""

    def due_webhooks(self, now: float, since: float = 0.0) -> AsyncIterator[tuple[float, str | DeliveryKey]]:
        """Yield what is due, the longest due first: ids of batches with events that wait, and keys of deliveries.

        Each has the time since which it is due. What is due since a time before `since` is left out.

        They are read page by page, and a page may be slightly out of date.
        """

    async def clear_events(self, batch_id: str, events: Sequence[FinalEvent]) -> bool:
        """Remove the events of a batch. Return False, and change nothing, if these are not exactly the ones it has."""

    async def create_delivery(self, delivery: EventDelivery) -> None:
        """Write a new delivery. If it exists, change nothing, in any state."""

    async def claim_delivery(self, key: DeliveryKey, claim: str, now: float, until: float) -> EventDelivery | None:
        """Claim the next attempt at a delivery that is due, until a time. Return None if there is nothing to do."""

    async def settle_delivery(self, delivery: EventDelivery) -> bool:
        """Write what came of the attempt that has this claim. Return False if it is not the last one any more."""

    async def read_delivery(self, key: DeliveryKey) -> EventDelivery | None:
        """Return a delivery, or None if the table does not have it (any more)."""

    async def list_deliveries(self, tenant: str, before: str | None, limit: int) -> list[EventDelivery]:
        """Return deliveries of a tenant, the newest first, from the one before this id on."""

    async def replay_delivery(self, key: DeliveryKey, now: float, expires_at: float) -> EventDelivery | None:
        """Start the schedule of a delivery again, and keep it until `expires_at`.

        Return it, or None if it is still pending or does not exist.
        """
