"""Reads the body of a request: a batch as one JSON document, or as a stream of lines, an operation each."""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import ValidationError
from pydantic_core import from_json

from penstock.errors import Flaw, LimitPassed, MalformedRequest
from penstock.settings import Settings
from service.content import JSON, NDJSON, check_type, read_content, read_pieces, within
from service.draft import Draft
from service.flaws import ENVELOPE, Flaws, errors_of, to_flaw
from service.lines import Lines
from service.parts import SETTINGS
from service.schemas import BatchOptions, BatchRequest

STREAM_SECONDS = 3_600

# A character of a message takes at most six in a line, written as \u00e4: what is longer fits into no message.
LINE_BYTES_FOR_A_MESSAGE_BYTE = 6


@dataclass(frozen=True, slots=True)
class Read:
    """What a request asks for beside its operations. `fingerprint` is the same for the same request alone."""

    options: BatchOptions
    fingerprint: str


async def read_json(request: web.Request) -> Any:
    check_type(request, [JSON])
    return _parse(await read_content(request, request.app[SETTINGS].max_body_bytes))


async def read_batch(request: web.Request, draft: Draft) -> Read:
    """Its operations go into the draft, and so does what is wrong. Raises what makes reading on senseless."""
    check_type(request, [JSON, NDJSON])
    if request.content_type == NDJSON:
        async with within(STREAM_SECONDS):
            return await _read_stream(request, draft)
    content = await read_content(request, request.app[SETTINGS].max_body_bytes)
    envelope = _read_envelope(_parse(content), request.app[SETTINGS], draft.flaws)
    for document in envelope.operations:
        draft.take(document)
    if draft.is_large:
        draft.plan_taken()
    return Read(envelope, hashlib.sha256(content).hexdigest())


async def _read_stream(request: web.Request, draft: Draft) -> Read:
    settings = request.app[SETTINGS]
    options = _read_options(request, draft.flaws)
    fingerprint = hashlib.sha256(options.model_dump_json().encode())
    most = settings.max_stream_operations
    lines = Lines(most_bytes=LINE_BYTES_FOR_A_MESSAGE_BYTE * settings.message_bytes, most_lines=2 * most)
    read_bytes = 0
    async for piece in read_pieces(request, {"maxStreamBytes": settings.max_stream_bytes}):
        fingerprint.update(piece)
        read_bytes += len(piece)
        if read_bytes > settings.max_body_bytes:
            draft.grow_large()
        for number, line in lines.feed(piece):
            _take_line(draft, number, line, most)
        if draft.is_large:
            draft.plan_taken()
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


def _parse(content: bytes) -> Any:
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"The body is not JSON: {error}.") from error


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
