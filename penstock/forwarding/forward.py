"""Forwarding: an operation becomes a request to an existing API, and the answer its outcome.

Redirects are not followed, cookies are not kept, and no proxy and no `.netrc` of the environment is looked at: a
request goes to the configured host, with what is said here, or not at all.
"""

import inspect
import io
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, ClassVar

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from pydantic_core import to_json
from yarl import URL

from penstock.context import Context
from penstock.errors import Flaw, Misconfigured
from penstock.forwarding.answer import Answer, Received, conclude, not_answered
from penstock.forwarding.headers import IDEMPOTENCY_KEY, check_added, check_passed, to_key_header
from penstock.forwarding.upstream import REST, InvalidPath, Upstream, read_upstream, without_secrets
from penstock.route import InvalidOperation, Place, Policy, Route, Signature, check_route

DEFAULT_RESULT_BYTES = 262_144
DEFAULT_CONNECTIONS = 10
CONNECT_SECONDS = 10.0

# What an application adds to every request: headers, or who makes them anew for each, such as a token that expires.
AddedHeaders = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

_USER_AGENT = f"penstock/{version('penstock')}"
_SIGNATURE = Signature(path_parameters={}, context_parameter="context")
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "its name could not be resolved"),
    (aiohttp.ClientConnectorSSLError, "TLS could not be agreed on; it may speak http:// instead of https://"),
    (aiohttp.ServerTimeoutError, "it did not answer in time"),
    (aiohttp.ServerDisconnectedError, "it closed the connection"),
    (aiohttp.ClientPayloadError, "it broke off in the middle"),
    (aiohttp.ClientResponseError, "what it sent is not HTTP"),
)


class Connections:
    """To all upstreams of a process: opened with the first request, kept for the next, closed at the end of `open`."""

    def __init__(self) -> None:
        self._for_each_host = DEFAULT_CONNECTIONS
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def open(self, for_each_host: int) -> AsyncIterator[None]:
        self._for_each_host = for_each_host
        try:
            yield
        finally:
            session, self._session = self._session, None
            if session is not None:
                await session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._for_each_host),
                cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies would go along with another's operations
                skip_auto_headers=(hdrs.CONTENT_TYPE,),  # where there is no body, nothing is said of one
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),  # the rest is the runner's
            )
        return self._session


@dataclass(frozen=True, slots=True)
class Forward:
    """What was registered: where to, and what goes along."""

    upstream: Upstream
    passed: tuple[str, ...]  # headers of the batch's request that go along
    added: AddedHeaders
    most_bytes: int
    connections: Connections

    async def ask(self, method: str, url: URL, content: bytes | None, context: Context[Any]) -> Answer:
        headers = await self._headers(content, context)
        body = None if content is None else io.BytesIO(content)
        try:
            async with self.connections.session.request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                received = await self._receive(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            detail = f"{self.upstream.host} could not be reached: {_reason(error)}."
            return not_answered(HTTPStatus.SERVICE_UNAVAILABLE, "Not reached", detail)
        except aiohttp.ClientError as error:
            detail = f"{self.upstream.host} gave no whole answer: {_reason(error)}."
            return not_answered(HTTPStatus.BAD_GATEWAY, "Not answered", detail)
        return conclude(received, time.time())

    async def _headers(self, content: bytes | None, context: Context[Any]) -> CIMultiDict[str]:
        added = self.added
        if callable(added):
            made = added()
            added = await made if inspect.isawaitable(made) else made
        headers = CIMultiDict({hdrs.ACCEPT: "application/json, */*;q=0.1", hdrs.USER_AGENT: _USER_AGENT})
        headers.update((name, value) for name, value in context.headers.items() if name.lower() in self.passed)
        headers.update(added)
        headers[IDEMPOTENCY_KEY] = to_key_header(context.key)
        if content is not None:
            headers[hdrs.CONTENT_TYPE] = "application/json"
        return headers

    async def _receive(self, response: aiohttp.ClientResponse) -> Received:
        """No more of it than is kept, however well it is packed; the rest is left, and the connection with it."""
        content = bytearray()
        while len(content) <= self.most_bytes and (piece := await response.content.readany()):
            content += piece
        return Received(
            host=self.upstream.host,
            status=response.status,
            headers=response.headers,
            media_type=response.content_type.encode("ascii", "replace").decode()[:100],
            charset=response.charset or "utf-8",
            content=bytes(content[: self.most_bytes]),
            is_cut=len(content) > self.most_bytes,
        )


@dataclass(frozen=True, slots=True)
class ForwardRoute(Route):
    """A route whose path ends with all that follows its last slash, and whose handler is an upstream."""

    forward: Forward

    is_forwarded: ClassVar[bool] = True

    def arguments(self, path: str, body: Any, content: bytes | None = None) -> dict[str, Any]:
        flaws: list[Flaw] = []
        url: URL | None = None
        try:
            url = self.forward.upstream.target(path, rest_begins=len(self.path) - len(REST))
        except InvalidPath as error:
            flaws.append(Flaw("/path", str(error)))
        if body is not None and self.method == hdrs.METH_GET:
            flaws.append(Flaw("/body", "A GET is forwarded without a body; what it asks for stands in its path."))
        if flaws:
            raise InvalidOperation(flaws)
        if body is None:
            content = None
        elif content is None:
            content = to_json(body)
        return {"method": self.method, "url": url, "content": content}


def build_forward_routes(
    path: str,
    *,
    to: str,
    methods: Iterable[str],
    policy: Policy,
    headers: Iterable[str],
    add_headers: AddedHeaders | None,
    max_result_bytes: int,
    connections: Connections,
) -> list[ForwardRoute]:
    """A route for each method. Raises Misconfigured when the forward cannot be used as it is written."""
    where = f"forward({path!r})"
    if not path.startswith("/") or not path.endswith("/" + REST) or path.count("{") != 1:
        raise Misconfigured(f"End the path of {where} with /{REST}, which takes all that follows, and begin it with /.")
    check_route(where, path, policy)
    if isinstance(headers, str):
        raise Misconfigured(f"Give {where} its headers as a list of names, not as one text, {headers!r}.")
    if max_result_bytes < 1:
        raise Misconfigured(f"Give {where} a max_result_bytes of at least 1, not {max_result_bytes}.")
    try:
        upstream = read_upstream(to)
    except ValueError as error:
        raise Misconfigured(f"Mend the URL of {where}, {without_secrets(to)!r}: {error}.") from error
    try:
        passed = tuple(name.lower() for name in check_passed(headers))
        added = add_headers if callable(add_headers) else check_added(add_headers or {})
    except ValueError as error:
        raise Misconfigured(f"Mend the headers of {where}: {error}.") from error
    forward = Forward(upstream, passed, added, max_result_bytes, connections)
    pattern = re.compile(re.escape(path.removesuffix(REST)) + ".*", re.DOTALL)
    return [
        ForwardRoute(method, path, forward.ask, policy, _SIGNATURE, pattern, f"{method} {path}", Place.LOOP, forward)
        for method in methods
    ]


def _reason(error: aiohttp.ClientError) -> str:
    """Why there is no answer, in a few words, without what was asked for."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate was refused, {getattr(error.certificate_error, 'verify_message', 'unverified')}"
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
