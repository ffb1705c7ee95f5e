"""Failures by their cause: they are those of the results, however they were recorded, and in limited memory."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Operations
from penstock.batch import Batch, BatchState, Ending
from penstock.chunk import GROUP_CHUNKS
from penstock.outcome import ChunkRecord, Outcome, OutcomeState, failed, succeeded
from penstock.service.batches import causes as causes_module
from penstock.service.batches import failures
from penstock.service.batches.causes import LONGEST_DETAIL, LONGEST_TITLE, Causes, Failure
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.builders import BATCH_ID, NOW, build_batch, build_operation
from tests.support.full import full
from tests.support.plant import Toys, build_plant
from tests.support.service import Serve, Service, assert_problem
from tests.unit.service.batches.test_results import Recorded, record

URL = f"/batch/{BATCH_ID}/failures"


def reject(index: int, title: str = "Rejected", detail: str | None = None, status: int = 409) -> Outcome:
    return failed(build_operation(index), status, title, detail)


def accept(index: int) -> Outcome:
    return succeeded(build_operation(index), 201, {"n": index})


async def settle(parts: MemoryParts, batch: Batch, chunk_id: str, *outcomes: Outcome, at: float | None = NOW) -> None:
    made = ChunkRecord(chunk_id, outcomes, recorded_at=at)
    await parts.store.commit_chunk(batch, made)
    await parts.store.count_chunk(batch, made)


async def serve_batch(serve: Serve, parts: MemoryParts, batch: Batch) -> Service:
    await parts.store.create_batch(batch)
    return await serve(Operations(), parts=parts, clock=FakeClock(NOW))


async def pages(service: Service) -> list[Any]:
    """Follow the links to the last answer."""
    found: list[Any] = []
    url = URL
    while True:
        answer = await service.get(url)
        assert answer.status == 200, answer
        found.append(answer.body)
        assert ("Link" in answer.headers) == (answer.body["nextCursor"] is not None)
        if answer.body["nextCursor"] is None:
            return found
        url = answer.headers["Link"].removeprefix("<").partition(">")[0]


def counts(bodies: Sequence[Mapping[str, Any]]) -> Counter[tuple[int, str]]:
    found = Counter[tuple[int, str]]()
    for body in bodies:
        assert sum(group["count"] for group in body["groups"]) + body["other"] == body["counted"]
        for group in body["groups"]:
            found[group["status"], group["title"]] += group["count"]
    return found


async def test_failures_are_grouped_by_status_and_title(serve: Serve, parts: MemoryParts) -> None:
    batch = build_batch(9, chunk_count=2)
    service = await serve_batch(serve, parts, batch)
    await settle(parts, batch, "0", *(reject(index, detail=f"no {index}") for index in range(4)), accept(4))
    rest = (reject(5), reject(6, status=422), reject(7, "Timed out"), reject(8))
    await settle(parts, batch, "1", *rest, at=NOW + 7.25)
    assert (await service.get(URL)).body == {
        "batchId": BATCH_ID,
        "failed": 8,
        "counted": 8,
        "groups": [
            {
                "status": 409,
                "title": "Rejected",
                "count": 6,
                "retryable": 6,
                "firstAt": "2023-11-14T22:13:20.000Z",
                "lastAt": "2023-11-14T22:13:27.250Z",
                "samples": [{"id": f"id-{index}", "index": index, "detail": f"no {index}"} for index in range(3)],
            },
            {
                "status": 409,
                "title": "Timed out",
                "count": 1,
                "retryable": 1,
                "firstAt": "2023-11-14T22:13:27.250Z",
                "lastAt": "2023-11-14T22:13:27.250Z",
                "samples": [{"id": "id-7", "index": 7, "detail": None}],
            },
            {
                "status": 422,
                "title": "Rejected",
                "count": 1,
                "retryable": 1,
                "firstAt": "2023-11-14T22:13:27.250Z",
                "lastAt": "2023-11-14T22:13:27.250Z",
                "samples": [{"id": "id-6", "index": 6, "detail": None}],
            },
        ],
        "other": 0,
        "nextCursor": None,
    }


async def test_batch_without_failures_reads_no_record(serve: Serve, parts: MemoryParts) -> None:
    batch = build_batch(1, 1, chunk_count=GROUP_CHUNKS + 1)
    calls: list[str] = []
    await parts.store.create_batch(batch)
    await settle(parts, batch, "0", accept(0))
    service = await serve(
        Operations(), parts=parts, watch=lambda call, moment: calls.append(call) if moment == "after" else None
    )
    body = (await service.get(URL)).body
    assert (body["failed"], body["counted"], body["groups"]) == (0, 0, [])
    assert not {"store.read_group", "store.read_records"} & set(calls)


async def test_record_of_an_earlier_version_has_no_time(serve: Serve, parts: MemoryParts) -> None:
    batch = build_batch(1)
    service = await serve_batch(serve, parts, batch)
    await settle(parts, batch, "0", reject(0), at=None)
    [group] = (await service.get(URL)).body["groups"]
    assert (group["count"], group["firstAt"], group["lastAt"]) == (1, None, None)


async def test_failure_that_is_not_counted_yet_is_not_told(serve: Serve, parts: MemoryParts) -> None:
    batch = build_batch(2, chunk_count=2)
    service = await serve_batch(serve, parts, batch)
    await settle(parts, batch, "0", reject(0))
    await parts.store.commit_chunk(batch, ChunkRecord("1", (reject(1),)))
    assert (await service.get(URL)).body["counted"] == 1


async def test_retried_operations_are_no_failures_any_more(aiohttp_client: AiohttpClient) -> None:
    toys = Toys()
    plant = await build_plant(aiohttp_client, toys.operations(), chunk_operations=2)
    batch_id = await plant.submit("/succeed/a", "/break/b", "/reject/c", "/break/d")
    await plant.work_off()

    async def told() -> Any:
        body = (await plant.ask("GET", f"/batch/{batch_id}/failures")).body
        assert body["counted"] == body["failed"]
        assert all(group["firstAt"] for group in body["groups"])
        return {(group["status"], group["count"]): [one["id"] for one in group["samples"]] for group in body["groups"]}

    assert await told() == {(500, 2): ["1", "3"], (409, 1): ["2"]}
    toys.is_mended = True
    await plant.ask("POST", f"/batch/{batch_id}/retry")
    assert await told() == {(500, 2): ["1", "3"], (409, 1): ["2"]}
    await plant.work_off()
    assert await told() == {(409, 1): ["2"]}


READINGS = [(1, 0), (2_000, 1), (10**9, 2)]  # bytes of an answer, and a seed


@pytest.mark.parametrize(
    ("read_bytes", "seed"),
    [*READINGS, *full((read_bytes, seed) for read_bytes, _ in READINGS for seed in range(3, 8))],
)
async def test_failures_are_those_of_the_results(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, read_bytes: int, seed: int
) -> None:
    monkeypatch.setattr(failures, "READ_BYTES", read_bytes)
    monkeypatch.setattr(failures, "TURN_BYTES", 500)
    chance = random.Random(seed)
    sizes = [chance.randint(1, 3) for _ in range(GROUP_CHUNKS + 10)]
    recorded: Recorded = await record(*sizes, draw=chance, missing=0.1)
    service = await serve(Operations(), parts=recorded.parts)
    found = await pages(service)
    expected = Counter((one.status, str((one.error or {})["title"])) for one in recorded.outcomes if one.error)
    assert counts(found) == expected
    assert (len(found) > 60) == (read_bytes == 1)
    assert (len(found) == 1) == (read_bytes == 10**9)


@pytest.mark.parametrize("read_bytes", [1, 10**9])
async def test_operations_of_a_batch_that_was_stopped_are_failures_without_a_record(
    serve: Serve, parts: MemoryParts, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    monkeypatch.setattr(failures, "READ_BYTES", read_bytes)
    reason = "Too many consumers died."
    batch = build_batch(
        GROUP_CHUNKS, 2, chunk_count=GROUP_CHUNKS + 2, state=BatchState.FAILED, ending=Ending.FAILED, reason=reason
    )
    service = await serve_batch(serve, parts, batch)
    await settle(parts, batch, "0", reject(0))
    await settle(parts, batch, "2", accept(2))
    for number in range(2):
        seen = (await parts.store.read_group(batch.id, number)).counts
        await parts.store.close_group(batch, number, seen, Ending.FAILED)
    found = await pages(service)
    assert {body["failed"] for body in found} == {GROUP_CHUNKS + 1}
    assert counts(found) == {(409, "Rejected"): 1, (503, "Stopped"): GROUP_CHUNKS}
    if read_bytes > 1:
        stopped = next(group for group in found[0]["groups"] if group["title"] == "Stopped")
        assert stopped["samples"] == [{"id": str(index), "index": index, "detail": reason} for index in (1, 3, 4)]
        assert (stopped["firstAt"], stopped["lastAt"]) == (None, None)


async def test_samples_of_stopped_operations_have_the_ids_of_the_client(serve: Serve, parts: MemoryParts) -> None:
    batch = replace(build_batch(3), has_own_ids=True, state=BatchState.FAILED, ending=Ending.FAILED)
    service = await serve_batch(serve, parts, batch)
    await parts.store.write_ids(batch, 0, ["a", "b", "c"])
    await settle(parts, batch, "0", reject(0))
    await parts.store.close_group(batch, 0, (await parts.store.read_group(batch.id, 0)).counts, Ending.FAILED)
    groups = (await service.get(URL)).body["groups"]
    assert [[one["id"] for one in group["samples"]] for group in groups] == [["b", "c"], ["id-0"]]


async def test_expired_and_cancelled_operations_are_no_failures(serve: Serve, parts: MemoryParts) -> None:
    batch = build_batch(3)
    service = await serve_batch(serve, parts, batch)
    await settle(parts, batch, "0", reject(0))
    await parts.store.close_group(batch, 0, (await parts.store.read_group(batch.id, 0)).counts, Ending.EXPIRED)
    assert (await service.get(URL)).body["counted"] == 1


async def test_odd_errors_are_grouped_too(serve: Serve, parts: MemoryParts) -> None:
    batch = build_batch(4)
    service = await serve_batch(serve, parts, batch)
    errors: list[dict[str, Any]] = [
        {"title": "t" * 300, "detail": "d" * 3_000},
        {"title": ["a list"], "detail": {"an": "object"}},
        {"body": "x"},
        {"title": "\u00e4 <b>", "detail": None},
    ]
    outcomes = [Outcome(index, "\u20ac", OutcomeState.FAILED, 400, error=error) for index, error in enumerate(errors)]
    await settle(parts, batch, "0", *outcomes)
    groups = (await service.get(URL)).body["groups"]
    assert [(group["title"], group["count"]) for group in groups] == [
        ("", 2),
        ("t" * (LONGEST_TITLE - 1) + "…", 1),
        ("\u00e4 <b>", 1),
    ]
    assert groups[1]["samples"] == [{"id": "\u20ac", "index": 0, "detail": "d" * (LONGEST_DETAIL - 1) + "…"}]


@pytest.mark.parametrize("query", ["cursor=x", "cursor=1", "cursor=1.1&cursor=1.1", "limit=1", "cursor=1234567890.0"])
async def test_invalid_query_is_rejected(serve: Serve, parts: MemoryParts, query: str) -> None:
    service = await serve_batch(serve, parts, build_batch(1))
    assert_problem(await service.get(f"{URL}?{query}"), 400)


async def test_unknown_batch(serve: Serve) -> None:
    service = await serve(Operations())
    answer: Answer = await service.get(URL)
    assert_problem(answer, 404)


async def test_cursor_past_the_end_finds_nothing(serve: Serve, parts: MemoryParts) -> None:
    batch = build_batch(1)
    service = await serve_batch(serve, parts, batch)
    await settle(parts, batch, "0", reject(0))
    body = (await service.get(f"{URL}?cursor=999999999.0")).body
    assert (body["failed"], body["counted"], body["nextCursor"]) == (1, 0, None)


# --- Causes


def test_frequent_causes_are_kept_among_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causes_module, "MOST_CAUSES", 10)
    causes, chance = Causes(), random.Random(1)
    titles = [f"user {number} is unknown" for number in range(3_000)] + ["frequent"] * 600 + ["rather"] * 400
    chance.shuffle(titles)
    for index, title in enumerate(titles):
        causes.add(Failure(index, str(index), 409, title))
        assert len(causes._kept) <= 20
    listed, other = causes.listed()
    assert len(listed) == 10
    assert [cause.title for cause in listed[:2]] == ["frequent", "rather"]
    assert listed[0].count > 550  # those from before it was kept are among the others
    assert sum(cause.count for cause in listed) + other == causes.counted == 4_000
