"""A request's body as it arrives: of a type and an encoding we take, piece by piece, no more than is allowed."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import hdrs, web
from pydantic_core import from_json

from penstock.errors import LimitPassed, MalformedRequest, TooSlow, UnsupportedContent
from penstock.service.keys import SETTINGS
from penstock.service.unpacking import MEMBERS, Unpacker

JSON = "application/json"
NDJSON = "application/x-ndjson"
READ_BYTES = 65_536
BODY_SECONDS = 120  # a client that sends drop by drop keeps a connection, and the memory of what it has sent
PAUSE_SECONDS = 60


def check_type(request: web.Request, taken: Collection[str]) -> None:
    if request.content_type not in taken:
        given = request.headers.get(hdrs.CONTENT_TYPE, "none")
        raise UnsupportedContent(f"Send the body as Content-Type: {' or '.join(taken)}; this request has {given}.")


async def read_content(request: web.Request, most_bytes: int) -> bytes:
    """The whole body, unpacked."""
    async with within(BODY_SECONDS):
        return b"".join([piece async for piece in Body(request, {"maxBodyBytes": most_bytes}).pieces()])


async def read_json(request: web.Request) -> Any:
    check_type(request, [JSON])
    return parse_json(await read_content(request, request.app[SETTINGS].max_body_bytes))


def parse_json(content: bytes) -> Any:
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"The body is not JSON: {error}.") from error


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raises TooSlow if the body is not here by then."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TooSlow(f"The body was not here within {seconds:g} s.") from error


class Body:
    """`limit` bounds its unpacked size, under the name that a refusal gives it."""

    def __init__(self, request: web.Request, limit: dict[str, int]) -> None:
        self.unpacked_bytes = 0
        self._packed_bytes = 0
        self._request = request
        self._limit = limit
        self._unpacker = _unpacker(request)

    @property
    def share(self) -> float:
        """How much of it was taken before the piece that is taken now; 0 while nobody knows."""
        length = self._request.content_length
        return self._packed_bytes / length if length else 0.0

    async def pieces(self) -> AsyncIterator[bytes]:
        """Small ones, unpacked."""
        while packed := await _read(self._request):
            for piece in self._unpacker.unpack(packed) if self._unpacker else (packed,):
                self._count(len(piece))
                yield piece
            self._packed_bytes += len(packed)
        if self._unpacker:
            self._unpacker.end()

    def _count(self, size: int) -> None:
        self.unpacked_bytes += size
        [most_bytes] = self._limit.values()
        if self.unpacked_bytes > most_bytes:
            raise LimitPassed(f"The body is larger than {most_bytes:,} bytes, unpacked.", limit=self._limit)


def _unpacker(request: web.Request) -> Unpacker | None:
    encoding = ", ".join(request.headers.getall(hdrs.CONTENT_ENCODING, ())).strip().lower()
    if encoding in {"", "identity"}:
        return None
    if encoding not in MEMBERS:
        raise UnsupportedContent(f"Send the body plain, or with Content-Encoding: {' or '.join(MEMBERS)}.")
    return Unpacker(encoding)


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(PAUSE_SECONDS):
            return await request.content.read(READ_BYTES)
    except TimeoutError as error:
        raise TooSlow(f"Nothing more of the body came for {PAUSE_SECONDS:g} s.") from error
    except web.RequestPayloadError as error:
        raise MalformedRequest("The body is not encoded as its Transfer-Encoding says.") from error
    except OSError as error:
        raise MalformedRequest("The connection broke before the body was here.") from error
