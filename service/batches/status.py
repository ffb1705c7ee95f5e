"""GET /batch/{id}, also as /batch/{id}/status: reports the state, the counts and the times of a batch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import hdrs, web

from penstock.batch import UNACCEPTED_STATES, Batch, Counts
from penstock.batch_id import is_batch_id
from penstock.cost import cost_of
from penstock.ending import as_ended, counts_of, state_of
from penstock.errors import LostItem, UnknownBatch
from penstock.eta import estimate_end
from penstock.finishing import finish
from penstock.record import EncodedRecord
from penstock.service.callers import Caller
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CALLER, CLOCK, GROUP_NUMBERS, METADATA, SETTINGS
from penstock.service.schemas import flaws_body, status_body
from penstock.store import Group

FINISH_READS = 5  # how often a batch is read again that a consumer makes final in a moment
FINISH_PAUSE_SECONDS = 0.06  # before each of these reads. The consumer lets clients read first, for 0.05 seconds
LONGEST_POLL_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is: the batch, and the counters of all its groups."""

    batch: Batch
    groups: Mapping[int, Group]

    @classmethod
    def of(cls, batch: Batch, groups: Mapping[int, Group]) -> Self:
        """Return how far a batch is that was read. If everything is counted, it is as it will be when it is final."""
        return cls(as_ended(batch, groups), groups)

    @property
    def counts(self) -> Counts:
        return counts_of(self.groups.values())


async def batch_status(request: web.Request) -> web.Response:
    progress = await find_progress(request)
    return json_answer(await status_of(request.app, progress), headers=_when_to_ask_again(request, progress))


async def find_status(request: web.Request) -> dict[str, Any]:
    """Return the status of the batch in the path. Raises UnknownBatch as `find_batch` does."""
    return await status_of(request.app, await find_progress(request))


async def find_progress(request: web.Request) -> Progress:
    """Return how far the batch in the path is. Raises UnknownBatch as `find_batch` does."""
    progress = await read_progress(request.app, batch_id_of(request))
    check_may_see(request[CALLER], progress.batch)
    return progress


async def read_progress(app: web.Application, batch_id: str) -> Progress:
    """Return how far a batch of any tenant is. Raises UnknownBatch if there is none.

    One call reads the batch and its counters. If the batch is final and the counts do not lead to its state, they are
    older than it. Then they are read again.

    After the last count, a consumer needs a few more calls until the batch is final. The client need not wait for
    these: the batch is returned as they will leave it.
    """
    numbers = app[GROUP_NUMBERS]
    found, groups = await app[BACKEND].store.read_progress(batch_id, range(numbers.of(batch_id)), with_done=False)
    batch = _existing(app, batch_id, found)
    numbers.note(batch)
    is_whole = len(groups) == len(batch.group_totals)
    if is_whole and (not batch.is_final or _is_result_of(batch, groups)):
        return Progress.of(batch, groups)
    return await _read_counters(app, batch)


async def _read_counters(app: web.Application, batch: Batch) -> Progress:
    """Read the counters of a batch. They are read after the batch, so they are never older than its state."""
    return Progress.of(batch, await app[BACKEND].store.read_groups(batch.id, range(len(batch.group_totals))))


async def read_status(request: web.Request, batch: Batch) -> dict[str, Any]:
    """Read the status of a batch that was read already."""
    return await status_of(request.app, await _read_counters(request.app, batch))


async def find_batch(request: web.Request) -> Batch:
    """Return the batch in the path.

    Raises UnknownBatch if it was never accepted, belongs to another tenant, or is past its retention.
    """
    return _visible(request, await request.app[BACKEND].store.read_batch(batch_id_of(request)))


async def find_with_groups(
    request: web.Request, groups: Sequence[int], *, with_done: bool
) -> tuple[Batch, dict[int, Group]]:
    """Return the batch in the path, and the counters of these groups, which may be older than it."""
    store = request.app[BACKEND].store
    batch, counters = await store.read_progress(batch_id_of(request), groups, with_done=with_done)
    return _visible(request, batch), counters


async def find_only_chunk(request: web.Request) -> tuple[Batch, Group, EncodedRecord | None]:
    """Return the batch in the path, which has one chunk, its counter, and the record of the chunk, if it was read."""
    try:
        batch, group, record = await request.app[BACKEND].store.read_only_chunk(batch_id_of(request))
    except LostItem:  # the table has deleted a part of the record
        raise UnknownBatch(batch_id_of(request)) from None
    return _visible(request, batch), group, record


