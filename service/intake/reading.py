"""Reads a batch from the body of a request: one JSON document, or a stream with one operation per line."""

import hashlib
import re
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import Any, TypeVar

from aiohttp import web
from multidict import MultiMapping
from pydantic import ValidationError
from pydantic_core import to_json

from penstock.documents.pointer import pointer
from penstock.documents.validation import errors_of
from penstock.errors import Flaw, LimitPassed
from penstock.files.layout import Layout
from penstock.reading.elements import separators
from penstock.reading.flaws import ENVELOPE, Flaws, to_flaw, without_most_unknown_members
from penstock.reading.forms import NO_LINKS
from penstock.reading.json_line import parse_line
from penstock.reading.line_source import LineLimits, LineSource, limits_of_lines
from penstock.reading.lines import Lines
from penstock.reading.raw_operation import (
    LARGE_BODY_BYTES,
    RawDocuments,
    RawLines,
    RawOperation,
    read_raw_line,
    with_few_bytes,
)
from penstock.running.collector import LARGE_BYTES, spare_json
from penstock.service.content import (
    JSON,
    NDJSON,
    RequestBody,
    check_type,
    parse_json,
    read_content,
    within,
    without_mark,
)
from penstock.service.intake.draft import Draft
from penstock.service.intake.uploaded import UploadBody, open_upload, without_upload
from penstock.service.keys import SETTINGS, TURNS
from penstock.service.schemas import METADATA_PREFIX, BatchOptions, BatchRequest
from penstock.settings import MIB, Settings

STREAM_SECONDS = 3_600
BYTES_IN_TURN = MIB  # between the steps of a larger document other requests run, too
OPERATIONS_IN_TURN = 100  # of a stream: then other requests run
ADDED_AT_ONCE = 50  # usual operations of a document. The time is looked at only after all of them
BYTES_AT_ONCE = 16_384  # of the bodies of these operations
STEP_SECONDS = 0.002  # of a document: then other requests run. A large operation, or several at once, may take longer

# A stream may decompress to this many bytes, to this many times what was sent, and to this much for each operation.
FREE_BYTES = 16 * MIB
MOST_RATIO = 100
BYTES_OF_AN_OPERATION = 10_000

_OPTIONS = frozenset(field.alias or name for name, field in BatchOptions.model_fields.items())
_raw_documents = RawDocuments(_OPTIONS)
_NUMBERS = frozenset({"deadlineSeconds", "maxFailures", "maxFailedPercent"})
L = TypeVar("L")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # Pydantic would also accept 1_0 and " 1"


@dataclass(frozen=True, slots=True)
class Read:
    """A request without its operations. The `fingerprint` tells whether two requests are the same."""

    options: BatchOptions
    fingerprint: str
    layout: Layout | None = None  # of a file of rows


async def read_batch(request: web.Request, draft: Draft) -> Read:
    """Read a batch into the draft, with its errors. Raises an error after which reading on makes no sense."""
    check_type(request, [JSON, NDJSON])
    if request.content_type == NDJSON:
        async with within(STREAM_SECONDS):
            return await _read_stream(request, draft)
    for name in dict.fromkeys(request.query):
        draft.flaws.add(ENVELOPE, Flaw(pointer(name), _not_in_the_query(name)))
    document = await read_document(request, _parse_batch)
    settings = request.app[SETTINGS]
    envelope = _read_envelope(document.value, settings, draft.flaws)
    await _take_turns(request, document.size)
    draft.counts_handlers = envelope.validate_only
    operations, size, fingerprint = envelope.operations, document.size, document.fingerprint
    del document  # the operations need the memory
    await add_operations(request, draft, operations, size)
    return Read(envelope, fingerprint)


@dataclass(frozen=True, slots=True)
class Document:
    """The JSON value of a body, how many bytes it has, and its fingerprint."""

    value: Any
    size: int
    fingerprint: str


async def read_document(request: web.Request, parse: Callable[[bytearray], Any] = parse_json) -> Document:
    """Read the body of a request as JSON. Raises MalformedRequest, or LimitPassed."""
    content = await read_content(request, request.app[SETTINGS].max_body_bytes)
    size = len(content)
    fingerprint = hashlib.sha256(content).hexdigest()
    await _take_turns(request, size)
    return Document(parse(content), size, fingerprint)


