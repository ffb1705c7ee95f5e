"""A client of server-sent events that reads a stream strictly as the HTML standard interprets it."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from pydantic_core import from_json

_LINE = re.compile(
    rb"([^\r\n]*+)(?:\r\n|\n|\r(?=.))", re.DOTALL
)  # whether a CR ends a line is known with the next byte


@dataclass(frozen=True, slots=True)
class ServerEvent:
    kind: str
    data: str
    last_event_id: str

    @property
    def body(self) -> Any:
        return from_json(self.data)


class EventParser:
    """Makes events of bytes, however they are cut. An event that is not complete is never dispatched."""

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self.comments: list[str] = []
        self._bytes = b""
        self._id = last_event_id
        self._kind = ""
        self._data: list[str] = []

    def feed(self, received: bytes) -> list[ServerEvent]:
        return [event for line in self._lines(received) if (event := self._process(line)) is not None]

    def _lines(self, received: bytes) -> Iterator[str]:
        self._bytes += received
        while (match := _LINE.match(self._bytes)) is not None:
            self._bytes = self._bytes[match.end() :]
            yield match[1].decode()

    def _process(self, line: str) -> ServerEvent | None:
        if line == "":
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                self.comments.append(value)
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdecimal():
                self.retry = int(value)
        return None

    def _dispatch(self) -> ServerEvent | None:
        self.last_event_id = self._id
        kind, data = self._kind or "message", "\n".join(self._data)
        has_data = bool(self._data)
        self._kind, self._data = "", []
        return ServerEvent(kind, data, self.last_event_id) if has_data else None


class EventStream:
    """One connection to an address. It sends the id of the last event that an earlier connection has received."""

    def __init__(self, request: Any, last_event_id: str = "") -> None:
        """Create a connection. `request` is what `session.get(...)` returns for the headers `headers_after`."""
        self.parser = EventParser(last_event_id)
        self._request = request
        self._waiting: deque[ServerEvent] = deque()
        self.answer: aiohttp.ClientResponse

    async def __aenter__(self) -> Self:
        self.answer = await self._request.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answer.close()
        await self._request.__aexit__(kind, error, trace)

    async def next(self) -> ServerEvent:
        """Return the next event."""
        event = await self.next_or_none()
        assert event is not None, "the server has ended the stream"
        return event

    async def next_or_none(self) -> ServerEvent | None:
        """Return the next event, or None if the server has ended the stream."""
        while not self._waiting:
            received = await self.answer.content.readany()
            if not received:
                return None
            self._waiting.extend(self.parser.feed(received))
        return self._waiting.popleft()

    async def until_comment(self) -> str:
        """Return the next comment. There must be no event before it."""
        while not self.parser.comments:
            received = await self.answer.content.readany()
            assert received, "the server has ended the stream"
            events = self.parser.feed(received)
            assert not events, events
        return self.parser.comments.pop(0)

    async def rest(self) -> list[ServerEvent]:
        """Return all events up to the end of the stream."""
        events = []
        while (event := await self.next_or_none()) is not None:
            events.append(event)
        return events


def headers_after(last_event_id: str) -> dict[str, str]:
    return {"Accept": "text/event-stream", **({"Last-Event-ID": last_event_id} if last_event_id else {})}
