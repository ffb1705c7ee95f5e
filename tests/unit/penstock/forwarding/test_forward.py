"""Forwarded operations as an existing API meets them, and what its answers come to. Servers are real, on loopback."""

import asyncio
import gzip
import json
import os
import random
import socket
import ssl
import sys
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
import structlog
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from penstock import Operations, zstd
from penstock.chunk import Chunk, Operation
from penstock.errors import Misconfigured
from penstock.outcome import Outcome, TryAgain, Verdict, as_outcome, result_value
from penstock.route import InvalidOperation
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from tests.support.attempts import run_one
from tests.support.upstream import ToyUpstream, toy_upstream
from tests.support.waiting import eventually

SOURCE = Source("01J", "01J")


@pytest.fixture
async def upstream() -> AsyncIterator[ToyUpstream]:
    async with toy_upstream() as toy:
        yield toy


@pytest.fixture
async def stranger() -> AsyncIterator[ToyUpstream]:
    """Another server, which nothing is to be asked of."""
    async with toy_upstream() as toy:
        yield toy
    assert toy.targets == []


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@asynccontextmanager
async def forwarding(to: str, path: str = "/{path}", **options: Any) -> AsyncIterator[Operations[Any]]:
    operations: Operations[Any] = Operations()
    operations.forward(path, to=to, **options)
    async with operations.connections(4):
        yield operations


async def perform(
    operations: Operations[Any],
    path: str,
    method: str = "POST",
    *,
    body: Any = None,
    source: Source = SOURCE,
) -> Verdict:
    return await run_one(Runner(operations, 1), Operation(7, "7", method, path, body), source, 1)


def passing(verdict: Verdict) -> Outcome:
    """The failure of a verdict after which it is tried again."""
    assert isinstance(verdict, TryAgain), verdict
    return verdict.failure


def final(verdict: Verdict) -> Outcome:
    assert isinstance(verdict, Outcome), verdict
    return verdict


def detail(outcome: Outcome) -> str:
    assert outcome.error is not None
    return str(outcome.error["detail"])


# --- What is asked


async def test_operation_becomes_a_request_with_method_path_query_and_body(upstream: ToyUpstream) -> None:
    async with forwarding(upstream.url) as operations:
        outcome = final(await perform(operations, "/api/users?x=1&y=a%20b", "PATCH", body={"name": "Zoë", "n": 1}))

    [asked] = upstream.requests
    assert (asked.method, asked.target) == ("PATCH", "/api/users?x=1&y=a%20b")
    assert asked.body == {"name": "Zoë", "n": 1}
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Idempotency-Key"] == '"01J/7"'
    assert asked.headers["Host"] == upstream.host
    assert asked.headers["User-Agent"].startswith("penstock/")
    assert (outcome.index, outcome.id, outcome.status) == (7, "7", 200)
    assert outcome.result == {"asked": "/api/users?x=1&y=a%20b"}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_operation_without_a_body_sends_none(upstream: ToyUpstream, method: str) -> None:
    async with forwarding(upstream.url) as operations:
        final(await perform(operations, "/x", method))

    [asked] = upstream.requests
    assert (asked.method, asked.content) == (method, b"")
    assert "Content-Type" not in asked.headers


@pytest.mark.parametrize(
    ("path", "to", "target"),
    [
        ("/{path}", "", "/api/v1/users"),
        ("/api/{path}", "", "/api/v1/users"),
        ("/api/{path}", "/internal", "/internal/api/v1/users"),
        ("/api/{path}", "/internal/{path}", "/internal/v1/users"),
        ("/api/v1/{path}", "/{path}", "/users"),
    ],
)
async def test_path_is_kept_or_its_beginning_replaced(upstream: ToyUpstream, path: str, to: str, target: str) -> None:
    async with forwarding(upstream.url + to, path) as operations:
        final(await perform(operations, "/api/v1/users"))
    assert upstream.targets == [target]


async def test_key_is_that_of_the_operation_at_every_attempt(upstream: ToyUpstream) -> None:
    async with forwarding(upstream.url) as operations:
        runner = Runner(operations, 1)
        for attempt in (1, 2):
            await run_one(runner, Operation(0, 'ä"', "POST", "/broken", None), SOURCE, attempt)
    assert [asked.headers["Idempotency-Key"] for asked in upstream.requests] == [r'"01J/%C3%A4\""'] * 2


