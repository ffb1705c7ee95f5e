"""POST /v1/batches: makes a batch of an input file. Invalid lines make one that has failed, with its errors.

A large file is read by a consumer, after the answer.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from aiohttp import web

from penstock.bucket import StoredFile
from penstock.errors import AcceptanceUnknown, Flaw, InvalidRequest, KeyReused, LimitPassed, PenstockError
from penstock.planning import Errors
from penstock.reading.forms import FileForm, FormKind
from penstock.service.caller import tenant_of
from penstock.service.content import JSON, read_json
from penstock.service.dialects.openai.batch_entry import KIND, PREFIX, BatchEntry, fingerprint_of
from penstock.service.dialects.openai.batches import batch_answer
from penstock.service.dialects.openai.errors import OpenAIError
from penstock.service.dialects.openai.files import find_file
from penstock.service.dialects.openai.input_file import MOST_LINES_HERE, InputFile, content_key, operations_key
from penstock.service.dialects.openai.lines import OPERATIONS, LineError, errors_of_flaws, first_errors
from penstock.service.dialects.openai.repeating import find_other, find_repetitions, find_standing, is_repeated
from penstock.service.dialects.openai.upload import require_bucket
from penstock.service.dialects.openai.wanted import INVALID_VALUE, WantedBatch, wanted_of
from penstock.service.intake.draft import Draft
from penstock.service.intake.planned import submit_stored_file
from penstock.service.intake.reading import Read, read_stored
from penstock.service.intake.submit import BATCH_IDS, Accepted, Background, submit
from penstock.service.intake.uploaded import UploadBody
from penstock.service.keys import BACKEND, CLOCK, SETTINGS
from penstock.service.schemas import BatchOptions
from penstock.settings import DAY_SECONDS

LEAST_WAIT_SECONDS = 2.0
LINES_IN_SECOND = 5_000  # that a front end reads under load, from a stored file
WINDOW_SECONDS = DAY_SECONDS
OPERATIONS_FORM = FileForm(FormKind.OPERATIONS)


async def create_batch(request: web.Request) -> web.Response:
    require_bucket(request)
    arrived_at = request.app[CLOCK].now()
    wanted = wanted_of(await read_json(request, [JSON]))
    file = await _find_input(request, wanted.input_file_id)
    entry = _new_entry(request, wanted, file, arrived_at)
    standing = await find_standing(request, entry, _accept_seconds(file)) if entry.is_repeated else None
    return await batch_answer(request, standing or await _make(request, file, entry))


async def _find_input(request: web.Request, file_id: str) -> InputFile:
    try:
        return await find_file(request, file_id)
    except OpenAIError as error:
        raise OpenAIError(error.message, param="input_file_id", code=INVALID_VALUE) from None


def _new_entry(request: web.Request, wanted: WantedBatch, file: InputFile, now: float) -> BatchEntry:
    keeps = request.app[SETTINGS].retention_seconds
    after = wanted.output_expires_after
    return BatchEntry(
        id=f"{PREFIX}{BATCH_IDS.generate()}",
        tenant=tenant_of(request),
        created_at=now,
        expires_at=now + WINDOW_SECONDS + keeps,
        input_file_id=wanted.input_file_id,
        endpoint=wanted.endpoint,
        completion_window=wanted.completion_window,
        fingerprint=fingerprint_of(wanted.model_dump()),
        metadata=wanted.metadata or {},
        output_seconds=None if after is None else after.seconds,
        model=file.model,
        is_repeated=is_repeated(request),
    )


async def _make(request: web.Request, file: InputFile, entry: BatchEntry) -> BatchEntry:
    """Make a batch. Return its entry: another one if the request has a key that made a batch before."""
    errors = file.errors_for(entry.endpoint)
    if not errors:
        try:
            return await _submit(request, file, entry)
        except (InvalidRequest, LimitPassed) as error:
            if not error.flaws:
                raise
            errors = _errors_of(error.flaws)
    return await _submit(request, file, replace(entry, errors=tuple(first_errors(errors))))


async def _submit(request: web.Request, file: InputFile, entry: BatchEntry) -> BatchEntry:
    """Make a batch with this entry. Nobody sees the entry of a batch that was not accepted."""
    store = request.app[BACKEND].store
    repetitions = await find_repetitions(request, entry)
    await store.write_entry(entry.entry())
    try:
        other = await find_other(request, entry, repetitions, _accept_seconds(file))
        if other is not None:
            await _forget(request, entry)
            return other
        accepted = await _accept(request, file, entry)
    except AcceptanceUnknown:
        raise  # it may have been accepted
    except Exception:
        await _forget(request, entry)
        raise
    if accepted.batch_id == entry.id:
        return entry
    await _forget(request, entry)
    earlier = await store.read_entry(KIND, entry.tenant, accepted.batch_id)
    if earlier is None:
        raise OpenAIError("This Idempotency-Key was used for a batch that is none of OpenAI's.", status=422)
    if earlier.content["fingerprint"] != entry.fingerprint:
        raise KeyReused("This Idempotency-Key was already used for a batch of another file, or with other options.")
    return BatchEntry.of_entry(earlier)


async def _accept(request: web.Request, file: InputFile, entry: BatchEntry) -> Accepted:
    """Let the engine accept the batch. A consumer reads a large file, after the answer."""
    deadline_seconds = min(float(WINDOW_SECONDS), request.app[SETTINGS].deadline_seconds)
    options = BatchOptions(deadlineSeconds=deadline_seconds, metadata=dict(entry.metadata) or None)
    background = Background(entry.id, completes_anyway=True)
    if entry.errors:
        ended = replace(background, errors=_as_flaws(entry.errors))
        return await submit_stored_file(request, _unreadable(file), OPERATIONS_FORM, options, background=ended)
    stored = await require_bucket(request).find(operations_key(file.tenant, file.id))
    if stored is None:
        raise OpenAIError("The bucket has no such file any more. Upload it again.", param="input_file_id")
    if not file.is_read_here(request.app[SETTINGS].background_upload_bytes):
        counted = replace(background, operations=file.total)
        return await submit_stored_file(request, stored, OPERATIONS_FORM, options, background=counted)
    read = partial(_read, stored=stored, options=options, kind=entry.endpoint)
    accepted = await submit(request, read, list, background)
    assert isinstance(accepted, Accepted)
    return accepted


def _accept_seconds(file: InputFile) -> float:
    """Return how long it takes to accept a batch of a file, with a front end under load."""
    return LEAST_WAIT_SECONDS + min(file.total, MOST_LINES_HERE) / LINES_IN_SECOND


def _unreadable(file: InputFile) -> StoredFile:
    """Return the file with an ETag that it never has, so that no consumer ever makes a batch of it."""
    return StoredFile(content_key(file.tenant, file.id), file.size, '"invalid"')


def _as_flaws(errors: Sequence[LineError]) -> Errors:
    """Return errors of lines as the engine keeps them."""
    flaws = [Flaw("" if one.param is None else f"/{one.param}", one.message, one.line) for one in errors]
    return Errors(len(flaws), flaws=list(enumerate(flaws)))


async def _read(request: web.Request, draft: Draft, *, stored: StoredFile, options: BatchOptions, kind: str) -> Read:
    file = UploadBody(request, require_bucket(request), stored)
    return await read_stored(request, draft, options, file, kind)


def _errors_of(flaws: tuple[Flaw, ...]) -> list[LineError]:
    """Return the errors of lines. Raises an error if the request itself is wrong."""
    for flaw in flaws:
        if not flaw.pointer.startswith(OPERATIONS):
            raise OpenAIError(flaw.detail, param=flaw.pointer.strip("/").replace("/", ".") or None)
    return errors_of_flaws(flaws)


async def _forget(request: web.Request, entry: BatchEntry) -> None:
    """Delete the entry of a batch that was not accepted. If that fails, nobody sees it anyway."""
    try:
        await request.app[BACKEND].store.write_entry(entry.entry().deleted(request.app[CLOCK].now()))
    except PenstockError:
        return
