"""Forward operations: an operation becomes a request to an existing API, and the response becomes its outcome.

A request goes only to the configured host, and only with the headers that are set here. Redirects are not followed,
cookies are not kept, and proxies and `.netrc` files of the environment are ignored.
"""

import inspect
import io
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import aiohttp
from aiohttp import hdrs, http_exceptions
from multidict import CIMultiDict
from pydantic_core import to_json
from yarl import URL

from penstock.context import Context
from penstock.distribution import installed_version
from penstock.documents.nesting import TOO_DEEP, is_too_deep
from penstock.errors import Flaw, Misconfigured
from penstock.forwarding.answer import Answer, Received, conclude, not_answered, not_usable, read_location
from penstock.forwarding.decoding import (
    ACCEPTED,
    SLACK_BYTES,
    CutOff,
    Undecodable,
    Unsupported,
    decode,
    read_encodings,
)
from penstock.forwarding.headers import IDEMPOTENCY_KEY, AddedHeaders, check_added, check_passed, to_key_header
from penstock.forwarding.rate_limits import pause_seconds
from penstock.forwarding.upstream import REST, InvalidPath, Upstream, read_upstream, without_secrets
from penstock.interim import MOST_INTERIM, BoundedResponse, TooManyInterim
from penstock.path_pattern import starting_with
from penstock.route import InvalidOperation, Place, Policy, Route, Signature, check_route
from penstock.telemetry import Event, get_log

DEFAULT_CONNECTIONS = 10
CONNECT_SECONDS = 10.0
MOST_HEADER_BYTES = 65_536  # of a header of a response
MOST_HEADERS = 1_000  # of a response

_USER_AGENT = f"penstock/{installed_version()}"
_SIGNATURE = Signature(path_parameters={}, context_parameter="context")
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "its name could not be resolved"),
    (aiohttp.ClientConnectorSSLError, "the TLS handshake failed; the server may need http:// instead of https://"),
    (aiohttp.ServerTimeoutError, "it did not answer in time"),
    (aiohttp.ServerDisconnectedError, "it closed the connection"),
    (aiohttp.ClientPayloadError, "the response ended early"),
    (aiohttp.ClientResponseError, "the response is not valid HTTP"),
)


class Connections:
    """The connections of a process to all upstreams. The first request opens the session; leaving `open` closes it."""

    def __init__(self) -> None:
        self._for_each_host = DEFAULT_CONNECTIONS
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def open(self, for_each_host: int) -> AsyncIterator[None]:
        """Allow at most `for_each_host` connections to each host, and close all of them at the end."""
        self._for_each_host = for_each_host
        try:
            yield
        finally:
            session, self._session = self._session, None
            if session is not None:
                await session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the session, and open it if this is the first request."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._for_each_host),
                cookie_jar=aiohttp.DummyCookieJar(),  # otherwise cookies would leak between clients
                skip_auto_headers=(hdrs.CONTENT_TYPE,),  # a request without a body has no Content-Type
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),  # the runner limits the rest
                auto_decompress=False,  # it does not notice that a compressed body was cut off
                max_line_size=MOST_HEADER_BYTES,
                max_field_size=MOST_HEADER_BYTES,
                max_headers=MOST_HEADERS,
                response_class=BoundedResponse,
            )
        return self._session


