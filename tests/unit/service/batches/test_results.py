"""Results: all of them in order, in one answer or in pages, while the batch runs and afterwards."""

import asyncio
import math
import random
import re
from collections.abc import AsyncIterator, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from penstock import Operations
from penstock.batch import Batch, BatchState, Counts, Ending
from penstock.chunk import GROUP_CHUNKS, Operation, plan_groups
from penstock.errors import LostItem, Unavailable
from penstock.outcome import ChunkRecord, Outcome, failed, succeeded
from penstock.record import EncodedRecord
from penstock.service.batches import results
from penstock.service.keys import BACKEND, MEMORY, TURNS
from penstock.service.memory import Memory
from penstock.service.turns import Turns
from penstock.testing import MemoryParts, memory_parts
from penstock.testing.http import Answer
from tests.support.builders import BATCH_ID, build_batch, build_operation
from tests.support.faults import Moment, Watch
from tests.support.service import JSON, NDJSON, Serve, Service, assert_problem

URL = f"/batch/{BATCH_ID}/results"


def come_to(operation: Operation) -> Outcome:
    """Every third operation fails."""
    if operation.index % 3 == 2:
        return failed(operation, 409, "Rejected", "Every third.")
    return succeeded(operation, 201, {"n": operation.index})


def told(outcome: Outcome) -> dict[str, Any]:
    ending = {"error": outcome.error} if outcome.error else {"result": outcome.result}
    return {"id": outcome.id, "status": outcome.status, **ending}


@dataclass
class Recorded:
    """A store with the records of a batch, and the outcomes that must be read from it."""

    parts: MemoryParts = field(default_factory=memory_parts)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [told(outcome) for outcome in self.outcomes]


async def record(*chunk_sizes: int, draw: random.Random | None = None, missing: float = 0) -> Recorded:
    """Build records as consumers write them. `draw` scatters them over follow-up chunks, in any order."""
    recorded = Recorded()
    runs, start = [], 0
    for size in chunk_sizes:
        runs.append(range(start, start + size))
        start += size
    batch = build_batch(
        *plan_groups([run.start for run in runs], start), chunk_count=len(runs), state=BatchState.PROCESSING
    )
    await recorded.parts.store.create_batch(batch)
    records: list[ChunkRecord] = []
    for number, run in enumerate(runs):
        outcomes = [come_to(build_operation(index)) for index in run]
        records += scatter(number, outcomes, draw, missing) if draw else [ChunkRecord(str(number), tuple(outcomes))]
    if draw:
        draw.shuffle(records)
    for one in records:
        await settle(recorded.parts, batch, one)
    recorded.outcomes = sorted((o for one in records for o in one.outcomes), key=lambda outcome: outcome.index)
    return recorded


async def settle(parts: MemoryParts, batch: Batch, record: ChunkRecord) -> None:
    """Write records as consumers do it: first they commit them, then they count them."""
    await parts.store.commit_chunk(batch, record)
    await parts.store.count_chunk(batch, record)


def scatter(number: int, outcomes: list[Outcome], draw: random.Random, missing: float) -> list[ChunkRecord]:
    scattered: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if draw.random() >= missing:
            suffix = draw.choice(["", "", ".1", ".2", ".1.1", ".1.2", ".2.1", ".2.1.1"])
            scattered.setdefault(f"{number}{suffix}", []).append(outcome)
    return [ChunkRecord(chunk_id, tuple(some)) for chunk_id, some in scattered.items()]


async def serve_recorded(serve: Serve, recorded: Recorded) -> Service:
    return await serve(Operations(), parts=recorded.parts)


async def test_results_are_ndjson_of_all_in_order(serve: Serve) -> None:
    recorded = await record(2, 3, 1)
    service = await serve_recorded(serve, recorded)
    answer = await service.get(URL)
    assert (answer.status, answer.content_type) == (200, NDJSON)
    assert answer.lines == recorded.bodies
    assert answer.content.endswith(b"\n")
    assert len(answer.lines) == 6


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", NDJSON),
        (NDJSON, NDJSON),
        (JSON, JSON),
        (f"text/html, {JSON};q=0.9, */*;q=0.8", JSON),
        (f"{JSON};q=0.5, {NDJSON}", NDJSON),
        (f"{NDJSON};q=0, */*", JSON),
    ],
)
async def test_accept_chooses_the_type(serve: Serve, accept: str, content_type: str) -> None:
    recorded = await record(2)
    service = await serve_recorded(serve, recorded)
    answer = await service.get(URL, Accept=accept)
    assert answer.content_type == content_type
    found = answer.lines if content_type == NDJSON else answer.body["results"]
    assert found == recorded.bodies