# --- Only the configured host

NEVER_ASKED = [
    "//{stranger}/x",
    "///{stranger}/x",
    "//user@{stranger}/x",
    "http://{stranger}/x",
    "@{stranger}/x",
    ":x@{stranger}/x",
    ".{stranger}/x",
    "\\\\{stranger}\\x",
    "/\\{stranger}/x",
    "/api\\@{stranger}/x",
    "/api/../../{stranger}",
    "/api/%2e%2e/x",
    "/api/..;/x",
    "/api/x\r\nHost: {stranger}\r\n\r\n",
    "/api/x HTTP/1.1\r\nHost: {stranger}\r\n\r\nGET /x",
    "/api/x\0{stranger}",
    "/api/x#@{stranger}",
    "/api/x\t@{stranger}",
    "/api/%0d%0aHost:%20{stranger}",
    "/api/x?q=\r\nHost: {stranger}",
]
ASKED_OF_THE_UPSTREAM = [
    "/@{stranger}/x",
    "/user:secret@{stranger}/x",
    "/http://{stranger}/x",
    "/api//{stranger}/x",
    "/api/%2F%2F{stranger}/x",
    "/%2F{stranger}/x",
    "/%5C{stranger}/x",
    "/:80@{stranger}",
    "/?url=http://{stranger}/x",
    "/x?//{stranger}",
]


@pytest.mark.parametrize("path", NEVER_ASKED)
async def test_path_that_could_name_another_host_is_asked_of_nobody(
    upstream: ToyUpstream, stranger: ToyUpstream, path: str
) -> None:
    async with forwarding(upstream.url) as operations:
        outcome = final(await perform(operations, path.format(stranger=stranger.host), "GET"))
    # No operation has a path that does not begin with a slash.
    assert (outcome.status, outcome.rejected) == (422 if path.startswith("/") else 404, True)
    assert upstream.requests == []


@pytest.mark.parametrize("path", ASKED_OF_THE_UPSTREAM)
async def test_path_is_never_more_than_a_path(upstream: ToyUpstream, stranger: ToyUpstream, path: str) -> None:
    target = path.format(stranger=stranger.host)
    async with forwarding(upstream.url) as operations:
        final(await perform(operations, target, "GET"))
    [asked] = upstream.requests
    assert (asked.target, asked.headers["Host"]) == (target, upstream.host)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(
    upstream: ToyUpstream, stranger: ToyUpstream, status: int, log: list[Any]
) -> None:
    location = f"{stranger.url}/x?token=secret"
    upstream.answers["away"] = lambda _: web.Response(status=status, headers={"Location": location})
    async with forwarding(upstream.url) as operations:
        outcome = final(await perform(operations, "/away"))
    assert outcome.status == 502
    assert detail(outcome) == (f"The upstream answered {status}, a redirect. Penstock does not follow redirects.")
    [line] = log
    assert (line["event"], line["upstream"], line["location"]) == (
        "upstream failed",
        upstream.host,
        f"{stranger.url}/x",
    )


async def test_proxy_of_the_environment_is_not_used(
    upstream: ToyUpstream, stranger: ToyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, stranger.url)
    async with forwarding(upstream.url) as operations:
        final(await perform(operations, "/x"))
    assert upstream.targets == ["/x"]


# --- Headers


async def test_headers_of_the_batch_go_along_where_they_are_asked_for(upstream: ToyUpstream) -> None:
    source = Source("01J", "01J", headers={"accept-language": "de", "authorization": "Bearer theirs", "x-other": "1"})
    async with forwarding(upstream.url, headers=["Accept-Language", "AUTHORIZATION"]) as operations:
        assert operations.passed_headers == {"accept-language", "authorization"}
        final(await perform(operations, "/x", source=source))
    [asked] = upstream.requests
    assert (asked.headers["Accept-Language"], asked.headers["Authorization"]) == ("de", "Bearer theirs")
    assert "X-Other" not in asked.headers