async def find_finished(request: web.Request) -> Batch:
    """Return the batch in the path as the table has it. If it will be final in a moment, wait for that.

    Call this for what is possible only when the table knows that the batch is final. Its client may have read that
    before, see `read_progress`. If the batch does not become final in time, perhaps because the consumer that counted
    its last operations has died, this makes it final.

    Raises UnknownBatch as `find_batch` does.
    """
    batch = await find_batch(request)
    if batch.is_final:
        return batch
    progress = await find_progress(request)
    if not progress.batch.is_final:
        return batch
    for _ in range(FINISH_READS):
        await request.app[CLOCK].sleep(FINISH_PAUSE_SECONDS)
        batch = await find_batch(request)
        if batch.is_final:
            return batch
    await finish(request.app[BACKEND].store, batch, progress.groups.values(), request.app[CLOCK].now())
    return await find_batch(request)


def batch_id_of(request: web.Request) -> str:
    """Return the batch id in the path. Raises UnknownBatch if no batch can have it."""
    batch_id = request.match_info["batch_id"]
    if not is_batch_id(batch_id):
        raise UnknownBatch(batch_id)
    return batch_id


def check_may_see(caller: Caller, batch: Batch) -> None:
    """Raise UnknownBatch if the batch belongs to another tenant."""
    if not caller.may_see(batch.tenant):
        raise UnknownBatch(batch.id)


def _visible(request: web.Request, batch: Batch | None) -> Batch:
    existing = _existing(request.app, batch_id_of(request), batch)
    check_may_see(request[CALLER], existing)
    return existing


def _existing(app: web.Application, batch_id: str, batch: Batch | None) -> Batch:
    if batch is None or batch.state in UNACCEPTED_STATES or batch.is_forgotten(app[CLOCK].now()):
        raise UnknownBatch(batch_id)
    return batch


def _is_result_of(batch: Batch, groups: Mapping[int, Group]) -> bool:
    """Return True if the state of a final batch is the one that these counters lead to."""
    counts = counts_of(groups.values())
    return counts.completed == batch.total and state_of(batch, counts) is batch.state


async def status_of(app: web.Application, progress: Progress) -> dict[str, Any]:
    """Return the status of a batch as clients read it. Its metadata is read if this front end does not know it."""
    batch, counts, groups, now = progress.batch, progress.counts, progress.groups.values(), app[CLOCK].now()
    redelivered = sum(group.redelivered for group in groups)
    metadata = await app[METADATA].of(batch)
    times = [batch.accepted_at, batch.finished_at, *(group.counted_at for group in groups)]
    cost = cost_of([batch.spent, *(group.spent for group in groups)], times)
    end = estimate_end(batch, counts.completed, (group.history for group in groups), now)
    errors = await _errors_of(app, batch)
    return status_body(batch, counts, redelivered, metadata, now, cost=cost, end=end, errors=errors)


async def _errors_of(app: web.Application, batch: Batch) -> dict[str, Any] | None:
    """Return the members that list the errors in the uploaded file of a batch, if it has failed because of them."""
    if batch.planning is None or not batch.planning.errors:
        return None
    errors = await app[BACKEND].store.read_errors(batch.id)
    flaws = () if errors is None else [flaw for _, flaw in errors.flaws]
    return flaws_body(flaws, batch.planning.errors, app[SETTINGS].redaction)


def _when_to_ask_again(request: web.Request, progress: Progress) -> dict[str, str]:
    if progress.batch.is_final:
        return {}
    seconds = poll_seconds(progress.batch, progress.counts.completed, request.app[CLOCK].now())
    return {hdrs.RETRY_AFTER: str(seconds)}


def poll_seconds(batch: Batch, completed: int, now: float) -> int:
    """Return when the next status request for an unfinished batch makes sense.

    That is after a tenth of the time that the batch has taken so far, or after half of the time that it still needs if
    it keeps its pace. Before its `not_before` time, it is at that time.
    """
    start = max(batch.created_at, batch.not_before or 0.0)
    if start > now:
        seconds = start - now
    else:
        taken = now - start
        left = taken * (batch.total - completed) / completed if completed else taken
        seconds = min(taken / 10, left / 2)
    return max(1, min(math.ceil(seconds), LONGEST_POLL_SECONDS))