@dataclass(frozen=True, slots=True)
class Forward:
    """A registered forward: its upstream, and the headers of its requests."""

    upstream: Upstream
    passed: tuple[str, ...]  # names, in lower case, of headers of the batch's request that operations carry
    added: AddedHeaders
    most_bytes: int
    connections: Connections
    limit: str | None
    pauses: dict[str, float]  # of all forwards, see `Operations`

    async def ask(self, method: str, url: URL, content: bytes | None, context: Context[Any]) -> Answer:
        """Send one request and return its verdict. `content` is the JSON body, or None for no body."""
        answer, fields = await self._ask(method, url, content, context)
        if answer.is_noteworthy:
            assert answer.error is not None
            get_log().warning(Event.UPSTREAM_FAILED, upstream=self.upstream.host, **answer.error, **fields)
        return answer

    async def _ask(
        self, method: str, url: URL, content: bytes | None, context: Context[Any]
    ) -> tuple[Answer, dict[str, str]]:
        """Do the same, and also return what only the log may contain."""
        headers = await self._headers(content, context)
        body = None if content is None else io.BytesIO(content)
        try:
            async with self.connections.session.request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                received = await self._receive(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            detail = f"The upstream could not be reached: {_reason(error)}."
            return not_answered(HTTPStatus.SERVICE_UNAVAILABLE, "Upstream unavailable", detail), {}
        except aiohttp.ClientError as error:
            return _not_read(error), {}
        except CutOff:
            return _no_response("its compressed body was cut off"), {}
        except Undecodable as error:
            return _no_response(str(error)), {}
        now = time.time()
        if self.limit is not None:
            self._note_pause(self.limit, received, now)
        location = read_location(received)
        return conclude(received, now, context.attempt), {} if location is None else {"location": location}

    def _note_pause(self, limit: str, received: Received, now: float) -> None:
        """Note until when the upstream wants no more requests, if this response was the last that it allowed."""
        seconds = pause_seconds(received.headers, now)
        if seconds:
            self.pauses[limit] = max(now + seconds, self.pauses.get(limit, 0.0))

    async def _headers(self, content: bytes | None, context: Context[Any]) -> CIMultiDict[str]:
        added = self.added
        if callable(added):
            made = added()
            added = await made if inspect.isawaitable(made) else made
        headers = CIMultiDict({hdrs.ACCEPT: "application/json, */*;q=0.1", hdrs.USER_AGENT: _USER_AGENT})
        headers.update((name, value) for name, value in context.headers.items() if name.lower() in self.passed)
        headers.update(added)
        headers[IDEMPOTENCY_KEY] = to_key_header(context.key)
        headers[hdrs.ACCEPT_ENCODING] = ACCEPTED
        if content is not None:
            headers[hdrs.CONTENT_TYPE] = "application/json"
        return headers

    async def _receive(self, response: aiohttp.ClientResponse) -> Received:
        """Read the response up to the size limit, which applies to the decompressed size.

        The rest of a larger response is not read, and its connection is closed. Raises CutOff or Undecodable.
        """
        encodings, unsupported = [], ""
        try:
            encodings = read_encodings(",".join(response.headers.getall(hdrs.CONTENT_ENCODING, ())))
        except Unsupported as error:
            unsupported = str(error)
        most_bytes = self.most_bytes + (SLACK_BYTES if encodings else 0)
        content = bytearray()
        while len(content) <= most_bytes and (piece := await response.content.readany()):
            content += piece
        if not content and _has_end(response):
            encodings = []  # an empty body is often called compressed
        decoded, is_cut = decode(bytes(content), encodings, self.most_bytes, is_cut=len(content) > most_bytes)
        return Received(
            status=response.status,
            headers=response.headers,
            media_type=response.content_type.encode("ascii", "replace").decode()[:100],
            charset=response.charset or "utf-8",
            content=b"" if unsupported else decoded,
            is_cut=is_cut and not unsupported,
            unsupported=unsupported,
        )


@dataclass(frozen=True, slots=True)
class ForwardRoute(Route):
    """A route whose handler is an upstream. Its path ends with `{path}`, which matches everything that follows."""

    forward: Forward

    is_forwarded: ClassVar[bool] = True

    def is_valid_operation(self, path: str, content: bytes) -> bool:  # noqa: ARG002 - any body is forwarded
        try:
            self._url(path)
        except InvalidPath:
            return False
        return self.method != hdrs.METH_GET

    def _url(self, path: str) -> URL:
        """Return the URL for the path of an operation. Raises InvalidPath."""
        return self.forward.upstream.target(path, rest_begins=len(self.path) - len(REST))

    def arguments(
        self,
        path: str,
        body: Any,
        content: bytes | None = None,
        *,
        shows_errors: bool = False,  # noqa: ARG002 - no validator of the application runs here
    ) -> dict[str, Any]:
        flaws: list[Flaw] = []
        url: URL | None = None
        try:
            url = self._url(path)
        except InvalidPath as error:
            flaws.append(Flaw("/path", str(error)))
        if body is not None and self.method == hdrs.METH_GET:
            flaws.append(Flaw("/body", "A GET is forwarded without a body. Put its parameters into the path."))
        if body is None:
            content = None
        elif content is None:
            content = to_json(body)
        if content is not None and is_too_deep(body, content):
            flaws.append(Flaw("/body", TOO_DEEP))
        if flaws:
            raise InvalidOperation(flaws)
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
    pauses: dict[str, float],
) -> list[ForwardRoute]:
    """Build a route for each method. Raises Misconfigured if an argument is invalid."""
    where = f"forward({path!r})"
    if not path.startswith("/") or not path.endswith("/" + REST) or path.count("{") != 1:
        raise Misconfigured(
            f"The path of {where} is invalid. Start it with / and end it with /{REST}, which matches all that follows."
        )
    check_route(where, path, policy)
    if isinstance(headers, str):
        raise Misconfigured(f"The headers of {where} are one text, {headers!r}. Pass a list of names.")
    if max_result_bytes < 1:
        raise Misconfigured(f"The max_result_bytes of {where} is {max_result_bytes}. Use at least 1.")
    try:
        upstream = read_upstream(to)
    except ValueError as error:
        raise Misconfigured(f"The URL of {where}, {without_secrets(to)!r}, is invalid: {error}.") from error
    try:
        passed = tuple(name.lower() for name in check_passed(headers))
        added = add_headers if callable(add_headers) else check_added(add_headers or {})
    except ValueError as error:
        raise Misconfigured(f"The headers of {where} are invalid: {error}.") from error
    forward = Forward(upstream, passed, added, max_result_bytes, connections, policy.limit, pauses)
    pattern = starting_with(path.removesuffix(REST))
    return [
        ForwardRoute(method, path, forward.ask, policy, _SIGNATURE, pattern, f"{method} {path}", Place.LOOP, forward)
        for method in methods
    ]


