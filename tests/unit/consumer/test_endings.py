"""How a batch that runs is ended early: what runs finishes, what has not begun does not begin, and all is counted."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.batch import BatchState, Ending, FailureLimit
from penstock.consumer import limits
from penstock.consumer.attempt import Evidence, StartNote
from penstock.consumer.consumer import Consumer
from penstock.message import decode_chunk
from penstock.running.stop import Stop
from tests.support.faults import Moment
from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.waiting import UNIT_SECONDS

pytestmark = pytest.mark.usefixtures("_watch_closely")


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once nothing more of a chunk begins."""
    event = asyncio.Event()
    for stage in (Stop.begin, Stop.spend):

        def go_and_tell(stop: Stop, stage: Callable[[Stop], None] = stage) -> None:
            stage(stop)
            event.set()

        monkeypatch.setattr(Stop, stage.__name__, go_and_tell)
    return event


async def build(aiohttp_client: AiohttpClient, toys: Toys, **settings: Any) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), **{"concurrency": 1, **settings})


async def test_cancelled_while_it_runs(aiohttp_client: AiohttpClient, toys: Toys, stopped: asyncio.Event) -> None:
    plant = await build(aiohttp_client, toys)
    batch_id = await plant.submit("/hang/a", "/succeed/b", "/succeed/c")
    async with asyncio.timeout(20 * UNIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(take_turn(plant.consumer()))
        await toys.arrived.wait()
        await plant.ask("POST", f"/batch/{batch_id}/cancel")
        plant.clock.advance(2)  # what was read of the batch is stale
        await stopped.wait()
        toys.gate.set()
    assert toys.times == {"0": 1}
    assert await plant.counts(batch_id) == ("cancelled", {"succeeded": 1, "cancelled": 2})
    assert await plant.statuses(batch_id) == {"0": 200, "1": 410, "2": 410}


async def test_cancelled_while_its_record_is_looked_for(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    """That can take long when AWS is slow: nothing of it has begun."""
    plant = await build(aiohttp_client, toys)
    batch_id = await plant.submit("/succeed/a", "/succeed/b")

    def cancel_meanwhile(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_traces", "before"):
            batches = plant.parts.store._batches
            batches[batch_id] = replace(batches[batch_id], state=BatchState.CANCELLING, ending=Ending.CANCELLED)
            plant.clock.advance(2)

    async with asyncio.timeout(20 * UNIT_SECONDS):
        await take_turn(plant.consumer(cancel_meanwhile))
    assert toys.times == {}
    assert await plant.counts(batch_id) == ("cancelled", {"cancelled": 2})


async def test_swept_while_it_runs(aiohttp_client: AiohttpClient, toys: Toys, stopped: asyncio.Event) -> None:
    """By the time that its consumer looks again the batch is final already."""
    plant = await build(aiohttp_client, toys)
    batch_id = await plant.submit("/hang/a", "/succeed/b", deadlineSeconds=60)
    async with asyncio.timeout(20 * UNIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(take_turn(plant.consumer()))
        await toys.arrived.wait()
        plant.clock.advance(61)
        await plant.sweep()
        assert (await plant.batch(batch_id)).is_final
        await stopped.wait()
        toys.gate.set()
    await plant.work_off()
    assert toys.times == {"0": 1}
    assert await plant.counts(batch_id) == ("expired", {"expired": 2})


async def test_deadline_passes_while_it_runs(aiohttp_client: AiohttpClient, toys: Toys, stopped: asyncio.Event) -> None:
    plant = await build(aiohttp_client, toys)
    batch_id = await plant.submit("/hang/a", "/succeed/b", deadlineSeconds=60)
    async with asyncio.timeout(20 * UNIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(take_turn(plant.consumer()))
        await toys.arrived.wait()
        plant.clock.advance(61)
        await stopped.wait()
        toys.gate.set()
    assert await plant.counts(batch_id) == ("expired", {"succeeded": 1, "expired": 1})
    assert await plant.statuses(batch_id) == {"0": 200, "1": 504}


async def test_what_failed_in_its_last_moment_is_not_tried_again(
    aiohttp_client: AiohttpClient, toys: Toys, stopped: asyncio.Event
) -> None:
    plant = await build(aiohttp_client, toys, concurrency=2)
    batch_id = await plant.submit("/second-time-right/a", "/hang/b")
    async with asyncio.timeout(20 * UNIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(take_turn(plant.consumer()))
        await toys.arrived.wait()
        await plant.ask("POST", f"/batch/{batch_id}/cancel")
        plant.clock.advance(2)
        await stopped.wait()
        toys.gate.set()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1, "failed": 1})
    assert plant.parts.chunks.messages == []


async def test_chunk_that_spends_its_time_is_recorded_and_its_rest_follows(
    aiohttp_client: AiohttpClient, toys: Toys, stopped: asyncio.Event
) -> None:
    plant = await build(aiohttp_client, toys, chunk_budget_seconds=0.02)
    batch_id = await plant.submit("/hang/a", "/succeed/b", "/succeed/c")
    async with asyncio.timeout(20 * UNIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(take_turn(plant.consumer()))
        await toys.arrived.wait()
        await stopped.wait()
        toys.gate.set()
    assert await plant.counts(batch_id) == ("processing", {"succeeded": 1})
    assert plant.waiting_operations() == ["1", "2"]
    await plant.work_off()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 3})
    assert [(context.operation_id, context.attempt) for context in toys.runs] == [("0", 1), ("1", 1), ("2", 1)]


@pytest.mark.parametrize(
    ("limit", "failures_run"),
    [
        ({"maxFailures": 0}, 1),
        ({"maxFailures": 2}, 3),
        ({"maxFailedPercent": 0}, 1),
        ({"maxFailedPercent": 10}, 2),  # of ten: one may fail
        ({"maxFailedPercent": 19.9}, 2),
        ({"maxFailures": 5, "maxFailedPercent": 10}, 2),  # the stricter
        ({"maxFailures": 1, "maxFailedPercent": 100}, 2),
    ],
)
async def test_too_many_failures_cancel_the_rest(
    aiohttp_client: AiohttpClient, toys: Toys, limit: dict[str, Any], failures_run: int
) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=1)
    batch_id = await plant.submit(*["/break/a"] * 10, **limit)
    await plant.work_off_one_by_one()
    assert len(toys.runs) == failures_run
    assert await plant.counts(batch_id) == ("cancelled", {"failed": failures_run, "cancelled": 10 - failures_run})
    assert "failed" in (await plant.status(batch_id))["reason"]


@pytest.mark.parametrize("limit", [{"maxFailures": 10}, {"maxFailedPercent": 100}, {"maxFailures": 3}, {}])
async def test_failures_within_the_limit_end_nothing(
    aiohttp_client: AiohttpClient, toys: Toys, limit: dict[str, Any]
) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=1)
    batch_id = await plant.submit(*["/break/a"] * 3, *["/succeed/b"] * 7, **limit)
    await plant.work_off_one_by_one()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 7, "failed": 3})