async def test_added_headers_go_along_and_come_before_those_of_the_batch(upstream: ToyUpstream) -> None:
    source = Source("01J", "01J", headers={"authorization": "Bearer theirs"})
    added = {"AUTHORIZATION": "Bearer ours", "User-Agent": "shop", "Accept": "text/plain", "Host": "inside.example"}
    async with forwarding(upstream.url, headers=["Authorization"], add_headers=added) as operations:
        final(await perform(operations, "/x", source=source))
    [asked] = upstream.requests
    assert {name: asked.headers[name] for name in added} == added


async def token_later() -> dict[str, str]:
    await asyncio.sleep(0)
    return {"Authorization": "Bearer fresh"}


@pytest.mark.parametrize("make", [token_later, lambda: {"Authorization": "Bearer fresh"}])
async def test_added_headers_can_be_made_for_each_request(upstream: ToyUpstream, make: Callable[[], Any]) -> None:
    async with forwarding(upstream.url, add_headers=make) as operations:
        final(await perform(operations, "/x"))
    assert upstream.requests[0].headers["Authorization"] == "Bearer fresh"


async def test_headers_that_cannot_be_made_are_a_failure_that_may_pass(upstream: ToyUpstream) -> None:
    def make() -> dict[str, str]:
        raise ConnectionError("The vault is closed.")

    async with forwarding(upstream.url, add_headers=make) as operations:
        outcome = passing(await perform(operations, "/x"))
    assert (outcome.status, detail(outcome)) == (500, "ConnectionError: The vault is closed.")
    assert upstream.requests == []


async def test_cookies_are_not_kept(upstream: ToyUpstream) -> None:
    upstream.answers["login"] = lambda _: web.Response(headers={"Set-Cookie": "session=theirs; Path=/"})
    async with forwarding(upstream.url) as operations:
        final(await perform(operations, "/login"))
        final(await perform(operations, "/x"))
    assert "Cookie" not in upstream.requests[1].headers


# --- What comes back


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/missing", 404, {"type": "about:blank", "title": "No such thing", "detail": "It is not here."}),
        ("/taken", 409, {"title": "Conflict", "body": {"error": "taken"}}),
        ("/garbage", 502, {"title": "Unreadable response"}),
    ],
)
async def test_final_failure_tells_what_the_upstream_said(
    upstream: ToyUpstream, path: str, status: int, error: dict[str, Any]
) -> None:
    async with forwarding(upstream.url) as operations:
        outcome = final(await perform(operations, path))
    assert outcome.status == status
    assert outcome.error is not None
    assert error.items() <= outcome.error.items()


async def test_success_keeps_its_status_and_what_it_says(upstream: ToyUpstream) -> None:
    async with forwarding(upstream.url) as operations:
        created = final(await perform(operations, "/create", body=[1]))
        empty = final(await perform(operations, "/empty", "DELETE"))
    assert (created.status, created.result) == (201, {"made": [1]})
    assert (empty.status, empty.result) == (204, None)


async def test_what_may_pass_is_tried_again_when_the_upstream_asks_for_it(upstream: ToyUpstream) -> None:
    upstream.answers["busy"] = lambda _: web.Response(status=429, headers={"Retry-After": "7"})
    async with forwarding(upstream.url, max_attempts=5) as operations:
        busy = await perform(operations, "/busy")
        broken = await perform(operations, "/broken")
    assert isinstance(busy, TryAgain)
    assert (busy.failure.status, busy.max_attempts, busy.after_seconds) == (429, 5, 7)
    assert isinstance(broken, TryAgain)
    assert (broken.failure.error, broken.after_seconds) == (
        {"title": "Internal Server Error", "detail": "It is broken."},
        None,
    )


async def test_success_that_was_the_last_one_allowed_pauses_the_limit(upstream: ToyUpstream) -> None:
    def answer(request: web.Request) -> web.Response:
        left, wait = request.query_string.split(",")
        return web.Response(headers={"RateLimit": f'"default";r={left};t={wait}'})

    upstream.answers["limited"] = answer
    async with forwarding(upstream.url, limit="stripe") as operations:
        await perform(operations, "/limited?1,60")
        assert operations.pauses == {}
        before = time.time()
        assert final(await perform(operations, "/limited?0,60")).status == 200
        await perform(operations, "/limited?0,30")
        assert before + 60 <= operations.pauses["stripe"] <= time.time() + 60

    async with forwarding(upstream.url) as without_limit:
        await perform(without_limit, "/limited?0,60")
        assert without_limit.pauses == {}


