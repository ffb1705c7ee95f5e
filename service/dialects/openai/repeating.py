"""Requests for a batch that a library repeats because an answer was lost. It sends no key, but says so in a header.

Such a request gets the batch that an earlier one of the last ten minutes has made of the same file, with the same
endpoint and metadata:

1. Each request writes the entry of its batch before the batch is accepted, and then looks for the other one. So at
   least one of the two sees the other. A first request that sees its repetition gives way: nobody waits for it.
2. A repeated request waits for as long as it takes to accept such a batch. A proxy may have given up on a request that
   goes on.
3. Then it writes a batch with the other id that nobody can accept any more, and abandons it. The table keeps the batch
   that was written first. So either the other request has accepted its batch, or it never can.
"""

from collections.abc import AsyncIterator
from http import HTTPStatus

from aiohttp import web

from penstock.batch import Batch, BatchState
from penstock.service.dialects.openai.batch_entry import KIND, BatchEntry
from penstock.service.dialects.openai.batches import is_accepted
from penstock.service.dialects.openai.errors import OpenAIError
from penstock.service.idempotency import HEADER as KEY
from penstock.service.keys import BACKEND, CLOCK

REPEATED = "x-stainless-retry-count"
REPEATED_SECONDS = 600
MOST_EARLIER = 1_000  # batches that a repeated request looks at
ENTRIES_IN_STEP = 100
SKEW_SECONDS = 60  # for requests that have waited, and for clocks that differ: ids sort by the time of the entry
WAIT_SECONDS = 0.25


def is_repeated(request: web.Request) -> bool:
    """Return True if a library says that it repeats a request. With a key of its own, a request needs no such help."""
    return KEY not in request.headers and request.headers.get(REPEATED, "0").strip() not in {"", "0"}


async def find_standing(request: web.Request, entry: BatchEntry, seconds: float) -> BatchEntry | None:
    """Return the newest other batch that the same request has made. Those that it could still make are prevented.

    `seconds` is how long it takes to accept one.
    """
    async for other in _same(request, entry, since=request.app[CLOCK].now() - REPEATED_SECONDS):
        if await _stands(request, other, seconds):
            return other
    return None


async def find_other(request: web.Request, entry: BatchEntry, seconds: float) -> BatchEntry | None:
    """Return the batch of a front end that was asked the same meanwhile. Call it when the entry is in the catalog.

    Raises OpenAIError if this is the first request, and its library has given up on it.
    """
    if KEY in request.headers:
        return None
    if entry.is_repeated:
        return await find_standing(request, entry, seconds)
    async for other in _same(request, entry, since=entry.created_at):
        if other.is_repeated:
            raise OpenAIError("A repetition of this request has made the batch.", status=HTTPStatus.CONFLICT)
    return None


async def _same(request: web.Request, entry: BatchEntry, *, since: float) -> AsyncIterator[BatchEntry]:
    """Yield the other entries of the same request that arrived from `since` on, the newest first."""
    store, now = request.app[BACKEND].store, request.app[CLOCK].now()
    after: str | None = None
    for _ in range(MOST_EARLIER // ENTRIES_IN_STEP):
        entries = await store.list_entries(KIND, entry.tenant, after, ENTRIES_IN_STEP, now=now)
        for found in map(BatchEntry.of_entry, entries):
            is_same = found.fingerprint == entry.fingerprint and found.id != entry.id
            if is_same and found.created_at >= since:
                yield found
        if len(entries) < ENTRIES_IN_STEP or entries[-1].content["created_at"] < since - SKEW_SECONDS:
            return
        after = entries[-1].id


async def _stands(request: web.Request, entry: BatchEntry, seconds: float) -> bool:
    """Return True if the batch was accepted, or failed for its lines. Otherwise it never will be accepted."""
    if entry.errors:
        return True
    store, clock = request.app[BACKEND].store, request.app[CLOCK]
    while clock.now() < entry.created_at + seconds:
        batch = await store.read_batch(entry.id)
        if batch is not None and batch.state is not BatchState.ACCEPTING:
            return is_accepted(batch, clock.now())
        await clock.sleep(WAIT_SECONDS)
    await store.create_batch(_never_accepted(entry))
    return not await store.abandon_batch(entry.id)


def _never_accepted(entry: BatchEntry) -> Batch:
    """Return a batch whose acceptance is over. The table keeps the real one if it was written before."""
    return Batch(
        id=entry.id,
        tenant=entry.tenant,
        state=BatchState.ACCEPTING,
        total=1,
        chunk_count=1,
        group_totals=(1,),
        created_at=entry.created_at,
        accept_by=0.0,
        deadline_at=entry.created_at,
        expires_at=entry.expires_at,
    )
