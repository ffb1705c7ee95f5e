"""Reads a form with a file as a stream. No part is in memory as a whole, and aiohttp does not limit its size.

OpenAI's library for Python sends the file last. The one for Node sends it where its caller has written it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, hdrs, web
from aiohttp.http_exceptions import BadHttpMessage

from penstock.errors import MalformedRequest, TooSlow, UnsupportedContent
from penstock.service.content import PAUSE_SECONDS, READ_BYTES

FORM = "multipart/form-data"
MOST_PARTS = 20
MOST_FIELD_BYTES = 4_096
MOST_LINES = 1_000  # before, between and after the contents of the fields
MOST_LINE_BYTES = 64 * 1024  # of these lines together
_PLAIN = frozenset({"", "7bit", "8bit", "binary"})
_MALFORMED = (ValueError, AssertionError, RuntimeError, BadHttpMessage)

R = TypeVar("R")


class Part:
    """A field of a form. Read its content before the next part."""

    def __init__(self, reader: BodyPartReader) -> None:
        self._reader = reader
        try:
            self.name = reader.name or ""
            self.filename = reader.filename
        except ValueError as error:  # an extended parameter, such as name*, that is none
            raise MalformedRequest("The Content-Disposition of a field of the form is not valid.") from error

    async def pieces(self) -> AsyncIterator[bytes]:
        while not self._reader.at_eof():
            if piece := await _checked(self._reader.read_chunk(READ_BYTES)):
                yield piece

    async def text(self) -> str:
        """Return a short text. Raises MalformedRequest if it is too long, or no UTF-8."""
        content = bytearray()
        async for piece in self.pieces():
            content += piece
            if len(content) > MOST_FIELD_BYTES:
                raise MalformedRequest(
                    f"The field {self.name!r} of the form is longer than {MOST_FIELD_BYTES:,} bytes."
                )
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise MalformedRequest(f"The field {self.name!r} of the form is not UTF-8.") from None


async def read_form(request: web.Request) -> AsyncIterator[Part]:
    """Yield the parts of a form in their order. Raises MalformedRequest, UnsupportedContent or TooSlow."""
    if request.content_type != FORM:
        raise UnsupportedContent(f"Send the file as a form, with the Content-Type {FORM}.")
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() not in {"", "identity"}:
        raise UnsupportedContent("Send the form without a Content-Encoding.")
    reader = await _checked(_reader_of(request))
    for _ in range(MOST_PARTS):
        part = await _checked(reader.next())
        if part is None:
            return
        yield _plain(part)
    raise MalformedRequest(f"The form has more than {MOST_PARTS} fields.")


def _plain(part: MultipartReader | BodyPartReader) -> Part:
    if not isinstance(part, BodyPartReader):
        raise MalformedRequest("A field of the form is a form itself. Send each field as it is.")
    encoding = part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "").lower()
    if encoding not in _PLAIN or hdrs.CONTENT_ENCODING in part.headers:
        raise MalformedRequest("A field of the form is encoded. Send each field as it is.")
    return Part(part)


class _Content:
    """The content of a form. aiohttp skips lines until the form begins, without a limit and without a pause."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content
        self._lines = 0
        self._line_bytes = 0
        self.read = content.read
        self.unread_data = content.unread_data
        self.at_eof = content.at_eof

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        line = await self._content.readline(max_line_length=max_line_length)
        self._lines += 1
        self._line_bytes += len(line)
        if self._lines > MOST_LINES or self._line_bytes > MOST_LINE_BYTES:
            raise MalformedRequest(
                f"The form has more than {MOST_LINES:,} lines or {MOST_LINE_BYTES:,} bytes outside of its fields. "
                "Begin it with the boundary that the Content-Type names."
            )
        return line


async def _reader_of(request: web.Request) -> MultipartReader:
    return MultipartReader(request.headers, cast("StreamReader", _Content(request.content)))


async def _checked(reading: Awaitable[R]) -> R:
    """Return what is read, and raise errors as our own."""
    try:
        async with asyncio.timeout(PAUSE_SECONDS):
            return await reading
    except TimeoutError as error:
        raise TooSlow(f"No more data of the form arrived for {PAUSE_SECONDS:g} s.") from error
    except web.RequestPayloadError as error:
        raise MalformedRequest("The form does not match its Transfer-Encoding.") from error
    except OSError as error:
        raise MalformedRequest("The connection was lost before the form was complete.") from error
    except _MALFORMED as error:
        raise MalformedRequest("The form is not valid. Send the file as multipart/form-data.") from error