@pytest.mark.parametrize("is_packed", [False, True])
async def test_no_more_is_read_than_is_kept(upstream: ToyUpstream, *, is_packed: bool) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/json"
        piece = b" " * 1_000_000
        if is_packed:
            response.headers["Content-Encoding"] = "gzip"
            piece = gzip.compress(piece * 50)
        await response.prepare(request)
        for _ in range(200):
            await response.write(piece)
        return response

    upstream.answers["large"] = answer
    async with forwarding(upstream.url, max_result_bytes=1_000) as operations:
        outcome = final(await perform(operations, "/large"))
    assert (outcome.status, outcome.error and outcome.error["title"]) == (502, "Response too large")
    assert "larger than the limit of 1,000 bytes" in detail(outcome)


@pytest.mark.parametrize(("size", "status"), [(1_000, 200), (1_001, 502)])
async def test_bound_itself_is_kept(upstream: ToyUpstream, size: int, status: int) -> None:
    upstream.answers["exact"] = lambda _: web.Response(text="x" * size)
    async with forwarding(upstream.url, max_result_bytes=1_000) as operations:
        assert final(await perform(operations, "/exact")).status == status


async def test_packed_answer_is_unpacked(upstream: ToyUpstream) -> None:
    packed = web.Response(body=gzip.compress(b'{"a":1}'), content_type="application/json")
    packed.headers["Content-Encoding"] = "gzip"
    upstream.answers["packed"] = lambda _: packed
    async with forwarding(upstream.url) as operations:
        assert final(await perform(operations, "/packed")).result == {"a": 1}


