"""How long each handler takes, as the consumers published it last."""

import asyncio
from collections.abc import Mapping, Sequence

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.store import Store
from penstock.telemetry import Event, get_log

FRESH_SECONDS = 1.0
STALE_SECONDS = 60.0


class HandlerTimes:
    """One per process: the table is asked once a second at most, however many batches are planned.

    Nobody waits for it but the first, and who comes after a pause: others go by what is known, and ask for the next.
    """

    def __init__(self, store: Store, names: Sequence[str], clock: Clock) -> None:
        self._store = store
        self._names = names
        self._clock = clock
        self._known: Mapping[str, float] = {}
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def read(self) -> Mapping[str, float]:
        """Seconds per operation of every handler that was measured."""
        now = self._clock.monotonic()
        age = now - self._asked_at
        if age >= FRESH_SECONDS:
            self._asked_at = now
            self._asking = asyncio.create_task(self._ask())
            if age >= STALE_SECONDS:
                await self._asking
        return self._known

    async def _ask(self) -> None:
        try:
            self._known = await self._store.read_handler_seconds(self._names)
        except PenstockError as error:
            # Chunks of another size are no reason to refuse a batch.
            get_log().warning(Event.PACE_UNKNOWN, error=str(error))