async def test_accept_may_come_in_several_lines(serve: Serve) -> None:
    service = await serve_recorded(serve, await record(1))
    answer = await service.ask("GET", URL, headers=[("Accept", "text/html"), ("Accept", JSON)])
    assert (answer.status, answer.content_type) == (200, JSON)


async def test_other_types_are_not_offered(serve: Serve) -> None:
    service = await serve_recorded(serve, await record(1))
    assert NDJSON in assert_problem(await service.get(URL, Accept="text/html, image/*"), 406)["detail"]


async def test_json_comes_by_pages_of_its_own_accord(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PAGE_OUTCOMES", 4)
    service = await serve_recorded(serve, await record(3, 3))
    first = await service.get(URL, Accept=JSON)
    assert [len(first.body["results"]), first.body["nextCursor"] is None] == [4, False]
    second = await service.get(f"{URL}?cursor={first.body['nextCursor']}", Accept=JSON)
    assert [len(second.body["results"]), second.body["nextCursor"]] == [2, None]


async def read_pages(service: Service, query: str, accept: str) -> list[list[dict[str, Any]]]:
    """Read all pages by following the link from each page to the next."""
    pages = []
    url: str | None = f"{URL}?{query}"
    while url is not None:
        answer = await service.get(url, Accept=accept)
        assert answer.status == 200, answer
        pages.append(answer.lines if accept == NDJSON else answer.body["results"])
        url = next_url(answer)
        if accept == JSON:
            assert (answer.body["nextCursor"] is None) == (url is None)
            assert url is None or f"cursor={answer.body['nextCursor']}" in url
        assert len(pages) < 1_000
    return pages


def next_url(answer: Answer) -> str | None:
    if "Link" not in answer.headers:
        return None
    link = re.fullmatch(r'<(/batch/[^>]+)>; rel="next"', answer.headers["Link"])
    assert link, answer.headers["Link"]
    return link[1]


@pytest.mark.parametrize("accept", [JSON, NDJSON])
@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7, 1000])
async def test_pages_hold_everything_once_and_in_order(serve: Serve, limit: int, accept: str) -> None:
    recorded = await record(2, 1, 3)
    service = await serve_recorded(serve, recorded)
    pages = await read_pages(service, f"limit={limit}", accept)
    assert [result for page in pages for result in page] == recorded.bodies
    assert len(pages) == math.ceil(6 / limit)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("query", ["", "&status=failed", "&status=succeeded"])
async def test_pages_hold_everything_however_it_was_recorded(serve: Serve, seed: int, query: str) -> None:
    """Chunks of all sizes in more than one group. Outcomes are scattered over follow-ups, and some are missing."""
    draw = random.Random(seed)
    sizes = [draw.randint(1, 9) for _ in range(150)]
    recorded = await record(*sizes, draw=draw, missing=draw.choice([0, 0.3]))
    expected = [told(outcome) for outcome in recorded.outcomes if not query or query.endswith(outcome.state)]
    service = await serve_recorded(serve, recorded)
    assert (await service.get(f"{URL}?{query}")).lines == expected
    for accept, limit in ((JSON, 60), (NDJSON, 53)):
        pages = await read_pages(service, f"limit={limit}{query}", accept)
        assert [result for page in pages for result in page] == expected
        assert all(len(page) == limit for page in pages[:-1])


@pytest.mark.parametrize("accept", [JSON, NDJSON])
@pytest.mark.parametrize(("most_bytes", "sizes"), [(1, [1] * 7), (100, [3, 3, 1]), (100_000, [7])])
async def test_pages_are_limited_by_their_bytes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, accept: str, most_bytes: int, sizes: list[int]
) -> None:
    recorded = await record(3, 4)
    service = await serve_recorded(serve, recorded)
    monkeypatch.setattr(results, "PAGE_BYTES", most_bytes)
    pages = await read_pages(service, "limit=100", accept)
    assert [one for page in pages for one in page] == recorded.bodies
    assert [len(page) for page in pages] == sizes


def noted_in(calls: list[str]) -> Watch:
    def note(call: str, moment: Moment) -> None:
        if moment == "before":
            calls.append(call.removeprefix("store."))

    return note