def deflate(content: bytes) -> bytes:
    """Return raw deflate data, as some servers send it."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


def members(content: bytes) -> bytes:
    return gzip.compress(content[:5]) + gzip.compress(content[5:])


PACKED = b'{"name": "' + random.Random(1).randbytes(300).hex().encode() + b'"}'
ENCODINGS: list[tuple[str, bytes]] = [
    ("gzip", gzip.compress(PACKED)),
    ("x-gzip", gzip.compress(PACKED)),
    ("GZip", members(PACKED)),
    ("deflate", zlib.compress(PACKED)),
    ("deflate", deflate(PACKED)),
    ("br", brotli.compress(PACKED, quality=1)),
    ("zstd", zstd.compress(PACKED)),
    ("gzip, gzip", gzip.compress(gzip.compress(PACKED))),
    ("gzip, zstd", zstd.compress(gzip.compress(PACKED))),
    ("identity, deflate,gzip", gzip.compress(zlib.compress(PACKED))),
    ("utf-8", PACKED),
]


def answer_packed(encoding: str, content: bytes, media_type: str = "application/json", status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Encoding: {encoding}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize(("encoding", "packed"), ENCODINGS)
async def test_every_encoding_is_unpacked(encoding: str, packed: bytes) -> None:
    async with raw_server(answer_packed(encoding, packed)) as host, forwarding(f"http://{host}") as operations:
        assert result_value(final(await perform(operations, "/x")).result) == json.loads(PACKED)


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("left", [1, 12, 60, 0.5, -4, -1])
@pytest.mark.parametrize(("encoding", "packed"), ENCODINGS[:-1])
async def test_packed_answer_that_was_cut_off_is_tried_again(
    encoding: str, packed: bytes, left: float, status: int
) -> None:
    size = int(len(packed) * left) if left == 0.5 else int(left)
    answer = answer_packed(encoding, packed[:size], "text/plain", status)
    async with raw_server(answer) as host, forwarding(f"http://{host}") as operations:
        outcome = passing(await perform(operations, "/x"))
    assert outcome.status == 502
    assert detail(outcome).startswith("The upstream sent no complete response: it")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_empty_answer_may_be_called_packed(encoding: str) -> None:
    async with raw_server(answer_packed(encoding, b"")) as host, forwarding(f"http://{host}") as operations:
        assert final(await perform(operations, "/x")).status == 200


@pytest.mark.parametrize("encoding", ["compress", "gzip, gzip, gzip, gzip"])
async def test_encoding_that_is_not_supported_is_a_final_failure(encoding: str) -> None:
    async with raw_server(answer_packed(encoding, b"?")) as host, forwarding(f"http://{host}") as operations:
        outcome = final(await perform(operations, "/x"))
    assert (outcome.status, "which is not supported" in detail(outcome)) == (502, True)


@pytest.mark.parametrize(
    ("encoding", "make_bomb"),
    [
        ("gzip", lambda: gzip.compress(bytes(50_000_000), 1)),
        ("gzip, gzip", lambda: gzip.compress(gzip.compress(bytes(50_000_000), 1))),
        ("gzip", lambda: gzip.compress(b"") * 10_000),
        ("zstd", lambda: b"\x50\x2a\x4d\x18\0\0\0\0" * 10_000),
        ("br", lambda: brotli.compress(bytes(50_000_000), quality=1)),
    ],
    ids=["gzip", "gzip twice", "members", "skippable frames", "br"],
)
async def test_bomb_costs_no_more_than_is_kept(encoding: str, make_bomb: Callable[[], bytes]) -> None:
    async with raw_server(answer_packed(encoding, make_bomb())) as host, forwarding(f"http://{host}") as operations:
        tracemalloc.start()
        try:
            outcome = as_outcome(await perform(operations, "/x"))
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()
    assert outcome.status == 502


async def test_operation_that_is_not_answered_in_time_is_tried_again(upstream: ToyUpstream) -> None:
    async with forwarding(upstream.url, timeout_seconds=0.05) as operations:
        outcome = passing(await perform(operations, "/slow"))
    assert (outcome.status, detail(outcome)) == (504, "The operation was not done within 0.05 s.")


# --- Connections

Serving = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[str]:
    """Answers what comes with these bytes, and hangs up. At the end no connection is open any more."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for writer in writers:
        writer.close()
        with suppress(OSError):  # the client may have reset it
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "it closed the connection"),
        (b"no HTTP at all\r\n\r\n", "the response is not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "the response ended early"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\n" * 101 + b"HTTP/1.1 204 No Content\r\n\r\n",
            "more than 100 interim responses (1xx) came before it",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", "its compressed body was cut off"),
    ],
)
async def test_answer_that_is_none_is_tried_again(answer: bytes, told: str, log: list[Any]) -> None:
    async with raw_server(answer) as host, forwarding(f"http://{host}") as operations:
        outcome = passing(await perform(operations, "/x"))
    assert outcome.status == 502
    assert outcome.error is not None
    assert outcome.error["title"] == "No response"
    assert detail(outcome) == f"The upstream sent no complete response: {told}."
    assert [(line["event"], line["upstream"]) for line in log] == [("upstream failed", host)]


async def test_interim_answers_are_skipped_and_counted_for_each_request() -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" * 99 + b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with forwarding(f"http://{host}") as operations:
            for _ in range(3):
                assert final(await perform(operations, "/x", "GET")).status == 204


