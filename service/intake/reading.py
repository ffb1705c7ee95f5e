"""Reads the body of a request: a batch as one JSON document, or as a stream of lines, an operation each."""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import ValidationError
from pydantic_core import from_json

from penstock.errors import Flaw, LimitPassed
from penstock.service.content import JSON, NDJSON, Body, check_type, parse_json, read_content, within
from penstock.service.flaws import ENVELOPE, Flaws, errors_of, to_flaw
from penstock.service.intake.draft import Draft
from penstock.service.intake.lines import Lines
from penstock.service.keys import SETTINGS
from penstock.service.schemas import BatchOptions, BatchRequest
from penstock.settings import Settings

STREAM_SECONDS = 3_600

# A character of a message takes at most six in a line, written as \u00e4: what is longer fits into no message.
LINE_BYTES_FOR_A_MESSAGE_BYTE = 6


@dataclass(frozen=True, slots=True)
class Read:
    """What a request asks for beside its operations. `fingerprint` is the same for the same request alone."""

    options: BatchOptions
    fingerprint: str


async def read_batch(request: web.Request, draft: Draft) -> Read:
    """Its operations go into the draft, and so does what is wrong. Raises what makes reading on senseless."""
    check_type(request, [JSON, NDJSON])
    if request.content_type == NDJSON:
        async with within(STREAM_SECONDS):
            return await _read_stream(request, draft)
    content = await read_content(request, request.app[SETTINGS].max_body_bytes)
    envelope = _read_envelope(parse_json(content), request.app[SETTINGS], draft.flaws)
    for document in envelope.operations:
        draft.take(document)
    return Read(envelope, hashlib.sha256(content).hexdigest())


async def _read_stream(request: web.Request, draft: Draft) -> Read:
    settings = request.app[SETTINGS]
    options = _read_options(request, draft.flaws)
    fingerprint = hashlib.sha256(options.model_dump_json().encode())
    most = settings.max_stream_operations
    lines = Lines(most_bytes=LINE_BYTES_FOR_A_MESSAGE_BYTE * settings.message_bytes, most_lines=2 * most)
    body = Body(request, {"maxStreamBytes": settings.max_stream_bytes})
    async for piece in body.pieces():
        # What came before this piece: if there is only one, the batch is known whole when it is planned.
        if draft.is_large:
            await draft.plan_taken(body.share)
        fingerprint.update(piece)
        for number, line in lines.feed(piece):
            _take_line(draft, number, line, most)
        if body.unpacked_bytes > settings.max_body_bytes:
            draft.grow_large()
        await asyncio.sleep(0)  # what is buffered is read without a wait, and others want their answers meanwhile
    for number, line in lines.end():
        _take_line(draft, number, line, most)
    if draft.total == 0:
        draft.flaws.add(ENVELOPE, Flaw("/operations", "There are none: write one a line."))
    return Read(options, fingerprint.hexdigest())


def _take_line(draft: Draft, number: int, line: bytes, most: int) -> None:
    if draft.total == most:
        raise LimitPassed(f"The batch has more than {most:,} operations.", limit={"maxOperations": most})
    try:
        document = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        draft.take_unreadable(f"The line is not JSON: {error}.", number)
    else:
        draft.take(document, number)


def _read_envelope(document: Any, settings: Settings, flaws: Flaws) -> BatchRequest:
    """The batch request, its operations still as they came. Adds to `flaws`; raises LimitPassed.

    Where it is wrong, it is what can be read of it, so that the operations are told their errors too.
    """
    try:
        envelope = BatchRequest.model_validate(document)
    except ValidationError as error:
        for one in errors_of(error):
            flaws.add(ENVELOPE, to_flaw(one, document))
        operations = document.get("operations") if isinstance(document, dict) else None
        envelope = BatchRequest.model_construct(operations=operations if isinstance(operations, list) else [])
    count, limit = len(envelope.operations), settings.max_operations
    if count > limit:
        raise LimitPassed(
            f"The batch has {count:,} operations; at most {limit:,} go into one.", limit={"maxOperations": limit}
        )
    return envelope


def _read_options(request: web.Request, flaws: Flaws) -> BatchOptions:
    """What a JSON batch has beside its operations, from the query."""
    given = dict(request.query)
    try:
        return BatchOptions.model_validate_strings(given)
    except ValidationError as error:
        for one in errors_of(error):
            flaws.add(ENVELOPE, to_flaw(one, given))
        return BatchOptions.model_construct()
