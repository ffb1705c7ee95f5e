"""Requests for a batch that a library repeats because an answer was lost. It sends no key, but says so in a header.

Such a request gets the batch that an earlier one of the last ten minutes has made of the same file, with the same
endpoint and metadata:

1. Each request writes the entry of its batch before the batch is accepted, and then looks for the other one. So at
   least one of the two sees the other. A first request that sees its repetition gives way. What was there before it
   looked, and before it arrived, is a repetition of an earlier request.
2. A repeated request waits for as long as it takes to accept such a batch. A proxy may have given up on a request that
   goes on.
3. Then it writes a batch with the other id that nobody can accept any more, and abandons it. The table keeps the batch
   that was written first. So either the other request has accepted its batch, or it never can.
"""

from collections.abc import AsyncIterator, Collection
from http import HTTPStatus

from aiohttp import web

from penstock.batch import Batch, BatchState
from penstock.clock import SKEW_SECONDS
from penstock.service.dialects.openai.batch_entry import KIND, BatchEntry
from penstock.service.dialects.openai.batches import is_accepted
from penstock.service.dialects.openai.errors import OpenAIError
from penstock.service.dialects.openai.pages import LARGEST_ENTRY_BYTES
from penstock.service.idempotency import HEADER as KEY
from penstock.service.keys import BACKEND, CLOCK, SHARE

REPEATED = "x-stainless-retry-count"
REPEATED_SECONDS = 600
MOST_EARLIER = 1_000  # batches that a repeated request looks at
ENTRIES_IN_STEP = 100
FEW_ENTRIES = 5  # that a first request reads at first
WAIT_SECONDS = 0.25


def is_repeated(request: web.Request) -> bool:
    """Return True if a library says that it repeats a request. With a key of its own, a request needs no such help."""
    return KEY not in request.headers and request.headers.get(REPEATED, "0").strip() not in {"", "0"}


async def find_standing(request: web.Request, entry: BatchEntry, seconds: float) -> BatchEntry | None:
    """Return the newest other batch that the same request has made. Those that it could still make are prevented.

    `seconds` is how long it takes to accept one.
    """
    since = request.app[CLOCK].now() - REPEATED_SECONDS
    async for other in _same(request, entry, since, ENTRIES_IN_STEP):
        if await _stands(request, other, seconds):
            return other
    return None


async def find_repetitions(request: web.Request, entry: BatchEntry) -> frozenset[str]:
    """Return the ids of the newest repetitions of the same request. Call it before the entry is in the catalog."""
    return frozenset([other.id async for other in _repetitions(request, entry)])


async def find_other(
    request: web.Request, entry: BatchEntry, earlier: Collection[str], seconds: float
) -> BatchEntry | None:
    """Return the batch of a front end that was asked the same meanwhile. Call it when the entry is in the catalog.

    `earlier` are the repetitions that were there before. Raises OpenAIError if this is the first request, and another
    front end was asked again. It does not matter which of the two the client is waiting for: it may send the request
    again, and gets the batch.
    """
    if entry.is_repeated:
        return await find_standing(request, entry, seconds)
    async for other in _repetitions(request, entry):
        if other.id not in earlier or other.created_at >= entry.created_at:
            message = "A repetition of this request makes the batch. Send the request again to get it."
            raise OpenAIError(message, status=HTTPStatus.CONFLICT, code="conflict", is_passing=True)
    return None


async def _repetitions(request: web.Request, entry: BatchEntry) -> AsyncIterator[BatchEntry]:
    """Yield the repetitions that may have arrived after the first request. With a key, a request needs none of this."""
    if KEY in request.headers or entry.is_repeated:
        return
    async for other in _same(request, entry, entry.created_at - SKEW_SECONDS, FEW_ENTRIES):
        if other.is_repeated:
            yield other


async def _same(request: web.Request, entry: BatchEntry, since: float, first_step: int) -> AsyncIterator[BatchEntry]:
    """Yield the other entries of the same request that arrived from `since` on, the newest first."""
    store, now, step = request.app[BACKEND].store, request.app[CLOCK].now(), first_step
    after: str | None = None
    for _ in range(MOST_EARLIER // ENTRIES_IN_STEP):
        request[SHARE].grow_to(step * LARGEST_ENTRY_BYTES)
        entries = await store.list_entries(KIND, entry.tenant, after, step, now=now)
        for found in map(BatchEntry.of_entry, entries):
            is_same = found.fingerprint == entry.fingerprint and found.id != entry.id
            if is_same and found.created_at >= since:
                yield found
        # Ids sort by the time of the entry, by the clock of its front end.
        if len(entries) < step or entries[-1].content["created_at"] < since - SKEW_SECONDS:
            return
        after, step = entries[-1].id, ENTRIES_IN_STEP


async def _stands(request: web.Request, entry: BatchEntry, seconds: float) -> bool:
    """Return True if the batch was accepted. Otherwise it never will be."""
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
