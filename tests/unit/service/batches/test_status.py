"""The status of a batch at each point of its life."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from penstock import Operations
from penstock.batch import FINAL_STATES, OPEN_STATES, Batch, BatchState, Counts, Ending, FailureLimit
from penstock.cost import Units
from penstock.errors import NewerVersion
from penstock.service.batches.status import LONGEST_POLL_SECONDS, poll_seconds
from penstock.store import Group
from penstock.testing import FakeClock, MemoryParts, memory_parts
from tests.support.builders import BATCH_ID, NOW, build_batch, build_record
from tests.support.faults import Moment
from tests.support.full import full
from tests.support.service import Serve, assert_problem

URL = f"/batch/{BATCH_ID}/status"


async def parts_with(batch: Batch, *counts: Counts) -> MemoryParts:
    """Return a store with this batch and these counts of its groups."""
    parts = memory_parts()
    await parts.store.create_batch(batch)
    for group, counted in enumerate(counts):
        await parts.store.count_chunk(batch, build_record(str(group * 64), counted))
    return parts


async def read_status(serve: Serve, batch: Batch, *counts: Counts, at: float = NOW) -> Any:
    service = await serve(Operations(), parts=await parts_with(batch, *counts), clock=FakeClock(at))
    answer = await service.get(URL)
    assert (answer.status, answer.content_type) == (200, "application/json")
    return answer.body


async def test_accepted_batch_is_queued(serve: Serve) -> None:
    assert await read_status(serve, build_batch(6)) == {
        "batchId": BATCH_ID,
        "tenant": "default",
        "metadata": {},
        "status": "queued",
        "priority": "normal",
        "total": 6,
        "completed": 0,
        "succeeded": 0,
        "failed": 0,
        "cancelled": 0,
        "expired": 0,
        "redelivered": 0,
        "progress": 0.0,
        "createdAt": "2023-11-14T22:13:20.000Z",
        "acceptedAt": "2023-11-14T22:13:20.000Z",
        "notBefore": None,
        "startedAt": None,
        "finishedAt": None,
        "deadlineAt": "2096-10-02T07:06:40.000Z",
        "pausedAt": None,
        "pausedUntil": None,
        "maxFailures": None,
        "maxFailedPercent": None,
        "concurrency": None,
        "reason": None,
        "eta": None,
        "etaEarliest": None,
        "etaLatest": None,
        "cost": None,
        "resultsUrl": f"/batch/{BATCH_ID}/results",
    }


async def test_counts_of_all_groups_add_up(serve: Serve) -> None:
    batch = build_batch(100, 100, 50, state=BatchState.PROCESSING, started_at=NOW)
    body = await read_status(serve, batch, Counts(90, 10), Counts(20, 5, 3, 2))
    assert [body[name] for name in ("total", "succeeded", "failed", "cancelled", "expired")] == [250, 110, 15, 3, 2]
    assert body["completed"] == 130
    assert body["progress"] == 0.52


@pytest.mark.parametrize("state", sorted(OPEN_STATES | FINAL_STATES))
async def test_state_is_told_by_its_name(serve: Serve, state: BatchState) -> None:
    assert (await read_status(serve, build_batch(1, state=state)))["status"] == state.value


@pytest.mark.parametrize(
    ("completed", "total", "progress"),
    [(0, 3, 0.0), (1, 3, 0.3333), (2, 3, 0.6666), (3, 3, 1.0), *full([(999_999, 1_000_000, 0.9999)])],
)
async def test_progress_says_1_only_at_the_end(serve: Serve, completed: int, total: int, progress: float) -> None:
    assert (await read_status(serve, build_batch(total), Counts(completed)))["progress"] == progress


async def test_eta_follows_the_pace_so_far(serve: Serve) -> None:
    batch = build_batch(40, state=BatchState.PROCESSING, started_at=NOW)
    body = await read_status(serve, batch, Counts(8, 2), at=NOW + 10)
    assert body["eta"] == "2023-11-14T22:14:00.000Z"  # 10 in 10 s, so 30 in 30 s
    assert (await read_status(serve, batch, at=NOW + 10))["eta"] is None


async def test_status_says_in_which_time_the_batch_probably_finishes(serve: Serve) -> None:
    batch, parts = build_batch(1_000, state=BatchState.PROCESSING, started_at=NOW), memory_parts()
    await parts.store.create_batch(batch)
    for number in range(40):
        await parts.store.count_chunk(batch, build_record(str(number), Counts(10)), NOW + number)
    service = await serve(Operations(), parts=parts, clock=FakeClock(NOW + 39))
    body = (await service.get(URL)).body
    assert "2023-11-14T22:14:50" < body["etaEarliest"] < body["eta"] < body["etaLatest"] < "2023-11-14T22:15:10"


async def test_status_says_what_the_batch_has_cost_until_its_last_count(serve: Serve) -> None:
    batch = build_batch(4, state=BatchState.PROCESSING, spent=Units(sqs=1, writes=2, reads=2, requests=4.2))
    assert (await read_status(serve, batch))["cost"] == {
        "usd": 1.9e-06,
        "requests": 4,
        "asOf": "2023-11-14T22:13:20.000Z",
    }
    parts = await parts_with(batch)
    await parts.store.count_chunk(batch, build_record("0", Counts(1)), NOW + 5)
    service = await serve(Operations(), parts=parts, clock=FakeClock(NOW + 9))
    assert (await service.get(URL)).body["cost"]["asOf"] == "2023-11-14T22:13:25.000Z"


async def test_final_batch_has_its_times_and_no_eta(serve: Serve) -> None:
    batch = build_batch(2, state=BatchState.COMPLETED, started_at=NOW + 1, finished_at=NOW + 2.5)
    body = await read_status(serve, batch, Counts(1, 1), at=NOW + 10)
    assert (body["startedAt"], body["finishedAt"]) == ("2023-11-14T22:13:21.000Z", "2023-11-14T22:13:22.500Z")
    assert (body["eta"], body["progress"]) == (None, 1.0)


async def test_status_is_final_with_the_last_count(serve: Serve) -> None:
    """The consumer needs more calls until the batch is final. The client need not wait for them."""
    parts = memory_parts()
    await parts.store.create_batch(build_batch(2))
    counting = build_batch(2, started_at=NOW + 1)  # as the consumer has it that leaves out the start
    await parts.store.count_chunk(counting, build_record("0", Counts(1, 1)), NOW + 3)
    service = await serve(Operations(), parts=parts, clock=FakeClock(NOW + 9))
    answer = await service.get(URL)
    body = answer.body
    assert (body["status"], body["completed"], body["eta"]) == ("completed", 2, None)
    assert (body["startedAt"], body["finishedAt"]) == ("2023-11-14T22:13:21.000Z", "2023-11-14T22:13:23.000Z")
    assert "Retry-After" not in answer.headers
    await parts.store.list_batch(build_batch(2), {})
    assert (await service.get("/batches")).body["batches"] == [body]


async def test_status_shows_that_the_batch_runs_while_its_end_is_not_certain(serve: Serve) -> None:
    batch = build_batch(2, state=BatchState.PROCESSING, started_at=NOW, failure_limit=FailureLimit(0), max_failures=0)
    parts = memory_parts()
    await parts.store.create_batch(batch)
    await parts.store.count_chunk(batch, build_record("0", Counts(1, 1)), NOW + 3)
    body = (await (await serve(Operations(), parts=parts)).get(URL)).body
    assert (body["status"], body["completed"], body["finishedAt"]) == ("processing", 2, None)


async def test_final_state_never_comes_with_counts_of_before(serve: Serve) -> None:
    """The batch ends while its status is read. If the answer has a final state, its counts are complete."""
    batch = build_batch(2, state=BatchState.PROCESSING)
    parts = await parts_with(batch)

    def end_between_the_reads(call: str, moment: Moment) -> None:
        if call.startswith("store.read_") and moment == "after":
            parts.store._batches[batch.id] = replace(batch, state=BatchState.COMPLETED)
            parts.store._groups[batch.id, 0] = Group(Counts(2))

    await parts.store.count_chunk(batch, build_record("0", Counts()))
    service = await serve(Operations(), parts=parts, watch=end_between_the_reads)
    first, second = (await service.get(URL)).body, (await service.get(URL)).body
    assert (first["status"], first["completed"]) in {("processing", 0), ("processing", 2), ("completed", 2)}
    assert (second["status"], second["completed"]) == ("completed", 2)


@pytest.mark.parametrize(
    ("before", "state", "counts"),
    [
        (Counts(1), BatchState.COMPLETED, Counts(1, 1)),
        (Counts(failed=2), BatchState.COMPLETED, Counts(2)),  # all were redriven
        (Counts(1), BatchState.CANCELLED, Counts(1, cancelled=1)),
    ],
)
async def test_counts_that_are_older_than_a_final_state_are_read_again(
    serve: Serve, before: Counts, state: BatchState, counts: Counts
) -> None:
    """One call reads the batch and its counts, in any order."""
    parts = await parts_with(build_batch(2, state=state), counts)
    read = parts.store.read_progress

    async def read_counts_first(batch_id: str, groups: Sequence[int], *, with_done: bool) -> Any:
        assert not with_done  # a status does not need the ids of chunks, and decoding them takes time
        batch, _ = await read(batch_id, groups, with_done=with_done)
        return batch, {0: Group(before)}

    parts.store.read_progress = read_counts_first  # type: ignore[method-assign]
    body = (await (await serve(Operations(), parts=parts)).get(URL)).body
    assert Counts(*(body[name] for name in ("succeeded", "failed", "cancelled", "expired"))) == counts


async def test_status_takes_one_call_as_soon_as_the_number_of_groups_is_known(serve: Serve) -> None:
    batch = build_batch(100, 50, state=BatchState.PROCESSING)
    parts = await parts_with(batch, Counts(90), Counts(20))
    calls: list[str] = []
    service = await serve(
        Operations(), parts=parts, watch=lambda call, moment: calls.append(call) if moment == "before" else None
    )
    assert [(await service.get(URL)).body["completed"] for _ in range(3)] == [110] * 3
    assert calls == ["store.read_progress", "store.read_groups", "store.read_progress", "store.read_progress"]


async def test_status_of_very_many_groups_reads_their_counts_without_the_ids_of_chunks(serve: Serve) -> None:
    batch = build_batch(*[1] * 100, state=BatchState.PROCESSING)
    service = await serve(Operations(), parts=await parts_with(batch, *[Counts(1)] * 100))
    assert [(await service.get(URL)).body["completed"] for _ in range(2)] == [100] * 2


async def test_unknown_batch(serve: Serve) -> None:
    service = await serve(Operations())
    assert_problem(await service.get(URL), 404)


@pytest.mark.parametrize(
    ("method", "call"), [("GET", "status"), ("GET", "results"), ("POST", "cancel"), ("POST", "retry")]
)
@pytest.mark.parametrize(("late", "is_known"), [(-1, True), (0, False)])
async def test_batch_is_unknown_after_its_retention_though_the_table_deletes_it_later(
    serve: Serve, method: str, call: str, *, late: float, is_known: bool
) -> None:
    """The table deletes its items in any order, so counts would shrink and results would be missing."""
    batch = build_batch(1, state=BatchState.CANCELLED, ending=Ending.CANCELLED, expires_at=NOW + 60)
    parts = await parts_with(batch, Counts(cancelled=1))
    service = await serve(Operations(), parts=parts, clock=FakeClock(NOW + 60 + late))
    answer = await service.ask(method, f"/batch/{BATCH_ID}/{call}")
    assert (answer.status != 404) is is_known


async def test_batch_that_is_being_accepted_is_unknown(serve: Serve) -> None:
    parts = await parts_with(build_batch(1, state=BatchState.ACCEPTING, accepted_at=None))
    service = await serve(Operations(), parts=parts)
    assert_problem(await service.get(URL), 404)


async def test_batch_of_a_newer_version_is_told(serve: Serve) -> None:
    def read_unknown_state(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_progress", "after"):
            raise NewerVersion("state", "paused")

    service = await serve(Operations(), parts=await parts_with(build_batch(1)), watch=read_unknown_state)
    answer = await service.get(URL)
    assert_problem(answer, 503)
    assert "newer version of Penstock" in answer.body["detail"]


async def test_batch_itself_is_its_status(serve: Serve) -> None:
    service = await serve(Operations(), parts=await parts_with(build_batch(2), Counts(1)), clock=FakeClock(NOW))
    answer = await service.get(f"/batch/{BATCH_ID}")
    assert answer.body == (await service.get(URL)).body
    assert answer.headers["Retry-After"] == "1"


async def test_final_status_says_nothing_of_a_next_request(serve: Serve) -> None:
    parts = await parts_with(build_batch(2, state=BatchState.COMPLETED), Counts(2))
    service = await serve(Operations(), parts=parts, clock=FakeClock(NOW))
    assert "Retry-After" not in (await service.get(URL)).headers


@pytest.mark.parametrize(
    ("age", "completed", "seconds"),
    [
        (-1, 0, 1),  # the clock of the front end that accepted it is fast
        (0, 0, 1),
        (0.5, 50, 1),
        (45, 0, 5),  # a tenth of its age
        (45, 50, 5),
        (45, 95, 2),  # it will be finished in 2.4 s
        (3_600, 10, LONGEST_POLL_SECONDS),
        (3_600, 100, 1),
    ],
)
def test_time_of_the_next_request_depends_on_age_and_progress(age: float, completed: int, seconds: int) -> None:
    assert poll_seconds(build_batch(100), completed, NOW + age) == seconds


def test_waiting_batch_is_asked_for_at_its_time() -> None:
    batch = build_batch(100, not_before=NOW + 12.5)
    assert [poll_seconds(batch, 0, NOW + age) for age in (0, 10, 12.5, 33)] == [13, 3, 1, 3]
