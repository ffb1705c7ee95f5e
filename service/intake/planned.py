"""Accepts a large uploaded file. The answer does not wait until it is read: a consumer validates and plans it.

The batch is in state validating from then on. If the file turns out to be invalid, the batch fails, and nothing of it
runs. What the request itself says is checked here.
"""

import asyncio
import hashlib
import secrets
from contextlib import suppress
from functools import partial

from aiohttp import web

from penstock.batch import Batch, BatchState, Counts
from penstock.bucket import StoredFile
from penstock.errors import (
    AcceptanceLost,
    AcceptanceUnknown,
    LimitPassed,
    PenstockError,
    Unavailable,
    UnknownBatch,
)
from penstock.planning import Errors, PlannedFile, Planning
from penstock.reading.flaws import Flaws
from penstock.reading.forms import FileForm
from penstock.sending import ChunkSender
from penstock.service.batches.status import read_status
from penstock.service.caller import headers_to_pass_on, tenant_of
from penstock.service.content import CSV, NDJSON, check_type
from penstock.service.idempotency import SETTLE_SECONDS, ClaimedKey, claim_key, read_key, update_claim
from penstock.service.intake.acceptance import ACCEPT_REPEAT_SECONDS, ACCEPT_REPEATS
from penstock.service.intake.draft import Draft
from penstock.service.intake.submit import (
    BATCH_IDS,
    LEASE_MARGIN_SECONDS,
    Accepted,
    Background,
    check_batch,
    headers_of,
    submit_batch,
    where,
)
from penstock.service.intake.tables import read_file_options, read_form
from penstock.service.intake.uploaded import UPLOAD, check_size, find_upload
from penstock.service.json_answer import json_answer
from penstock.service.keys import (
    BACKEND,
    BATCH_ID,
    CLOCK,
    HANDLER_TIMES,
    OPERATIONS,
    SETTINGS,
    WEBHOOK_TENANTS,
)
from penstock.service.limits.applied import limits_of, open_limits_of
from penstock.service.limits.charging import check_charge, check_something_left
from penstock.service.limits.opening import check_room
from penstock.service.request_ids import request_id
from penstock.service.schemas import BatchOptions, accepted_body
from penstock.settings import Settings
from penstock.telemetry import Event, get_log
from penstock.webhooks.event import new_event

FIRST_SWEEP_SECONDS = 10.0  # then a sweep asks a consumer to plan it, if the message that asks was lost


async def submit_file_or_batch(request: web.Request) -> web.Response:
    """Accept a large uploaded file for a consumer. Read and submit every other batch."""
    if UPLOAD not in request.query:
        return await submit_batch(request)
    check_type(request, [NDJSON, CSV])
    form, flaws = read_form(request), Flaws()
    options, file = read_file_options(request, form, flaws), await find_upload(request)
    settings = request.app[SETTINGS]
    if file is not None and options.validate_only:
        _check_dry_run(file, settings)
    is_read_here = options.atomic or options.validate_only or not form.can_go_on
    if file is None or is_read_here or file.size <= settings.background_upload_bytes:
        return await submit_batch(request)
    check_size(file, settings.max_upload_bytes)
    accepted = await submit_stored_file(request, file, form, options, flaws)
    body = {**accepted_body(accepted.batch_id), **(accepted.status or {})}
    return json_answer(body, status=202, headers={**where(accepted.batch_id), **headers_of(accepted)})


def _check_dry_run(file: StoredFile, settings: Settings) -> None:
    """Raise LimitPassed if a front end cannot read the whole file for a check."""
    most = settings.max_stream_bytes
    if file.size > most:
        raise LimitPassed(
            f"The file has {file.size:,} bytes. A check reads at most {most:,} bytes. Without validateOnly, the file "
            f"may have {settings.max_upload_bytes:,} bytes, and its errors are in the status of the batch.",
            limit={"maxBytes": most},
        )


async def submit_stored_file(
    request: web.Request,
    file: StoredFile,
    form: FileForm,
    options: BatchOptions,
    flaws: Flaws | None = None,
    *,
    background: Background | None = None,
) -> Accepted:
    """Make a batch of a file in the bucket, which a consumer validates and plans. `flaws` are errors of the request.

    If the file is replaced before the batch is accepted, the batch fails.
    """
    key, app = read_key(request), request.app
    background = background or Background(str(BATCH_IDS.generate()))
    with Draft(background.batch_id, app[OPERATIONS], app[SETTINGS], app[HANDLER_TIMES]) as draft:
        draft.flaws = flaws or draft.flaws
        request[BATCH_ID] = draft.batch_id
        await check_something_left(request, key)
        await check_batch(request, draft, options)
    await _check_limits(request, key, background.operations)
    claimed = None if key is None else await _claim(request, key, draft.batch_id, _fingerprint(file, form, options))
    if claimed is not None and claimed.is_replay:
        return await _replay(request, claimed)
    batch = await _new_batch(request, background, file, options, claimed)
    store, clock = app[BACKEND].store, app[CLOCK]
    try:
        await _store(request, batch, file, form, options)
        await _begin(request, batch, background.errors)
    except AcceptanceUnknown:
        raise
    except Exception:
        if claimed is not None:
            await update_claim(clock, partial(store.release_key, claimed.claim))
        raise
    if claimed is not None:
        await update_claim(clock, partial(store.settle_key, claimed.claim, None), repeat_seconds=SETTLE_SECONDS)
    get_log().info(
        Event.FILE_ACCEPTED,
        request_id=request_id(request),
        batch_id=batch.id,
        tenant=batch.tenant,
        bytes=file.size,
    )
    return Accepted(batch.id)


