"""Reads server-sent events from a response, as the HTML standard defines them."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

PROGRESS, OUTCOME, END = "progress", "outcome", "end"


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a batch. `type` is progress, outcome or end; `data` is a status, or an outcome."""

    type: str
    data: Any
    id: str | None = None


async def read_events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[Event]:
    """Yield the events of a stream. Comments, which the server sends as signs of life, are skipped."""
    kind, event_id, data = "message", None, list[bytes]()
    async with aclosing(read_lines(pieces)) as lines:
        async for line in lines:
            if not line:
                if data:
                    yield Event(kind, msgspec.json.decode(b"\n".join(data)), event_id)
                kind, event_id, data = "message", None, []
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            match name:
                case b"event":
                    kind = value.decode()
                case b"id":
                    event_id = value.decode()
                case b"data":
                    data.append(value)


async def read_lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield lines of any length. The method of aiohttp fails on lines over 128 KiB, and a result may be longer."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest
