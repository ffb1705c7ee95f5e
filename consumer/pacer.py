"""Publishes how long the operations of each handler take, so that front ends can plan chunks of a suitable size."""

import asyncio

from penstock.clock import Clock
from penstock.consumer.outage import Outage
from penstock.errors import PenstockError
from penstock.pace import Pace
from penstock.running.runner import Runner
from penstock.store import Store
from penstock.telemetry import Event
from penstock.waiting import happens

PUBLISH_SECONDS = 1.0
ENOUGH_TO_MEASURE = 50  # operations: the first few of a process may be slow
MANY_TO_MEASURE = 1_000  # operations: about a chunk of quick ones. Another handler may have begun with them
REFRESH_SECONDS = 3_600.0  # publish it again even if it has not changed, because the table deletes old values
NOTICED = 1.2  # a change by less than a fifth makes no difference to a plan


class Pacer:
    """`keep` reads once a second what the runner has measured, and publishes what has changed.

    The first measurement does not wait for that: a second batch may arrive earlier.
    """

    def __init__(self, runner: Runner, store: Store, clock: Clock) -> None:
        self._runner = runner
        self._store = store
        self._clock = clock
        self._paces: dict[str, Pace] = {}
        self._published: dict[str, float] = {}
        self._measured: set[str] = set()  # handlers, since everything was last published again
        self._forgotten_at = clock.monotonic() + REFRESH_SECONDS
        self._outage = Outage(Event.PACE_NOT_PUBLISHED)
        self._unmeasured = 0  # operations that have ended since the last measurement
        self._has_measured = asyncio.Event()
        self.overall = Pace()  # of all operations that this process runs

    async def keep(self) -> None:
        """Measure and publish once a second, until cancelled."""
        while True:
            await self._wait()
            self.measure()
            self._runner.result_memory.lower_guesses()
            await self._try_to_publish()

    async def _wait(self) -> None:
        """Wait for a second, or until the first measurement."""
        if self._has_measured.is_set():
            await self._clock.sleep(PUBLISH_SECONDS)
            return
        await happens(self._has_measured, PUBLISH_SECONDS)

    def count(self, operations: int) -> None:
        """Count operations that have ended. Measure as soon as there are enough of them.

        Until the first measurement, the consumer receives large chunks one by one. So it does not wait for the end of
        a chunk, whose letters and counts may wait for those of others. Quick operations are measured more than once a
        second, because the ones before them may have been slow.
        """
        self._unmeasured += operations
        if self._unmeasured >= (ENOUGH_TO_MEASURE if self.overall.seconds is None else MANY_TO_MEASURE):
            self.measure()

    def measure(self) -> None:
        self._unmeasured = 0
        spent = self._runner.take_spent()
        for handler, one in spent.items():
            self._paces.setdefault(handler, Pace()).observe(one.count, one.seconds)
            self._measured.add(handler)
        if spent:
            together = sum(one.count for one in spent.values()), sum(one.seconds for one in spent.values())
            self.overall.observe(*together)
            self._has_measured.set()

    async def publish(self) -> None:
        now = self._clock.monotonic()
        if now >= self._forgotten_at:
            # What was not measured since the last time is left out. Another consumer may have published a newer value.
            self._paces = {handler: pace for handler, pace in self._paces.items() if handler in self._measured}
            self._measured.clear()
            self._published, self._forgotten_at = {}, now + REFRESH_SECONDS
        paces = {handler: pace.seconds for handler, pace in self._paces.items() if pace.seconds is not None}
        changed = {
            handler: seconds for handler, seconds in paces.items() if has_changed(self._published.get(handler), seconds)
        }
        if changed:
            await self._store.write_handler_seconds(changed, self._clock.now())
            self._published |= changed

    async def _try_to_publish(self) -> None:
        try:
            await self.publish()
        except PenstockError as error:
            self._outage.report(error)
        else:
            self._outage.end()


def has_changed(before: float | None, now: float) -> bool:
    """Return True if the difference to the published value is large enough to change a plan."""
    return before is None or not before / NOTICED <= now <= before * NOTICED
