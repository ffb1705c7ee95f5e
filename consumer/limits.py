"""Ends a batch in which too many operations have failed, or that has killed too many consumers.

A consumer that was silent for longer than its lease seems to have died. If it is alive, it says so as soon as it reads
the batch. So a batch is stopped only if the deaths have stood for one more lease.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection

from penstock.batch import Batch, Ending
from penstock.clock import Clock
from penstock.consumer.batches import FRESH_SECONDS, Batches
from penstock.consumer.count_box import MOST_SECONDS
from penstock.consumer.patience import until_answered
from penstock.ending import counts_of
from penstock.errors import PenstockError
from penstock.outcome import ChunkRecord
from penstock.settings import Settings
from penstock.store import Store
from penstock.telemetry import Event, get_log

DENIAL_POLL_SECONDS = 1.0
# Until all consumers have read a change of a batch and counted the chunks that waited to be counted, with the time of
# their calls.
KNOWN_SECONDS = FRESH_SECONDS + MOST_SECONDS + 1.0


class BatchLimits:
    def __init__(
        self,
        store: Store,
        batches: Batches,
        settings: Settings,
        clock: Clock,
        *,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._batches = batches
        self._settings = settings
        self._clock = clock
        self._is_stopping = is_stopping
        self._checks: set[asyncio.Task[None]] = set()

    async def check(self, batch: Batch, record: ChunkRecord) -> None:
        """End the batch if too much has failed. Call it after the record is counted; it may be repeated."""
        if record.counts.failed > 0:
            await self._check_counts(batch)

    def check_soon(self, batch: Batch) -> None:
        """Check the limit of a batch once more after it was lowered or set, as soon as all consumers know the limit.

        Until then a consumer may count a failure without a check of the new limit, and it may be the last failure.
        """
        checking = asyncio.create_task(self._check_later(batch))
        self._checks.add(checking)
        checking.add_done_callback(self._checks.discard)

    async def _check_later(self, batch: Batch) -> None:
        await asyncio.sleep(KNOWN_SECONDS)
        with contextlib.suppress(PenstockError):
            await until_answered(self._clock, self._check_counts, batch)

    async def _check_counts(self, batch: Batch) -> None:
        if batch.failure_limit is None:
            return
        groups = (await self._store.read_groups(batch.id, range(len(batch.group_totals)))).values()
        counts = counts_of(groups)
        if not batch.failure_limit.is_passed(counts):
            return
        self._batches.forget(batch.id)  # a client may have raised or removed the limit since the batch was read
        now = await self._batches.read(batch.id)
        limit = None if now is None else now.failure_limit
        if limit is not None and limit.is_passed(counts):
            await self._end(batch, Ending.CANCELLED, limit.reason)

    async def note_deaths(self, batch: Batch, processes: Collection[str]) -> None:
        """Note processes that seem to have died while they ran the batch."""
        if not self._is_past_limit(batch.died) and set(processes) - batch.died:
            await self._store.note_deaths(batch.id, processes)
            self._batches.forget(batch.id)

    async def await_verdict(self, batch: Batch) -> None:
        """If too many processes seem to have died, wait, and end the batch if they do not deny it.

        Every chunk of the batch waits here before it starts. Otherwise it might kill those that wait for the verdict.
        """
        if self._is_past_limit(batch.died) and await self._are_certain(batch):
            count = self._settings.max_deaths
            reason = f"The batch was stopped because more than {count} consumers died while running it."
            await self._end(batch, Ending.FAILED, reason)

    async def _are_certain(self, batch: Batch) -> bool:
        """Wait for one lease. Return True if the deaths are past the limit all that time."""
        until = self._clock.monotonic() + self._settings.visibility_seconds
        while self._clock.monotonic() < until:
            await self._clock.sleep(DENIAL_POLL_SECONDS)
            now = await self._batches.read(batch.id)
            if self._is_stopping() or now is None or now.ending or not self._is_past_limit(now.died):
                return False
        return True

    def _is_past_limit(self, died: Collection[str]) -> bool:
        return len(died) > self._settings.max_deaths

    async def _end(self, batch: Batch, ending: Ending, reason: str) -> None:
        settle_by = self._clock.now() + self._settings.settle_seconds
        if await self._store.end_batch(batch.id, ending, reason, settle_by=settle_by):
            get_log().warning(Event.BATCH_ENDED, ending=ending, reason=reason)
        self._batches.forget(batch.id)
