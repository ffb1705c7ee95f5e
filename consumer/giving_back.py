"""Gives back what a consumer held that has certainly died, so that nobody waits until its leases end.

The successor of the consumer does this. It may fail or be killed itself at any step: then the leases end as usual.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from penstock.abandoning import stand_in
from penstock.backend import Backend
from penstock.batch import Batch
from penstock.clock import Clock
from penstock.consumer.attempt import Evidence, StartNote
from penstock.consumer.journal import Entry, Predecessor, read_predecessor
from penstock.errors import PenstockError
from penstock.store import Store
from penstock.telemetry import Event, get_log

Held = tuple[Entry, bool]  # a delivery, and True if it had started

TRIES = 3
PAUSE_SECONDS = 1.0


@contextmanager
def giving_back(journal: int | None, backend: Backend, clock: Clock) -> Iterator[None]:
    """Give back inside the block, beside everything else, what is in the journal of a dead predecessor."""
    predecessor = Predecessor("", ()) if journal is None else read_predecessor(journal)
    giving = asyncio.create_task(give_back(predecessor, backend, clock), name="giving back")
    try:
        yield
    finally:
        giving.cancel()


async def give_back(predecessor: Predecessor, backend: Backend, clock: Clock) -> None:
    """Give each delivery back, with a note first: what had started is evidence, and what was only held is released.

    The note must come first. Otherwise another consumer could receive the chunk and not see it.
    """
    left: Sequence[Held] = predecessor.held
    for attempt in range(TRIES):
        if attempt:
            await clock.sleep(PAUSE_SECONDS)
        given = await asyncio.gather(
            *(_give_some_back(predecessor.process, held, backend, clock) for held in _by_batch(left))
        )
        left = [one for remaining in given for one in remaining]
        if not left:
            break
    if predecessor.held:
        get_log().info(
            Event.CHUNKS_GIVEN_BACK, chunks=len(predecessor.held) - len(left), left_to_their_leases=len(left)
        )


def _by_batch(held: Iterable[Held]) -> Iterable[list[Held]]:
    groups: defaultdict[str, list[Held]] = defaultdict(list)
    for one in held:
        groups[one[0].batch_id].append(one)
    return groups.values()


async def _give_some_back(process: str, held: Sequence[Held], backend: Backend, clock: Clock) -> list[Held]:
    """Give back deliveries of one batch. Return those for which it failed."""
    batch_id, expires_at = held[0][0].batch_id, held[0][0].expires_at
    try:
        batch = await backend.store.read_batch(batch_id)
    except PenstockError:
        return list(held)
    if batch is None and expires_at is not None:  # it may still be written, and the notes are for it
        batch = stand_in(batch_id, clock.now(), expires_at)
    given = await asyncio.gather(*(_give_one_back(process, *one, batch, backend) for one in held))
    return [one for one, is_given in zip(held, given, strict=True) if not is_given]


async def _give_one_back(process: str, entry: Entry, has_started: bool, batch: Batch | None, backend: Backend) -> bool:
    try:
        if batch is not None:
            await _note(process, entry, has_started, batch, backend.store)
        await backend.queues[entry.delivery.priority].extend([entry.delivery], 0)
    except PenstockError:
        return False
    return True


async def _note(process: str, entry: Entry, has_started: bool, batch: Batch, store: Store) -> None:
    mark = entry.delivery.mark
    if has_started:
        evidence = Evidence.RUNNING if entry.is_single else Evidence.NONE
        note = StartNote(mark, process, evidence, is_dead=True)
        await store.note_start(batch, entry.chunk_id, str(note))
    else:
        await store.note_release(batch, entry.chunk_id, mark)
