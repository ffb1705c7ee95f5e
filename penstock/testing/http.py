"""HTTP without sockets: a request is passed to the aiohttp application as aiohttp's server would pass it."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from aiohttp import HttpVersion, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def content_type(self) -> str:
        return self.headers["Content-Type"].partition(";")[0]

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.content.splitlines()]


@dataclass
class _Paper(AbstractStreamWriter):
    """Records the answer."""

    content: bytearray = field(default_factory=bytearray)
    buffer_size = 0
    output_size = 0
    length = None

    async def write(self, chunk: Any) -> None:
        self.content += chunk

    async def write_eof(self, chunk: bytes = b"") -> None:
        self.content += chunk

    async def drain(self) -> None: ...

    def enable_compression(self, *_arguments: Any, **_options: Any) -> None: ...

    def enable_chunking(self) -> None: ...

    async def write_headers(self, *_arguments: Any) -> None: ...


class _Connection(asyncio.Transport):
    """The connection to the client. It is closing from the start, so that a stream of events ends: nobody reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_broken = False

    def abort(self) -> None:
        self.is_broken = True

    def is_closing(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


async def ask(
    app: web.Application, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a request to `app`, which must be frozen. Call this in the process that serves it.

    Raises ConnectionResetError if the application breaks the connection, because it cannot finish its answer.
    """
    paper, connection = _Paper(), _Connection()
    protocol = SimpleNamespace(ssl_context=None, peername=None, sockname=None, transport=connection, writer=paper)
    response = await app._handle(_request(method, path, body, headers or {}, protocol))  # noqa: SLF001 - no public way in
    if connection.is_broken:
        raise ConnectionResetError(f"The answer to {method} {path} broke off after {len(paper.content):,} bytes.")
    if isinstance(response, web.Response) and not response.prepared:
        content = response.body if isinstance(response.body, bytes) else b""
    else:
        content = bytes(paper.content)
    return Answer(response.status, dict(response.headers), content)


def _request(method: str, path: str, body: Any, headers: Mapping[str, str], protocol: Any) -> web.Request:
    loop = asyncio.get_running_loop()
    content = b"" if body is None else json.dumps(body).encode()
    fields = CIMultiDict(
        {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    )
    message = RawRequestMessage(
        method,
        path,
        HttpVersion(1, 1),
        CIMultiDictProxy(fields),
        tuple((name.encode(), value.encode()) for name, value in fields.items()),
        should_close=False,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL(path),
    )
    payload = StreamReader(BaseProtocol(loop), 2**26, loop=loop)
    payload.feed_data(content)
    payload.feed_eof()
    task: Any = asyncio.current_task()
    return web.Request(message, payload, protocol, protocol.writer, task, loop, client_max_size=2**26)
