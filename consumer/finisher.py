"""Finishes groups whose operations are all counted, and the batch with its last group."""

from penstock.batch import UNACCEPTED_STATES, Batch, BatchState, Counts, final_state, sum_counts
from penstock.clock import Clock
from penstock.store import Group, Store
from penstock.telemetry import Event, get_log


class Finisher:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def finish(self, batch: Batch, number: int, group: Group) -> None:
        """Finish the group, and the batch if this was its last group. Call it after each count; it may be repeated."""
        if not is_full(batch, number, group):
            return
        finished = await self._store.finish_group(batch.id, number)
        if len(finished) == len(batch.group_totals):
            await self._finish_batch(batch.id, group if len(batch.group_totals) == 1 else None)

    async def _finish_batch(self, batch_id: str, only_group: Group | None) -> None:
        """Move the batch to its final state. `only_group` is its group as just counted, if it has only one.

        If the batch is given an ending meanwhile, decide again. It is given an ending only once.
        """
        while (batch := await self._store.read_batch(batch_id)) and batch.state not in UNACCEPTED_STATES:
            if only_group is not None and not batch.is_final:
                # It is complete. If a redrive changes it now, the redrive finds the batch final and revises its state.
                counts = only_group.counts
            else:
                groups = await self._store.read_groups(batch_id, range(len(batch.group_totals)))
                counts = sum_counts(group.counts for group in groups.values())
            state = final_state(counts, batch.ending)
            if batch.is_final:
                # A redrive can change the final state: for instance, everything had failed, and now some succeeded.
                if state is not batch.state:
                    await self._store.revise_batch(batch_id, batch.state, state)
                return
            if await self._store.finish_batch(batch_id, state, self._clock.now(), ending=batch.ending):
                _tell(batch, state, counts)
                return


def is_full(batch: Batch, number: int, group: Group) -> bool:
    """Return True if all operations of the group are counted."""
    return group.counts.completed >= batch.group_totals[number]


def _tell(batch: Batch, state: BatchState, counts: Counts) -> None:
    get_log().info(
        Event.BATCH_FINISHED,
        batch_id=batch.id,
        state=state,
        total=batch.total,
        succeeded=counts.succeeded,
        failed=counts.failed,
        cancelled=counts.cancelled,
        expired=counts.expired,
    )
