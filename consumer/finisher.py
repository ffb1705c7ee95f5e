"""Finishes groups whose operations are all counted, and the batch with its last group."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

from penstock.batch import UNACCEPTED_STATES, Batch, BatchState, Counts, final_state, sum_counts
from penstock.clock import Clock
from penstock.ending import counted_at, has_run, start_in
from penstock.store import Group, Store
from penstock.telemetry import Event, get_log
from penstock.webhooks.event import new_event


class Finisher:
    def __init__(self, store: Store, clock: Clock, on_event: Callable[[str], None] | None = None) -> None:
        """Create a finisher. It calls `on_event` with the id of each batch that has got an event."""
        self._on_event = on_event or (lambda _: None)
        self._store = store
        self._clock = clock
        self._finishing: dict[tuple[str, int, Counts], asyncio.Task[None]] = {}

    async def finish(self, batch: Batch, number: int, group: Group) -> None:
        """Finish the group, and the batch if this was its last group. Call it after each count; it may be repeated.

        All chunks that are counted in one call see the full group. One of them finishes it, and the others wait for it.
        After a redrive each one does, since an earlier finish may have read the counts of another time.
        """
        if not is_full(batch, number, group):
            return
        if batch.is_final:
            await self._finish_group(batch, number, group)
            return
        key = batch.id, number, group.counts
        if key not in self._finishing:
            self._finishing[key] = asyncio.create_task(self._finish_group(batch, number, group))
            self._finishing[key].add_done_callback(lambda _: self._finishing.pop(key))
        await asyncio.shield(self._finishing[key])  # the others still wait if this chunk is given up

    async def _finish_group(self, batch: Batch, number: int, group: Group) -> None:
        """Finish a full group, and the batch if this was its last group."""
        if len(batch.group_totals) == 1:
            await self._finish_only_group(batch, group)
            return
        finished = await self._store.finish_group(batch.id, number)
        if finished is not None and len(finished.finished_groups) == len(finished.group_totals):
            await self._finish_batch(_with_start_of(batch, finished))

    async def _finish_only_group(self, batch: Batch, group: Group) -> None:
        """Finish a batch of one group, which is full.

        This takes a single write if nothing has happened to the batch since it was read. If a redrive changes the
        counts now, the redrive finds the batch final and revises its state.
        """
        if not batch.is_final and await self._move(batch, [group]):
            return
        read = await self._store.read_batch(batch.id)
        if read is not None:
            await self._finish_batch(_with_start_of(batch, read), group)

    async def _finish_batch(self, as_read: Batch, only_group: Group | None = None) -> None:
        """Move the batch to its final state. `only_group` is its group, if it has only one.

        If the batch gets an ending at the same time, decide again. It gets an ending only once.
        """
        batch: Batch | None = as_read
        while batch is not None and batch.state not in UNACCEPTED_STATES:
            if batch.is_final:
                await self._revise(batch)
                return
            if await self._move(batch, [only_group] if only_group else await self._read_groups(batch)):
                return
            batch = await self._store.read_batch(as_read.id)

    async def _move(self, batch: Batch, groups: Collection[Group]) -> bool:
        """Move an open batch to the final state that follows from its counts and its ending.

        Return False if it is not open any more, or if it has another ending by now. Front ends answer with the same
        state and times as soon as they see the counts (`penstock/ending.py`).
        """
        counts = sum_counts(group.counts for group in groups)
        state, now = _state_of(batch, counts), self._clock.now()
        event = new_event(batch, state, counts, now)
        finished = await self._store.finish_batch(
            batch.id,
            state,
            now if (at := counted_at(groups)) is None else at,
            started_at=start_in(groups),
            likely_start=_likely_start(batch, counts),
            ending=batch.ending,
            event=event,
        )
        if not finished:
            return False
        _tell(batch, state, counts)
        if event is not None:
            self._on_event(batch.id)
        return True

    async def _revise(self, batch: Batch) -> None:
        """Correct the final state after a redrive: for instance, everything had failed, and now some succeeded."""
        counts = sum_counts(group.counts for group in await self._read_groups(batch))
        state = _state_of(batch, counts)
        if state is batch.state:
            return
        event = new_event(batch, state, counts, self._clock.now())
        await self._store.revise_batch(batch.id, batch.state, state, event)
        if event is not None:
            self._on_event(batch.id)

    async def _read_groups(self, batch: Batch) -> Collection[Group]:
        return (await self._store.read_groups(batch.id, range(len(batch.group_totals)))).values()


def _state_of(batch: Batch, counts: Counts) -> BatchState:
    return final_state(counts, batch.ending, completes_anyway=batch.completes_anyway)


def _with_start_of(known: Batch, read: Batch) -> Batch:
    """Return the batch as it was read, with the time of its start if this process alone knows it."""
    return replace(read, started_at=read.started_at or known.started_at)


def _likely_start(batch: Batch, counts: Counts) -> float | None:
    """Return when the batch started as far as this process knows, or None if nothing of it has run.

    A consumer of an earlier version may have left out the start and died after its count. Then nobody knows when it
    started, so this returns the earliest time at which it may have.
    """
    if batch.started_at is not None or not has_run(counts):
        return batch.started_at
    return batch.not_before or batch.accepted_at


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
