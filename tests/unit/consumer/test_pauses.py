"""A paused batch: what runs finishes, nothing else starts, and it goes on when it is resumed."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.batch import LONGEST_PAUSE_SECONDS
from penstock.consumer import pauses
from penstock.consumer.consumer import Consumer
from penstock.message import decode_chunk
from penstock.outcome import ChunkRecord, Outcome, OutcomeState
from penstock.priority import Priority
from penstock.running.stop import Stop
from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.waiting import UNIT_SECONDS

DAY = 86_400


pytestmark = pytest.mark.usefixtures("_watch_closely")


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), concurrency=1, deadline_seconds=10 * DAY)


@pytest.fixture
def _without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "MOST_HELD", 0)


async def steer(plant: Plant, batch_id: str, **changes: Any) -> None:
    answer = await plant.ask("PATCH", f"/batch/{batch_id}", json=changes)
    assert answer.status == 200, answer.content
    plant.clock.advance(1.5)  # what consumers have read of the batch is stale


async def until_held(consumer: Consumer) -> None:
    async with asyncio.timeout(20 * UNIT_SECONDS):
        while not any(consumer._pauses.holds(held.delivery) for held in consumer._held.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_running_operation_finishes_and_no_other_starts(
    plant: Plant, toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, begin = asyncio.Event(), Stop.begin

    def begin_and_tell(stop: Stop) -> None:
        begin(stop)
        stopped.set()

    monkeypatch.setattr(Stop, "begin", begin_and_tell)
    batch_id = await plant.submit("/hang/a", "/succeed/b", "/succeed/c")
    async with asyncio.timeout(20 * UNIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(take_turn(plant.consumer()))
        await toys.arrived.wait()
        await steer(plant, batch_id, paused=True)
        await stopped.wait()
        toys.gate.set()
    assert toys.times == {"0": 1}
    assert await plant.counts(batch_id) == ("paused", {"succeeded": 1})
    [message] = plant.messages
    assert [one.id for one in decode_chunk(message.body).operations] == ["1", "2"]
    assert decode_chunk(message.body).attempt == 1


@pytest.mark.parametrize("path", ["resume", "cancel", "deadline", "seven days"])
async def test_held_chunk_goes_on_as_soon_as_its_batch_is_not_paused(plant: Plant, toys: Toys, path: str) -> None:
    batch_id, consumer = await plant.submit("/succeed/a"), plant.consumer()
    await steer(plant, batch_id, paused=True)
    await consumer.turn()
    await until_held(consumer)
    assert all((load.chunks, load.operations) == (0, 0) for load in consumer._loads().values())
    match path:
        case "resume":
            await steer(plant, batch_id, paused=False)
        case "cancel":
            await plant.ask("POST", f"/batch/{batch_id}/cancel")
        case "deadline":
            await steer(plant, batch_id, deadlineAt="2023-11-14T22:14:00Z")
    await consumer._leases.beat(Priority.NORMAL)
    plant.clock.advance({"deadline": 60, "seven days": LONGEST_PAUSE_SECONDS}.get(path, 2))
    async with asyncio.timeout(20 * UNIT_SECONDS):
        await asyncio.wait(list(consumer._held))
    await plant.work_off()
    ended = {"cancel": "cancelled", "deadline": "expired"}.get(path, "succeeded")
    assert (await plant.counts(batch_id))[1] == {ended: 1}
    assert toys.times == ({"0": 1} if ended == "succeeded" else {})


async def test_record_is_read_again_after_a_pause(plant: Plant, toys: Toys) -> None:
    """A copy of the chunk may have run elsewhere."""
    batch_id, consumer = await plant.submit("/succeed/a"), plant.consumer()
    await steer(plant, batch_id, paused=True)
    await consumer.turn()
    await until_held(consumer)
    outcome = Outcome(0, "0", OutcomeState.SUCCEEDED, 201, result="b")
    await plant.parts.store.commit_chunk(await plant.batch(batch_id), ChunkRecord("0", (outcome,)))
    await steer(plant, batch_id, paused=False)
    async with asyncio.timeout(20 * UNIT_SECONDS):
        await asyncio.wait(list(consumer._held))
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})
    assert toys.times == {}


async def test_chunks_without_room_are_given_back_after_the_pause(plant: Plant, toys: Toys) -> None:
    """Otherwise one consumer would run all that it holds, and the others would be idle."""
    batch_ids = [await plant.submit("/hang/a", "/hang/b") for _ in range(4)]
    consumer = plant.consumer()
    for batch_id in batch_ids:
        await steer(plant, batch_id, paused=True)
    while len(consumer._held) < len(batch_ids):
        await consumer.turn()
    for batch_id in batch_ids:
        await steer(plant, batch_id, paused=False)
    await toys.arrived.wait()
    async with asyncio.timeout(20 * UNIT_SECONDS):
        while len(consumer._held) > 1:
            await asyncio.wait(list(consumer._held), return_when=asyncio.FIRST_COMPLETED)
    assert await plant.parts.chunks.depth() == len(batch_ids) - 1
    toys.gate.set()
    await plant.work_off()
    assert {state for state, _ in [await plant.counts(batch_id) for batch_id in batch_ids]} == {"completed"}
    assert sum(toys.times.values()) == 2 * len(batch_ids)


async def test_consumer_that_stops_gives_back_what_is_paused(plant: Plant) -> None:
    batch_id, consumer = await plant.submit("/succeed/a"), plant.consumer()
    await steer(plant, batch_id, paused=True)
    await consumer.turn()
    await until_held(consumer)
    consumer.stop()
    async with asyncio.timeout(20 * UNIT_SECONDS):
        await asyncio.wait(list(consumer._held))
    [delivery] = await plant.parts.chunks.receive(1, 0)
    assert (await plant.parts.store.read_traces(batch_id, "0")).released == {replace(delivery, receive_count=1).mark}


@pytest.mark.usefixtures("_without_room")
@pytest.mark.parametrize(("paused_for", "hidden"), [(1.5, 60), (300, 300), (DAY, 900)])
async def test_chunk_without_room_is_hidden_for_as_long_as_the_pause_lasts(
    plant: Plant, toys: Toys, paused_for: float, hidden: int
) -> None:
    batch_id = await plant.submit("/succeed/a")
    await steer(plant, batch_id, paused=True)
    plant.clock.advance(paused_for - 1.5)
    await take_turn(plant.consumer())
    await steer(plant, batch_id, paused=False)
    plant.clock.advance(hidden - 2.5)
    assert await plant.parts.chunks.depth() == 0
    plant.clock.advance(2)
    assert await plant.parts.chunks.depth() == 1
    await plant.work_off()
    assert (toys.times, (await plant.status(batch_id))["redelivered"]) == ({"0": 1}, 0)


@pytest.mark.full
@pytest.mark.usefixtures("_without_room")
async def test_seven_days_do_not_use_up_the_receives_of_a_message(plant: Plant, toys: Toys) -> None:
    batch_id, consumer = await plant.submit("/succeed/a"), plant.consumer()
    await steer(plant, batch_id, paused=True)
    most = 0
    while (await plant.status(batch_id))["status"] == "paused":
        await take_turn(consumer)
        most = max([most, *(kept.receive_count for kept in plant.parts.chunks._kept.values())])
        plant.clock.advance(pauses.LONGEST_SECONDS)
    assert pauses.MOST_RECEIVES - 1 <= most <= pauses.MOST_RECEIVES
    assert toys.times == {}
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})
    assert toys.runs[0].attempt == 1