async def _check_limits(request: web.Request, key: str | None, operations: int) -> None:
    """Raise an error if a limit does not allow the batch now. Later, a consumer waits until the limits allow it."""
    store, now = request.app[BACKEND].store, request.app[CLOCK].now()
    if key is None or not await store.has_key(tenant_of(request), key, now):  # the answer to a repeated request is free
        await check_charge(request, operations)
        await check_room(request, operations, is_started=True)


async def _store(request: web.Request, batch: Batch, file: StoredFile, form: FileForm, options: BatchOptions) -> None:
    """Write the batch. A consumer plans it when it is asked, or when a sweep finds it."""
    backend = request.app[BACKEND]
    limits, open_limits = limits_of(request), open_limits_of(request)
    planned = PlannedFile(file, form.to_json(), secrets.token_hex(16), limits, open_limits)
    await asyncio.gather(
        backend.store.write_file(batch, planned), backend.store.list_batch(batch, options.metadata or {})
    )
    await _create(request, batch)


async def _begin(request: web.Request, batch: Batch, errors: Errors | None) -> None:
    """Ask a consumer to plan the batch. If errors of its file are known, end it, and let a consumer tell its event."""
    app = request.app
    with suppress(PenstockError):  # then a sweep asks. A consumer ends an invalid batch: its file has another ETag
        if errors is not None:
            store, now = app[BACKEND].store, app[CLOCK].now()
            event = new_event(batch, BatchState.FAILED, Counts(), now)
            said, count = errors.sentence, errors.count
            await store.write_errors(batch, errors)
            await store.end_planning(batch.id, BatchState.FAILED, now, said, errors=count, event=event)
            if event is None:
                return
        await ChunkSender(app[BACKEND], app[SETTINGS], app[CLOCK]).ask_to_plan(batch)


async def _create(request: web.Request, batch: Batch) -> None:
    """Create the batch. This is the point of no return, so repeat the call if its answer is lost.

    Raises AcceptanceLost if another request has taken over the Idempotency-Key, and has abandoned the batch.
    """
    store, may_exist = request.app[BACKEND].store, False
    for repeat in range(ACCEPT_REPEATS):
        try:
            await store.create_batch(batch)
            may_exist = True
            created = await store.read_batch(batch.id)
            break
        except PenstockError as error:
            may_exist |= isinstance(error, Unavailable)
            if not may_exist:
                raise  # AWS rejected the only write, so it certainly had no effect
            if repeat == ACCEPT_REPEATS - 1:
                raise AcceptanceUnknown(batch.id) from error
        await asyncio.sleep(ACCEPT_REPEAT_SECONDS * 2**repeat)
    if created is not None and created.state is BatchState.ABANDONED:
        raise AcceptanceLost(f"Another request has taken the place of batch {batch.id}. None of it will run.")


async def _new_batch(
    request: web.Request, background: Background, file: StoredFile, options: BatchOptions, claimed: ClaimedKey | None
) -> Batch:
    app, tenant, batch_id = request.app, tenant_of(request), background.batch_id
    settings, now = app[SETTINGS], app[CLOCK].now()
    has_webhooks = settings.webhook_secret is not None and await app[WEBHOOK_TENANTS].may_have_endpoints(tenant)
    deadline_at = max(now, options.not_before or now) + (options.deadline_seconds or settings.deadline_seconds)
    keys_from = None if claimed is None else claimed.claim.keys_from
    return Batch(
        id=batch_id,
        tenant=tenant,
        state=BatchState.VALIDATING,
        total=0,
        chunk_count=0,
        group_totals=(),
        created_at=now,
        accept_by=now + FIRST_SWEEP_SECONDS,
        deadline_at=deadline_at,
        expires_at=deadline_at + settings.retention_seconds,
        priority=options.priority,
        not_before=options.not_before,
        max_failures=options.max_failures,
        max_failed_percent=options.max_failed_percent,
        headers=headers_to_pass_on(request),
        has_metadata=bool(options.metadata),
        callback_url=options.callback_url,
        has_webhooks=has_webhooks,
        completes_anyway=background.completes_anyway,
        keys_from=None if keys_from == batch_id else keys_from,
        planning=Planning(file.size),
    )


async def _claim(request: web.Request, key: str, batch_id: str, fingerprint: str) -> ClaimedKey:
    lease_seconds = request.app[SETTINGS].accept_seconds + LEASE_MARGIN_SECONDS
    return await claim_key(request, key, fingerprint, batch_id, lease_seconds, ends_here=False)


async def _replay(request: web.Request, claimed: ClaimedKey) -> Accepted:
    batch = await request.app[BACKEND].store.read_batch(claimed.claim.batch_id)
    if batch is None:
        raise UnknownBatch(claimed.claim.batch_id)
    return Accepted(batch.id, status=await read_status(request, batch))


def _fingerprint(file: StoredFile, form: FileForm, options: BatchOptions) -> str:
    """Return what tells whether two requests are the same. The ETag stands for the content of the file."""
    said = repr((file.size, file.etag, form, options.model_dump_json()))
    return hashlib.sha256(said.encode()).hexdigest()