async def die(plant: Plant, chunks: int, *, processes: int | None = None) -> None:
    """Consumers take chunks, note that they run them, and are never heard of again."""
    for number in range(chunks):
        [delivery] = await plant.parts.chunks.receive(1, 0)
        chunk = decode_chunk(delivery.body)
        batch = await plant.parts.store.read_batch(chunk.batch_id)
        assert batch is not None
        note = StartNote(delivery.mark, f"consumer-{number % (processes or chunks)}", Evidence.NONE)
        await plant.parts.store.note_start(batch, chunk.id, str(note))
    plant.clock.advance(plant.settings.visibility_seconds + 1)


@pytest.mark.parametrize(
    ("most_deaths", "state"),
    [
        (1, "failed"),
        (2, "completed"),
    ],
)
async def test_batch_that_kills_too_many_consumers_is_stopped(
    aiohttp_client: AiohttpClient, toys: Toys, most_deaths: int, state: str
) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=2, max_deaths=most_deaths)
    batch_id = await plant.submit(*["/succeed/a"] * 4)
    await die(plant, 2)
    await plant.work_off_one_by_one()
    assert (await plant.counts(batch_id))[0] == state
    if state == "failed":
        assert "consumers" in (await plant.status(batch_id))["reason"]
        assert 503 in (await plant.statuses(batch_id)).values()


@pytest.mark.parametrize(("processes", "state"), [(1, "completed"), (2, "completed"), (3, "failed")])
async def test_consumer_that_dies_with_many_chunks_is_one_death(
    aiohttp_client: AiohttpClient, toys: Toys, processes: int, state: str
) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=1, max_deaths=2)
    batch_id = await plant.submit(*["/succeed/a"] * 12)
    await die(plant, 12, processes=processes)
    await plant.work_off_one_by_one()
    assert (await plant.counts(batch_id))[0] == state


async def test_receives_whose_answer_is_lost_are_no_deaths(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=2, max_deaths=1)
    batch_id = await plant.submit(*["/succeed/a"] * 20)
    for _ in range(3):
        while await plant.parts.chunks.receive(1, 0):
            pass
        plant.clock.advance(plant.settings.visibility_seconds + 1)
    await plant.work_off_one_by_one()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 20})
    # The chunks of two operations came again three times. Each was split in half, and the halves came once.
    assert (await plant.status(batch_id))["redelivered"] == 3 * 20


