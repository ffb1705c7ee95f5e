"""How long each handler takes, as the consumers published it last."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from penstock.clock import Clock
from penstock.errors import Unavailable
from penstock.store import Store

FRESH_SECONDS = 1


class HandlerTimes:
    """One per process: the table is asked once a second at most, however many batches are planned."""

    def __init__(self, store: Store, names: Sequence[str], clock: Clock) -> None:
        self._store = store
        self._names = names
        self._clock = clock
        self._known: Mapping[str, float] = {}
        self._fresh_until = 0.0

    async def read(self) -> Mapping[str, float]:
        """Seconds per operation of every handler that was measured. While one asks, others go by what was known."""
        now = self._clock.monotonic()
        if now >= self._fresh_until:
            self._fresh_until = now + FRESH_SECONDS
            with suppress(Unavailable):  # chunks of another size are no reason to refuse a batch
                self._known = await self._store.read_handler_seconds(self._names)
        return self._known
