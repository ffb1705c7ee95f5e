"""What can be asked of a batch: GET /v1/batches, and GET and cancel of one."""

from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus

from aiohttp import web

from penstock.batch import UNACCEPTED_STATES, Batch
from penstock.errors import UnknownBatch
from penstock.service.batches.cancel import cancel_batch as cancel
from penstock.service.batches.status import Progress, read_progress
from penstock.service.caller import tenant_of
from penstock.service.dialects.openai.batch_entry import KIND, BatchEntry, is_batch_id
from penstock.service.dialects.openai.batch_object import Running, batch_body, is_invalid
from penstock.service.dialects.openai.errors import OpenAIError, unknown_batch
from penstock.service.dialects.openai.lines import (
    MOST_ERRORS,
    NOT_POSSIBLE,
    LineError,
    errors_of_flaws,
    first_errors,
    invalid_line,
)
from penstock.service.dialects.openai.pages import LARGEST_ENTRY_BYTES, list_body, read_page
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SHARE

LONGEST_PAGE = 100
PAGE_BATCHES = 20
MOST_COUNTERS = 1_000  # that one request reads, unless its first batch has more


async def list_batches(request: web.Request) -> web.Response:
    page = read_page(request, is_batch_id, most=LONGEST_PAGE, usual=PAGE_BATCHES)
    entries, existing, has_more = await _read_page(request, page.after, page.limit)
    groups = await request.app[BACKEND].store.read_groups_of(existing)
    bodies = [
        batch_body(entry, await running_of(request, entry, Progress.of(batch, read)))
        for entry, batch, read in zip(entries, existing, groups, strict=True)
    ]
    return json_answer(list_body(bodies, has_more=has_more))


async def _read_page(request: web.Request, after: str | None, limit: int) -> tuple[list[BatchEntry], list[Batch], bool]:
    """Return the entries of a page, their batches, and whether there are more."""
    store, now = request.app[BACKEND].store, request.app[CLOCK].now()
    shown: list[BatchEntry] = []
    batches: list[Batch] = []
    counters = 0
    request[SHARE].grow_to((limit + 1) * LARGEST_ENTRY_BYTES)
    while True:
        count = limit + 1 - len(shown)
        found = await store.list_entries(KIND, tenant_of(request), after, count, now=now)
        entries = [BatchEntry.of_entry(one) for one in found]
        read = await store.read_batches([entry.id for entry in entries])
        for entry in entries:
            batch = read.get(entry.id)
            if batch is None or not is_accepted(batch, now):
                continue
            counters += len(batch.group_totals)
            if len(shown) == limit or (shown and counters > MOST_COUNTERS):
                return shown, batches, True
            shown.append(entry)
            batches.append(batch)
        if len(found) < count:
            return shown, batches, False
        after = found[-1].id


async def show_batch(request: web.Request) -> web.Response:
    return await batch_answer(request, await find_entry(request, request.match_info["batch_id"]))


async def cancel_batch(request: web.Request) -> web.Response:
    entry = await find_entry(request, request.match_info["batch_id"])
    if entry.errors:
        raise OpenAIError("Cannot cancel a batch with status 'failed'.", status=HTTPStatus.CONFLICT)
    await cancel(request)
    if entry.cancelling_at is None:
        entry = replace(entry, cancelling_at=request.app[CLOCK].now())
        await request.app[BACKEND].store.write_entry(entry.entry())
    return await batch_answer(request, entry)


async def batch_answer(request: web.Request, entry: BatchEntry) -> web.Response:
    """Answer with a batch. Raises an error if the engine has no such batch."""
    return json_answer(batch_body(entry, await find_running(request, entry)))


async def find_entry(request: web.Request, batch_id: str) -> BatchEntry:
    """Return the entry of a batch of the caller. Raises an error if there is none."""
    if is_batch_id(batch_id):
        entry = await request.app[BACKEND].store.read_entry(KIND, tenant_of(request), batch_id)
        if entry is not None and not entry.is_gone(request.app[CLOCK].now()):
            return BatchEntry.of_entry(entry)
    raise unknown_batch(batch_id)


async def find_running(request: web.Request, entry: BatchEntry) -> Running:
    """Return how far a batch is. Raises an error if it was never accepted, or is past its retention."""
    try:
        return await running_of(request, entry, await read_progress(request.app, entry.id))
    except UnknownBatch:
        raise unknown_batch(entry.id) from None


async def running_of(request: web.Request, entry: BatchEntry, progress: Progress) -> Running:
    groups: Sequence[float | None] = [group.counted_at for group in progress.groups.values()]
    counted_at = max((at for at in groups if at is not None), default=None)
    batch = progress.batch
    errors = entry.errors or (await _errors_of(request, batch) if is_invalid(batch) else ())
    return Running(batch, progress.counts, counted_at, errors)


async def _errors_of(request: web.Request, batch: Batch) -> Sequence[LineError]:
    """Return the first errors that a consumer has found in the file of a batch, or else why the batch has failed."""
    found = await request.app[BACKEND].store.read_errors(batch.id)
    flaws = () if found is None else tuple(flaw for _, flaw in found.flaws[:MOST_ERRORS])
    return first_errors(errors_of_flaws(flaws)) or [invalid_line(NOT_POSSIBLE, batch.reason or "")]


def is_accepted(batch: Batch | None, now: float) -> bool:
    return batch is not None and batch.state not in UNACCEPTED_STATES and not batch.is_forgotten(now)
