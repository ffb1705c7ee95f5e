"""Finds out if a batch was accepted before its front end died. If it was not, it never will be."""

from penstock.batch import UNACCEPTED_STATES, Batch, BatchState
from penstock.open_limit import OpenBatch
from penstock.quota import Charge
from penstock.settings import DAY_SECONDS
from penstock.store import Store

SKEW_SECONDS = 2.0  # by which the clocks of front ends may differ


async def find_acceptance(
    store: Store, entry: Charge | OpenBatch, batch: Batch | None, tenant: str, now: float
) -> bool | None:
    """Return True if a front end accepted the batch of an entry, and None if one still may.

    Otherwise, abandon the batch and return False. `batch` is what the table has of it. A batch that does not exist yet
    may be created until the entry lapses.
    """
    if batch is not None and batch.planning is not None:  # a consumer plans it, and ends it if it is not accepted
        return None if batch.state is BatchState.VALIDATING else batch.accepted_at is not None
    may_be_accepted_until = entry.lapses_at if batch is None else batch.accept_by
    is_decided = batch is not None and batch.state is not BatchState.ACCEPTING
    if not is_decided and now <= may_be_accepted_until + SKEW_SECONDS:
        return None
    return await was_accepted(store, entry.id, tenant, now, entry.lapses_at + DAY_SECONDS)


async def was_accepted(store: Store, batch_id: str, tenant: str, now: float, expires_at: float) -> bool:
    """Return True if a front end accepted the batch before it died. Otherwise, abandon the batch.

    `expires_at` is until when a batch that does not exist is remembered as abandoned.
    """
    while not await store.abandon_batch(batch_id):
        batch = await store.read_batch(batch_id)
        if batch is None:
            # A front end with a slow clock, or whose call took very long, may still create it. Take its place.
            await store.create_batch(_stand_in(batch_id, tenant, now, expires_at))
        elif batch.state not in UNACCEPTED_STATES:
            return True
    return False


def _stand_in(batch_id: str, tenant: str, now: float, expires_at: float) -> Batch:
    """Return a batch that takes the place of one that must not be created any more. It can only be abandoned."""
    return Batch(
        id=batch_id,
        tenant=tenant,
        state=BatchState.ACCEPTING,
        total=0,
        chunk_count=0,
        group_totals=(),
        created_at=now,
        accept_by=0,
        deadline_at=now,
        expires_at=expires_at,
    )
