"""An event goes to the address that the rules allow, in one request, and little of the answer is read."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from penstock.consumer.webhooks import post as module
from penstock.consumer.webhooks.post import KEPT_CHARACTERS, NOT_ALLOWED, Poster
from penstock.webhooks.schedule import Answer
from penstock.webhooks.urls import Allowed
from tests.support.programs import free_port

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LOCAL = Allowed.parse("127.0.0.1")


class Names(AbstractResolver):
    """A stub of DNS: each look-up of a name returns the next of its addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self.addresses.pop(0)
        version = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=version, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


async def post(url: str, allowed: Allowed = LOCAL, names: AbstractResolver | None = None) -> Answer:
    poster = Poster(allowed, names)
    try:
        return await poster.post(url, {"webhook-id": "evt_1"}, b'{"a":1}', "default")
    finally:
        await poster.aclose()


async def test_event_is_one_request_without_anything_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    seen: list[tuple[Any, ...]] = []

    async def note(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        return web.Response(text="thanks", headers={"Retry-After": "7", "Set-Cookie": "a=b"})

    async with listening(note) as port:
        answer = await post(f"http://127.0.0.1:{port}/hook?token=a%2Fb")
    [(method, path, headers, body)] = seen
    assert (method, path, body) == ("POST", "/hook?token=a%2Fb", b'{"a":1}')
    assert (headers["Content-Type"], headers["webhook-id"]) == ("application/json", "evt_1")
    assert answer == Answer(200, retry_after=7, text="thanks")


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data/", "/elsewhere"])
async def test_redirect_is_not_followed(target: str) -> None:
    paths = []

    async def redirect(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": target})

    async with listening(redirect) as port:
        assert (await post(f"http://127.0.0.1:{port}/hook")).status == 307
    assert paths == ["/hook"]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1%lo", "64:ff9b::7f00:1"]
)
async def test_name_that_resolves_to_an_address_inside_is_not_dialled(address: str) -> None:
    answer = await post("https://receiver.example/", Allowed(), Names(address))
    assert answer == NOT_ALLOWED


async def test_tenant_cannot_tell_a_name_inside_from_one_that_does_not_exist() -> None:
    class NoNames(Names):
        async def resolve(self, *_: Any, **__: Any) -> list[ResolveResult]:
            raise OSError("Name or service not known")

    unknown = await post("https://receiver.example/", Allowed(), NoNames())
    inside = await post("https://receiver.example/", Allowed(), Names("10.0.0.1"))
    assert unknown.error == inside.error == "The host has no address on the internet."
    assert unknown.text != inside.text  # only operators see it


async def test_name_that_resolves_to_another_address_the_next_time_is_checked_again() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    async with listening(answer) as port:
        allowed, names = Allowed.parse("127.0.0.1"), Names("127.0.0.1", "127.0.0.2")
        # The rules for the URL let no such port pass for a name, so only the check of the address is asked here.
        poster = Poster(allowed, names)
        for expected in (Answer(200), NOT_ALLOWED):
            guarded = URL(f"http://rebinding.example:{port}/")
            guard = module._Guard("rebinding.example", allowed)
            try:
                assert await poster._post(guarded, {}, b"", guard, names) == expected
            except OSError:
                assert guard.has_refused
                assert expected == NOT_ALLOWED


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0x7f.1"])
async def test_factory_sees_addresses_in_the_url_as_well(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(module, "check_url", lambda text, _: URL(text))
    assert await post(f"https://{host}/", Allowed()) == NOT_ALLOWED


async def test_url_that_is_not_allowed_any_more_is_not_used() -> None:
    assert await post("http://127.0.0.1:9/", Allowed()) == Answer(
        error="Events are not sent to this address, because it is not an address of the internet."
    )


async def test_little_of_an_endless_answer_is_read_and_its_status_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 100_000)
            written += 100_000

    async with listening(endless) as port:
        answer = await post(f"http://127.0.0.1:{port}/")
    assert (answer.status, answer.text) == (500, "x" * KEPT_CHARACTERS)
    assert written < 20_000_000


async def test_silent_receiver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)

    is_over = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await is_over.wait()
        return web.Response()

    async with listening(silent) as port:
        answer = await post(f"http://127.0.0.1:{port}/")
        is_over.set()
    assert answer.status is None
    assert "no response within" in str(answer.error)


async def test_failure_is_a_sentence_without_the_url() -> None:
    closed = await post(f"http://127.0.0.1:{free_port()}/?token=1")
    assert closed == Answer(error="The connection could not be opened.")
    plain = await _not_http()
    assert plain == Answer(error="The response is not valid HTTP.")


async def test_answers_before_the_answer_are_few() -> None:
    """Each costs the receiver a few bytes, and the consumer some microseconds of its event loop."""
    is_closed = asyncio.Event()

    async def continue_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
                await writer.drain()
        is_closed.set()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(continue_for_ever, "127.0.0.1", port):
        async with asyncio.timeout(module.TIMEOUT_SECONDS / 2):
            assert await post(f"http://127.0.0.1:{port}/") == Answer(error="The response is not valid HTTP.")
        await is_closed.wait()


async def _not_http() -> Answer:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(babble, "127.0.0.1", port):
        return await post(f"http://127.0.0.1:{port}/?token=1")


async def test_slow_names_of_a_tenant_leave_threads_for_the_names_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup goes on after its attempt has timed out, because its thread cannot be stopped."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    looking: list[str] = []
    is_over = asyncio.Event()

    class SlowNames(Names):
        async def resolve(self, host: str, *_: Any, **__: Any) -> list[ResolveResult]:
            looking.append(host)
            await is_over.wait()
            raise OSError("Name or service not known")

    poster = Poster(Allowed(), SlowNames())
    for _ in range(3):
        posts = (poster.post("https://slow.example/", {}, b"", "slow") for _ in range(module.LOOKUPS_OF_TENANT))
        assert all(answer.error for answer in await asyncio.gather(*posts))
    await poster.post("https://another.example/", {}, b"", "another")
    assert Counter(looking) == {"slow.example": module.LOOKUPS_OF_TENANT, "another.example": 1}
    is_over.set()
    monkeypatch.undo()
    assert await poster.post("https://slow.example/", {}, b"", "slow") == module.NOT_RESOLVED
    await poster.aclose()


async def test_names_are_looked_up_in_threads_of_their_own() -> None:
    resolver = module.Resolver()
    found = await resolver.resolve("127.0.0.1", 443, socket.AF_INET)
    assert (found[0]["host"], found[0]["port"]) == ("127.0.0.1", 443)
    await resolver.close()
