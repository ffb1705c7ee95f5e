"""Bad input to every endpoint is rejected with a problem or answered, never with 5xx, and leaves no data behind."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from functools import lru_cache
from typing import Any

import pytest
from aiohttp import StreamReader, web

from penstock import Operations, zstd
from penstock.batch import BatchState
from penstock.clock import SystemClock
from penstock.documents.nesting import MOST_LEVELS
from penstock.message import decode_chunk
from penstock.queue import Message
from penstock.service import content as content_module
from penstock.service.app import create_app, create_operator_app
from penstock.testing import MemoryParts
from penstock.testing.http import Answer
from tests.support.builders import BATCH_ID, NOW, build_batch, build_settings
from tests.support.service import JSON, NDJSON, PROBLEM, Serve, Service, ask_for, assert_problem
from tests.support.waiting import UNIT_SECONDS, eventually

MAX_BODY = 100_000

# For a final batch without failures, so that nothing can be cancelled or retried.
ENDPOINTS = [
    ("POST", "/batch"),
    ("GET", f"/batch/{BATCH_ID}/status"),
    ("GET", f"/batch/{BATCH_ID}/results"),
    ("GET", f"/batch/{BATCH_ID}/rejected"),
    ("POST", f"/batch/{BATCH_ID}/cancel"),
    ("POST", f"/batch/{BATCH_ID}/retry"),
    ("GET", "/dead-letters"),
    ("POST", "/dead-letters/redrive"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/openapi.json"),
]
READING_A_BODY = [("POST", "/batch"), ("POST", "/dead-letters/redrive")]

operations = Operations()


@operations.post("/run/{name}")
async def run(name: str, body: Any = None) -> None: ...


@operations.post("/nobody")
async def run_without_body() -> None: ...


def one(body: bytes) -> bytes:
    return b'{"operations":[{"method":"POST","path":"/run/a","body":' + body + b"}]}"


def inside(value: bytes) -> bytes:
    return b'{"batchId":' + value + b"}"


# Invalid bodies for both endpoints that read one.
BODIES: dict[str, bytes] = {
    "empty": b"",
    "spaces": b" " * 1000,
    "deep": b"[" * 50_000,
    "deep and closed": b"[" * 5_000 + b"]" * 5_000,
    "deep objects": b'{"operations":' * 5_000 + b"1" + b"}" * 5_000,
    "deep operation": one(b"[" * 5_000 + b"]" * 5_000),
    "deep id": inside(b"[" * 5_000 + b"]" * 5_000),
    "huge number": b"9" * 20_000,
    "huge number inside": inside(b"9" * 20_000),
    "huge exponent": inside(b"1e999999999"),
    "not a number": inside(b"NaN"),
    "infinity": inside(b"-Infinity"),
    "NUL": b"\0",
    "NULs": b"\0" * 1000,
    "raw NUL in a string": inside(b'"\0"'),
    "lone surrogate": inside(b'"\\ud800"'),
    "raw surrogate": inside(b'"\xed\xa0\x80"'),
    "surrogate as a key": b'{"\\udfff":1}',
    "NUL as a key": b'{"\\u0000":1}',
    "not UTF-8": inside(b'"\xff"'),
    "UTF-16": '{"batchId":"a"}'.encode("utf-16"),
    "duplicate keys": b'{"operations":[],"operations":[],"batchId":1,"batchId":{}}',
    "a list": b"[]",
    "a string": b'"batch"',
    "null": b"null",
    "two documents": b"{}{}",
    "comment": b"{/*}",
    "wrong types": b'{"operations":1,"batchId":1,"atomic":"yes"}',
    "prototype": b'{"__proto__":{},"constructor":{}}',
    "many members": b"{" + b",".join(b'"%d":1' % number for number in range(5_000)) + b"}",
    "too large": b" " * (MAX_BODY + 1),
}


@pytest.fixture
async def service(serve: Serve, parts: MemoryParts) -> Service:
    """Serve with a final batch and an unreadable dead letter."""
    batch = build_batch(1, state=BatchState.COMPLETED, deadline_at=NOW + 60)
    await parts.store.create_batch(batch)
    await parts.dead_letters.send([Message("not ours")])
    return await serve(operations, parts=parts, max_body_bytes=MAX_BODY)


@asynccontextmanager
async def leaving_nothing(parts: MemoryParts) -> AsyncIterator[None]:
    def left() -> Any:
        return deepcopy((parts.chunks.messages, parts.dead_letters.messages, vars(parts.store)))

    before = left()
    yield
    assert left() == before


def assert_sane(answer: Answer) -> None:
    """Check that the answer is a success or a problem, and not a server error."""
    assert answer.status < 500, answer.content
    if answer.status >= 400 and answer.content:
        assert_problem(answer, answer.status)


@pytest.mark.parametrize(("method", "path"), READING_A_BODY, ids=lambda part: part)
@pytest.mark.parametrize("content", BODIES.values(), ids=BODIES.keys())
async def test_bad_body_is_refused(
    service: Service, parts: MemoryParts, method: str, path: str, content: bytes
) -> None:
    async with leaving_nothing(parts):
        answer = await service.ask(method, path, data=content or b" ", headers={"Content-Type": JSON})
        assert_problem(answer, answer.status)
        assert 400 <= answer.status < 500


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=lambda part: part)
async def test_bad_body_does_no_harm_where_none_is_read(
    service: Service, parts: MemoryParts, method: str, path: str
) -> None:
    async with leaving_nothing(parts):
        for content in BODIES.values():
            assert_sane(await service.ask(method, path, data=content or b" ", headers={"Content-Type": JSON}))


@pytest.mark.parametrize(
    "member",
    [
        b'"deadlineSeconds":1e400',
        b'"deadlineSeconds":NaN',
        b'"deadlineSeconds":-1',
        b'"deadlineSeconds":0',
        b'"deadlineSeconds":' + b"9" * 400,
        b'"deadlineSeconds":' + b"9" * 5000,
        b'"maxFailures":-1',
        b'"maxFailures":1.5',
        b'"maxFailures":' + b"9" * 200,
        b'"maxFailures":9007199254740992',
        b'"maxFailedPercent":100.1',
        b'"maxFailedPercent":1e400',
        b'"atomic":1',
        b'"atomic":null',
    ],
    ids=lambda member: member[:30].decode(),
)
async def test_number_out_of_its_range_is_refused(service: Service, parts: MemoryParts, member: bytes) -> None:
    async with leaving_nothing(parts):
        answer = await service.post_content(one(b"1")[:-1] + b"," + member + b"}")
        assert_problem(answer, answer.status)
        assert answer.status in {400, 422}


@pytest.mark.parametrize("way", ["document", "stream", "background", "rows", "invalid rows", "odata", "unknown"])
@pytest.mark.parametrize(("before", "after"), [(b"[", b"]"), (b'{"a":', b"}")])
async def test_body_that_is_accepted_can_be_decoded_on_every_way(
    service: Service, way: str, before: bytes, after: bytes
) -> None:
    for levels in range(MOST_LEVELS, 210):
        body = before * (levels - 1) + b"1" + after * (levels - 1)
        answer = await send_on(way, service, b'{"a":' + body + b"}")
        assert (answer.status in {200, 202}) is (levels <= MOST_LEVELS), answer.content
        assert answer.status in {200, 202, 400, 422}
    for message in service.parts.chunks.messages:
        decode_chunk(message.body)


async def send_on(way: str, service: Service, body: bytes) -> Answer:
    """Send a batch whose only operation has this body."""
    operation = b'{"method":"POST","path":"/run/a","body":' + body + b"}"
    rows = "/batch?method=POST&path=/run/a"
    path, content_type, content = {
        "document": ("/batch", JSON, b'{"operations":[' + operation + b"]}"),
        "background": ("/batch", JSON, b'{"operations":[' + operation + b"]}"),
        "stream": ("/batch", NDJSON, operation),
        "rows": (rows, NDJSON, body),
        "invalid rows": ("/batch?method=POST&path=/nobody&invalidRows=fail", NDJSON, body),
        "odata": ("/$batch", JSON, b'{"requests":[' + request_of(b"run/a", body) + b"]}"),
        "unknown": ("/$batch", JSON, b'{"requests":[' + request_of(b"nowhere", body) + b"]}"),
    }[way]
    prefer = {} if way in {"document", "stream"} else {"Prefer": "respond-async"}
    return await service.ask("POST", path, data=content, headers={"Content-Type": content_type, **prefer})


def request_of(url: bytes, body: bytes) -> bytes:
    """Return an individual request of an OData batch."""
    headers = b'{"Content-Type":"application/json"}'
    return b'{"id":"1","method":"POST","url":"' + url + b'","headers":' + headers + b',"body":' + body + b"}"


@pytest.mark.parametrize("prefer", ["", "respond-async"])
@pytest.mark.parametrize(
    "body",
    [
        b"9" * 4300,  # more digits than Python turns into text
        b"9" * 4299,
        b"-" + b"9" * 4000,
        b"1e400",
        b"1e-400",
        b'"\\u0000"',
        b'"\\ufffe\\uffff"',
        b'{"a":1,"a":2}',
        b"[" * 150 + b"]" * 150,
        b'{"":{"":{"":null}}}',
    ],
    ids=lambda content: content[:12].decode(),
)
async def test_odd_body_of_an_operation_is_taken_whole_or_refused(service: Service, prefer: str, body: bytes) -> None:
    answer = await service.post_content(one(body), **({"Prefer": prefer} if prefer else {}))
    assert_sane(answer)
    if answer.status == 202:
        assert len(service.parts.chunks.messages) == 1
        service.parts.chunks.messages[0].body.encode()


async def test_last_of_duplicate_keys_counts(service: Service) -> None:
    content = b'{"operations":[{"method":"POST","path":"/nowhere"}],"operations":' + one(b"1").partition(b":")[2]
    assert (await service.post_content(content)).status == 200


PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress, "deflate": zlib.compress}


@lru_cache
def bomb_of(encoding: str) -> bytes:
    return PACK[encoding](b" " * 20_000_000)


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=lambda part: part)
@pytest.mark.parametrize("encoding", PACK)
async def test_bomb_does_no_harm(service: Service, parts: MemoryParts, method: str, path: str, encoding: str) -> None:
    bomb = bomb_of(encoding)
    async with leaving_nothing(parts):
        answer = await service.ask(
            method,
            path,
            data=bomb,
            headers={"Content-Type": JSON, "Content-Encoding": encoding, "Content-Length": str(len(bomb))},
        )
        assert_sane(answer)
        refusal = 413 if encoding in {"gzip", "zstd"} else 415
        assert answer.status == refusal or (method, path) not in READING_A_BODY


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "rot13", "\t", "é"])
async def test_body_that_is_not_encoded_as_it_says_is_refused(
    service: Service, parts: MemoryParts, encoding: str
) -> None:
    async with leaving_nothing(parts):
        answer = await service.ask(
            "POST", "/batch", data=b"\x1f\x8b nothing", headers={"Content-Type": JSON, "Content-Encoding": encoding}
        )
        assert 400 <= answer.status < 500


BAD_HEADERS: list[tuple[str, str]] = [
    ("Idempotency-Key", '""'),
    ("Idempotency-Key", ""),
    ("Idempotency-Key", '"not closed'),
    ("Idempotency-Key", "two words"),
    ("Idempotency-Key", '"a", "b"'),
    ("Idempotency-Key", "a" * 256),
    ("Idempotency-Key", "ä"),
    ("Idempotency-Key", '"\\n"'),
    ("Idempotency-Key", '"\t"'),
]
ODD_HEADERS: list[tuple[str, str]] = [
    ("Prefer", "wait"),
    ("Prefer", "wait=-1"),
    ("Prefer", "wait=1e3"),
    ("Prefer", "wait=" + "9" * 4000),
    ("Prefer", 'wait="1'),
    ("Prefer", ",;=,,"),
    ("Prefer", "é=ü"),
    ("Accept", "nothing"),
    ("Accept", "application/json;q=x"),
    ("Accept", "*/*;q=nan"),
    ("Accept", "," * 4000),
    ("Accept", ";q=1"),
    ("Accept", "é"),
    ("Content-Type", "application/json; charset=nonsense"),
    ("Content-Type", "é"),
    ("Content-Type", ";"),
    ("Host", "é"),
    ("Cookie", "=;=" * 500),
    ("Range", "bytes=-1"),
    ("If-Match", "*"),
    ("Authorization", "Basic ====="),
    ("X-Forwarded-For", "'; DROP TABLE batch; --"),
]


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS)
async def test_bad_idempotency_key_is_refused(service: Service, parts: MemoryParts, name: str, value: str) -> None:
    async with leaving_nothing(parts):
        assert_problem(await service.post(ask_for("/run/a"), {name: value}), 400)


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=lambda part: part)
async def test_odd_header_does_no_harm(service: Service, parts: MemoryParts, method: str, path: str) -> None:
    async with leaving_nothing(parts):
        for name, value in [*BAD_HEADERS, *ODD_HEADERS]:
            assert_sane(await service.ask(method, path, headers={name: value}))


@pytest.mark.parametrize("tenant", ["", " ", "two words", "ä", "x" * 129, "a\tb"])
async def test_name_that_can_be_no_tenant_is_refused(serve: Serve, tenant: str) -> None:
    service = await serve(operations, tenant_header="X-Tenant")
    async with leaving_nothing(service.parts):
        assert_problem(await service.post(ask_for("/run/a"), {"X-Tenant": tenant}), 400)
        for _, path in ENDPOINTS[1:5]:
            assert_sane(await service.get(path, **{"X-Tenant": tenant}))


QUERIES = [
    "limit=0",
    "limit=-1",
    "limit=1.5",
    "limit=" + "9" * 4000,
    "limit=%00",
    "limit=",
    "limit=%D9%A3%D9%A3",  # digits, but not ASCII
    "limit=1&limit=x",
    "status=",
    "status=FAILED",
    "status=%ED%A0%80",
    "cursor=",
    "cursor=.",
    "cursor=-1.-1",
    "cursor=1",
    "cursor=" + "9" * 4000,
    "cursor=%00.%00",
    "cursor=99999999.99999999",
    "cursor=%C2%B2.%C2%B2",  # a superscript two is a digit but not a number
    "a" * 4000,
    "&" * 4000,
    "%",
    "%zz=%zz",
    "%00=%00",
    "__proto__[a]=1",
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=lambda part: part)
async def test_odd_query_does_no_harm(service: Service, parts: MemoryParts, method: str, path: str) -> None:
    async with leaving_nothing(parts):
        for query in QUERIES:
            assert_sane(await service.ask(method, f"{path}?{query}"))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/batch/%00/status",
        "/batch/%ED%A0%80/status",
        "/batch/%2e%2e/status",
        "/batch/..%2f..%2f/results",
        "/batch/%25/cancel",
        f"/batch/{'x' * 4000}/retry",
        f"/batch/{BATCH_ID}%00/status",
        f"/batch/{BATCH_ID}%23count/status",
        f"/batch/{BATCH_ID}%230/status",
        f"/batch/{BATCH_ID.lower()}/status",
        "/batch/" + "/".join("a" * 1000) + "/status",
        "/dead-letters/",
        "/health",
        "/openapi.json/",
        "/%C3%A4",
    ],
    ids=lambda path: path[:30],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_odd_path_leads_nowhere(service: Service, parts: MemoryParts, method: str, path: str) -> None:
    async with leaving_nothing(parts):
        answer = await service.ask(method, path)
        assert answer.status in {404, 405}
        assert_sane(answer)


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=lambda part: part)
async def test_other_methods_are_refused_and_head_is_answered_bare(
    service: Service, parts: MemoryParts, method: str, path: str
) -> None:
    async with leaving_nothing(parts):
        for other in ("OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "PROPFIND", "QUERY"):
            assert method in assert_problem(await service.ask(other, path), 405)["detail"]
        bare = await service.ask("HEAD", path)
        assert (bare.status, bare.content) == (200 if method == "GET" else 405, b"")


# Requests over a plain connection that no client library would send.


@asynccontextmanager
async def connect(
    service: Service, path: str = "/batch"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    port = service.client_for(path).server.port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    async with asyncio.timeout(20 * UNIT_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
        content = await reader.readexactly(int(headers.get("Content-Length", 0)))
    return Answer(int(first.split()[1]), headers, content)


def head(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {JSON}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


WHOLE = {
    "/batch": one(b"1"),
    "/dead-letters/redrive": b'{"batchId":"another"}',
}


@pytest.fixture
def reading_begun(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Return an event that is set when the service starts to read a body."""
    event = asyncio.Event()
    read = StreamReader.read

    async def tell_and_read(reader: StreamReader, n: int = -1) -> bytes:
        event.set()
        return await read(reader, n)

    monkeypatch.setattr(StreamReader, "read", tell_and_read)
    return event