_HEADER_TOO_LARGE = not_usable(
    "Response too large",
    f"The upstream answered with a header larger than the limit of {MOST_HEADER_BYTES:,} bytes. "
    "It may have performed this operation.",
)
_TOO_MANY_HEADERS = not_usable(
    "Response too large",
    f"The upstream answered with more than {MOST_HEADERS:,} headers. It may have performed this operation.",
)


def _not_read(error: aiohttp.ClientError) -> Answer:
    """Return the verdict for a response that is too large to be read, or that is none."""
    if _is_caused_by(error, http_exceptions.LineTooLong):
        return _HEADER_TOO_LARGE
    if "Too many headers" in str(error):
        return _TOO_MANY_HEADERS
    return _no_response(_reason(error))


def _is_caused_by(error: BaseException, kind: type[Exception]) -> bool:
    """Return True if an error, or what caused it, is of this kind. aiohttp wraps the errors of its parser."""
    return isinstance(error, kind) or (error.__cause__ is not None and _is_caused_by(error.__cause__, kind))


def _no_response(reason: str) -> Answer:
    return not_answered(HTTPStatus.BAD_GATEWAY, "No response", f"The upstream sent no complete response: {reason}.")


def _has_end(response: aiohttp.ClientResponse) -> bool:
    """Return True if HTTP says where the body ends. Otherwise it ends where the connection ends."""
    return (
        response.status in {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}
        or hdrs.CONTENT_LENGTH in response.headers
        or hdrs.TRANSFER_ENCODING in response.headers
    )


def _reason(error: aiohttp.ClientError) -> str:
    """Return why there is no response, in a few words and without the URL, which may contain secrets."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why, _, _ = getattr(error.certificate_error, "verify_message", "unverified").partition(",")  # a host may follow
        return f"its certificate is invalid, {why}"
    if _is_caused_by(error, TooManyInterim):
        return f"more than {MOST_INTERIM} interim responses (1xx) came before it"
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
