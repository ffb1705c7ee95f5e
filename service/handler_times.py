"""Knows how long each handler takes, as the consumers last published it."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.store import Store
from penstock.telemetry import Event, get_log
from penstock.waiting import happens

FRESH_SECONDS = 1.0
STALE_SECONDS = 60.0
LATER_SECONDS = 0.1  # until the table is read for the next batch, so that this batch is accepted first


class HandlerTimes:
    """A cache of the published handler times. There is one per process.

    The table is read at most once a second, even if many batches are planned. A batch is planned with the cached times,
    while newer ones are read for the next batch. It waits only if the cache has not been used for a while, or lacks the
    time of one of its handlers.
    """

    def __init__(self, store: Store, names: Sequence[str], clock: Clock) -> None:
        self._store = store
        self._names = names
        self._clock = clock
        self._known: Mapping[str, float] = {}
        self._refreshed_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._is_waited_for = asyncio.Event()

    def refresh(self) -> None:
        """Start to read the table if the cache is older than a second. Call this early, so that `read` waits less."""
        now = self._clock.monotonic()
        age = now - self._refreshed_at
        if age >= FRESH_SECONDS and (self._refreshing is None or self._refreshing.done()):
            self._refreshed_at = now
            self._is_waited_for.clear()
            if age >= STALE_SECONDS:
                self._is_waited_for.set()
            self._refreshing = asyncio.create_task(self._refresh())

    async def read(self, handlers: Collection[str]) -> Mapping[str, float]:
        """Return the seconds per operation of every handler that was measured. The batch needs those of `handlers`."""
        self.refresh()
        if not self._known.keys() >= set(handlers):
            self._is_waited_for.set()
        if self._refreshing is not None and self._is_waited_for.is_set():
            await asyncio.shield(self._refreshing)  # other requests may wait for it, too
        return self._known

    async def _refresh(self) -> None:
        await happens(self._is_waited_for, LATER_SECONDS)
        try:
            self._known = await self._store.read_handler_seconds(self._names)
        except PenstockError as error:
            # The batch is accepted anyway. Its chunks may only be larger or smaller than ideal.
            get_log().warning(Event.PACE_UNKNOWN, error=str(error))
