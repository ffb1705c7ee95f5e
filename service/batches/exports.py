"""POST /batch/{id}/export: writes the outcomes of a final batch to files in the bucket, for clients to download.

It is made in the background. `GET /batch/{id}/exports/{export id}` tells how far it is, and has the URLs of its files.
"""

import re
from typing import Any

from aiohttp import web

from penstock.bucket import Bucket
from penstock.errors import MalformedRequest, NotPossibleNow, UnknownExport
from penstock.export import Export, ExportState, ExportWish
from penstock.outcome import OutcomeState
from penstock.service.audit import Action, auditing
from penstock.service.batches.export_document import export_body, export_url
from penstock.service.batches.export_files import GZIP, TYPES
from penstock.service.batches.export_run import EXPORTING, counted, write
from penstock.service.batches.export_urls import EXPORT_URLS
from penstock.service.batches.results import read_state
from penstock.service.batches.status import Progress, find_batch, find_progress
from penstock.service.content import check_no_body
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK
from penstock.service.paging import read_once

QUICK_SECONDS = 1.0  # that the first answer waits for a small export
AGAIN_SECONDS = "2"
_PARAMETERS = ("format", "status", "compression")
_EXPORT_ID = re.compile(r"[0-9a-f]{20}")


async def create_export(request: web.Request) -> web.Response:
    """Answer 202, or 200 if the files are there, perhaps after a second. The same request finds the same export."""
    _require_bucket(request)
    await check_no_body(request)
    export = await begin_export(request, _read_wish(request))
    return await _answer(request, export, status=200 if export.state is ExportState.COMPLETED else 202)


async def begin_export(request: web.Request, wish: ExportWish) -> Export:
    """Begin an export of the batch in the path, or find the one that is there."""
    progress = await find_progress(request)
    if not progress.batch.is_final:
        raise NotPossibleNow(
            "The batch is not final yet, and only a final batch can be exported. Ask again when it is final. "
            "GET /batch/{id}/results has what exists so far."
        )
    with auditing(request, Action.EXPORT, batch_id=progress.batch.id):
        export = await _find_or_create(request, progress, wish)
        return await request.app[EXPORTING].go_on(progress.batch, export, QUICK_SECONDS)


async def show_export(request: web.Request) -> web.Response:
    """Answer with the export in the path, and go on with it if nobody makes it."""
    return await _answer(request, await find_export(request))


async def find_export(request: web.Request) -> Export:
    """Return the export in the path as it is now, and go on with it if nobody makes it."""
    batch = await find_batch(request)
    export_id = request.match_info["export_id"]
    _require_bucket(request)
    export = await _read(request, batch.id, export_id) if _EXPORT_ID.fullmatch(export_id) else None
    if export is None:
        raise UnknownExport
    return await request.app[EXPORTING].go_on(batch, export)


async def _find_or_create(request: web.Request, progress: Progress, wish: ExportWish) -> Export:
    batch, counts, now = progress.batch, progress.counts, request.app[CLOCK].now()
    new = Export(
        batch_id=batch.id,
        tenant=batch.tenant,
        id=wish.id_for(counted(progress.groups)),
        format=wish.format,
        status=wish.status,
        compression=wish.compression,
        total=batch.total if wish.status is None else getattr(counts, wish.status),
        created_at=now,
        expires_at=batch.expires_at,
    )
    found = await _read(request, batch.id, new.id) or await write(request.app, new, None)
    if found is not None and found.state is ExportState.FAILED:
        found = await write(request.app, found.restarted(), found)
    elif found is not None and found.state is ExportState.COMPLETED and not await _has_files(request, found):
        found = await write(request.app, found.begun_again(), found)
    return found or await _read(request, batch.id, new.id) or new  # another request was faster


async def _read(request: web.Request, batch_id: str, export_id: str) -> Export | None:
    return await request.app[BACKEND].store.read_export(batch_id, export_id)


async def _has_files(request: web.Request, export: Export) -> bool:
    """Return False if somebody has deleted the files of an export, or if their bucket keeps them for too short."""
    return await _require_bucket(request).find(export.oldest_key) is not None


async def _answer(request: web.Request, export: Export, status: int = 200) -> web.Response:
    headers = {} if status == 200 else {"Location": export_url(export)}
    if export.state is ExportState.RUNNING:
        headers["Retry-After"] = AGAIN_SECONDS
    return json_answer(await body_of(request, export), status=status, headers=headers)


async def body_of(request: web.Request, export: Export) -> dict[str, Any]:
    """Return what a client sees of an export. One that runs has no URLs: its client asks again and again."""
    if export.state is not ExportState.COMPLETED:
        return export_body(export, {}, None)
    signed = await request.app[EXPORT_URLS].of(export)
    return export_body(export, signed.urls, signed.expire_at)


def _require_bucket(request: web.Request) -> Bucket:
    return request.app[BACKEND].require_bucket("exports", "Read GET /batch/{id}/results.")


def _read_wish(request: web.Request) -> ExportWish:
    for name in request.query:
        if name not in _PARAMETERS:
            raise MalformedRequest(f"The parameter {name!r} is unknown. Use {', '.join(_PARAMETERS)}.")
    return wish_of(read_once(request, "format"), read_once(request, "compression"), read_state(request))


def wish_of(form: str | None, compression: str | None, state: OutcomeState | None) -> ExportWish:
    if form not in {None, *TYPES}:
        raise MalformedRequest(f"Invalid format {form!r}. Use {' or '.join(TYPES)}.")
    if compression not in {None, GZIP}:
        raise MalformedRequest(f"Invalid compression {compression!r}. Use {GZIP}, or leave it out.")
    return ExportWish(form or "ndjson", None if state is None else state.value, compression)
