"""Retry: what failed runs again once, however often and by whichever way it is asked for; the counts follow."""

import math
from collections.abc import AsyncIterator

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.errors import Unavailable
from penstock.service.batches import retry as retry_module
from penstock.service.batches.retry import BYTES_IN_SEND, MESSAGES_IN_SEND, Failures, _in_sends
from penstock.service.batches.status import FINISH_PAUSE_SECONDS
from penstock.telemetry import Event
from penstock.testing.http import Answer
from tests.support.faults import Moment
from tests.support.plant import Plant, Toys, build_plant
from tests.support.service import assert_problem
from tests.unit.service.conftest import Logs


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), chunk_operations=3)


async def retry(plant: Plant, batch_id: str) -> Answer:
    return await plant.ask("POST", f"/batch/{batch_id}/retry")


async def test_what_failed_runs_again_and_counts_are_corrected(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/succeed/a", "/break/b", "/reject/c", "/break/d")
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1, "failed": 3})
    toys.is_mended = True
    answer = await retry(plant, batch_id)
    assert (answer.status, answer.body["batchId"], answer.body["retried"]) == (202, batch_id, 3)
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1, "failed": 3})
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 3, "failed": 1})
    assert await plant.statuses(batch_id) == {"0": 201, "1": 200, "2": 409, "3": 200}
    assert toys.times == {"0": 1, "1": 2, "2": 2, "3": 2}
    assert toys.keys == {f"{batch_id}/{index}" for index in range(4)}


async def test_retrying_twice_is_retrying_once(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/break/a", "/reject/b")
    await plant.work_off()
    toys.is_mended = True
    for _ in range(3):
        assert (await retry(plant, batch_id)).status == 202
    await plant.work_off_one_by_one()
    assert toys.times == {"0": 2, "1": 2}
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1, "failed": 1})


async def test_retry_and_redrive_at_the_same_time_run_each_operation_once_more(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/break/a", "/break/b", "/reject/c", "/break/d")
    await plant.work_off()
    toys.is_mended = True
    await retry(plant, batch_id)
    await plant.ask("POST", "/dead-letters/redrive", json={})
    await retry(plant, batch_id)
    await plant.work_off_one_by_one()
    assert toys.times == {"0": 2, "1": 2, "2": 2, "3": 2}
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 3, "failed": 1})


async def test_copies_delivered_at_the_same_time_count_once(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/break/a", "/break/b", "/reject/c", "/break/d")
    await plant.work_off()
    toys.is_mended = True
    for _ in range(3):
        await retry(plant, batch_id)
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 3, "failed": 1})
    assert await plant.statuses(batch_id) == {"0": 200, "1": 200, "2": 409, "3": 200}


async def test_redrive_after_a_retry_changes_nothing(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/break/a")
    await plant.work_off()
    toys.is_mended = True
    await retry(plant, batch_id)
    await plant.work_off()
    await plant.ask("POST", "/dead-letters/redrive", json={})
    await plant.work_off()
    assert toys.times == {"0": 2}
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})


async def test_failed_batch_becomes_completed(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/break/a", "/break/b")
    await plant.work_off()
    assert await plant.counts(batch_id) == ("failed", {"failed": 2})
    toys.is_mended = True
    await retry(plant, batch_id)
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})


async def test_what_fails_again_can_be_retried_again(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/break/a", "/succeed/b")
    await plant.work_off()
    for times in (2, 3):
        assert (await retry(plant, batch_id)).body["retried"] == 1
        await plant.work_off()
        assert toys.times["0"] == times
        assert await plant.counts(batch_id) == ("completed", {"succeeded": 1, "failed": 1})
    toys.is_mended = True
    await retry(plant, batch_id)
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})
    assert (await retry(plant, batch_id)).body["retried"] == 0


async def test_failures_of_a_cancelled_batch_run_again_and_what_was_cancelled_does_not(
    plant: Plant, toys: Toys
) -> None:
    batch_id = await plant.submit(*["/break/a"] * 3, *["/hang/b"] * 3, maxFailures=0)
    toys.gate.set()
    await plant.work_off(plant.consumer(concurrency=1))
    state, before = await plant.counts(batch_id)
    assert (state, before["failed"]) == ("cancelled", 3)
    toys.is_mended = True
    assert (await retry(plant, batch_id)).body["retried"] == 3
    await plant.work_off()
    after = {**before, "succeeded": before.get("succeeded", 0) + 3}
    del after["failed"]
    assert await plant.counts(batch_id) == ("cancelled", after)


