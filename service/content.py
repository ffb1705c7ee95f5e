"""A request's body as it arrives: of a type and an encoding we take, piece by piece, no more than is allowed."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

from penstock.errors import LimitPassed, MalformedRequest, TooSlow, UnsupportedContent
from service.unpacking import MEMBERS, Unpacker

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
        return b"".join([piece async for piece in read_pieces(request, {"maxBodyBytes": most_bytes})])


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Raises TooSlow if the body is not here by then."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TooSlow(f"The body was not here within {seconds:g} s.") from error


async def read_pieces(request: web.Request, limit: dict[str, int]) -> AsyncIterator[bytes]:
    """The body in small pieces, unpacked. `limit` bounds its unpacked size, under the name that a refusal gives it."""
    [most_bytes] = limit.values()
    unpacker = _unpacker(request)
    total = 0
    while packed := await _read(request):
        for piece in unpacker.unpack(packed) if unpacker else (packed,):
            total += len(piece)
            if total > most_bytes:
                raise LimitPassed(f"The body is larger than {most_bytes:,} bytes, unpacked.", limit=limit)
            yield piece
    if unpacker:
        unpacker.end()


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