async def test_results_of_one_chunk_take_one_call_after_the_status_was_read(serve: Serve) -> None:
    recorded = await record(10)
    calls = list[str]()
    service = await serve(Operations(), parts=recorded.parts, watch=noted_in(calls))
    before = await service.get(URL)
    await service.get(f"/batch/{BATCH_ID}/status")
    calls.clear()
    assert (await service.get(URL)).lines == before.lines == recorded.bodies
    assert calls == ["read_only_chunk"]
    pages = await read_pages(service, "limit=4", NDJSON)
    assert [line for page in pages for line in page] == recorded.bodies


@pytest.mark.parametrize("has_follow_up", [True, False])
async def test_records_are_read_in_order_if_the_only_one_is_missing_or_has_follow_ups(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, *, has_follow_up: bool
) -> None:
    """One call reads the record and its counter in any order, so the record may be missing."""
    batch = build_batch(2, chunk_count=1, state=BatchState.PROCESSING)
    parts = memory_parts()
    await parts.store.create_batch(batch)
    service = await serve(Operations(), parts=parts)
    await service.get(f"/batch/{BATCH_ID}/status")
    parts_of_it = [[0], [1]] if has_follow_up else [[0, 1]]
    for chunk_id, indexes in zip(("0", "0.0.1.1"), parts_of_it, strict=False):
        outcomes = tuple(come_to(build_operation(index)) for index in indexes)
        await settle(parts, batch, ChunkRecord(chunk_id, outcomes))
    if not has_follow_up:
        read = parts.store.read_only_chunk

        async def read_without_record(batch_id: str) -> Any:
            return *(await read(batch_id))[:2], None

        monkeypatch.setattr(parts.store, "read_only_chunk", read_without_record)
    assert [line["id"] for line in (await service.get(URL)).lines] == ["id-0", "id-1"]


async def test_batch_is_unknown_when_a_part_of_its_only_record_is_deleted(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = await record(2)
    service = await serve_recorded(serve, recorded)
    await service.get(f"/batch/{BATCH_ID}/status")

    async def lose(_batch_id: str) -> Any:
        raise LostItem("a record whose retention is over")

    monkeypatch.setattr(recorded.parts.store, "read_only_chunk", lose)
    assert_problem(await service.get(URL), 404)


async def test_results_so_far_while_the_batch_runs(serve: Serve) -> None:
    batch = build_batch(3, chunk_count=3, state=BatchState.PROCESSING)
    parts = memory_parts()
    await parts.store.create_batch(batch)
    service = await serve(Operations(), parts=parts)
    assert (await service.get(URL)).content == b""
    assert (await service.get(URL, Accept=JSON)).body == {"results": [], "nextCursor": None}
    for number, index in ((2, 2), (0, 0)):
        await settle(parts, batch, ChunkRecord(str(number), (come_to(build_operation(index)),)))
    assert [line["id"] for line in (await service.get(URL)).lines] == ["id-0", "id-2"]


async def test_outcome_that_is_not_counted_yet_is_not_told(serve: Serve) -> None:
    """Its group may be closed before it is counted. Then the operation gets another outcome."""
    batch = build_batch(2, chunk_count=2, state=BatchState.CANCELLING, ending=Ending.CANCELLED)
    parts = memory_parts()
    await parts.store.create_batch(batch)
    await settle(parts, batch, ChunkRecord("0", (come_to(build_operation(0)),)))
    await parts.store.commit_chunk(batch, ChunkRecord("1", (succeeded(build_operation(1), 200, None),)))
    service = await serve(Operations(), parts=parts)
    assert [line["id"] for line in (await service.get(URL)).lines] == ["id-0"]
    await parts.store.close_group(batch, 0, (await parts.store.read_group(batch.id, 0)).counts, Ending.CANCELLED)
    assert [(line["id"], line["status"]) for line in (await service.get(URL)).lines][1:] == [("1", 410)]


async def test_what_expired_keeps_its_words_when_the_batch_is_cancelled_afterwards(serve: Serve) -> None:
    """Found by the simulation (seed 10301)."""
    batch = build_batch(1, state=BatchState.PROCESSING)
    parts = memory_parts()
    await parts.store.create_batch(batch)
    service = await serve(Operations(), parts=parts)
    await parts.store.close_group(batch, 0, Counts(), Ending.EXPIRED)
    before = (await service.get(URL)).lines
    assert await parts.store.end_batch(batch.id, Ending.CANCELLED, "Cancelled on request.", settle_by=0)
    assert (
        (await service.get(URL)).lines
        == before
        == [{"id": "0", "status": 504, "error": {"title": "Not done by the deadline"}}]
    )


async def test_later_outcome_of_an_operation_supersedes_the_earlier(serve: Serve) -> None:
    batch = build_batch(1, state=BatchState.COMPLETED)
    parts = memory_parts()
    operation = build_operation(0)
    await parts.store.create_batch(batch)
    redriven = ChunkRecord("0.d1", (succeeded(operation, 200, None),))
    await parts.store.commit_chunk(batch, redriven)  # the order of the records in the table is another one
    await settle(parts, batch, ChunkRecord("0", (failed(operation, 500, "Broke"),)))
    await parts.store.count_chunk(batch, redriven)
    service = await serve(Operations(), parts=parts)
    assert (await service.get(URL)).lines == [{"id": "id-0", "status": 200, "result": None}]


async def test_numbers_that_json_has_no_word_for_become_null(serve: Serve) -> None:
    batch = build_batch(1, state=BatchState.COMPLETED)
    parts = memory_parts()
    await parts.store.create_batch(batch)
    result = {"nan": math.nan, "inf": [math.inf, -math.inf], "n": 1e308}
    await settle(parts, batch, ChunkRecord("0", (succeeded(build_operation(0), 200, result),)))
    service = await serve(Operations(), parts=parts)
    expected = {"nan": None, "inf": [None, None], "n": 1e308}
    assert (await service.get(URL)).lines[0]["result"] == expected
    assert (await service.get(URL, Accept=JSON)).body["results"][0]["result"] == expected


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "expired"])
async def test_status_filters(serve: Serve, state: str) -> None:
    recorded = await record(5, 4)
    service = await serve_recorded(serve, recorded)
    expected = [told(outcome) for outcome in recorded.outcomes if outcome.state == state]
    assert (await service.get(f"{URL}?status={state}")).lines == expected
    assert (await service.get(f"{URL}?status={state}", Accept=JSON)).body["results"] == expected


