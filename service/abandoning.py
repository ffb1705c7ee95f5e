"""Finds out if the batch of a charge, or of open operations, was accepted before its front end died."""

from penstock.abandoning import was_accepted
from penstock.batch import Batch, BatchState
from penstock.open_limit import OpenBatch
from penstock.quota import Charge
from penstock.settings import DAY_SECONDS
from penstock.store import Store

SKEW_SECONDS = 2.0  # by which the clocks of front ends may differ


async def find_acceptance(
    store: Store, entry: Charge | OpenBatch, batch: Batch | None, now: float, accept_seconds: float
) -> bool | None:
    """Return True if a front end accepted the batch of an entry, and None if one still may.

    Otherwise, abandon the batch and return False. `batch` is what the table has of it. One that
    does not exist yet may be written for `accept_seconds` after the entry has lapsed: it is written when it is sent.
    """
    if batch is not None and batch.planning is not None:  # a consumer plans it, and ends it if it is not accepted
        return None if batch.state is BatchState.VALIDATING else batch.accepted_at is not None
    may_be_accepted_until = entry.lapses_at + accept_seconds if batch is None else batch.accept_by
    is_decided = batch is not None and batch.state is not BatchState.ACCEPTING
    if not is_decided and now <= may_be_accepted_until + SKEW_SECONDS:
        return None
    return await was_accepted(store, entry.id, now, entry.lapses_at + DAY_SECONDS)
