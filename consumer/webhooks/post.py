"""Sends one event to a receiver, whose address a tenant has chosen. `penstock/webhooks/urls.py` has the rules.

Each attempt opens a connection of its own. The factory of its socket sees the very address that is dialled, whether it
is written in the URL or comes from DNS. So a name that resolves to another address from one call to the next is checked
each time.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from penstock.distribution import installed_version
from penstock.forwarding.rate_limits import read_retry_after
from penstock.interim import BoundedResponse
from penstock.webhooks.schedule import Answer
from penstock.webhooks.urls import Allowed, check_url, may_dial

TIMEOUT_SECONDS = 15.0
MOST_ANSWER_BYTES = 65_536
KEPT_CHARACTERS = 2_000  # of an answer
LOOKUPS_AT_ONCE = 20
LOOKUPS_OF_TENANT = 5  # a name server of a tenant that does not answer holds no more threads
_HEADERS: Mapping[str, str] = {
    hdrs.CONTENT_TYPE: "application/json",
    hdrs.USER_AGENT: f"penstock/{installed_version()}",
    hdrs.ACCEPT_ENCODING: "identity",
}
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (aiohttp.ClientSSLError, "The TLS handshake failed."),
    (TimeoutError, f"There was no response within {TIMEOUT_SECONDS:g} s."),
    (aiohttp.ClientConnectorError, "The connection could not be opened."),
    (aiohttp.ServerDisconnectedError, "The receiver closed the connection."),
    (aiohttp.ClientResponseError, "The response is not valid HTTP."),
)
# A tenant gets the same error for both, or it could find out which names exist inside. Only operators see the text.
NO_ADDRESS = "The host has no address on the internet."
NOT_RESOLVED = Answer(error=NO_ADDRESS, text="Penstock: the name of the host could not be resolved.")
NOT_ALLOWED = Answer(error=NO_ADDRESS, text="Penstock: the address of the host is not allowed.")

Post: TypeAlias = Callable[[str, Mapping[str, str], bytes, str], Awaitable[Answer]]  # URL, headers, body, tenant


class Resolver(AbstractResolver):
    """Looks names up in threads of its own, so that slow names do not keep the AWS clients from looking up theirs."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, "webhook-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port, family)
        return [_as_result(host, *one) for one in found]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _ResolverOfTenant(AbstractResolver):
    """Looks names up for one tenant. `room` is for the lookups of this tenant that are under way."""

    resolver: AbstractResolver
    room: asyncio.Semaphore

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        await self.room.acquire()
        looking = asyncio.ensure_future(self.resolver.resolve(host, port, family))
        # A thread that looks up a name cannot be stopped. It is busy even after the attempt has timed out.
        looking.add_done_callback(lambda _: self.room.release())
        return await asyncio.shield(looking)

    async def close(self) -> None:
        """Do nothing: the resolver belongs to the poster."""


def _look_up(host: str, port: int, family: int) -> list[Any]:
    return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


def _as_result(host: str, family: int, _: int, proto: int, __: str, address: tuple[Any, ...]) -> ResolveResult:
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(
        hostname=host, host=address[0], port=address[1], family=family, proto=proto, flags=int(numeric)
    )


@dataclass(slots=True)
class _Guard:
    """Opens the sockets of one attempt. `has_refused` is True if an address was not allowed."""

    host: str
    allowed: Allowed
    has_refused: bool = False

    def open(self, address_info: Any) -> socket.socket:
        family, kind, proto, _, address = address_info
        if not may_dial(address[0], self.host, self.allowed):
            self.has_refused = True
            raise OSError(NO_ADDRESS)
        return socket.socket(family, kind, proto)


class Poster:
    def __init__(self, allowed: Allowed, resolver: AbstractResolver | None = None) -> None:
        self._allowed = allowed
        self._resolver = resolver or Resolver()
        self._rooms: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # of tenants with attempts

    async def aclose(self) -> None:
        await self._resolver.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, tenant: str) -> Answer:
        """Send an event of a tenant and return the result. A redirect is not followed."""
        try:
            checked = check_url(url, self._allowed)  # the rules may have changed since the URL was accepted
        except ValueError as error:
            return Answer(error=f"{error}.")
        guard = _Guard(checked.raw_host or "", self._allowed)
        try:
            return await self._post(checked, {**_HEADERS, **headers}, body, guard, self._resolver_of(tenant))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return NOT_ALLOWED if guard.has_refused else _failed(error)

    def _resolver_of(self, tenant: str) -> AbstractResolver:
        room = self._rooms.setdefault(tenant, asyncio.Semaphore(LOOKUPS_OF_TENANT))
        return _ResolverOfTenant(self._resolver, room)

    async def _post(
        self, url: URL, headers: Mapping[str, str], body: bytes, guard: _Guard, resolver: AbstractResolver
    ) -> Answer:
        connector = aiohttp.TCPConnector(
            socket_factory=guard.open, resolver=resolver, use_dns_cache=False, force_close=True
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
                auto_decompress=False,
                response_class=BoundedResponse,
            ) as session,
            session.post(url, headers=headers, data=body, allow_redirects=False) as response,
        ):
            asked = read_retry_after(response.headers.get(hdrs.RETRY_AFTER), time.time())
            return Answer(response.status, retry_after=asked, text=await _beginning(response))


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """Return the beginning of an answer. Its status counts even if the rest does not arrive."""
    content = b""
    with suppress(aiohttp.ClientError, OSError):
        while len(content) < MOST_ANSWER_BYTES:
            piece = await response.content.read(MOST_ANSWER_BYTES - len(content))
            if not piece:
                break
            content += piece
    return content.decode("utf-8", "replace")[:KEPT_CHARACTERS]


def _failed(error: BaseException) -> Answer:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return NOT_RESOLVED
    return Answer(error=next((reason for kind, reason in _REASONS if isinstance(error, kind)), "The request failed."))