@pytest.mark.parametrize(
    "query",
    [
        *("status=", "status=queued", "status=Failed", "status=failed,succeeded", "status=%00"),
        *("limit=", "limit=0", "limit=-1", "limit=1.5", "limit=many", "limit=10001", "limit=1e3", "limit=%20"),
        *("limit=99999999999999999999", "limit=0x10", "limit=1_0"),
        *("cursor=", "cursor=1", "cursor=.", "cursor=1.", "cursor=.1", "cursor=-1.2", "cursor=1.-2", "cursor=1.2.3"),
        *("cursor=a.b", "cursor=1.2%00", "cursor=" + "9" * 30 + ".1", "cursor=%C2%B2.%C2%B2"),
        *(
            "cursor=1.%D9%A3",
            "limit=%D9%A3",
            "limit=1&limit=2",
            "status=failed&status=failed",
            "state=failed",
            "limt=1",
        ),
    ],
)
@pytest.mark.parametrize("accept", [JSON, NDJSON])
async def test_wrong_queries_are_refused(serve: Serve, query: str, accept: str) -> None:
    service = await serve_recorded(serve, await record(1))
    problem = assert_problem(await service.get(f"{URL}?{query}", Accept=accept), 400)
    assert query.partition("=")[0] in problem["detail"]


async def test_cursor_past_the_end_finds_nothing(serve: Serve) -> None:
    service = await serve_recorded(serve, await record(2))
    assert (await service.get(f"{URL}?cursor=99999999.99999999")).content == b""
    answer = await service.get(f"{URL}?cursor=99999999.99999999", Accept=JSON)
    assert answer.body == {"results": [], "nextCursor": None}


async def test_unknown_batch(serve: Serve) -> None:
    service = await serve(Operations())
    assert_problem(await service.get(URL), 404)
    assert_problem(await service.get(URL, Accept=JSON), 404)


async def groups_read(parts: MemoryParts, *, reads_all: bool) -> list[int]:
    """Return the groups whose records are read until the first lines of a batch are used."""
    read, groups = parts.store.read_records, []

    def note(batch: Batch, group: int, first_chunk: int, *, reads_all: bool = False) -> AsyncIterator[EncodedRecord]:
        groups.append(group)
        return read(batch, group, first_chunk, reads_all=reads_all)

    parts.store.read_records = note  # type: ignore[method-assign]
    batch = await parts.store.read_batch(BATCH_ID)
    assert batch is not None
    app: Any = {BACKEND: parts.backend, MEMORY: Memory(10**9), TURNS: Turns()}
    reading = results.Reading(app, batch, results.Wanted(results.Cursor(), None), reads_all=reads_all)
    async with aclosing(reading.windows(await parts.store.read_group(BATCH_ID, 0))) as windows:
        await anext(windows)
        for _ in range(100):
            await asyncio.sleep(0)
        return list(groups)


