"""What a client sees of a batch, from posting it to the last result, while all programs run undisturbed."""

import asyncio

import pytest

from penstock.error_ids import see_log
from penstock.running.verdict import error_id
from tests.acceptance.installation import Installation
from tests.support.api import Api, Operation, Outcome, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

SUM: Operation = {"method": "POST", "path": "/sums", "body": {"a": 1, "b": 2}}
REFUSED: Operation = {"method": "POST", "path": "/refused"}
BROKEN: Operation = {"method": "POST", "path": "/broken"}
LUCKY: Operation = {"method": "POST", "path": "/second-time-lucky"}


def sums(count: int) -> list[Operation]:
    return [{"method": "POST", "path": "/sums", "body": {"a": number, "b": 1}} for number in range(count)]


def lingers(count: int, seconds: float) -> list[Operation]:
    return [{"method": "POST", "path": "/lingers", "body": {"seconds": seconds}}] * count


async def watch(api: Api, batch_id: str) -> list[Status]:
    """Read the status of a batch without a pause until it is final, and return every answer."""
    statuses = [await api.status(batch_id)]
    while not statuses[-1].is_final:
        statuses.append(await api.status(batch_id))
    return statuses


@pytest.mark.story("serve")
async def test_small_batch_is_answered_at_once_in_its_order(running: Installation) -> None:
    operations = [{**SUM, "id": "first"}, {**REFUSED, "id": "second"}, {**SUM, "id": "third"}]

    answer = await running.api.post(operations)

    assert answer.status == 200
    assert answer.body == {
        "summary": {"total": 3, "succeeded": 2, "failed": 1},
        "results": [
            {"id": "first", "status": 201, "result": {"sum": 3}},
            {"id": "second", "status": 409, "error": {"title": "Rejected", "detail": "It stands there already."}},
            {"id": "third", "status": 201, "result": {"sum": 3}},
        ],
    }


async def test_operation_of_small_batch_that_fails_once_succeeds_at_second_attempt(running: Installation) -> None:
    answer = await running.api.post([LUCKY, SUM])

    assert answer.body["summary"] == {"total": 2, "succeeded": 2, "failed": 0}
    assert answer.body["results"][0]["result"] == {"attempt": 2}


async def test_large_batch_is_accepted_and_says_where_to_look(running: Installation) -> None:
    answer = await running.api.post(sums(101))

    batch_id = answer.body["batchId"]
    assert answer.status == 202
    assert answer.body["statusUrl"] == answer.headers["Location"] == f"/batch/{batch_id}/status"
    assert answer.body["resultsUrl"] == f"/batch/{batch_id}/results"
    assert int(answer.headers["Retry-After"]) > 0
    assert (await running.api.ended(batch_id)).status == "completed"


async def test_large_batch_has_every_result_in_its_order(running: Installation) -> None:
    batch_id = await running.api.submit(sums(1_000))

    status = await running.api.ended(batch_id)

    assert status == Status("completed", 1_000, 1_000, 1_000, 0, 0, 0, 1.0)
    assert await running.api.results(batch_id) == [
        {"id": str(number), "status": 201, "result": {"sum": number + 1}} for number in range(1_000)
    ]


async def test_batches_of_many_clients_at_once_do_not_mix(running: Installation) -> None:
    sizes = range(101, 401, 20)

    batch_ids = await asyncio.gather(*(running.api.submit(sums(size)) for size in sizes))
    statuses = await asyncio.gather(*(running.api.ended(batch_id) for batch_id in batch_ids))

    assert [status.succeeded for status in statuses] == list(sizes)
    assert [len(await running.api.results(batch_id)) for batch_id in batch_ids] == list(sizes)


@pytest.mark.story("counters are exact at every read", "serve", "consume")
async def test_progress_rises_to_the_end_and_never_falls(running: Installation) -> None:
    batch_id = await running.api.submit(lingers(600, seconds=0.1))

    statuses = await watch(running.api, batch_id)

    completed = [status.completed for status in statuses]
    assert completed == sorted(completed)
    assert len(set(completed)) > 4, "it was hardly watched while it ran"
    assert statuses[-1] == Status("completed", 600, 600, 600, 0, 0, 0, 1.0)
    assert [status.progress for status in statuses] == [count * 10_000 // 600 / 10_000 for count in completed]


async def test_results_can_be_read_while_the_batch_runs(running: Installation) -> None:
    batch_id = await running.api.submit(lingers(300, seconds=0.02))

    known = await running.api.completed(batch_id, 1)
    early = await running.api.results(batch_id)
    await running.api.ended(batch_id)
    late = await running.api.results(batch_id)

    assert known.completed <= len(early)
    assert [outcome["id"] for outcome in early] == sorted((outcome["id"] for outcome in early), key=int)
    assert [outcome for outcome in late if outcome in early] == early
    assert len(late) == 300


async def test_failures_are_told_apart_and_hurt_no_neighbour(running: Installation) -> None:
    operations = [REFUSED if number % 10 == 3 else SUM for number in range(200)]
    batch_id = await running.api.submit(operations)

    status = await running.api.ended(batch_id)
    failed = await running.api.results(batch_id, "?status=failed")
    succeeded = await running.api.results(batch_id, "?status=succeeded")

    assert status == Status("completed", 200, 200, 180, 20, 0, 0, 1.0)
    assert [outcome["id"] for outcome in failed] == [str(number) for number in range(3, 200, 10)]
    assert {(outcome["status"], outcome["error"]["title"]) for outcome in failed} == {(409, "Rejected")}
    assert [outcome["id"] for outcome in succeeded] == [str(number) for number in range(200) if number % 10 != 3]


async def test_operations_that_fail_once_succeed_at_second_attempt(running: Installation) -> None:
    operations = [LUCKY if number % 10 == 3 else SUM for number in range(200)]
    batch_id = await running.api.submit(operations)

    status = await running.api.ended(batch_id)
    results = await running.api.results(batch_id)

    assert status == Status("completed", 200, 200, 200, 0, 0, 0, 1.0)
    assert [outcome["id"] for outcome in results] == [str(number) for number in range(200)]
    assert {outcome["result"]["attempt"] for outcome in results[3::10]} == {2}


async def test_operations_that_fail_at_every_attempt_fail_in_the_end(running: Installation) -> None:
    batch_id = await running.api.submit([BROKEN] * 101)

    status = await running.api.ended(batch_id)
    results = await running.api.results(batch_id)

    keys = {f"{batch_id}/{number}" for number in range(101)}
    assert status == Status("failed", 101, 101, 0, 101, 0, 0, 1.0)
    details = {f"The handler failed. {see_log(error_id(key, 2))}" for key in keys}
    assert {outcome["error"]["detail"] for outcome in results} == details
    assert {run: count for run, count in running.journal.runs().items() if run in keys} == dict.fromkeys(keys, 2)


async def test_pages_of_results_join_to_all_of_them(running: Installation) -> None:
    batch_id = await running.api.submit(sums(250))
    await running.api.ended(batch_id)
    pages: list[list[Outcome]] = []
    cursor: str | None = ""

    while cursor is not None:
        page = (await running.api.get(f"/batch/{batch_id}/results?limit=60{cursor}")).body
        pages.append(page["results"])
        cursor = f"&cursor={page['nextCursor']}" if page["nextCursor"] else None

    assert [len(page) for page in pages] == [60, 60, 60, 60, 10]
    assert [outcome for page in pages for outcome in page] == await running.api.results(batch_id)
