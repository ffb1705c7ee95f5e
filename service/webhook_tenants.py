"""Knows which tenants may have webhook endpoints, so that a batch of any other costs nothing more.

The table has a mark of each of these tenants in one item. A front end reads it at most once in two seconds. Whoever
makes the first endpoint of a tenant writes the mark, and waits for two seconds before the answer. So every front end
knows of an endpoint when its tenant has the answer.
"""

import asyncio

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.store import Store
from penstock.telemetry import Event, get_log
from penstock.webhooks.endpoint import has_mark, mark_of

FRESH_SECONDS = 2.0


class WebhookTenants:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._marks: frozenset[str] = frozenset()
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def may_have_endpoints(self, tenant: str) -> bool:
        """Return False if the tenant has no endpoint. If the table does not answer, it is decided at the delivery."""
        if has_mark(self._marks, tenant):
            return True
        try:
            await self._refresh()
        except PenstockError as error:
            get_log().warning(Event.WEBHOOKS_FAILED, error=str(error))
            return True
        return has_mark(self._marks, tenant)

    async def add(self, tenant: str) -> None:
        """Note that the tenant makes an endpoint. Return when every front end knows that.

        A mark alone does not show how old it is: a request that writes it may still wait, or may have been cut off.
        An endpoint is written after the wait, so a tenant that has one needs no other.
        """
        if not (await self._store.read_endpoints(tenant)).own:
            await self._store.add_webhook_mark(mark_of(tenant))
            await self._clock.sleep(FRESH_SECONDS)

    async def _refresh(self) -> None:
        """Read the marks unless they are fresh. Marks are never removed, so those that are known stay."""
        async with self._lock:
            asked_at = self._clock.monotonic()
            if asked_at - self._asked_at >= FRESH_SECONDS:
                self._marks = await self._store.read_webhook_marks()
                self._asked_at = asked_at
