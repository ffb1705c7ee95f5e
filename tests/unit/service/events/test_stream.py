"""What bounds the streams of a front end, and what ends one of them."""

import asyncio
from typing import Any, cast
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from penstock import Operations
from penstock.api_key import ApiKey, Scope, make_key
from penstock.batch import Batch
from penstock.errors import NotAuthenticated, QuotaExceeded
from penstock.service.batches.results import Cursor
from penstock.service.callers import Caller
from penstock.service.events import stream as streams
from penstock.service.events.endpoint import _send_outcomes
from penstock.service.events.outcomes import OUTCOMES as SHARED_OUTCOMES
from penstock.service.events.outcomes import Block
from penstock.service.events.stream import Stream, StreamOver, Streams
from penstock.service.events.watching import Seen, Watching
from penstock.service.keys import CALLER, CHECK_KEY, CLOCK, SHARE
from penstock.service.memory import Memory
from penstock.testing import MemoryParts
from tests.support.builders import NOW, build_batch
from tests.support.service import Serve, assert_problem
from tests.unit.service.events.conftest import HandClock, run_batch, settle
from tests.unit.service.events.test_endpoint import OUTCOMES, URL, connect

operations = Operations[None]()


async def test_tenant_with_too_many_streams_is_told_what_to_do(
    serve: Serve, parts: MemoryParts, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST_STREAMS_OF_TENANT", 2)
    monkeypatch.setattr(streams, "MOST_STREAMS", 3)
    await run_batch(parts, chunks=1, size=1, tenant="acme")
    await run_batch(parts, chunks=1, size=1, batch_id="other", tenant="other")
    service = await serve(operations, parts=parts, clock=clock, tenant_header="X-Tenant")
    async with connect(service, **{"X-Tenant": "acme"}), connect(service, **{"X-Tenant": "acme"}):
        answer = await service.get(URL, **{"X-Tenant": "acme"})
        problem = assert_problem(answer, 429)
        assert problem["violated-policies"] == ["streams"]
        assert "Close streams that you do not need, or read the status" in problem["detail"]
        assert answer.headers["Retry-After"] == "30"
        async with connect(service, "/batch/other/events", **{"X-Tenant": "other"}):
            answer = await service.get("/batch/other/events", **{"X-Tenant": "other"})
            assert "this front end allows no more" in assert_problem(answer, 503)["detail"]


async def test_stream_ends_within_a_minute_after_its_key_is_revoked(
    serve: Serve, parts: MemoryParts, clock: HandClock
) -> None:
    await run_batch(parts, chunks=1, size=1, tenant="acme")
    made = make_key("test")
    key = ApiKey(made.id, made.digest, "acme", frozenset({Scope.READ}), NOW)
    await parts.store.create_api_key(key)
    service = await serve(operations, parts=parts, clock=clock, auth="keys")
    headers = {"Authorization": f"Bearer {made.text}"}
    await service.get("/batch/unknown", **headers)
    await clock.forward(10)
    async with connect(service, **headers) as events:
        await clock.forward(51)
        await service.get("/batch/unknown", **headers)  # the front end reads the key again, just before it is revoked
        await parts.store.revoke_api_key(key, clock.now())
        await clock.forward(60)
        assert [event.kind for event in await events.rest()] == ["progress"]
    assert (await service.get(URL, **headers)).status == 401


async def test_stream_ends_when_its_key_expires(serve: Serve, parts: MemoryParts, clock: HandClock) -> None:
    await run_batch(parts, chunks=1, size=1, tenant="acme")
    made = make_key("test")
    key = ApiKey(made.id, made.digest, "acme", frozenset({Scope.READ}), NOW, expires_at=NOW + 20)
    await parts.store.create_api_key(key)
    service = await serve(operations, parts=parts, clock=clock, auth="keys")
    async with connect(service, Authorization=f"Bearer {made.text}") as events:
        await clock.forward(30)
        assert [event.kind for event in await events.rest()] == ["progress"]


async def test_streams_end_when_the_front_end_stops(serve: Serve, parts: MemoryParts, clock: HandClock) -> None:
    await run_batch(parts, chunks=1, size=1)
    service = await serve(operations, parts=parts, clock=clock)
    async with connect(service) as events, connect(service, OUTCOMES) as others:
        await events.next()
        app = service.client.app
        assert app is not None
        await app.shutdown()
        assert await events.rest() == []
        assert [event.kind for event in await others.rest()] == ["progress"]
        async with connect(service) as late:
            assert await late.rest() == []


class SlowClient:
    """A writer to a client that reads an event when a test lets it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reads = asyncio.Semaphore(0)

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def drain(self) -> None:
        await self.reads.acquire()


class Changing:
    """A watch whose newest status a test sets."""

    def __init__(self) -> None:
        self.wakes: set[asyncio.Event] = set()
        self.newest = seen(0)


def seen(completed: int, batch: Batch | None = None) -> Seen:
    return Seen.of(batch or build_batch(9), {"completed": completed})


@pytest.fixture
def client() -> SlowClient:
    return SlowClient()


@pytest.fixture
def changing() -> Changing:
    return Changing()


def make_stream(clock: HandClock, client: SlowClient, changing: Changing) -> Stream:
    app = cast("web.Application", {CLOCK: clock})
    transport = Mock()
    transport.is_closing.return_value = False
    request = make_mocked_request("GET", URL, transport=transport, app=app)
    request[CALLER] = Caller("acme", frozenset({Scope.READ}))
    stream = Stream(request, Watching(cast("Any", changing), asyncio.Event()))
    stream._writer = cast("Any", client)
    return stream


@pytest.fixture
def stream(clock: HandClock, client: SlowClient, changing: Changing) -> Stream:
    return make_stream(clock, client, changing)


async def test_stream_whose_client_has_left_does_not_count_and_ends_soon(
    stream: Stream, clock: HandClock, client: SlowClient, changing: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST_STREAMS_OF_TENANT", 1)
    open_streams = Streams(clock, has_tenants=True)
    open_streams.add(stream)
    with pytest.raises(QuotaExceeded):
        open_streams.add(make_stream(clock, client, changing))
    await clock.forward()
    assert not stream._watching.wake.is_set()
    transport_of(stream).is_closing.return_value = True
    open_streams.add(make_stream(clock, client, changing))
    await clock.forward()
    assert stream._watching.wake.is_set()  # it sends a ping, which fails


def transport_of(stream: Stream) -> Mock:
    return cast("Mock", stream._request.transport)


async def test_slow_client_gets_only_what_is_newest(stream: Stream, client: SlowClient, changing: Changing) -> None:
    async def send_all() -> None:
        async for one in stream.changes():
            await stream.send(one.frames().progress)

    sending = asyncio.create_task(send_all())
    await settle()
    for completed in range(1, 9):
        changing.newest = seen(completed)
        await settle()
    assert client.written == [seen(0).frames().progress]  # nothing else waits for the client
    client.reads.release()
    await settle()
    assert client.written[1:] == [seen(8).frames().progress]
    sending.cancel()


async def test_stream_whose_client_does_not_read_is_cut_when_the_front_end_stops(
    stream: Stream, client: SlowClient
) -> None:
    sending = asyncio.create_task(stream.send(b"x"))
    await settle()
    stream.end()
    transport_of(stream).abort.assert_called_once_with()
    with pytest.raises(StreamOver):
        await anext(stream.changes())
    sending.cancel()


async def test_stream_that_ends_before_it_pauses_does_not_wait(stream: Stream) -> None:
    stream.end()
    with pytest.raises(StreamOver):
        await stream.pause()


class EndlessOutcomes:
    """Outcomes without an end, so that only the stream can stop the one who sends them."""

    def __init__(self) -> None:
        self.can_read = asyncio.Event()
        self.can_read.set()

    async def after(self, _seen: Seen, cursor: Cursor) -> Block:
        await self.can_read.wait()
        return Block(b"x", Cursor(0, cursor.index + 1))


def send_outcomes(stream: Stream, outcomes: EndlessOutcomes) -> "asyncio.Task[Cursor]":
    cast("Any", stream._request.app)[SHARED_OUTCOMES] = outcomes
    stream._request[SHARE] = Memory(1).share()
    return asyncio.create_task(_send_outcomes(cast("Any", stream._request), stream, seen(0), Cursor()))


async def test_key_is_checked_while_outcomes_are_sent(stream: Stream, clock: HandClock, client: SlowClient) -> None:
    async def revoked(*, fresh_seconds: float) -> None:
        assert fresh_seconds == streams.CHECK_SECONDS
        raise NotAuthenticated("The key is revoked.", has_key=True)

    stream._request[CHECK_KEY] = cast("Any", revoked)
    sending = send_outcomes(stream, EndlessOutcomes())
    await settle()
    clock.advance(streams.CHECK_SECONDS)
    client.reads.release()
    await settle()
    assert client.written == [b"x"]
    with pytest.raises(StreamOver):
        await asyncio.wait_for(sending, 1)


async def test_stream_that_reads_outcomes_when_the_front_end_stops_sends_no_more(
    stream: Stream, client: SlowClient
) -> None:
    outcomes = EndlessOutcomes()
    sending = send_outcomes(stream, outcomes)
    await settle()
    outcomes.can_read.clear()
    client.reads.release()
    await settle()
    stream.end()
    transport_of(stream).abort.assert_not_called()
    outcomes.can_read.set()
    await settle()
    assert client.written == [b"x"]
    with pytest.raises(StreamOver):
        await asyncio.wait_for(sending, 1)
