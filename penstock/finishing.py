"""Makes a batch final whose operations are all counted."""

from collections.abc import Callable, Collection

from penstock.batch import Batch, Counts
from penstock.ending import counted_at, counts_of, has_run, start_in, state_of
from penstock.store import Group, Store
from penstock.telemetry import Event, get_log
from penstock.webhooks.event import new_event


async def finish(
    store: Store, batch: Batch, groups: Collection[Group], now: float, on_event: Callable[[str], None] = lambda _: None
) -> bool:
    """Move an open batch to the final state that follows from its full groups and its ending.

    Call `on_event` with its id if it has got an event. Return False if it is not open any more, or if it has another
    ending by now. Front ends answer with the same state and times before that (`penstock/ending.py`).
    """
    counts, finished_at = counts_of(groups), counted_at(groups)
    state = state_of(batch, counts)
    event = new_event(batch, state, counts, now)
    finished = await store.finish_batch(
        batch.id,
        state,
        now if finished_at is None else finished_at,
        started_at=start_in(groups),
        likely_start=_likely_start(batch, counts),
        ending=batch.ending,
        event=event,
    )
    if not finished:
        return False
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
    if event is not None:
        on_event(batch.id)
    return True


def _likely_start(batch: Batch, counts: Counts) -> float | None:
    """Return when the batch started as far as this process knows, or None if nothing of it has run.

    A consumer of an earlier version may have left out the start and died after its count. Then nobody knows when it
    started, so this returns the earliest time at which it may have.
    """
    if batch.started_at is not None or not has_run(counts):
        return batch.started_at
    return batch.not_before or batch.accepted_at
