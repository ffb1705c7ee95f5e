"""The last group makes the batch final."""

from penstock.batch import Batch, Counts, final_state, sum_counts
from penstock.clock import Clock
from penstock.store import Store
from penstock.telemetry import Event, get_log


class Finisher:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def finish(self, batch: Batch, group: int, counts: Counts) -> None:
        """Call with a group's counts after each of its chunks. May be repeated from any point: nothing moves twice."""
        if counts.completed < batch.group_totals[group]:
            return
        finished = await self._store.finish_group(batch.id, group)
        if len(finished) < len(batch.group_totals):
            return
        counts = sum_counts((await self._store.read_counts(batch.id, range(len(batch.group_totals)))).values())
        state = final_state(counts)
        if await self._store.finish_batch(batch.id, state, self._clock.now()):
            get_log().info(
                Event.BATCH_FINISHED,
                batch_id=batch.id,
                state=state,
                total=batch.total,
                succeeded=counts.succeeded,
                failed=counts.failed,
            )
