"""Ends batches that nothing else ends: those past their deadline, and cancelled ones that do not settle.

The reason may be lost messages, dead consumers or a purged queue. The sweep counts the open operations of the batch as
expired (or cancelled) and closes its groups, so that nothing more is counted in them. One consumer sweeps at a time. If
it cannot end a batch, it continues with the next one.
"""

import random
import secrets

from penstock.batch import Batch, BatchState, Ending
from penstock.clock import Clock
from penstock.consumer.finisher import Finisher
from penstock.consumer.outage import Outage
from penstock.errors import PenstockError, Unavailable
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric
from penstock.store import Store
from penstock.telemetry import Event, get_log

BATCHES_IN_SWEEP = 100
FAILURES_IN_SWEEP = 5  # so many batches do not fail one after the other unless AWS is unavailable
PERIODS_OF_TENURE = 2.5  # a consumer that misses two sweeps loses the task to another one


class Sweeper:
    def __init__(
        self,
        store: Store,
        period_seconds: float,
        clock: Clock,
        meter: Meter | None = None,
        *,
        owner: str | None = None,
    ) -> None:
        """Create a sweeper. `owner` identifies this process to the other sweepers."""
        self._store = store
        self._period_seconds = period_seconds
        self._clock = clock
        self._meter = meter or Meter()
        self._finisher = Finisher(store, clock)
        self._owner = owner or secrets.token_hex(8)
        self._outage = Outage(Event.SWEEP_FAILED)

    async def keep(self) -> None:
        """Sweep once in each period, until cancelled."""
        while True:
            # Jitter, so that consumers that were started together do not sweep at the same moment.
            await self._clock.sleep(self._period_seconds * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                await self.sweep()
            except PenstockError as error:  # the next sweep tries again
                self._outage.report(error)
            else:
                self._outage.end()

    async def sweep(self) -> None:
        now = self._clock.now()
        if not await self._store.take_sweep(self._owner, now, now + PERIODS_OF_TENURE * self._period_seconds):
            return
        failures: list[PenstockError] = []
        for batch_id in await self._store.due_batches(now, BATCHES_IN_SWEEP):
            try:
                await self._settle_due(batch_id, now)
            except Unavailable as error:
                failures.append(error)
                if len(failures) == FAILURES_IN_SWEEP:
                    break
            except PenstockError as error:
                failures.append(error)
            except Exception as error:  # noqa: BLE001 - it is about this batch, and must not keep the other ones open
                get_log().error(Event.SWEEP_FAILED, batch_id=batch_id, exc_info=error)
        if failures:
            raise failures[0]

    async def _settle_due(self, batch_id: str, now: float) -> None:
        batch = await self._store.read_batch(batch_id)
        if batch is not None and not batch.is_final:
            await self._settle(batch, now)

    async def _settle(self, batch: Batch, now: float) -> None:
        if batch.state is BatchState.ACCEPTING:
            if batch.is_overdue(now):
                await self._store.abandon_batch(batch.id)
            return
        ending = batch.ending_at(now)
        if ending is None:
            return  # it was accepted after the index was read
        get_log().warning(Event.BATCH_SWEPT, batch_id=batch.id, ending=ending)
        for number in range(len(batch.group_totals)):
            await self._close(batch, number, ending)
        if ending is Ending.EXPIRED:  # a cancelled batch that is closed here is nothing to worry about
            self._meter.count(Metric.BATCHES_SWEPT)

    async def _close(self, batch: Batch, number: int, ending: Ending) -> None:
        """Close a group unless it is complete. Consumers may count in it meanwhile, so read it again until it is."""
        while True:
            group = await self._store.read_group(batch.id, number)
            if group.counts.completed >= batch.group_totals[number]:
                break
            await self._store.close_group(batch, number, group.counts, ending)
        await self._finisher.finish(batch, number, group)