@pytest.mark.parametrize(("size", "status"), [(8_200, 200), (65_000, 200), (70_000, 502)])
async def test_header_may_be_large(size: int, status: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + b"x" * size + b"\r\n\r\n"
    async with raw_server(answer) as host, forwarding(f"http://{host}") as operations:
        outcome = final(await perform(operations, "/x"))
    assert outcome.status == status
    if status == 502:
        assert detail(outcome) == (
            "The upstream answered with a header larger than the limit of 65,536 bytes. "
            "It may have performed this operation."
        )


@pytest.mark.parametrize(("count", "status"), [(500, 200), (2_000, 502)])
async def test_headers_may_be_many(count: int, status: int) -> None:
    headers = b"".join(b"X%d: x\r\n" % number for number in range(count))
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + headers + b"\r\n"
    async with raw_server(answer) as host, forwarding(f"http://{host}") as operations:
        outcome = final(await perform(operations, "/x"))
    assert outcome.status == status
    if status == 502:
        assert "more than 1,000 headers" in detail(outcome)


async def test_upstream_that_is_not_there_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    async with forwarding(f"http://{host}/secret") as operations:
        outcome = passing(await perform(operations, "/secret?key=secret", body="secret"))
    assert outcome.status == 503
    assert outcome.error is not None
    assert outcome.error["title"] == "Upstream unavailable"
    assert detail(outcome) == "The upstream could not be reached: Connection refused."


async def test_name_that_is_not_known_is_tried_again() -> None:
    async with forwarding("http://nowhere.invalid") as operations:
        outcome = passing(await perform(operations, "/x"))
    assert detail(outcome) == "The upstream could not be reached: its name could not be resolved."


async def test_connections_are_kept_and_no_more_than_are_allowed(upstream: ToyUpstream) -> None:
    peers: set[object] = set()
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        await gate.wait()
        return web.Response()

    upstream.answers["wait"] = answer
    operations: Operations[Any] = Operations()
    operations.forward("/{path}", to=upstream.url)
    chunk = Chunk("b", "0", 1, tuple(Operation(index, str(index), "POST", "/wait") for index in range(40)))

    async def is_full() -> bool:
        return len(upstream.requests) == 3

    async with operations.connections(3):
        running = asyncio.create_task(Runner(operations, 20).run_chunk(chunk, SOURCE, Stop(), lambda _: None))
        await eventually(is_full)
        gate.set()
        verdicts = await running

    assert len(peers) == 3
    assert len(upstream.requests) == 40
    assert {as_outcome(verdict).status for verdict in verdicts.values()} == {200}


async def test_connections_are_closed_at_the_end_and_opened_anew(upstream: ToyUpstream) -> None:
    operations: Operations[Any] = Operations()
    operations.forward("/{path}", to=upstream.url)
    for _ in range(2):
        async with operations.connections(1):
            assert final(await perform(operations, "/x")).status == 200
    assert len(upstream.requests) == 2


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "upstream")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "upstream.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    async with toy_upstream(self_signed(tmp_path)) as upstream, forwarding(upstream.url) as operations:
        outcome = passing(await perform(operations, "/x"))
    assert detail(outcome) == (
        "The upstream could not be reached: its certificate is invalid, self-signed certificate."
    )
    assert upstream.requests == []


async def test_upstream_that_speaks_no_tls_is_told_so(upstream: ToyUpstream) -> None:
    async with forwarding(f"https://{upstream.host}") as operations:
        outcome = passing(await perform(operations, "/x"))
    assert detail(outcome) == (
        "The upstream could not be reached: the TLS handshake failed; the server may need http:// instead of https://."
    )


async def test_certificate_authority_of_ones_own_is_named_as_for_all_of_openssl(tmp_path: Path) -> None:
    script = """
import asyncio
from penstock.application import find_application
from penstock.chunk import Operation
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.settings import read_settings

async def main():
    operations = find_application(read_settings())
    async with operations.connections(1):
        verdicts = await Runner(operations, 1).run((Operation(0, "0", "GET", "/x", None),), Source("b", "b"), 1)
    assert verdicts[0].status == 200, verdicts

asyncio.run(main())
"""
    async with toy_upstream(self_signed(tmp_path)) as upstream:
        environment = {**os.environ, "PENSTOCK_UPSTREAM": upstream.url, "SSL_CERT_FILE": str(tmp_path / "upstream.pem")}
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=environment)
        assert await process.wait() == 0
    assert upstream.targets == ["/x"]


# --- Registering


async def handle() -> str:
    return "handled"


async def handle_one(name: str) -> str:
    return name


def test_handlers_go_first_whatever_comes_first() -> None:
    operations: Operations[Any] = Operations()
    operations.forward("/{path}", to="https://api.example")
    operations.get("/users")(handle)
    operations.get("/users/{name}")(handle_one)

    assert operations.match("GET", "/users").handler is handle
    assert operations.match("GET", "/users/7").handler is handle_one
    assert operations.match("GET", "/users/7/orders").name == "GET /{path}"
    assert operations.match("POST", "/users").name == "POST /{path}"


