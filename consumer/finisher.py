"""Finishes groups whose operations are all counted, and the batch with its last group."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace

from penstock.batch import UNACCEPTED_STATES, Batch, Counts
from penstock.clock import Clock
from penstock.ending import counts_of, state_of
from penstock.finishing import finish
from penstock.store import Group, Store
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
        if not batch.is_final and await self._finish(batch, [group]):
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
            if await self._finish(batch, [only_group] if only_group else await self._read_groups(batch)):
                return
            batch = await self._store.read_batch(as_read.id)

    async def _finish(self, batch: Batch, groups: Collection[Group]) -> bool:
        return await finish(self._store, batch, groups, self._clock.now(), self._on_event)

    async def _revise(self, batch: Batch) -> None:
        """Correct the final state after a redrive: for instance, everything had failed, and now some succeeded."""
        counts = counts_of(await self._read_groups(batch))
        state = state_of(batch, counts)
        if state is batch.state:
            return
        event = new_event(batch, state, counts, self._clock.now())
        await self._store.revise_batch(batch.id, batch.state, state, event)
        if event is not None:
            self._on_event(batch.id)

    async def _read_groups(self, batch: Batch) -> Collection[Group]:
        return (await self._store.read_groups(batch.id, range(len(batch.group_totals)))).values()


def _with_start_of(known: Batch, read: Batch) -> Batch:
    """Return the batch as it was read, with the time of its start if this process alone knows it."""
    return replace(read, started_at=read.started_at or known.started_at)


def is_full(batch: Batch, number: int, group: Group) -> bool:
    """Return True if all operations of the group are counted."""
    return group.counts.completed >= batch.group_totals[number]