@pytest.mark.parametrize(("reads_all", "groups"), [(True, [0, 1, 2]), (False, [0])])
async def test_records_of_further_groups_are_read_ahead_only_if_all_are_needed(
    *, reads_all: bool, groups: list[int]
) -> None:
    recorded = await record(*[1] * (2 * GROUP_CHUNKS + 1))
    assert await groups_read(recorded.parts, reads_all=reads_all) == groups


async def test_few_groups_without_records_are_read_ahead(parts: MemoryParts) -> None:
    count = 40 * GROUP_CHUNKS
    batch = build_batch(*plan_groups(list(range(count)), count), chunk_count=count, ending=Ending.CANCELLED)
    await parts.store.create_batch(batch)
    for group in range(40):
        await parts.store.close_group(batch, group, Counts(), Ending.CANCELLED)
    assert await groups_read(parts, reads_all=True) == list(range(1 + 16))


async def test_head_of_results_has_no_body(serve: Serve) -> None:
    service = await serve_recorded(serve, await record(2))
    answer = await service.ask("HEAD", URL)
    assert (answer.status, answer.content) == (200, b"")
    assert (await service.get(URL)).status == 200  # the connection is still in step


def break_after(parts: MemoryParts, count: int, error: Exception) -> None:
    """Break reading after some records. The reader must read a record more to see that a family is complete."""
    read = parts.store.read_records

    async def read_some(
        batch: Batch, group: int, first_chunk: int, *, reads_all: bool = False
    ) -> AsyncIterator[EncodedRecord]:
        left = count
        async for record in read(batch, group, first_chunk, reads_all=reads_all):
            yield record
            left -= 1
            if not left:
                raise error

    parts.store.read_records = read_some  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unavailable("AWS does not answer."), 503),
        (ValueError("a damaged record"), 500),
        (LostItem("a record whose retention is over"), 404),
    ],
)
async def test_results_that_cannot_be_read_to_the_end_do_not_look_whole(
    serve: Serve, error: Exception, status: int, logs: list[MutableMapping[str, Any]]
) -> None:
    recorded = await record(1, 1, 1)
    break_after(recorded.parts, 2, error)
    service = await serve_recorded(serve, recorded)
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        await service.get(URL)
    assert_problem(await service.get(URL, Accept=JSON), status)
    logs.clear()


async def test_results_of_a_closed_group_are_not_all_read_first(serve: Serve) -> None:
    recorded = await record(2, 2, 2)
    batch = await recorded.parts.store.read_batch(BATCH_ID)
    assert batch is not None
    seen = (await recorded.parts.store.read_group(BATCH_ID, 0)).counts
    assert await recorded.parts.store.close_group(batch, 0, seen, Ending.EXPIRED)
    break_after(recorded.parts, 2, ValueError("read too far"))
    service = await serve_recorded(serve, recorded)
    [[first]] = [(await service.get(f"{URL}?limit=1", Accept=JSON)).body["results"]]
    assert first == recorded.bodies[0]


@pytest.mark.parametrize("block_bytes", [1, 100, 100_000])
async def test_stream_is_written_in_blocks(serve: Serve, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(results, "BLOCK_BYTES", block_bytes)
    recorded = await record(3, 4)
    service = await serve_recorded(serve, recorded)
    assert (await service.get(URL)).lines == recorded.bodies


async def test_pages_that_are_collected_take_memory(serve: Serve) -> None:
    recorded = await record(3, 4)
    service = await serve_recorded(serve, recorded)
    with service.client.app[MEMORY].share() as another:
        another.grow_to(10**12)  # all of it, and more
        assert assert_problem(await service.get(URL, Accept=JSON), 503)["type"].endswith(":overloaded")
    assert (await service.get(URL, Accept=JSON)).status == 200


async def test_client_that_leaves_in_the_middle_breaks_nothing(serve: Serve) -> None:
    batch = build_batch(*[64] * 6, 16, chunk_count=400)
    parts = memory_parts()
    await parts.store.create_batch(batch)
    for number in range(400):
        outcome = succeeded(build_operation(number), 200, "x" * 20_000)
        await settle(parts, batch, ChunkRecord(str(number), (outcome,)))
    service = await serve(Operations(), parts=parts)
    async with asyncio.timeout(10), service.client.get(URL) as response:
        await response.content.read(100)
        response.close()
    assert (await service.get("/health/live")).status == 200
