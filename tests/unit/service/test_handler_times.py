"""Published handler times decide the size of chunks. The table is read about once a second, and only if needed."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock import Operations
from penstock.message import decode_chunk
from penstock.service.handler_times import FRESH_SECONDS, STALE_SECONDS, HandlerTimes
from penstock.service.intake.draft import Draft
from penstock.service.intake.submit import SLOW_BODY_BYTES
from penstock.settings import Settings
from penstock.testing import FakeClock, MemoryParts, memory_parts
from tests.support.builders import NOW
from tests.support.faults import Moment, Outage
from tests.support.service import NDJSON, Serve
from tests.support.waiting import eventually

operations = Operations()


@operations.post("/quick")
async def quick(body: Any = None) -> None: ...


@operations.post("/slow/{name}")
async def slow(name: str) -> None: ...


@operations.post("/new")
async def new() -> None: ...


NAMES = ["POST /quick", "POST /slow/{name}", "POST /new"]
MEASURED = NAMES[:2]
DEFAULTS = {"sync_max_operations": 0, "min_chunks": 16}


async def measured(clock: FakeClock | None = None) -> MemoryParts:
    parts = memory_parts(clock)
    await parts.store.write_handler_seconds({"POST /quick": 0.00005, "POST /slow/{name}": 1.0}, NOW)
    return parts


def ask(*paths: str) -> list[dict[str, str]]:
    return [{"method": "POST", "path": path} for path in paths]


def lengths(parts: MemoryParts) -> list[int]:
    chunks = sorted((decode_chunk(message.body) for message in parts.chunks.messages), key=lambda one: int(one.id))
    return [len(chunk.operations) for chunk in chunks]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/quick"] * 1_000, [1_000]),
        (["/slow/a"] * 40, [2] * 20),
        (["/slow/a"] * 10, [1] * 10),
        (["/new"] * 1_000, [125] * 8),
        (["/quick"] * 500 + ["/slow/a"] * 32, [502] + [2] * 15),
    ],
    ids=["quick", "slow", "few and slow", "not measured", "mixed"],
)
async def test_chunks_take_about_as_long_as_they_aim_at(serve: Serve, paths: list[str], expected: list[int]) -> None:
    service = await serve(operations, parts=await measured(), **DEFAULTS)
    assert (await service.post(ask(*paths))).status == 202
    assert lengths(service.parts) == expected


@pytest.mark.parametrize("is_length_known", [True, False], ids=["length known", "length unknown"])
@pytest.mark.parametrize(
    ("path", "count", "expected"),
    [
        ("/new", 20_000, 20),  # full chunks: the consumer cuts those that are slow
        ("/new", 1_000, 8),  # one piece: the whole batch is known
        ("/quick", 20_000, 20),
        ("/slow/a", 2_000, 1_000),
    ],
)
async def test_stream_is_cut_as_its_length_lets_expect(
    serve: Serve, path: str, count: int, expected: int, is_length_known: bool
) -> None:
    service = await serve(operations, parts=await measured(), **DEFAULTS)
    content = b"".join(json.dumps(one).encode() + b"\n" for one in ask(path) * count)

    async def in_pieces() -> Any:
        for start in range(0, len(content), 50_000):
            yield content[start : start + 50_000]

    data = content if is_length_known else in_pieces()
    answer = await service.ask("POST", "/batch", data=data, headers={"Content-Type": NDJSON})
    assert answer.status == 202
    assert len(lengths(service.parts)) == pytest.approx(expected, rel=0.05)
    assert sum(lengths(service.parts)) == count


async def test_medium_stream_is_cut_into_enough_chunks_for_all(serve: Serve) -> None:
    """The first pieces predict the time of the whole batch."""
    service = await serve(operations, parts=await measured(), **{**DEFAULTS, "chunk_seconds": 300})
    content = b"".join(json.dumps(one).encode() + b"\n" for one in ask("/new") * 10_000)
    await service.ask("POST", "/batch", data=content, headers={"Content-Type": NDJSON})
    assert 16 <= len(lengths(service.parts)) <= 20


async def test_the_table_is_asked_once_a_second_however_many_ask() -> None:
    clock = FakeClock()
    parts = await measured(clock)
    asked: list[list[str]] = []
    read = parts.store.read_handler_seconds

    async def note(names: Any) -> dict[str, float]:
        asked.append(list(names))
        await asyncio.sleep(0)
        return await read(names)

    parts.store.read_handler_seconds = note  # type: ignore[method-assign]
    times = HandlerTimes(parts.store, NAMES, clock)
    await asyncio.gather(*(times.read(MEASURED) for _ in range(50)))
    assert await times.read(MEASURED) == {"POST /quick": 0.00005, "POST /slow/{name}": 1.0}
    assert asked == [NAMES]
    await parts.store.write_handler_seconds({"POST /new": 3.0}, NOW)
    clock.advance(1)
    assert "POST /new" not in await times.read(MEASURED)  # it does not wait, but refreshes for the next batch
    await eventually(lambda: knows(times, "POST /new"))
    assert len(asked) == 2


async def test_times_are_read_as_soon_as_a_batch_is_known_to_be_large() -> None:
    parts = await measured()
    times = HandlerTimes(parts.store, NAMES, FakeClock())
    with Draft("b", operations, Settings(sync_max_operations=2), times) as draft:
        for document in ask("/quick", "/quick"):
            draft.add(document)
        assert times._refreshing is None
        draft.add(ask("/quick")[0])
        assert times._refreshing is not None
        await times._refreshing
        assert "POST /quick" in await times.read(MEASURED)


async def test_times_are_read_while_the_body_of_a_large_batch_arrives(serve: Serve) -> None:
    is_asked = asyncio.Event()

    def watch(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_handler_seconds", "before"):
            is_asked.set()

    service = await serve(operations, parts=await measured(), watch=watch, **DEFAULTS)
    content = json.dumps({"operations": [{**ask("/quick")[0], "body": "-" * 50}] * 1_000}).encode()

    async def body() -> AsyncIterator[bytes]:
        yield content[:1_000]
        async with asyncio.timeout(10):
            await is_asked.wait()
        yield content[1_000:]

    headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
    answer = await service.ask("POST", "/batch", data=body(), headers=headers)
    assert (answer.status, len(content) >= SLOW_BODY_BYTES) == (202, True)


async def test_request_that_is_cancelled_does_not_cancel_the_read_for_others() -> None:
    parts = await measured()
    times = HandlerTimes(parts.store, NAMES, FakeClock())
    cancelled, other = asyncio.create_task(times.read(MEASURED)), asyncio.create_task(times.read(MEASURED))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert "POST /quick" in await other


async def test_after_a_pause_it_waits_for_what_is_true_now() -> None:
    clock = FakeClock()
    parts = await measured(clock)
    times = HandlerTimes(parts.store, NAMES, clock)
    await times.read(MEASURED)
    await parts.store.write_handler_seconds({"POST /new": 3.0}, NOW)
    clock.advance(STALE_SECONDS)
    assert (await times.read(MEASURED))["POST /new"] == 3.0


async def test_batch_waits_for_the_table_as_long_as_no_handler_is_measured() -> None:
    clock = FakeClock()
    parts = memory_parts(clock)
    times = HandlerTimes(parts.store, NAMES, clock)
    assert await times.read(MEASURED) == {}
    await parts.store.write_handler_seconds({"POST /new": 3.0}, NOW)
    clock.advance(FRESH_SECONDS)
    assert await times.read(MEASURED) == {"POST /new": 3.0}


async def test_batch_waits_for_the_table_only_if_it_needs_a_handler_that_is_not_measured() -> None:
    """Otherwise the second batch of a handler would be planned like the first one."""
    clock = FakeClock()
    parts = await measured(clock)
    times = HandlerTimes(parts.store, NAMES, clock)
    await times.read(MEASURED)
    await parts.store.write_handler_seconds({"POST /new": 3.0, "POST /quick": 4.0}, NOW)
    assert "POST /new" not in await times.read(NAMES)  # the table was read less than a second ago
    clock.advance(FRESH_SECONDS)
    assert (await times.read(MEASURED))["POST /quick"] == 0.00005
    assert (await times.read(NAMES))["POST /new"] == 3.0


async def test_only_one_call_reads_the_table_at_a_time() -> None:
    clock, gate, calls = FakeClock(), asyncio.Event(), 0
    parts = memory_parts(clock)

    async def wait(names: list[str]) -> dict[str, float]:
        nonlocal calls
        calls += 1
        await gate.wait()
        return {"POST /new": 3.0}

    parts.store.read_handler_seconds = wait  # type: ignore[assignment]
    times = HandlerTimes(parts.store, NAMES, clock)
    first = asyncio.create_task(times.read(MEASURED))
    await asyncio.sleep(0)
    clock.advance(2 * FRESH_SECONDS)
    second = asyncio.create_task(times.read(MEASURED))
    await asyncio.sleep(0)
    gate.set()
    assert [await first, await second, calls] == [{"POST /new": 3.0}, {"POST /new": 3.0}, 1]


async def knows(times: HandlerTimes, name: str) -> bool:
    return name in await times.read(MEASURED)


async def test_what_was_known_serves_while_the_table_does_not_answer(serve: Serve) -> None:
    clock = FakeClock()
    parts = await measured(clock)
    service = await serve(operations, parts=parts, clock=clock, watch=Outage("store.read_handler_seconds"), **DEFAULTS)
    assert (await service.post(ask(*["/new"] * 10))).status == 202


async def test_batch_that_is_answered_at_once_asks_for_nothing(serve: Serve) -> None:
    def refuse(call: str, moment: Moment) -> None:
        raise AssertionError(call)

    service = await serve(operations, watch=refuse)
    assert (await service.post(ask("/new", "/quick"))).status == 200