async def test_operations_of_a_stopped_batch_can_be_retried(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=2, max_deaths=1)
    batch_id = await plant.submit(*["/succeed/a"] * 4)
    await die(plant, 2)
    await plant.work_off_one_by_one()
    _, counts = await plant.counts(batch_id)
    answer = await plant.ask("POST", f"/batch/{batch_id}/retry")
    assert answer.body["retried"] == counts["failed"]
    await plant.work_off_one_by_one()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 4})
    assert all(times == 1 for times in toys.times.values())


async def test_stopped_batch_stays_failed_while_some_of_it_is(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=2, max_deaths=1)
    batch_id = await plant.submit("/succeed/a", "/succeed/b", "/break/c", "/break/d")
    await die(plant, 2)
    await plant.work_off_one_by_one()
    await plant.ask("POST", f"/batch/{batch_id}/retry")
    await plant.work_off_one_by_one()
    assert await plant.counts(batch_id) == ("failed", {"succeeded": 2, "failed": 2})


async def test_limit_that_is_set_while_a_chunk_runs_counts_for_it(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=2)
    batch_id = await plant.submit("/hang/a", "/break/b", "/second-time-right/c")
    read = asyncio.Event()
    consumer = plant.consumer(
        lambda call, moment: read.set() if (call, moment) == ("store.read_batch", "after") else None
    )
    async with asyncio.timeout(20 * UNIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(take_turn(consumer))
        await toys.arrived.wait()
        await plant.ask("PATCH", f"/batch/{batch_id}", json={"maxFailures": 0})
        plant.clock.advance(2)  # what was read of the batch is stale
        read.clear()
        await read.wait()
        toys.gate.set()
    await plant.work_off()
    assert await plant.counts(batch_id) == ("cancelled", {"succeeded": 1, "failed": 1, "cancelled": 1})


@pytest.mark.parametrize("limit", [FailureLimit(1), None])
async def test_limit_that_was_raised_since_the_batch_was_read_ends_nothing(
    aiohttp_client: AiohttpClient, toys: Toys, limit: FailureLimit | None
) -> None:
    plant = await build(aiohttp_client, toys, chunk_operations=1)
    batch_id = await plant.submit("/break/a", "/succeed/b", maxFailures=0)
    calls: list[str] = []

    def raise_it_meanwhile(call: str, moment: Moment) -> None:
        calls.append(call)
        if (call, moment) == ("store.count_chunk", "before"):
            batches = plant.parts.store._batches
            batches[batch_id] = replace(batches[batch_id], failure_limit=limit)

    await plant.work_off(plant.consumer(raise_it_meanwhile))
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1, "failed": 1})
    assert "store.read_groups" in calls
    assert "store.end_batch" not in calls


async def test_limit_that_was_lowered_is_checked_again_while_a_chunk_runs(
    aiohttp_client: AiohttpClient, toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer may have counted the last failure after the front end has checked, with the limit from before."""
    monkeypatch.setattr(limits, "KNOWN_SECONDS", 0.005)
    plant = await build(aiohttp_client, toys, chunk_operations=1)
    batch_id = await plant.submit("/break/a", "/hang/b", "/succeed/c", maxFailures=1)
    checked, ended = asyncio.Event(), asyncio.Event()
    events = {"store.read_groups": checked, "store.end_batch": ended}

    def note(call: str, moment: Moment) -> None:
        if call in events and moment == "after":
            events[call].set()

    async def take_two_turns(consumer: Consumer) -> None:
        await consumer.turn()  # it receives one chunk
        await take_turn(consumer)  # and now both others

    async with asyncio.timeout(20 * UNIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(take_two_turns(plant.consumer(note)))
        await toys.arrived.wait()
        await checked.wait()  # after the only failure, with the limit from before
        batches = plant.parts.store._batches
        batches[batch_id] = replace(batches[batch_id], failure_limit=FailureLimit(0))
        plant.clock.advance(2)
        await ended.wait()
        toys.gate.set()
    await plant.work_off()
    assert await plant.counts(batch_id) == ("cancelled", {"succeeded": 1, "failed": 1, "cancelled": 1})


async def test_redrive_runs_though_its_batch_is_cancelled(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    """Somebody has just asked for it."""
    plant = await build(aiohttp_client, toys, chunk_operations=1)
    batch_id = await plant.submit("/break/a", "/second-time-right/b")
    await take_turn(plant.consumer())
    await take_turn(plant.consumer())
    await plant.ask("POST", f"/batch/{batch_id}/cancel")
    toys.is_mended = True
    await plant.ask("POST", "/dead-letters/redrive", json={})
    await plant.work_off()
    assert await plant.counts(batch_id) == ("cancelled", {"succeeded": 1, "cancelled": 1})
