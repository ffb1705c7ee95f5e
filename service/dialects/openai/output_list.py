"""GET /v1/files?purpose=batch_output: lists the files with the outputs and the errors of batches that have ended.

They are in the order of their batches. If the size of a file is not kept, the file is rendered. So a page ends after
many requests that were rendered. It also ends after many batches, even if none of them has a file.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web

from penstock.batch import Batch
from penstock.catalog import CatalogEntry
from penstock.runs import in_runs
from penstock.service.batches.status import Progress
from penstock.service.caller import tenant_of
from penstock.service.dialects.openai.batch_entry import KIND, BatchEntry
from penstock.service.dialects.openai.batch_object import ERRORS, OUTPUT
from penstock.service.dialects.openai.batches import MOST_COUNTERS, is_accepted, running_of
from penstock.service.dialects.openai.outputs import (
    DELETED,
    SIZES,
    Output,
    count_bytes,
    expiry_of,
    id_and_kind,
    is_output,
    kept_size,
    output_of,
)
from penstock.service.dialects.openai.pages import LARGEST_ENTRY_BYTES, Page, list_body, read_page
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SHARE

LONGEST_PAGE = 10_000
PAGE_FILES = 20  # a page ends here, whatever its limit is
MOST_RENDERED = 50_000  # requests in the files of a page, unless its first file has more
BATCHES_IN_STEP = 20
MOST_STEPS = 50
_ENTRIES_BYTES = BATCHES_IN_STEP * LARGEST_ENTRY_BYTES


async def list_outputs(request: web.Request) -> web.Response:
    page = read_page(request, is_output, most=LONGEST_PAGE, usual=LONGEST_PAGE, others=("order", "purpose"))
    most, rendered, has_more = min(page.limit, PAGE_FILES), 0, False
    shown: list[Mapping[str, Any]] = []
    async for output, size in _outputs(request, page):
        if size is None:
            rendered += output.line_count
        if len(shown) == most or (shown and rendered > MOST_RENDERED):
            has_more = True
            break
        shown.append(output.body(await count_bytes(request, output, _ENTRIES_BYTES) if size is None else size))
    return json_answer(list_body(shown, has_more=has_more))


async def _outputs(request: web.Request, page: Page) -> AsyncIterator[tuple[Output, int | None]]:
    """Yield the files after a place, with their sizes if they are kept. The output of a batch precedes its errors."""
    after, kind = (None, "") if page.after is None else id_and_kind(page.after)
    request[SHARE].grow_to(_ENTRIES_BYTES)
    if after is not None and kind == OUTPUT:
        same = await request.app[BACKEND].store.read_entry(KIND, tenant_of(request), after)
        async for output, size in _files_of(request, [] if same is None else [BatchEntry.of_entry(same)]):
            if output.kind == ERRORS:
                yield output, size
    async for entries in _batches(request, page, after):
        async for one in _files_of(request, entries):
            yield one


async def _batches(request: web.Request, page: Page, after: str | None) -> AsyncIterator[list[BatchEntry]]:
    store, tenant, now = request.app[BACKEND].store, tenant_of(request), request.app[CLOCK].now()
    for _ in range(MOST_STEPS):
        found = await store.list_entries(KIND, tenant, after, BATCHES_IN_STEP, now=now, oldest_first=page.oldest_first)
        yield [BatchEntry.of_entry(one) for one in found]
        if len(found) < BATCHES_IN_STEP:
            return
        after = found[-1].id


async def _files_of(request: web.Request, entries: Sequence[BatchEntry]) -> AsyncIterator[tuple[Output, int | None]]:
    """Yield the files of those batches that have ended."""
    batches = await request.app[BACKEND].store.read_batches([entry.id for entry in entries])
    now = request.app[CLOCK].now()
    ended = [entry for entry in entries if _may_have_files(entry, batches.get(entry.id), now)]
    for run in in_runs_of_few_counters(ended, batches):
        for one in await _files_of_run(request, run, batches):
            yield one


def in_runs_of_few_counters(entries: Sequence[BatchEntry], batches: Mapping[str, Batch]) -> Iterator[list[BatchEntry]]:
    """Yield the entries in runs. All batches of a run together have few counters, unless it is only one batch."""
    return in_runs(entries, lambda entry: len(batches[entry.id].group_totals), MOST_COUNTERS)


async def _files_of_run(
    request: web.Request, ended: Sequence[BatchEntry], batches: Mapping[str, Batch]
) -> list[tuple[Output, int | None]]:
    """Return the files of batches that have ended. This makes a few calls for all of them together."""
    store, tenant = request.app[BACKEND].store, tenant_of(request)
    groups = await store.read_groups_of([batches[entry.id] for entry in ended])
    outputs: list[Output] = []
    for entry, read in zip(ended, groups, strict=True):
        running = await running_of(request, entry, Progress(batches[entry.id], read))
        outputs += [output_of(entry, running, kind) for kind in (OUTPUT, ERRORS)]
    ids = [output.id for output in outputs if output.line_count]
    deleted = {mark.id for mark in await store.read_entries(DELETED, tenant, ids)}
    sizes: dict[str, CatalogEntry] = {kept.id: kept for kept in await store.read_entries(SIZES, tenant, ids)}
    left = [output for output in outputs if output.line_count and output.id not in deleted]
    return [(output, kept_size(output, sizes.get(output.id))) for output in left]


def _may_have_files(entry: BatchEntry, batch: Batch | None, now: float) -> bool:
    if batch is None or not batch.is_final or batch.was_never_accepted:
        return False
    return is_accepted(batch, now) and expiry_of(entry, batch) > now