async def test_batch_that_runs_cannot_be_retried(plant: Plant) -> None:
    batch_id = await plant.submit("/break/a")
    assert_problem(await retry(plant, batch_id), 409)
    await plant.ask("PATCH", f"/batch/{batch_id}", json={"paused": True})
    refused = await retry(plant, batch_id)
    assert_problem(refused, 409)
    assert refused.body["detail"] == "The batch is not final yet. Retry its failures once it is."
    await plant.ask("POST", f"/batch/{batch_id}/cancel")
    assert_problem(await retry(plant, batch_id), 409)


async def test_retry_waits_a_moment_for_the_end_that_its_client_has_read(
    plant: Plant, toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await plant.submit("/break/a")
    await plant.work_off()
    final = await plant.batch(batch_id)
    await plant.forget_end(batch_id)
    toys.is_mended = True
    assert (await plant.counts(batch_id))[0] == "failed"

    pauses = list[float]()

    async def write_end(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            plant.parts.store._batches[batch_id] = final

    monkeypatch.setattr(plant.clock, "sleep", write_end)
    answer = await retry(plant, batch_id)
    assert (answer.status, answer.body["retried"], pauses) == (202, 1, [FINISH_PAUSE_SECONDS] * 3)


async def test_retry_writes_the_end_that_no_consumer_writes(plant: Plant, toys: Toys) -> None:
    """The consumer may have died after its last count, and its message may be lost."""
    batch_id = await plant.submit("/break/a")
    await plant.work_off()
    final = await plant.batch(batch_id)
    await plant.forget_end(batch_id)
    toys.is_mended = True
    assert (await retry(plant, batch_id)).body["retried"] == 1
    assert await plant.batch(batch_id) == final
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})


async def test_unknown_batch_cannot_be_retried(plant: Plant) -> None:
    assert_problem(await retry(plant, "01ARZ3NDEKTSV4RRFFQ69G5FAV"), 404)


async def test_many_failures_are_sent_in_several_calls(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build_plant(aiohttp_client, toys.operations(), chunk_operations=1)
    batch_id = await plant.submit(*["/break/a"] * 130)
    await plant.work_off()
    toys.is_mended = True
    assert (await retry(plant, batch_id)).body["retried"] == 130
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 130})


@pytest.mark.parametrize(("size", "sends"), [(1, [MESSAGES_IN_SEND, 50]), (BYTES_IN_SEND // 3 + 1, [3] * 50)])
async def test_messages_of_a_retry_are_sent_before_they_take_much_memory(size: int, sends: list[int]) -> None:
    async def failures() -> AsyncIterator[Failures]:
        for _ in range(150):
            yield Failures("m" * size, 1)

    assert [len(waiting) async for waiting in _in_sends(failures())] == sends


async def test_cancel_and_retry_have_a_line_in_the_audit(plant: Plant, logs: Logs) -> None:
    batch_id = await plant.submit("/break/a")
    await plant.work_off()
    await retry(plant, batch_id)
    other = await plant.submit("/break/a")
    await plant.ask("POST", f"/batch/{other}/cancel")
    lines = [line for line in logs if line["event"] == Event.AUDIT]
    assert [(line["action"], line["batch_id"], line["tenant"], line["key_id"]) for line in lines] == [
        ("retry", batch_id, "default", None),
        ("cancel", other, "default", None),
    ]


async def test_audit_says_how_much_was_sent_before_a_retry_failed(
    aiohttp_client: AiohttpClient, toys: Toys, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_module, "MESSAGES_IN_SEND", 1)
    left = [math.inf]

    def watch(call: str, moment: Moment) -> None:
        if (call, moment) == ("chunks.send", "before"):
            left[0] -= 1
            if left[0] < 0:
                raise Unavailable("AWS does not answer.")

    plant = await build_plant(aiohttp_client, toys.operations(), watch=watch, chunk_operations=3)
    batch_id = await plant.submit(*["/break/a"] * 4)
    await plant.work_off()
    left[0] = 1
    assert_problem(await retry(plant, batch_id), 503)
    [line] = [line for line in logs if line["event"] == Event.AUDIT]
    assert (line["action"], line["operations"], line["error"]) == ("retry", 3, "Unavailable")