def _parse_batch(content: bytearray) -> Any:
    """Return the value of a JSON document. Unless it is unusual, its operations are raw."""
    with spare_json():
        document = _raw_documents.read(without_mark(content))
    return parse_json(content) if document is None else document


async def add_operations(request: web.Request, draft: Draft, operations: list[Any], size: int) -> None:
    """Add the operations of a JSON document of so many bytes to the draft. Other requests run meanwhile."""
    adding = _Adding(operations, draft)
    while draft.total < len(operations):
        adding.add_some()
        if draft.total < len(operations):
            await request.app[TURNS].next()
    await _take_turns(request, size)


@dataclass(slots=True)
class _Adding:
    """Adds the operations of a JSON document to a draft: usual ones at once, and others one by one.

    What the draft has refused to add at once is added one by one to its end, even if that takes several turns.
    Otherwise the validators of the application would run again and again for the same operations. While they are
    slow, fewer operations are added at once.
    """

    operations: Sequence[Any]
    draft: Draft
    at_once: int = field(default_factory=lambda: ADDED_AT_ONCE)
    refused_until: int = 0  # the index up to which operations are added one by one

    def add_some(self) -> None:
        """Add the next operations for a few milliseconds, at least one."""
        until = time.monotonic() + STEP_SECONDS
        with spare_json():
            while self.draft.total < len(self.operations):
                if self.draft.total >= self.refused_until:
                    self._add_usual()
                for operation in self.operations[self.draft.total : self.refused_until]:
                    self.draft.add(operation)
                    if time.monotonic() >= until:
                        return
                if time.monotonic() >= until:
                    return

    def _add_usual(self) -> None:
        """Add several operations at once, or note that the draft refuses that."""
        first, began = self.draft.total, time.monotonic()
        some = with_few_bytes(self.operations[first : first + self.at_once], BYTES_AT_ONCE)
        if self.draft.add_usual(some):
            self._adapt(time.monotonic() - began)
        else:
            self.refused_until = first + len(some)

    def _adapt(self, seconds: float) -> None:
        """Let fewer operations be added at once if the last ones took long, or more again if they did not.

        They may also have taken long because something else ran on the processor.
        """
        if seconds > STEP_SECONDS:
            self.at_once = max(1, self.at_once // 2)
        elif seconds < STEP_SECONDS / 4:
            self.at_once = min(ADDED_AT_ONCE, 2 * self.at_once)


async def _take_turns(request: web.Request, size: int) -> None:
    if size > BYTES_IN_TURN:
        await request.app[TURNS].next()


async def _read_stream(request: web.Request, draft: Draft) -> Read:
    options = read_options(without_upload(request.query), draft.flaws)
    return await read_lines(request, draft, options, _lines_of(request), add=_add_lines)


async def read_stored(request: web.Request, draft: Draft, options: BatchOptions, file: UploadBody, kind: str) -> Read:
    """Read the operations of a file that this program has stored. `kind` is as for `read_lines`."""
    async with within(STREAM_SECONDS):
        return await read_lines(request, draft, options, _lines_of(request), kind, add=_add_lines, file=file)


def _lines_of(request: web.Request) -> RawLines:
    return RawLines(Lines(**limits_of(request.app[SETTINGS])))


def limits_of(settings: Settings) -> LineLimits:
    """Return the limits of the lines of a stream."""
    return limits_of_lines(settings.message_bytes, settings.max_stream_operations)


async def read_lines(
    request: web.Request,
    draft: Draft,
    options: BatchOptions,
    lines: LineSource[L],
    kind: str = "",
    *,
    add: Callable[[Draft, Sequence[tuple[int, L]], Settings], None],
    file: UploadBody | None = None,
) -> Read:
    """Read the lines of a body, an upload, or a given file into the draft. `add` gets some of them at a time.

    `kind` tells apart two requests with the same body.
    """
    settings = request.app[SETTINGS]
    draft.counts_handlers = options.validate_only
    # The fingerprint is the same as in earlier versions, which had no metadata and no validateOnly.
    hashed = options.model_dump_json(exclude={"validate_only"} if options.metadata else {"metadata", "validate_only"})
    fingerprint = hashlib.sha256((hashed + kind).encode())
    body = file or await open_upload(request) or RequestBody(request, {"maxStreamBytes": settings.max_stream_bytes})
    async for piece in body.pieces():
        # Plan what came before this piece: a batch in a single piece is planned when all of it is known.
        if draft.is_large:
            await draft.plan_added(body.share)
        fingerprint.update(piece)
        following = lines.feed(piece)
        while _add_some(following, draft, settings, add) == OPERATIONS_IN_TURN:
            await request.app[TURNS].next()
        if body.decompressed_bytes > settings.max_body_bytes:
            draft.grow_large()
        _check_proportion(body, draft.total)
    _add_some(lines.end(), draft, settings, add)
    if draft.has_links and body.is_validated_later:
        draft.flaws.add(ENVELOPE, Flaw("/operations", NO_LINKS))
    if draft.total == 0:
        draft.flaws.add(ENVELOPE, Flaw("/operations", f"The batch has no operations. {lines.why_empty}"))
    return Read(options, fingerprint.hexdigest())


def _add_some(
    following: Iterator[tuple[int, L]],
    draft: Draft,
    settings: Settings,
    add: Callable[[Draft, Sequence[tuple[int, L]], Settings], None],
) -> int:
    """Add the next lines, up to OPERATIONS_IN_TURN. Return how many there were.

    If what follows them passes a limit, they are added first: one of them may pass another limit.
    """
    some: list[tuple[int, L]] = []
    try:
        some.extend(islice(following, OPERATIONS_IN_TURN))
    finally:
        add(draft, some, settings)
    return len(some)


def _check_proportion(body: RequestBody | UploadBody, operations: int) -> None:
    """Raise LimitPassed if a stream decompresses to very much that is no operation, such as blank lines and spaces."""
    most = FREE_BYTES + MOST_RATIO * body.received_bytes + BYTES_OF_AN_OPERATION * operations
    if body.decompressed_bytes > most:
        detail = f"The stream decompresses to {body.decompressed_bytes:,} bytes with {operations:,} operations."
        raise LimitPassed(f"{detail} Remove blank lines and spaces.", limit={"maxDecompressedBytes": most})


def add_operation(
    draft: Draft, number: int, operation: dict[str, Any] | str, settings: Settings, *, elements: int
) -> None:
    """Add the operation of a row, or the reason why the row has none. `elements` is how many values the row has."""
    _check_total(draft, settings)
    if isinstance(operation, str):
        draft.add_unreadable(operation, number, str(number))
        return
    if not draft.is_large:
        draft.note_elements(elements + len(operation))
    known = draft.flaws.count
    draft.add(operation, number)
    if draft.flaws.count > known:
        draft.note_invalid(len(to_json(operation)))


def _check_total(draft: Draft, settings: Settings) -> None:
    most = settings.max_stream_operations
    if draft.total == most:
        raise LimitPassed(f"The batch has more than {most:,} operations.", limit={"maxOperations": most})


def _add_lines(draft: Draft, lines: Sequence[tuple[int, tuple[bytes, bool]]], settings: Settings) -> None:
    """Add the operations of some lines. With each line comes what `RawLines` knows about it."""
    has_room = draft.total + len(lines) <= settings.max_stream_operations
    read: list[RawOperation] = []
    if has_room and draft.takes_usual:
        read = _read_usual([checked_line for _, checked_line in lines], settings.most_elements)
        if len(read) == len(lines) and draft.add_usual(read, [number for number, _ in lines]):
            return
    for (number, checked_line), raw in zip_longest(lines, read):
        _add_line(draft, number, checked_line, settings, raw)


def _read_usual(lines: Sequence[tuple[bytes, bool]], most_elements: int) -> list[RawOperation]:
    """Return the operations of lines, up to the first line that is long, must be parsed, or passes a limit."""
    read: list[RawOperation] = []
    with suppress(LimitPassed):  # it is raised again when the line is added by itself
        for line, is_usual in lines:
            raw = read_raw_line(line, most_elements, is_usual=is_usual) if len(line) <= LARGE_BODY_BYTES else None
            if raw is None:
                break
            read.append(raw)
    return read


def _add_line(
    draft: Draft, number: int, checked_line: tuple[bytes, bool], settings: Settings, raw: RawOperation | None
) -> None:
    """Add the operation of a line, which is `raw` if it was read already.

    With the line comes what `RawLines` knows about it.
    """
    line, is_usual = checked_line
    _check_total(draft, settings)
    if line.startswith(BOM_UTF8):
        line = line.removeprefix(BOM_UTF8)
        if not line or line.isspace():
            return
    if not draft.is_large:
        draft.note_elements(separators(line))
    known = draft.flaws.count
    if raw is not None and known == 0:
        draft.add(raw, number)
    elif len(line) > LARGE_BYTES:
        with spare_json():
            _add_document(draft, number, line, settings, is_usual=is_usual)
    else:
        _add_document(draft, number, line, settings, is_usual=is_usual)
    if draft.flaws.count > known:
        draft.note_invalid(len(line))


def _add_document(draft: Draft, number: int, line: bytes, settings: Settings, *, is_usual: bool) -> None:
    most = settings.most_elements
    is_valid = draft.flaws.count == 0  # once it is not, operations are only read for their errors
    try:
        raw = read_raw_line(line, most, is_usual=is_usual) if is_valid else None
        document = parse_line(line, most) if raw is None else raw
    except ValueError as error:
        draft.add_unreadable(str(error), number)
    else:
        draft.add(document, number)


def _read_envelope(document: Any, settings: Settings, flaws: Flaws) -> BatchRequest:
    """Read the batch request, and leave its operations as they are. Errors go to `flaws`. Raises LimitPassed.

    If the request is invalid, return the part that can be read, so that errors of the operations are reported too.
    """
    cut = without_most_unknown_members(document, BatchRequest)
    flaws.is_complete &= cut is document
    try:
        envelope = BatchRequest.model_validate(cut)
    except ValidationError as error:
        for one in errors_of(error):
            flaws.add(ENVELOPE, to_flaw(one, document))
        operations = document.get("operations") if isinstance(document, dict) else None
        envelope = BatchRequest.model_construct(operations=operations if isinstance(operations, list) else [])
    count, limit = len(envelope.operations), settings.max_operations
    if count > limit:
        raise LimitPassed(
            f"The batch has {count:,} operations. The limit is {limit:,}.", limit={"maxOperations": limit}
        )
    return envelope


def read_options(query: MultiMapping[str], flaws: Flaws) -> BatchOptions:
    """Read the options of a streamed batch from the query. Errors go to `flaws`."""
    given: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name in dict.fromkeys(query):
        [value, *more] = query.getall(name)
        if more:
            flaws.add(ENVELOPE, Flaw(pointer(name), "This option is in the query more than once."))
        elif name in _NUMBERS and not _NUMBER.fullmatch(value):
            flaws.add(ENVELOPE, Flaw(pointer(name), "Write this option as a decimal number, such as 10."))
        elif name == "metadata":
            flaws.add(ENVELOPE, Flaw(pointer(name), "Write each pair as a parameter, such as metadata.team=growth."))
        elif name.startswith(METADATA_PREFIX):
            metadata[name.removeprefix(METADATA_PREFIX)] = value
        else:
            given[name] = value
    if metadata:
        given["metadata"] = metadata
    try:
        return BatchOptions.model_validate_strings(given)
    except ValidationError as error:
        for one in errors_of(error):
            flaws.add(ENVELOPE, to_flaw(one, given))
        return BatchOptions.model_construct()


def _not_in_the_query(name: str) -> str:
    if name in _OPTIONS or name.startswith(METADATA_PREFIX):
        return (
            f"Write {name} into the JSON document, next to the operations. "
            "Only NDJSON and CSV have their options in the query."
        )
    return "The query of a JSON document must be empty. Write options into the document, next to the operations."
