"""`notBefore`: no operation runs before this time. Until then, the batch can be read and cancelled."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.queue import LONGEST_HIDDEN_SECONDS
from tests.support.builders import NOW
from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.service import NDJSON, ask_for, assert_problem, pointers

HOUR = 3_600
DAY = 24 * HOUR


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), chunk_operations=2)


def in_seconds(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


async def submit(plant: Plant, seconds: float, *paths: str, **members: Any) -> str:
    return await plant.submit(*(paths or ["/succeed/a"] * 5), notBefore=in_seconds(seconds), **members)


@asynccontextmanager
async def nothing_opened() -> AsyncIterator[None]:
    yield


async def pass_time(plant: Plant, until: float, step: float) -> None:
    """Advance the clock, and let a consumer poll regularly."""
    consumer = plant.consumer()
    while plant.clock.now() + step < NOW + until:
        plant.clock.advance(step)
        await take_turn(consumer)
    plant.clock.advance(NOW + until - plant.clock.now())


@pytest.mark.parametrize("seconds", [10, 800, 1_000, 2 * HOUR, 7 * DAY])
async def test_nothing_runs_before_its_time_and_all_then(plant: Plant, toys: Toys, seconds: float) -> None:
    batch_id = await submit(plant, seconds)
    await pass_time(plant, seconds - 2, step=max(seconds / 60, 3))
    await take_turn(plant.consumer())
    assert toys.runs == []
    status = await plant.status(batch_id)
    told = (status["status"], status["startedAt"], status["notBefore"])
    assert told == ("queued", None, in_seconds(seconds).replace("+00:00", ".000Z"))
    assert plant.parts.store._records == {}  # waiting costs no records
    plant.clock.advance(2)
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 5})
    status = await plant.status(batch_id)
    assert status["startedAt"] >= status["notBefore"]


async def test_the_queue_holds_it_back_for_as_long_as_it_can(plant: Plant) -> None:
    await submit(plant, 20 * HOUR)
    assert [message.delay_seconds for message in plant.messages] == [900] * 3
    plant.clock.advance(900)
    receives = 0
    for _ in range(1_000):
        while visible := await plant.parts.chunks.depth():
            await take_turn(plant.consumer())
            receives += visible - await plant.parts.chunks.depth()
        if not plant.messages:
            break
        plant.clock.advance(300)
    hides = -(-20 * HOUR // LONGEST_HIDDEN_SECONDS)
    assert receives <= 3 * (hides + 1)


async def test_its_time_comes_while_a_consumer_knows_it_as_waiting(plant: Plant) -> None:
    batch_id = await submit(plant, 10, "/succeed/a", "/succeed/b", "/succeed/c")
    consumer = plant.consumer()
    plant.clock.advance(8.5)
    for kept in plant.parts.chunks._kept.values():
        kept.visible_at = 0  # the queue delivers too early
    await take_turn(consumer)
    assert (await plant.status(batch_id))["startedAt"] is None
    plant.clock.advance(0.6)
    for kept in plant.parts.chunks._kept.values():
        kept.visible_at = 0
    await plant.work_off(consumer)
    assert (await plant.status(batch_id))["startedAt"] is not None


async def test_small_batch_waits_too_and_its_time_may_have_passed(plant: Plant) -> None:
    for seconds in (60, -60):
        answer = await plant.service.post(ask_for("/succeed/a"), notBefore=in_seconds(seconds))
        assert answer.status == 202
    await plant.work_off()
    assert await plant.counts(answer.body["batchId"]) == ("completed", {"succeeded": 1})


@pytest.mark.parametrize(
    ("seconds", "deadline", "expected"), [(HOUR, 60, HOUR + 60), (-HOUR, 60, 60), (HOUR, None, HOUR + DAY)]
)
async def test_deadline_counts_from_when_it_may_begin(
    plant: Plant, seconds: float, deadline: float | None, expected: float
) -> None:
    members = {} if deadline is None else {"deadlineSeconds": deadline}
    batch = await plant.batch(await submit(plant, seconds, **members))
    assert batch.deadline_at == NOW + expected
    assert batch.expires_at == NOW + expected + plant.settings.retention_seconds


async def test_it_expires_when_nobody_takes_it(plant: Plant) -> None:
    batch_id = await submit(plant, HOUR, deadlineSeconds=60)
    plant.clock.advance(HOUR + 30)
    await plant.sweep()
    assert (await plant.status(batch_id))["status"] == "queued"
    plant.clock.advance(31)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("expired", {"expired": 5})
    await plant.work_off()
    assert await plant.counts(batch_id) == ("expired", {"expired": 5})


async def test_it_is_cancelled_at_once_while_it_waits(plant: Plant, toys: Toys) -> None:
    batch_id = await submit(plant, 7 * DAY)
    await plant.ask("POST", f"/batch/{batch_id}/cancel")
    plant.clock.advance(1)
    await plant.sweep()  # no consumer needs to know: nothing runs
    assert await plant.counts(batch_id) == ("cancelled", {"cancelled": 5})
    await plant.work_off()
    assert (toys.runs, plant.messages) == ([], [])
    assert plant.clock.now() < NOW + DAY


async def test_deliveries_that_came_too_early_are_taken_for_no_deaths(plant: Plant, toys: Toys) -> None:
    batch_id = await submit(plant, 3 * DAY, "/succeed/a", "/succeed/b")
    await pass_time(plant, 3 * DAY, step=HOUR)
    [kept] = plant.parts.chunks._kept.values()
    assert kept.receive_count > 3
    await plant.work_off()
    assert set(plant.parts.store._records) == {(batch_id, "0")}  # neither split in half nor isolated


@pytest.mark.parametrize(
    "text",
    ["2023-11-15T00:00:00Z", "2023-11-15T01:30:00+01:30", "2023-11-14T19:00:00-05:00", "2023-11-15t00:00:00.000z"],
)
async def test_a_time_may_be_written_with_any_offset(plant: Plant, text: str) -> None:
    batch_id = await plant.submit("/succeed/a", notBefore=text)
    assert (await plant.batch(batch_id)).not_before == datetime(2023, 11, 15, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("digits", ["5", "500", "500000", "500000001", "5" + "0" * 100])
async def test_a_time_may_have_any_number_of_fraction_digits(plant: Plant, digits: str) -> None:
    batch_id = await plant.submit("/succeed/a", notBefore=f"2023-11-15T00:00:00.{digits}Z")
    assert (await plant.batch(batch_id)).not_before == datetime(2023, 11, 15, tzinfo=UTC).timestamp() + 0.5


async def test_stream_has_it_in_the_query(plant: Plant) -> None:
    headers = {"Content-Type": NDJSON}
    line = b'{"method": "POST", "path": "/succeed/a"}'
    at = (datetime.fromtimestamp(NOW, timezone(timedelta(hours=2))) + timedelta(hours=1)).isoformat()
    path = f"/batch?notBefore={at.replace('+', '%2B')}"
    answer = await plant.ask("POST", path, data=line, headers=headers)
    assert answer.status == 202
    assert (await plant.batch(answer.body["batchId"])).not_before == NOW + HOUR


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("tomorrow", "Write the time as"),
        ("2023-11-15", "Write the time as"),
        ("2023-11-15T00:00:00", "Write the time as"),  # without an offset
        ("2023-11-15 00:00:00Z", "Write the time as"),
        ("2023-11-15T00:00:00 01:00", "%2B01:00"),  # a plus in a query is a space
        ("2023-11-15T00:00:001Z", "Write the time as"),
        ("2023-11-15T00:00:00.Z", "Write the time as"),
        ("2023-02-30T00:00:00Z", "does not exist"),
        ("0001-01-01T00:00:00+12:00", "before 1970"),
        (1_700_000_060, "Write the time as"),
        (True, "Write the time as"),
        ("2023-11-22T00:00:00Z", "within 7 days"),
        ("9999-12-31T23:59:59Z", "within 7 days"),
    ],
)
async def test_time_that_is_none_or_too_far_off_is_refused(plant: Plant, value: Any, words: str) -> None:
    problem = assert_problem(await plant.service.post(ask_for("/succeed/a"), notBefore=value), 422)
    assert pointers(problem) == ["/notBefore"]
    assert words in problem["errors"][0]["detail"]
    assert plant.messages == []


async def test_atomic_batch_cannot_wait(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build_plant(aiohttp_client, toys.operations(transaction=nothing_opened))
    problem = assert_problem(
        await plant.service.post(ask_for("/succeed/a"), atomic=True, notBefore=in_seconds(60)), 422
    )
    assert pointers(problem) == ["/notBefore"]
    assert "cannot have notBefore" in problem["errors"][0]["detail"]


async def test_same_key_with_another_time_is_another_request(plant: Plant) -> None:
    headers = {"Idempotency-Key": '"k"'}
    statuses = []
    for seconds in (60, 60, 120):
        answer = await plant.service.post(ask_for("/succeed/a"), headers, notBefore=in_seconds(seconds))
        statuses.append(answer.status)
    assert statuses == [202, 202, 422]
