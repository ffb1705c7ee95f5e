"""Ends a batch in which too many operations have failed, or that has killed too many consumers."""

from penstock.batch import Batch, Ending, sum_counts
from penstock.clock import Clock
from penstock.consumer.batches import Batches
from penstock.outcome import ChunkRecord
from penstock.settings import Settings
from penstock.store import Store
from penstock.telemetry import Event, get_log


class BatchLimits:
    def __init__(self, store: Store, batches: Batches, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._batches = batches
        self._settings = settings
        self._clock = clock

    async def check(self, batch: Batch, record: ChunkRecord) -> None:
        """End the batch if it is past a limit. Call it after the record is counted; it may be repeated."""
        has_new_failures = batch.failure_limit is not None and record.counts.failed > 0
        if not (has_new_failures or record.deaths):
            return
        groups = (await self._store.read_groups(batch.id, range(len(batch.group_totals)))).values()
        deaths, max_deaths = sum(group.deaths for group in groups), self._settings.max_deaths
        if deaths > max_deaths:
            await self._end(
                batch,
                Ending.FAILED,
                f"The batch was stopped because more than {max_deaths} consumers died while running it.",
            )
        elif batch.failure_limit is not None and batch.failure_limit.is_passed(sum_counts(g.counts for g in groups)):
            await self._end(batch, Ending.CANCELLED, batch.failure_limit.reason)

    async def _end(self, batch: Batch, ending: Ending, reason: str) -> None:
        settle_by = self._clock.now() + self._settings.settle_seconds
        if await self._store.end_batch(batch.id, ending, reason, settle_by=settle_by):
            get_log().warning(Event.BATCH_ENDED, ending=ending, reason=reason)
        self._batches.forget(batch.id)
