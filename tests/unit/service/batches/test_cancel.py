"""Cancel: no more operations start, finished ones keep their outcome, and every operation gets one."""

import asyncio
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.service import assert_problem


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), chunk_operations=1, settle_seconds=60)


async def test_batch_that_has_not_begun_is_cancelled_whole(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/succeed/a", "/break/b", "/hang/c")
    answer = await plant.ask("POST", f"/batch/{batch_id}/cancel")
    assert (answer.status, answer.body["status"], answer.body["completed"]) == (202, "cancelling", 0)
    await plant.work_off()
    assert await plant.counts(batch_id) == ("cancelled", {"cancelled": 3})
    assert await plant.statuses(batch_id) == {"0": 410, "1": 410, "2": 410}
    assert (await plant.status(batch_id))["reason"] == "Cancelled on request."
    assert toys.runs == []
    assert plant.parts.dead_letters.messages == []


@pytest.mark.parametrize("options", [{"json": {"status": [500]}}, {"data": b"junk"}, {"params": {"force": "true"}}])
async def test_options_that_do_not_exist_are_rejected(plant: Plant, options: Any) -> None:
    batch_id = await plant.submit("/break/a")
    problem = assert_problem(await plant.ask("POST", f"/batch/{batch_id}/cancel", **options), 400)
    assert problem["detail"] == "This request has no options. Send it without a query and without a body."
    assert (await plant.status(batch_id))["status"] == "queued"


async def test_cancel_may_have_an_empty_object(plant: Plant) -> None:
    batch_id = await plant.submit("/break/a")
    assert (await plant.ask("POST", f"/batch/{batch_id}/cancel", json={})).status == 202


async def test_what_ended_before_stands_and_what_waits_for_another_attempt_is_cancelled(
    plant: Plant, toys: Toys
) -> None:
    batch_id = await plant.submit("/succeed/a", "/second-time-right/b")
    consumer = plant.consumer()
    await take_turn(consumer)  # it receives one chunk
    await take_turn(consumer)  # and now the other
    assert await plant.counts(batch_id) == ("processing", {"succeeded": 1})
    await plant.ask("POST", f"/batch/{batch_id}/cancel")
    await plant.work_off()
    assert await plant.counts(batch_id) == ("cancelled", {"succeeded": 1, "cancelled": 1})
    assert toys.times == {"0": 1, "1": 1}


async def test_cancelling_twice_is_cancelling_once(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a")
    answers = [await plant.ask("POST", f"/batch/{batch_id}/cancel") for _ in range(3)]
    assert [(answer.status, answer.body["status"]) for answer in answers] == [(202, "cancelling")] * 3


async def test_cancel_repeated_after_the_end_is_answered_as_the_first(plant: Plant) -> None:
    """The answer to the first request may have been lost."""
    batch_id = await plant.submit("/succeed/a")
    await plant.ask("POST", f"/batch/{batch_id}/cancel")
    await plant.work_off()
    answer = await plant.ask("POST", f"/batch/{batch_id}/cancel")
    assert (answer.status, answer.body["status"]) == (202, "cancelled")


async def test_cancel_that_found_nothing_left_to_cancel_may_be_repeated_too(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/hang/a")
    working = asyncio.create_task(plant.work_off())
    await toys.arrived.wait()
    await plant.ask("POST", f"/batch/{batch_id}/cancel")
    toys.gate.set()
    await working
    answer = await plant.ask("POST", f"/batch/{batch_id}/cancel")
    assert (answer.status, answer.body["status"]) == (202, "completed")


async def test_batch_that_a_failure_limit_has_cancelled_is_cancelled_already(plant: Plant) -> None:
    batch_id = await plant.submit("/break/a", *["/succeed/b"] * 3, maxFailures=0)
    await plant.work_off_one_by_one()
    assert (await plant.counts(batch_id))[0] == "cancelled"
    answer = await plant.ask("POST", f"/batch/{batch_id}/cancel")
    assert (answer.status, answer.body["status"]) == (202, "cancelled")


async def test_batch_that_has_ended_cannot_be_cancelled(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a")
    await plant.work_off()
    problem = assert_problem(await plant.ask("POST", f"/batch/{batch_id}/cancel"), 409)
    assert problem["type"] == "urn:penstock:problem:not-possible-now"
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})


async def test_batch_whose_end_is_not_written_yet_cannot_be_cancelled(plant: Plant) -> None:
    """Its client may have read that it is completed."""
    batch_id = await plant.submit("/succeed/a")
    await plant.work_off()
    written = await plant.forget_end(batch_id)
    assert_problem(await plant.ask("POST", f"/batch/{batch_id}/cancel"), 409)
    assert await plant.batch(batch_id) == written
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})


async def test_cancelled_batch_whose_messages_are_lost_is_settled_by_a_sweep(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", "/succeed/b")
    await plant.ask("POST", f"/batch/{batch_id}/cancel")
    plant.parts.chunks._kept.clear()
    await plant.sweep()
    assert await plant.counts(batch_id) == ("cancelling", {})
    plant.clock.advance(61)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("cancelled", {"cancelled": 2})


async def test_only_its_tenant_can_cancel_a_batch(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build_plant(aiohttp_client, toys.operations(), tenant_header="X-Tenant")
    batch_id = await plant.submit("/succeed/a", headers={"X-Tenant": "a"})
    for tenant in ("b", "A", "a#"):
        assert_problem(await plant.ask("POST", f"/batch/{batch_id}/cancel", headers={"X-Tenant": tenant}), 404)
    await plant.work_off()
    assert toys.times == {"0": 1}


async def test_unknown_batch_cannot_be_cancelled(plant: Plant) -> None:
    assert_problem(await plant.ask("POST", "/batch/01ARZ3NDEKTSV4RRFFQ69G5FAV/cancel"), 404)
