"""GET /v1/files?purpose=batch_output: lists the files with the outputs and the errors of batches that have ended.

They are in the order of their batches. Each needs its size, so a page ends when many requests were rendered for that.
"""

from collections.abc import AsyncIterator

from aiohttp import web

from penstock.service.batches.status import Progress
from penstock.service.caller import tenant_of
from penstock.service.dialects.openai.batch_entry import KIND, BatchEntry
from penstock.service.dialects.openai.batch_object import ERRORS, OUTPUT
from penstock.service.dialects.openai.batches import is_accepted, running_of
from penstock.service.dialects.openai.outputs import Output, exists, id_and_kind, is_output, output_of, size_of
from penstock.service.dialects.openai.pages import LARGEST_ENTRY_BYTES, Page, list_body, read_page
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SHARE

LONGEST_PAGE = 10_000
PAGE_FILES = 20  # a page ends here, whatever its limit is
MOST_RENDERED = 50_000  # requests in the files of a page, unless its first file has more
BATCHES_IN_STEP = 20


async def list_outputs(request: web.Request) -> web.Response:
    page = read_page(request, is_output, most=LONGEST_PAGE, usual=LONGEST_PAGE, others=("order", "purpose"))
    most, rendered = min(page.limit, PAGE_FILES), 0
    shown: list[dict[str, object]] = []
    has_more = False
    async for output in _outputs(request, page):
        rendered += output.line_count
        if len(shown) == most or (shown and rendered > MOST_RENDERED):
            has_more = True
            break
        shown.append(output.body(await size_of(request, output)))
    return json_answer(list_body(shown, has_more=has_more))


async def _outputs(request: web.Request, page: Page) -> AsyncIterator[Output]:
    """Yield the files after a place. The output of a batch comes before its errors."""
    after = None if page.after is None else id_and_kind(page.after)
    if after is not None and after[1] == OUTPUT:
        same = await request.app[BACKEND].store.read_entry(KIND, tenant_of(request), after[0])
        if same is not None:
            async for output in _of_batches(request, [BatchEntry.of_entry(same)]):
                if output.kind == ERRORS:
                    yield output
    async for entries in _batches(request, page, None if after is None else after[0]):
        async for output in _of_batches(request, entries):
            yield output


async def _batches(request: web.Request, page: Page, after: str | None) -> AsyncIterator[list[BatchEntry]]:
    store, tenant, now = request.app[BACKEND].store, tenant_of(request), request.app[CLOCK].now()
    request[SHARE].grow_to(BATCHES_IN_STEP * LARGEST_ENTRY_BYTES)
    while True:
        found = await store.list_entries(KIND, tenant, after, BATCHES_IN_STEP, now=now, oldest_first=page.oldest_first)
        yield [BatchEntry.of_entry(one) for one in found]
        if len(found) < BATCHES_IN_STEP:
            return
        after = found[-1].id


async def _of_batches(request: web.Request, entries: list[BatchEntry]) -> AsyncIterator[Output]:
    """Yield the files of these batches that exist, if the batch has ended."""
    store, now = request.app[BACKEND].store, request.app[CLOCK].now()
    batches = await store.read_batches([entry.id for entry in entries if not entry.errors])
    for entry in entries:
        batch = batches.get(entry.id)
        if batch is None or not batch.is_final or not is_accepted(batch, now):
            continue
        [groups] = await store.read_groups_of([batch])
        running = await running_of(request, entry, Progress(batch, groups))
        for kind in (OUTPUT, ERRORS):
            output = output_of(entry, running, kind)
            if await exists(request, output):
                yield output
