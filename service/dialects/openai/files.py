"""What can be asked of a file: GET /v1/files, and GET, DELETE and the content of one.

Input files are in the catalog. The files with the outputs and the errors of a batch are in `outputs.py`.
"""

from collections.abc import AsyncIterator

from aiohttp import web

from penstock.bucket import read_pieces
from penstock.service.audit import Action, auditing
from penstock.service.batches.streaming import stream
from penstock.service.caller import tenant_of
from penstock.service.dialects.openai.errors import unknown_file
from penstock.service.dialects.openai.input_file import (
    KIND,
    PURPOSE,
    InputFile,
    content_key,
    is_input_file,
    operations_key,
)
from penstock.service.dialects.openai.pages import LARGEST_ENTRY_BYTES, Page, list_body, read_page
from penstock.service.dialects.openai.upload import require_bucket
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SETTINGS, SHARE

LONGEST_PAGE = 10_000
PAGE_FILES = 100  # a page ends here, whatever its limit is: an entry may have 64 KB of errors
CONTENT_TYPE = "application/octet-stream"


async def list_files(request: web.Request) -> web.Response:
    page = read_page(request, is_input_file, most=LONGEST_PAGE, usual=LONGEST_PAGE, others=("order", "purpose"))
    if request.query.get("purpose", PURPOSE) != PURPOSE:
        return json_answer(list_body([], has_more=False))
    files, has_more = await _read_files(request, page)
    return json_answer(list_body([file.body() for file in files], has_more=has_more))


async def _read_files(request: web.Request, page: Page) -> tuple[list[InputFile], bool]:
    """Return the files of a page, and whether there are more."""
    store, now, most = request.app[BACKEND].store, request.app[CLOCK].now(), min(page.limit, PAGE_FILES)
    request[SHARE].grow_to((most + 1) * LARGEST_ENTRY_BYTES)
    entries = await store.list_entries(
        KIND, tenant_of(request), page.after, most + 1, now=now, oldest_first=page.oldest_first
    )
    return [InputFile.of_entry(entry) for entry in entries[:most]], len(entries) > most


async def show_file(request: web.Request) -> web.Response:
    return json_answer((await find_file(request, request.match_info["file_id"])).body())


async def delete_file(request: web.Request) -> web.Response:
    """Delete a file. Batches that were made of it run on.

    Consumers may still have to read the operations of a large one. The bucket deletes these later, like any old upload.
    """
    bucket, file = require_bucket(request), await find_file(request, request.match_info["file_id"])
    with auditing(request, Action.DELETE_UPLOAD, upload_id=file.id):
        await request.app[BACKEND].store.write_entry(file.entry().deleted(request.app[CLOCK].now()))
        await bucket.delete(content_key(file.tenant, file.id))
        if file.is_read_here(request.app[SETTINGS].background_upload_bytes):
            await bucket.delete(operations_key(file.tenant, file.id))
    return json_answer({"id": file.id, "object": "file", "deleted": True})


async def file_content(request: web.Request) -> web.StreamResponse:
    bucket, file = require_bucket(request), await find_file(request, request.match_info["file_id"])
    stored = await bucket.find(content_key(file.tenant, file.id))
    if stored is None:
        raise unknown_file(file.id)

    async def blocks() -> AsyncIterator[tuple[bytes, int]]:
        async for piece in read_pieces(bucket, stored):
            yield piece, len(piece)

    return await stream(request, CONTENT_TYPE, blocks())


async def find_file(request: web.Request, file_id: str) -> InputFile:
    """Return an input file of the caller. Raises an error if there is none, or if it has expired."""
    if is_input_file(file_id):
        entry = await request.app[BACKEND].store.read_entry(KIND, tenant_of(request), file_id)
        if entry is not None and not entry.is_gone(request.app[CLOCK].now()):
            return InputFile.of_entry(entry)
    raise unknown_file(file_id)
