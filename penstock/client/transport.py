"""Sends requests, and sends them again as the patience allows. Answers that are errors become exceptions."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from penstock.client.errors import AnswerLost, ClientError, NotPenstock, Problem, ServerUnreachable, problem_of
from penstock.client.patience import Patience, Repeat

T = TypeVar("T")

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
EVENT_STREAM = "text/event-stream"
_ACCEPT = f"{JSON}, application/problem+json"
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
SUBMIT_TIMEOUT = aiohttp.ClientTimeout(
    total=None, sock_connect=10, sock_read=300
)  # a million operations are read first

Body = Callable[[], AsyncIterator[bytes]]
Tell = Callable[[str], None]
"""Receives a sentence for people, such as why a request is sent again."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request. `body` makes the content again for each attempt."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    body: Body | None = None
    repeat: Repeat = Repeat.ALWAYS
    timeout: aiohttp.ClientTimeout = _TIMEOUT


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no error."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def document(self) -> Any:
        """Return the content, which is JSON. Raises NotPenstock."""
        return self.read(Any)

    def read(self, kind: type[T]) -> T:
        """Return the content as an object of this type. Raises NotPenstock."""
        try:
            return msgspec.json.decode(self.content, type=kind)
        except msgspec.MsgspecError as error:
            raise NotPenstock(f"The server answered {self.status}, but not as Penstock does ({error}).") from error


class Transport:
    """The connection to a server. Use it with `async with`."""

    def __init__(self, url: str, api_key: str | None, patience: Patience, tell: Tell) -> None:
        self.url = read_url(url)
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._patience = patience
        self._tell = tell
        self._has_answered = False

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers={"Accept": _ACCEPT, **self._headers})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def url_of(self, path: str) -> str:
        return str(self.url / path)

    async def ask(self, call: Call) -> Answer:
        """Send a request until it is answered, and return the answer. Raises ClientError."""
        retrying = self.retrying(call.repeat)
        while True:
            sent_at = time.monotonic() if call.body is None else None  # to send a body may take long
            try:
                async with self.open(call) as response:
                    return Answer(response.status, response.headers, await response.read())
            except ClientError as error:
                await retrying.after(error, sent_at)

    async def download(self, call: Call, take_back: Callable[[], bool]) -> AsyncGenerator[bytes]:
        """Yield the content of an answer in pieces. Raises ClientError.

        If the connection breaks, `take_back` is called, and all pieces come again from the start. If it returns False,
        the error is final.
        """
        retrying = self.retrying(call.repeat)
        while True:
            try:
                async with self.open(call) as response:
                    async for piece in response.content.iter_any():
                        yield piece
                    return
            except ClientError as error:
                if not take_back():
                    raise
                await retrying.after(error)

    def retrying(self, repeat: Repeat = Repeat.ALWAYS) -> "Retrying":
        return Retrying(self, repeat)

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Send a request once. An error, also while the answer is read, is raised as ClientError."""
        try:
            async with self._session.request(
                call.method,
                self.url / call.path,
                params=call.query,
                headers=call.headers,
                json=call.json,
                data=None if call.body is None else call.body(),
                timeout=call.timeout,
                allow_redirects=False,
            ) as response:
                self._has_answered = True
                if response.status >= 300:
                    raise problem_of(response.status, response.headers, await response.read())
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._error_of(error) from error

    def _error_of(self, error: Exception) -> ClientError:
        match error:
            case aiohttp.ClientConnectorError() if _is_plain(error):
                return ServerUnreachable(str(self.url))
            case aiohttp.ClientConnectorError():
                return ServerUnreachable(str(self.url), str(error))
            case aiohttp.ConnectionTimeoutError():
                return ServerUnreachable(str(self.url), "timeout")
            case TimeoutError():
                return AnswerLost("The server did not answer in time.")
            case _:
                return AnswerLost(f"The connection broke before the answer was complete ({_reason(error)}).")

    async def pause(self, error: ClientError, repeat: Repeat, failures: int, waited_seconds: float) -> None:
        """Wait before the next attempt. Raise the error if there is none."""
        is_first_contact = isinstance(error, ServerUnreachable) and not self._has_answered
        pause = None if is_first_contact else self._patience.pause(error, repeat, failures, waited_seconds)
        if pause is None:
            raise error
        if failures == 1:
            self._tell(f"{error} Trying again{f' in {pause:,.0f} s' if pause >= 1 else ''}.")
        await asyncio.sleep(pause)


class Retrying:
    """The failed attempts at one request in a row."""

    def __init__(self, transport: Transport, repeat: Repeat) -> None:
        self._transport = transport
        self._repeat = repeat
        self.reset()

    def reset(self) -> None:
        """Note that an attempt has got on."""
        self._failures = 0
        self._failing_since = 0.0

    async def after(self, error: ClientError, sent_at: float | None = None) -> None:
        """Wait before the next attempt. Raise the error if there is none.

        If the server has answered with an error, it has tried since `sent_at`, and this time counts.
        """
        now = time.monotonic()
        if self._failures == 0:
            self._failing_since = sent_at if sent_at is not None and isinstance(error, Problem) else now
        self._failures += 1
        await self._transport.pause(error, self._repeat, self._failures, now - self._failing_since)


def read_url(url: str) -> URL:
    """Return the URL of a server. Raises ValueError if it is not one."""
    with suppress(ValueError):
        server = URL(url)
        if server.scheme in {"http", "https"} and server.host:
            return server
    raise ValueError(f"{url!r} should look like http://127.0.0.1:8080.")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_plain(error: aiohttp.ClientConnectorError) -> bool:
    """Return True if nothing listens there. Other reasons have to be shown: an unknown name, a certificate."""
    return not isinstance(error, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError)
