"""A queue that operators have paused: consumers receive nothing from it, and give back what they have not started."""

import asyncio

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.consumer import pauses
from penstock.consumer.consumer import Consumer
from penstock.consumer.queue_switches import FRESH_SECONDS, HIDDEN_SECONDS, QueueSwitches
from penstock.message import decode_chunk
from penstock.priority import Priority
from penstock.running.stop import Stop
from penstock.testing import FakeClock, MemoryStore
from tests.support.builders import NOW
from tests.support.faults import Outage
from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.waiting import UNIT_SECONDS

pytestmark = pytest.mark.usefixtures("_watch_closely")


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), concurrency=1)


async def switch(plant: Plant, priority: str, action: str) -> None:
    answer = await plant.ask("POST", f"/queues/{priority}/{action}", headers={"Content-Type": "application/json"})
    assert answer.status == 200
    plant.clock.advance(FRESH_SECONDS)


def open_inlets(consumer: Consumer) -> list[Priority]:
    consumer._open_inlets()
    return [priority for priority, inlet in consumer._inlets.items() if inlet.is_open]


async def test_chunk_of_a_paused_queue_is_given_back_and_no_other_is_received(plant: Plant, toys: Toys) -> None:
    batch_id, consumer = await plant.submit("/succeed/a"), plant.consumer()
    await switch(plant, "normal", "pause")
    await take_turn(consumer)
    assert (toys.runs, len(plant.messages)) == ([], 1)
    assert open_inlets(consumer) == [Priority.HIGH, Priority.LOW]
    await switch(plant, "normal", "resume")
    plant.clock.advance(HIDDEN_SECONDS - FRESH_SECONDS)
    await consumer._switches.refresh()
    await plant.work_off(consumer)
    assert (toys.times, (await plant.status(batch_id))["redelivered"]) == ({"0": 1}, 0)


async def test_running_operation_of_a_paused_queue_finishes_and_no_other_starts(
    plant: Plant, toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, begin = asyncio.Event(), Stop.begin

    def begin_and_tell(stop: Stop) -> None:
        begin(stop)
        stopped.set()

    monkeypatch.setattr(Stop, "begin", begin_and_tell)
    batch_id = await plant.submit("/hang/a", "/succeed/b")
    async with asyncio.timeout(20 * UNIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(take_turn(plant.consumer()))
        await toys.arrived.wait()
        await switch(plant, "normal", "pause")
        await stopped.wait()
        toys.gate.set()
    assert await plant.counts(batch_id) == ("processing", {"succeeded": 1})
    [message] = plant.messages
    assert [one.id for one in decode_chunk(message.body).operations] == ["1"]


async def test_consumers_that_do_not_know_of_a_pause_do_not_use_up_the_receives_of_a_message(
    plant: Plant, toys: Toys
) -> None:
    """An idle consumer learns of a pause from the first chunk that it receives."""
    await switch(plant, "normal", "pause")
    batch_id, most = await plant.submit("/succeed/a"), 0
    for _ in range(2 * pauses.MOST_RECEIVES):
        await take_turn(plant.consumer())
        most = max([most, *(kept.receive_count for kept in plant.parts.chunks._kept.values())])
        plant.clock.advance(HIDDEN_SECONDS)
    assert most == pauses.MOST_RECEIVES - 1
    await switch(plant, "normal", "resume")
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})
    assert toys.runs[0].attempt == 1


async def test_other_queues_go_on(plant: Plant, toys: Toys) -> None:
    await switch(plant, "low", "pause")
    await plant.submit("/succeed/a")
    await plant.submit("/succeed/b", priority="low")
    await take_turn(plant.consumer())
    assert len(toys.runs) == 1
    assert len(plant.parts.queues[Priority.LOW].messages) == 1


async def test_what_is_paused_is_read_every_two_seconds_while_anything_is() -> None:
    store, clock, changed = MemoryStore(), FakeClock(NOW), asyncio.Event()
    switches = QueueSwitches(store, clock, changed.set)
    await store.pause_queue(Priority.LOW, NOW)
    await switches.refresh()
    assert changed.is_set()
    assert not switches.are_stale
    changed.clear()
    keeping = asyncio.create_task(switches.keep())
    await store.resume_queue(Priority.LOW)
    async with asyncio.timeout(20 * UNIT_SECONDS):
        await changed.wait()
    assert not switches.is_paused(Priority.LOW)
    at = clock.now()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert clock.now() == at
    keeping.cancel()


async def test_queue_stays_paused_while_the_table_does_not_answer(plant: Plant) -> None:
    await switch(plant, "low", "pause")
    consumer = plant.consumer(Outage("store.read_paused_queues", times=1))
    switches = consumer._switches
    await switches.refresh()
    assert switches.are_stale
    await switches.refresh()
    assert switches.is_paused(Priority.LOW)
