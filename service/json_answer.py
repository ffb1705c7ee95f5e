"""Writes answers as JSON. Numbers that JSON cannot express, such as infinity, become null."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from pydantic_core import to_json

from penstock.service.keys import MEMORY, SHARE

WRITE_SECONDS = (
    60  # for any answer, and a second more for each of these bytes: a slow client holds the answer in memory
)
BYTES_IN_A_SECOND = 20_000


class TimedAnswer(web.Response):
    """An answer whose connection is closed if the client does not read it."""

    async def write_eof(self, data: bytes = b"") -> None:
        async with writing(self._req, self._body_bytes):
            await super().write_eof(data)

    @property
    def _body_bytes(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else 0


class BodyAnswer(TimedAnswer):
    """The same. Its body takes memory until the client has read it."""

    async def write_eof(self, data: bytes = b"") -> None:
        assert isinstance(self._req, web.Request)
        of_request = self._req.get(SHARE)
        with self._req.app[MEMORY].share() if of_request is None else of_request.another() as share:
            share.take(self._body_bytes)
            await super().write_eof(data)


@asynccontextmanager
async def writing(request: web.BaseRequest | None, size: int) -> AsyncIterator[None]:
    """Close the connection and raise ConnectionResetError if the client does not read so many bytes in time."""
    try:
        async with asyncio.timeout(WRITE_SECONDS + size / BYTES_IN_A_SECOND):
            yield
    except TimeoutError as error:
        if request is not None and request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("The client did not read the answer in time.") from error


def json_answer(
    body: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> web.Response:
    return BodyAnswer(body=encode(body), status=status, headers=headers, content_type=content_type)


def encode(body: Any) -> bytes:
    return to_json(body, inf_nan_mode="null")
