"""The events of a batch, as a client gets them."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from penstock import Operations
from penstock.batch import BatchState
from penstock.outcome import failed, succeeded
from penstock.record import EncodedRecord
from penstock.testing import MemoryParts
from tests.support.builders import BATCH_ID, build_operation
from tests.support.event_source import EventParser, EventStream, ServerEvent, headers_after
from tests.support.faults import Moment, Outage
from tests.support.service import Serve, Service, assert_problem
from tests.unit.service.events.conftest import HandClock, run_batch, settle

URL = f"/batch/{BATCH_ID}/events"
OUTCOMES = f"{URL}?outcomes=1"

operations = Operations[None]()


def connect(service: Service, url: str = URL, last_event_id: str = "", **headers: str) -> EventStream:
    return EventStream(service.client.get(url, headers=headers_after(last_event_id) | headers), last_event_id)


def kinds(events: list[ServerEvent]) -> list[str]:
    return [event.kind for event in events]


def outcomes_in(events: list[ServerEvent]) -> list[str]:
    return [event.body["id"] for event in events if event.kind == "outcome"]


async def test_progress_has_the_status_and_comes_only_when_it_has_changed(
    serve: Serve, parts: MemoryParts, clock: HandClock
) -> None:
    running = await run_batch(parts, chunks=2, size=3)
    service = await serve(operations, parts=parts, clock=clock)
    async with connect(service) as events:
        first = await events.next()
        assert first.body == (await service.get(f"/batch/{BATCH_ID}/status")).body
        assert events.parser.retry == 3000
        await clock.forward(15)
        assert await events.until_comment() == "ping"
        await running.count(1)
        await clock.forward()
        second = await events.next()
        assert (second.kind, second.body["completed"]) == ("progress", 3)
        assert second.last_event_id not in {"", first.last_event_id}
        await running.count(0)
        await running.finish()
        await clock.forward()
        assert kinds(await events.rest()) == ["progress", "end"]


async def test_headers_let_nobody_keep_or_collect_events(serve: Serve, parts: MemoryParts, clock: HandClock) -> None:
    await run_batch(parts, chunks=1, size=1)
    service = await serve(operations, parts=parts, clock=clock)
    async with connect(service, **{"Accept-Encoding": "gzip, br"}) as events:
        headers = events.answer.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in headers
    head = await service.ask("HEAD", URL)
    assert (head.status, head.content, head.headers["Content-Type"]) == (200, b"", "text/event-stream")


async def test_final_batch_gives_its_status_and_its_end_once(
    serve: Serve, parts: MemoryParts, clock: HandClock
) -> None:
    running = await run_batch(parts, chunks=1, size=2)
    await running.count(0)
    await running.finish()
    service = await serve(operations, parts=parts, clock=clock)
    async with connect(service) as events:
        progress, end = await events.rest()
    assert (progress.kind, end.kind) == ("progress", "end")
    assert progress.body == end.body == (await service.get(f"/batch/{BATCH_ID}/status")).body
    for url in (URL, OUTCOMES):
        assert (await service.get(url, **headers_after(end.last_event_id))).status == 204
    # The end was lost, so it comes again.
    async with connect(service, last_event_id=progress.last_event_id) as events:
        assert kinds(await events.rest()) == ["progress", "end"]
    # A retry changes the status of a batch that is final.
    await parts.store.revise_batch(BATCH_ID, BatchState.COMPLETED, BatchState.FAILED)
    for url in (URL, OUTCOMES):
        async with connect(service, url, end.last_event_id) as events:
            assert kinds(await events.rest()) == ["progress", "end"]


async def test_clients_of_several_hosts_get_their_own_urls_and_the_same_ids(
    serve: Serve, parts: MemoryParts, clock: HandClock
) -> None:
    running = await run_batch(parts, chunks=1, size=2)
    service = await serve(operations, parts=parts, clock=clock, trust_proxy=True)
    of_a, of_b = ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": f"{name}.example"} for name in "ab")
    async with connect(service, **of_a) as first, connect(service, **of_b) as second:
        await running.count(0)
        await running.finish()
        await clock.forward()
        events_of_a, events_of_b = await first.rest(), await second.rest()
    assert {event.body["resultsUrl"] for event in events_of_a} == {f"https://a.example/batch/{BATCH_ID}/results"}
    assert {event.body["resultsUrl"] for event in events_of_b} == {f"https://b.example/batch/{BATCH_ID}/results"}
    assert events_of_a[-1].last_event_id == events_of_b[-1].last_event_id
    assert (await service.get(URL, **headers_after(events_of_a[-1].last_event_id), **of_b)).status == 204


async def test_outcomes_come_in_order_up_to_the_first_gap(serve: Serve, parts: MemoryParts, clock: HandClock) -> None:
    running = await run_batch(parts, chunks=66, size=2)  # in two groups
    service = await serve(operations, parts=parts, clock=clock)
    lines: list[Any] = []
    async with connect(service, OUTCOMES) as events:

        async def outcomes(count: int) -> list[str]:
            progress, *got = [await events.next() for _ in range(1 + count)]
            assert progress.kind == "progress"
            lines.extend(one.body for one in got)
            return [one.last_event_id for one in got]

        assert await outcomes(0) == []
        await running.count(0, 2)
        await clock.forward()
        assert await outcomes(2) == ["0.0", "0.1"]
        await running.record("1", [succeeded(build_operation(3), 200, None)])  # operation 2 is repeated later
        await clock.forward()
        assert await outcomes(0) == []
        await running.record("1.0.1.2", [failed(build_operation(2), 409, "Rejected", "Twice.\r\nOnce more.")])
        await clock.forward()
        assert await outcomes(4) == ["1.2", "1.3", "2.4", "2.5"]
        await running.count(*range(3, 66))
        await running.finish()
        await clock.forward()
        assert len(await outcomes(126)) == 126
        assert kinds(await events.rest()) == ["end"]
    assert lines == (await service.get(f"/batch/{BATCH_ID}/results")).lines


async def test_reconnect_loses_and_repeats_no_outcome_wherever_the_connection_breaks(
    serve: Serve, parts: MemoryParts, clock: HandClock
) -> None:
    """Cut the stream after each of its bytes, and in the same way each stream that follows."""
    running = await run_batch(parts, chunks=3, size=2)
    await running.count(0, 1, 2)
    await running.finish()
    service = await serve(operations, parts=parts, clock=clock)
    everything = [f"id-{index}" for index in range(6)]
    streams: dict[str, bytes] = {}

    async def stream_after(last_event_id: str) -> bytes:
        if last_event_id not in streams:
            answer = await service.get(OUTCOMES, **headers_after(last_event_id))
            assert (answer.status, answer.content == b"") in {(200, False), (204, True)}
            streams[last_event_id] = answer.content
        return streams[last_event_id]

    got: dict[str, list[str]] = {"": []}  # the outcomes that a client has if this is its last id
    waiting = [""]
    while waiting:
        last_event_id = waiting.pop()
        parser, has, kind = EventParser(last_event_id), got[last_event_id], "end"
        for byte in await stream_after(last_event_id):
            for event in parser.feed(bytes([byte])):
                has, kind = has + outcomes_in([event]), event.kind
            if parser.last_event_id not in got:
                got[parser.last_event_id] = has
                waiting.append(parser.last_event_id)
            assert got[parser.last_event_id] == has, parser.last_event_id
        assert (has, kind) == (everything, "end")
    assert list(got)[:-1] == ["", "0.0", "0.1", "1.2", "1.3", "2.4", "2.5"]
    assert streams[list(got)[-1]] == b""


async def test_reconnect_while_the_batch_runs_continues_at_the_gap(
    serve: Serve, parts: MemoryParts, clock: HandClock
) -> None:
    running = await run_batch(parts, chunks=6, size=2)
    service = await serve(operations, parts=parts, clock=clock)
    got: list[str] = []
    last_event_id, counted = "", set[int]()
    for chunks in ({2}, {0}, {4, 3}, {1}, set(), {5}):
        await running.count(*chunks)
        counted |= chunks
        if len(counted) == 6:
            await running.finish()
        await clock.forward()
        until = next(chunk for chunk in range(7) if chunk not in counted) * 2
        async with connect(service, OUTCOMES, last_event_id) as events:
            assert (await events.next()).kind == "progress"
            while len(got) < until:
                got += outcomes_in([await events.next()])
            last_event_id = events.parser.last_event_id
    assert got == [f"id-{index}" for index in range(12)]


async def test_streams_at_the_same_position_share_a_read_of_outcomes(
    serve: Serve, parts: MemoryParts, clock: HandClock
) -> None:
    calls: Counter[str] = Counter()

    def count(call: str, moment: Moment) -> None:
        calls[call] += moment == "before"

    running = await run_batch(parts, chunks=3, size=2)
    service = await serve(operations, parts=parts, clock=clock, watch=count)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(connect(service, OUTCOMES)) for _ in range(5)]
        for stream in streams:
            assert (await stream.next()).kind == "progress"
        await running.count(0)
        calls.clear()
        await clock.forward()
        for stream in streams:
            assert kinds([await stream.next() for _ in range(3)]) == ["progress", "outcome", "outcome"]
    # The outcomes, and then whether there are more.
    assert calls == {"store.read_progress": 1, "store.read_group": 2}


@pytest.mark.parametrize(
    ("counted_from", "expected"),
    [
        (1, {"groups": 1, "records": 2}),  # the second one shows that the first is complete
        (128, {"groups": 1}),
    ],
)
async def test_outcomes_behind_a_gap_are_not_read_again_and_again(
    serve: Serve, parts: MemoryParts, monkeypatch: pytest.MonkeyPatch, counted_from: int, expected: dict[str, int]
) -> None:
    reads: Counter[str] = Counter()
    read_records = parts.store.read_records

    async def counted(*where: Any, **how: Any) -> AsyncIterator[EncodedRecord]:
        reads["groups"] += 1
        async for record in read_records(*where, **how):
            reads["records"] += 1
            yield record

    monkeypatch.setattr(parts.store, "read_records", counted)
    running = await run_batch(parts, chunks=130, size=2)  # in three groups
    await running.count(*range(counted_from, 130))
    service = await serve(operations, parts=parts, clock=HandClock())
    async with connect(service, OUTCOMES) as events:
        assert (await events.next()).kind == "progress"
        await settle()
    assert reads == expected


async def test_trouble_with_the_table_delays_outcomes_and_ends_no_stream(
    serve: Serve, parts: MemoryParts, clock: HandClock
) -> None:
    running = await run_batch(parts, chunks=2, size=2)
    outage = Outage("store.read_group", times=2)
    service = await serve(operations, parts=parts, clock=clock, watch=outage)
    await running.count(0, 1)
    await running.finish()
    async with connect(service, OUTCOMES) as events:
        assert (await events.next()).kind == "progress"
        await clock.forward(40)
        assert kinds(await events.rest()) == ["outcome"] * 4 + ["end"]


@pytest.mark.parametrize(
    ("query", "headers", "words"),
    [
        ("?outcome=1", {}, "The parameter 'outcome' is unknown. Use outcomes=1"),
        ("?outcomes=yes", {}, "Invalid outcomes 'yes'. Use 1"),
        ("?outcomes=1&outcomes=1", {}, "Send it once"),
        ("?outcomes=1", {"Last-Event-ID": "x"}, "Invalid Last-Event-ID 'x'"),
        ("?outcomes=1", {"Last-Event-ID": "0.2"}, "Invalid Last-Event-ID '0.2'"),
    ],
)
async def test_request_that_makes_no_sense_is_rejected(
    serve: Serve, parts: MemoryParts, query: str, headers: dict[str, str], words: str
) -> None:
    await run_batch(parts, chunks=1, size=2)
    service = await serve(operations, parts=parts)
    assert words in assert_problem(await service.get(URL + query, **headers), 400)["detail"]


async def test_only_events_are_available(serve: Serve, parts: MemoryParts) -> None:
    service = await serve(operations, parts=parts)
    assert_problem(await service.get(URL, Accept="application/json"), 406)


async def test_batch_does_not_exist_for_another_tenant_even_while_its_own_watches(
    serve: Serve, parts: MemoryParts, clock: HandClock
) -> None:
    await run_batch(parts, chunks=1, size=1, tenant="acme")
    service = await serve(operations, parts=parts, clock=clock, tenant_header="X-Tenant")
    async with connect(service, **{"X-Tenant": "acme"}) as events:
        await events.next()
        for url in (URL, "/batch/unknown/events", "/batch/~/events"):
            assert_problem(await service.get(url, **{"X-Tenant": "other"}), 404)