@pytest.fixture
async def addresses(parts: MemoryParts) -> AsyncIterator[dict[str, tuple[str, int]]]:
    """Serve as in production. (Only a test server cancels the endpoint of a client that disconnects.)"""
    app = create_app(build_settings(), operations, parts.backend, SystemClock())
    runners = {
        path: web.AppRunner(one, access_log=None)
        for path, one in zip(WHOLE, (app, create_operator_app(app, "127.0.0.1")), strict=True)
    }
    for runner in runners.values():
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield {path: runner.addresses[0] for path, runner in runners.items()}
    for runner in runners.values():
        await runner.cleanup()


@pytest.mark.parametrize("length", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", WHOLE)
async def test_client_that_goes_away_amid_its_body_leaves_nothing(
    addresses: dict[str, tuple[str, int]], parts: MemoryParts, reading_begun: asyncio.Event, path: str, length: str
) -> None:
    others = asyncio.all_tasks()

    async def all_is_quiet() -> bool:
        return asyncio.all_tasks() <= others

    async with leaving_nothing(parts):
        _, writer = await asyncio.open_connection(*addresses[path])
        writer.write(head(path, length) + (b"400\r\n" if "chunked" in length else b"") + WHOLE[path][:5])
        await reading_begun.wait()
        writer.close()
        await eventually(all_is_quiet)


@pytest.mark.parametrize("path", [path for _, path in READING_A_BODY])
async def test_body_that_never_ends_is_given_up(
    service: Service, parts: MemoryParts, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_module, "BODY_SECONDS", 0.05)
    async with leaving_nothing(parts), connect(service, path) as (reader, writer):
        writer.write(head(path, "Content-Length: 1000") + b'{"oper')
        assert_problem(await read_answer(reader), 408)


async def test_body_that_trickles_in_is_taken(service: Service) -> None:
    content = one(b"1")
    async with connect(service) as (reader, writer):
        writer.write(head("/batch", f"Content-Length: {len(content)}"))
        for byte in content:
            writer.write(bytes([byte]))
            await writer.drain()
        answer = await read_answer(reader)
    assert (answer.status, answer.body["summary"]["succeeded"]) == (200, 1)


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"NONSENSE /batch HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET //batch HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /batch/\xed\xa0\x80/status HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[::1/batch HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET //[/batch HTTP/1.1\r\nHost: [\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: a\r\nPrefer: \xff\xfe\r\nIdempotency-Key: \xff\r\n\r\n",
        b"POST /batch HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \xff\r\nContent-Type: \xff\r\nContent-Length: 0\r\n\r\n",
        b"POST /batch HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /batch HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /batch HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        head("/batch", "Transfer-Encoding: chunked") + b"zz\r\n",
        b"POST /batch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /batch/\xed\xa0\x80/results?status=\xff HTTP/1.1\r\nHost: a\r\nAccept: \xff\r\n\r\n",
    ],
    ids=lambda request: request[:40].decode("latin-1").replace("\r\n", " ").replace("\0", "NUL"),
)
async def test_bytes_that_are_no_request_are_refused(service: Service, parts: MemoryParts, request_: bytes) -> None:
    async with leaving_nothing(parts), connect(service) as (reader, writer):
        writer.write(request_)
        answer = await read_answer(reader)
        assert answer.status < 500
        assert answer.headers["Content-Type"] in {PROBLEM, f"{PROBLEM}; charset=utf-8"} or answer.status in {200, 400}


async def test_expectation_that_cannot_be_met_is_refused(service: Service, parts: MemoryParts) -> None:
    async with leaving_nothing(parts), connect(service) as (reader, writer):
        writer.write(head("/batch", "Expect: a miracle", "Content-Length: 2") + b"{}")
        assert (await read_answer(reader)).status == 417


async def test_after_all_this_it_still_works(service: Service) -> None:
    for _ in range(3):
        async with connect(service) as (_, writer):
            writer.write(head("/batch", "Content-Length: 1000") + b"{")
    assert (await service.post_content(json.dumps({"operations": ask_for("/run/a")}).encode())).status == 200
