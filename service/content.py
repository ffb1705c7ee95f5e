"""Reads the body of a request piece by piece. Checks its type, its encoding, its size and its speed."""

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import hdrs, web
from pydantic_core import from_json

from penstock.errors import LimitPassed, MalformedRequest, NoSuchVersion, TooSlow, UnsupportedContent
from penstock.reading.digits import check_digits
from penstock.reading.elements import check_elements, separators
from penstock.reading.json_line import encoding_hint, why_unreadable
from penstock.running.collector import spare_json
from penstock.service.decompression import MEMBERS, MEMORY_BYTES, Decompressor
from penstock.service.keys import SETTINGS, SHARE, TURNS

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
MERGE_PATCH = "application/merge-patch+json"
READ_BYTES = 65_536
BODY_SECONDS = 120  # a slow client holds a connection, and the memory of what it has sent so far
PAUSE_SECONDS = 60
COPIES = 3  # of a body in memory: as received, as parsed, and encoded for the queue
ELEMENT_BYTES = 80  # of a parsed element, without the characters of a string

_ALIASES = {"x-gzip": "gzip"}  # RFC 9110, section 8.4.1.3


def check_type(request: web.Request, supported: Collection[str]) -> None:
    if request.content_type not in supported:
        given = request.headers.get(hdrs.CONTENT_TYPE)
        problem = "The Content-Type is missing" if not given else f"The Content-Type {given} is not supported"
        patch_type = MERGE_PATCH if MERGE_PATCH in supported else None
        raise UnsupportedContent(f"{problem}. Use {' or '.join(supported)}.", patch_type=patch_type)


async def read_content(request: web.Request, most_bytes: int) -> bytearray:
    """Return the whole body, decompressed. The share of the request grows to what it needs once it is parsed.

    Raises LimitPassed if the body is too large, or has too many elements.
    """
    content = bytearray()  # not a list of pieces: a slow client could send millions of tiny ones
    found, most_elements = 0, request.app[SETTINGS].most_elements
    async with within(BODY_SECONDS):
        async for piece in RequestBody(request, {"maxBodyBytes": most_bytes}).pieces():
            content += piece
            found += separators(piece)
    request[SHARE].grow_to(COPIES * len(content) + ELEMENT_BYTES * min(found, most_elements))
    check_elements(content, most_elements, found)
    return content


async def check_no_body(request: web.Request) -> None:
    """Raise MalformedRequest if a request whose options are in its query has a body."""
    content = await read_content(request, READ_BYTES) if request.can_read_body else b""
    if b"".join(content.split()) not in {b"", b"{}"}:
        raise MalformedRequest("The options of this request are in its query. Send it without a body.")


async def check_no_options(request: web.Request) -> None:
    """Raise MalformedRequest if a request that has no options has any: ignored, they would have another effect."""
    content = await read_content(request, READ_BYTES) if request.can_read_body else b""
    if request.query or b"".join(content.split()) not in {b"", b"{}"}:
        raise MalformedRequest("This request has no options. Send it without a query and without a body.")


def check_no_tags(request: web.Request) -> None:
    """Raise NoSuchVersion if a change is only for a version with one of some entity tags: nothing here has any.

    Call it last: a request that would be rejected without its condition gets that answer (RFC 9110, section 13.2.1).
    """
    given = request.headers.getall(hdrs.IF_MATCH, [])
    if given and ",".join(given).strip() != "*":
        raise NoSuchVersion


async def read_json(request: web.Request, supported: Collection[str] = (JSON,)) -> Any:
    check_type(request, supported)
    settings = request.app[SETTINGS]
    return parse_json(await read_content(request, settings.max_body_bytes))


def parse_json(content: bytes | bytearray) -> Any:
    """Return the value of a JSON document, which may start with a byte order mark. Raises MalformedRequest."""
    try:
        check_digits(content)
        with spare_json():
            return from_json(without_mark(content), allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(why_unreadable("body", error, encoding_hint(content))) from error


def without_mark(content: bytes | bytearray) -> bytes | bytearray:
    """Return the content without its byte order mark. The content is copied only if it has one."""
    return content.removeprefix(BOM_UTF8) if content.startswith(BOM_UTF8) else content  # a bytearray copies itself


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raise TooSlow if the body is not complete after this time."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TooSlow(f"The body was not complete within {seconds:g} s.") from error


class RequestBody:
    """The body of a request. `limit` is its largest decompressed size, under the name that the error reports."""

    is_validated_later = False

    def __init__(self, request: web.Request, limit: dict[str, int]) -> None:
        self.decompressed_bytes = 0
        self._received_bytes = 0  # before decompression, and without the input of the current piece
        self._request = request
        self._limit = limit
        self._share = request[SHARE]
        self._turns = request.app[TURNS]
        self._most_kept = request.app[SETTINGS].max_body_bytes  # a larger stream is not kept in memory
        encoding = _encoding(request)
        self._decompressor = Decompressor(encoding) if encoding else None
        self._decompressor_bytes = MEMORY_BYTES[encoding] if encoding else 0
        self._share.grow_to(self._decompressor_bytes)

    @property
    def received_bytes(self) -> int:
        return self._received_bytes

    @property
    def share(self) -> float:
        """The share of the body that was read before the current piece. 0 if the length is unknown."""
        length = self._request.content_length
        return self._received_bytes / length if length else 0.0

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the decompressed body in small pieces."""
        while received := await _read(self._request):
            for piece in self._decompressor.decompress(received) if self._decompressor else (received,):
                self._count(len(piece))
                yield piece
                await self._let_others_run()
            self._received_bytes += len(received)
        if self._decompressor:
            self._decompressor.end()

    async def _let_others_run(self) -> None:
        """Let other requests run: reading buffered data does not wait for anything."""
        if self.decompressed_bytes > READ_BYTES:
            await self._turns.next()
        else:
            await asyncio.sleep(0)

    def _count(self, size: int) -> None:
        self.decompressed_bytes += size
        self._share.grow_to(self._decompressor_bytes + COPIES * min(self.decompressed_bytes, self._most_kept))
        [most_bytes] = self._limit.values()
        if self.decompressed_bytes > most_bytes:
            raise LimitPassed(f"The decompressed body is larger than {most_bytes:,} bytes.", limit=self._limit)


def _encoding(request: web.Request) -> str | None:
    encodings = _encodings(request)
    if not encodings:
        return None
    encoding = _ALIASES.get(encodings[0], encodings[0])
    if len(encodings) > 1 or encoding not in MEMBERS:
        raise UnsupportedContent(
            f"This Content-Encoding is not supported. Send the body uncompressed, or use {' or '.join(MEMBERS)}."
        )
    return encoding


def _encodings(request: web.Request) -> list[str]:
    """Return the encodings of the body in the order in which they were applied. `identity` changes nothing."""
    listed = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ())).lower().split(",")
    return [encoding for one in listed if (encoding := one.strip()) not in {"", "identity"}]


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(PAUSE_SECONDS):
            return await request.content.read(READ_BYTES)
    except TimeoutError as error:
        raise TooSlow(f"No more data of the body arrived for {PAUSE_SECONDS:g} s.") from error
    except web.RequestPayloadError as error:
        raise MalformedRequest("The body does not match its Transfer-Encoding.") from error
    except OSError as error:
        raise MalformedRequest("The connection was lost before the body was complete.") from error
