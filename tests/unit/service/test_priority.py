"""The priority of a batch decides the queue of all its messages, and is part of its status."""

from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.priority import Priority
from penstock.queue import Message
from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.service import NDJSON, Serve, ask_for, assert_problem, pointers


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), chunk_operations=2)


def where(plant: Plant) -> dict[str, int]:
    """Return the number of messages on each queue that is not empty."""
    return {priority: len(queue.messages) for priority, queue in plant.parts.queues.items() if queue.messages}


@pytest.mark.parametrize(
    ("members", "priority"),
    [({}, "normal"), *(({"priority": priority}, priority) for priority in ("high", "normal", "low"))],
)
async def test_batch_travels_on_the_queue_of_its_priority(plant: Plant, members: Any, priority: str) -> None:
    batch_id = await plant.submit(*["/succeed/a"] * 5, **members)
    assert where(plant) == {priority: 3}
    assert (await plant.status(batch_id))["priority"] == priority
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 5})


@pytest.mark.parametrize("priority", Priority)
async def test_stream_has_it_in_the_query(plant: Plant, priority: str) -> None:
    headers = {"Content-Type": NDJSON, "Prefer": "respond-async"}
    line = b'{"method": "POST", "path": "/succeed/a"}'
    answer = await plant.ask("POST", f"/batch?priority={priority}", data=line, headers=headers)
    assert answer.status == 202
    assert where(plant) == {priority: 1}


@pytest.mark.parametrize("priority", ["urgent", "HIGH", "", 1, None, ["high"]])
async def test_priority_that_there_is_not_is_refused(plant: Plant, priority: Any) -> None:
    problem = assert_problem(await plant.service.post(ask_for("/succeed/a"), priority=priority), 422)
    assert pointers(problem) == ["/priority"]
    assert "'high', 'normal' or 'low'" in problem["errors"][0]["detail"]
    assert where(plant) == {}


async def test_small_batch_that_is_answered_at_once_may_have_one(plant: Plant) -> None:
    assert (await plant.service.post(ask_for("/succeed/a"), priority="high")).status == 200


async def test_what_outlives_its_time_goes_on_with_the_priority_that_was_asked_for(plant: Plant, toys: Toys) -> None:
    answer = await plant.service.post(ask_for("/succeed/a", "/hang/b"), {"Prefer": "wait=0"}, priority="low")
    assert answer.status == 202
    assert where(plant) == {"low": 1}


@pytest.mark.parametrize("priority", Priority)
async def test_what_is_tried_again_retried_or_redriven_stays_on_its_queue(plant: Plant, priority: str) -> None:
    batch_id = await plant.submit("/break/a", "/second-time-right/b", priority=priority)
    await take_turn(plant.consumer())
    assert where(plant) == {priority: 1}
    await plant.work_off()
    for path, body in ((f"/batch/{batch_id}/retry", None), ("/dead-letters/redrive", {"batchId": batch_id})):
        assert (await plant.ask("POST", path, json=body)).status == 202
        assert set(where(plant)) == {priority}
        await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1, "failed": 1})


async def test_redrive_of_all_puts_each_back_where_it_came_from(plant: Plant) -> None:
    for priority in ("high", "low", "low"):
        await plant.submit("/break/a", priority=priority)
    await plant.work_off()
    answer = await plant.ask("POST", "/dead-letters/redrive", json={})
    assert answer.body == {"redrivenChunks": 3, "isComplete": True}
    assert where(plant) == {"high": 1, "low": 2}


async def test_letter_of_a_batch_that_is_forgotten_is_put_back_too(plant: Plant) -> None:
    await plant.submit("/break/a", priority="high")
    await plant.work_off()
    plant.parts.store._batches.clear()
    await plant.ask("POST", "/dead-letters/redrive", json={})
    assert where(plant) == {"normal": 1}


@pytest.mark.parametrize("target", Priority)
async def test_chunk_is_valid_on_any_queue(plant: Plant, toys: Toys, target: Priority) -> None:
    """In the console of SQS, an operator may redrive to any queue. Follow-ups go to the queue of the batch."""
    batch_id = await plant.submit("/break/a", priority="high")
    await plant.work_off()
    [letter] = plant.parts.dead_letters.messages
    await plant.parts.queues[target].send([Message(letter.body)])
    toys.is_mended = True
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})


async def test_slots_are_given_by_priority_in_the_front_end_too(serve: Serve, toys: Toys) -> None:
    service = await serve(toys.operations(), concurrency=1, weight_high=1_000)
    assert (await service.post(ask_for(*["/succeed/a"] * 5), priority="low")).status == 200
