"""Finds out if a batch was accepted before its front end died. If it was not, it never will be."""

from penstock.api_key import DEFAULT_TENANT
from penstock.batch import UNACCEPTED_STATES, Batch, BatchState
from penstock.store import Store


async def was_accepted(store: Store, batch_id: str, now: float, expires_at: float) -> bool:
    """Return True if a front end accepted the batch before it died. Otherwise, abandon the batch.

    `expires_at` is until when a batch that does not exist is remembered as abandoned.
    """
    while not await store.abandon_batch(batch_id):
        batch = await store.read_batch(batch_id)
        if batch is None:
            # A front end with a slow clock, or whose call took very long, may still write it. Take its place.
            await store.create_batch(stand_in(batch_id, now, expires_at))
        elif batch.state not in UNACCEPTED_STATES:
            return True
    return False


def stand_in(batch_id: str, now: float, expires_at: float) -> Batch:
    """Return a batch that takes the place of one that the table does not have. It can only be abandoned."""
    return Batch(
        id=batch_id,
        tenant=DEFAULT_TENANT,  # nobody is shown a batch that was not accepted
        state=BatchState.ACCEPTING,
        total=0,
        chunk_count=0,
        group_totals=(),
        created_at=now,
        accept_by=0,
        deadline_at=now,
        expires_at=expires_at,
    )
