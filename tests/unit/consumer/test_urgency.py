"""The priority of a batch is changed: what a consumer holds gets slots by the new one, and so does what follows."""

import asyncio

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.consumer.consumer import Consumer
from penstock.priority import Priority
from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.waiting import UNIT_SECONDS

pytestmark = pytest.mark.usefixtures("_watch_closely")


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), concurrency=1)


async def set_priority(plant: Plant, batch_id: str, priority: Priority) -> None:
    answer = await plant.ask("PATCH", f"/batch/{batch_id}", json={"priority": priority})
    assert answer.status == 200
    plant.clock.advance(1.5)  # what consumers have read of the batch is stale


def waiting(consumer: Consumer) -> list[Priority]:
    lanes = consumer._runner._slots._lanes.items()
    return [priority for priority, lane in lanes if lane.shares.waiting]


async def until_waiting(consumer: Consumer, *priorities: Priority) -> None:
    async with asyncio.timeout(20 * UNIT_SECONDS):
        while waiting(consumer) != list(priorities):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_chunk_that_waits_for_a_slot_waits_with_the_new_priority(plant: Plant, toys: Toys) -> None:
    consumer = plant.consumer()
    await plant.submit("/hang/a")
    await consumer.turn()
    await toys.arrived.wait()
    batch_id = await plant.submit("/succeed/b", "/succeed/c", priority="low")
    consumer._moved.set()
    while len(consumer._held) < 2:
        await consumer.turn()
    await until_waiting(consumer, Priority.LOW)
    await set_priority(plant, batch_id, Priority.HIGH)
    await until_waiting(consumer, Priority.HIGH)
    toys.gate.set()
    async with asyncio.timeout(20 * UNIT_SECONDS):
        await asyncio.wait(list(consumer._held))
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})
    assert set(toys.times.values()) == {2, 1}  # both batches have an operation 0


async def test_chunk_from_the_old_queue_runs_and_is_followed_by_the_new_priority(plant: Plant) -> None:
    batch_id = await plant.submit("/second-time-right/a", priority="low")
    await set_priority(plant, batch_id, Priority.HIGH)
    await take_turn(plant.consumer())
    queues = {priority: len(queue.messages) for priority, queue in plant.parts.queues.items()}
    assert queues == {Priority.HIGH: 1, Priority.NORMAL: 0, Priority.LOW: 0}
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})


async def test_operations_that_wait_for_a_thread_follow_as_another_chunk(aiohttp_client: AiohttpClient) -> None:
    toys = Toys()
    operations = toys.operations()

    @operations.post("/in-a-thread")
    def in_a_thread() -> None:
        """Return immediately."""

    plant = await build_plant(aiohttp_client, operations, concurrency=1)
    consumer = plant.consumer()
    await plant.submit("/hang/a")
    await consumer.turn()
    await toys.arrived.wait()
    batch_id = await plant.submit("/in-a-thread", "/in-a-thread", priority="low")
    consumer._moved.set()
    while len(consumer._held) < 2:
        await consumer.turn()
    await until_waiting(consumer, Priority.LOW)
    await set_priority(plant, batch_id, Priority.HIGH)
    async with asyncio.timeout(20 * UNIT_SECONDS):
        while not plant.parts.queues[Priority.HIGH].messages:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    toys.gate.set()
    await asyncio.wait(list(consumer._held))
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})
