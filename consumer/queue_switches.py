"""Knows which queues operators have paused, for all consumers."""

import asyncio
from collections.abc import Callable

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.priority import Priority
from penstock.store import Store
from penstock.telemetry import Event, get_log

FRESH_SECONDS = 2.0
HIDDEN_SECONDS = 3  # of a chunk of a paused queue. Meanwhile each idle consumer notices the pause


class QueueSwitches:
    """What operators have paused, as it was at most two seconds ago. `changed` is called when that changes.

    While a consumer works, this is read together with the batches, so it costs no call. An idle consumer reads it with
    the first chunk that it receives. While a queue is paused, `keep` reads it.
    """

    def __init__(self, store: Store, clock: Clock, changed: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._clock = clock
        self._changed = changed
        self._paused: frozenset[Priority] = frozenset()
        self._read_at = float("-inf")
        self._has_paused = asyncio.Event()

    def is_paused(self, priority: Priority) -> bool:
        return priority in self._paused

    @property
    def are_stale(self) -> bool:
        return self._clock.monotonic() - self._read_at >= FRESH_SECONDS

    async def refresh(self) -> None:
        """Read what is paused. If AWS does not answer, it stays as it was, and the next refresh tries again."""
        read_before, self._read_at = self._read_at, self._clock.monotonic()
        try:
            paused = frozenset(await self._store.read_paused_queues())
        except PenstockError:
            self._read_at = read_before
            return
        if paused != self._paused:
            self._follow(paused)

    def _follow(self, paused: frozenset[Priority]) -> None:
        for priority in Priority:
            if (priority in paused) != (priority in self._paused):
                event = Event.QUEUE_PAUSED if priority in paused else Event.QUEUE_RESUMED
                get_log().warning(event, priority=priority)
        self._paused = paused
        if paused:
            self._has_paused.set()
        else:
            self._has_paused.clear()
        self._changed()

    async def keep(self) -> None:
        """Read what is paused every two seconds while anything is, until cancelled."""
        while True:
            await self._has_paused.wait()
            await self._clock.sleep(FRESH_SECONDS)
            await self.refresh()