@pytest.mark.parametrize("path", ["/users?x=1", "/users?", "/%75sers", "/use%72s?x=1", "/use%72s/1/2"])
def test_what_a_handler_is_there_for_is_not_forwarded_in_disguise(path: str) -> None:
    operations: Operations[Any] = Operations()
    operations.forward("/{path}", to="https://api.example")
    operations.get("/users")(handle)
    operations.get("/users/{a}/{b}")(_two)
    with pytest.raises(
        InvalidOperation, match=r"^Write the path as /users.*: GET /users.* has a handler, which accepts no query\.$"
    ):
        operations.match("GET", path)


async def _two(a: str, b: str) -> None: ...


def test_first_forward_that_takes_a_path_is_taken() -> None:
    operations: Operations[Any] = Operations()
    operations.forward("/api/{path}", to="https://a.example", methods=["GET"])
    operations.forward("/{path}", to="https://b.example")
    assert operations.match("GET", "/api/x/y").name == "GET /api/{path}"
    assert operations.match("GET", "/api/").name == "GET /api/{path}"
    assert operations.match("GET", "/api").name == "GET /{path}"
    assert operations.match("POST", "/api/x").name == "POST /{path}"
    assert operations.match("GET", "/").name == "GET /{path}"


def test_routes_are_few_however_many_paths_there_are() -> None:
    operations: Operations[Any] = Operations()
    operations.forward("/api/{path}", to="https://api.example")
    assert [route.name for route in operations.routes] == [
        f"{method} /api/{{path}}" for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    ]


@pytest.mark.parametrize(
    ("path", "options", "told"),
    [
        ("/api", {}, r"The path of forward\('/api'\) is invalid. .* end it with /{path}"),
        ("api/{path}", {}, "Start it with /"),
        ("/api{path}", {}, "end it with /{path}"),
        ("/{path}/x", {}, "end it with /{path}"),
        ("/{id}/{path}", {}, "end it with /{path}"),
        ("/{rest}", {}, "end it with /{path}"),
        (
            "/{path}",
            {"to": "api.example"},
            r"The URL of forward\('/{path}'\), 'api.example', is invalid: write a URL such as https:",
        ),
        (
            "/{path}",
            {"to": "https://u:secret@api.example"},
            r"'https://\*\*\*@api.example', is invalid: remove the user",
        ),
        (
            "/{path}",
            {"methods": ["HEAD"]},
            "The method HEAD of .* is not supported. Use methods of GET, POST, PUT, PATCH, DELETE",
        ),
        ("/{path}", {"headers": ["Host"]}, "The headers of .* are invalid: remove Host"),
        ("/{path}", {"headers": "Host"}, "The headers of .* are one text, 'Host'. Pass a list of names"),
        ("/{path}", {"add_headers": {"A": "secret\n"}}, "The headers of .* are invalid: the value of A must be"),
        ("/{path}", {"timeout_seconds": 0}, "The timeout_seconds of .* is 0"),
        ("/{path}", {"max_attempts": 0}, "The max_attempts of .* is 0"),
        ("/{path}", {"max_result_bytes": 0}, "The max_result_bytes of .* is 0"),
    ],
)
def test_forward_that_cannot_be_is_refused(path: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(Misconfigured, match=told) as refused:
        Operations().forward(path, **{"to": "https://api.example", **options})
    assert "secret" not in str(refused.value)


def test_forward_that_nothing_would_reach_is_refused() -> None:
    operations: Operations[Any] = Operations()
    operations.forward("/{path}", to="https://api.example", methods=["GET"])
    operations.forward("/api/{path}", to="https://api.example", methods=["POST"])
    with pytest.raises(Misconfigured, match=r"since GET /{path} matches all its paths. Register it earlier"):
        operations.forward("/api/{path}", to="https://other.example")
    with pytest.raises(Misconfigured, match=r"forward\('/{path}'\) is registered twice for GET\."):
        operations.forward("/{path}", to="https://other.example")


async def test_forwarded_operation_is_in_no_transaction(upstream: ToyUpstream) -> None:
    def open_transaction() -> Any:
        raise AssertionError("There is nothing to roll back.")

    operations: Operations[Any] = Operations(transaction=open_transaction)
    operations.forward("/{path}", to=upstream.url)
    async with operations.connections(1):
        assert final(await perform(operations, "/x")).status == 200
