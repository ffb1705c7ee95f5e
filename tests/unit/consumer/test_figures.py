"""What a consumer counts and measures of chunks, letters and batches."""

from datetime import UTC, datetime

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Reject, Retry
from penstock.consumer.sweeper import Sweeper
from penstock.context import Context
from penstock.metrics.meter import Figures, Meter
from penstock.metrics.names import Metric
from penstock.queue import Message
from tests.support.builders import NOW, build_operations, build_settings
from tests.support.plant import Toys, build_plant
from tests.support.rig import Rig, take_turn


@pytest.fixture
def rig() -> Rig:
    rig = Rig(settings=build_settings(backoff_seconds=0))

    @rig.operations.post("/take-two-seconds")
    async def take_two_seconds() -> None:
        rig.clock.advance(2)

    @rig.operations.post("/reject")
    async def reject() -> None:
        raise Reject(409, "Not this one.")

    @rig.operations.post("/in-an-hour")
    async def in_an_hour(context: Context) -> None:
        if context.attempt == 1:
            raise Retry(after_seconds=600)

    return rig


async def figures_of(rig: Rig) -> Figures:
    consumer = rig.consumer()
    await rig.work_off(consumer)
    return consumer.meter.take()


async def test_attempts_are_counted_by_handler(rig: Rig) -> None:
    await rig.submit(build_operations("/take-two-seconds", "/reject", "/in-an-hour"))
    figures = await figures_of(rig)
    counted = {name: (one.succeeded, one.failed, one.retried) for name, one in figures.handlers.items()}
    assert counted == {
        "POST /take-two-seconds": (1, 0, 0),
        "POST /reject": (0, 1, 0),
        "POST /in-an-hour": (1, 0, 1),
    }
    assert figures.handlers["POST /take-two-seconds"].seconds.largest == 2


async def test_failures_are_counted_by_tenant(aiohttp_client: AiohttpClient) -> None:
    plant = await build_plant(aiohttp_client, Toys().operations(), tenant_header="X-Tenant")
    for tenant in ("a", "b", "a"):
        await plant.submit("/succeed/a", "/break/b", "/second-time-right/c", headers={"X-Tenant": tenant})
    consumer = plant.consumer()
    await plant.work_off(consumer)
    counted = {(one.metric.value, one.tenant): times for one, times in consumer.meter.take().tenants.items()}
    assert counted == {("TenantFailures", "a"): 2, ("TenantFailures", "b"): 1}


async def test_age_of_a_chunk_is_since_it_was_ready_to_run(rig: Rig) -> None:
    await rig.submit(build_operations("/in-an-hour"))
    rig.clock.advance(7)
    consumer = rig.consumer()
    await take_turn(consumer)
    rig.clock.advance(600 + 3)  # what it asked for, and then it stood on the queue
    await take_turn(consumer)
    ages = consumer.meter.take().spreads[Metric.CHUNK_AGE_SECONDS]
    assert (ages.count, ages.largest) == (2, 7)
    assert ages.total == pytest.approx(7 + 3)


async def test_chunk_is_measured_to_its_acknowledgement(rig: Rig) -> None:
    await rig.submit(build_operations("/take-two-seconds"))
    seconds = (await figures_of(rig)).spreads[Metric.CHUNK_SECONDS]
    assert (seconds.count, seconds.total) == (1, 2)


async def test_dead_letters_are_counted_as_messages(rig: Rig) -> None:
    await rig.submit(build_operations("/reject", "/reject"))
    await rig.parts.chunks.send([Message("not a chunk")])
    figures = await figures_of(rig)
    assert figures.counts[Metric.DEAD_LETTERS] == len(rig.dead_letters) == 2


async def test_in_flight_is_what_is_held(rig: Rig) -> None:
    await rig.submit(build_operations("/take-two-seconds"))
    consumer = rig.consumer()
    assert consumer.meter.levels() == {Metric.IN_FLIGHT: 0}
    await consumer.turn()
    assert consumer.meter.levels() == {Metric.IN_FLIGHT: 1}
    await rig.work_off(consumer)
    assert consumer.meter.levels() == {Metric.IN_FLIGHT: 0}


async def test_batches_swept_past_their_deadline_are_counted_once(aiohttp_client: AiohttpClient) -> None:
    plant = await build_plant(aiohttp_client, Toys().operations(), deadline_seconds=60)
    meter = Meter()
    sweeper = Sweeper(plant.parts.store, 30, plant.clock, meter)
    for _ in range(2):
        await plant.submit("/succeed/a")
    plant.clock.advance(61)
    for _ in range(2):
        await sweeper.sweep()
    assert meter.take().counts[Metric.BATCHES_SWEPT] == 2


async def test_batch_that_has_finished_since_the_index_was_read_does_not_count_as_swept(
    aiohttp_client: AiohttpClient,
) -> None:
    plant = await build_plant(aiohttp_client, Toys().operations(), deadline_seconds=60)
    meter = Meter()
    batch_id = await plant.submit("/succeed/a")
    await plant.work_off()
    plant.parts.store._due[batch_id] = NOW + 60
    plant.clock.advance(61)
    await Sweeper(plant.parts.store, 30, plant.clock, meter).sweep()
    assert meter.take().counts.get(Metric.BATCHES_SWEPT, 0) == 0


async def test_cancelled_batches_that_the_sweeper_ends_are_not_counted(aiohttp_client: AiohttpClient) -> None:
    """Or an ordinary cancel of what is scheduled, or behind a backlog, would raise an alarm."""
    plant = await build_plant(aiohttp_client, Toys().operations(), settle_seconds=60)
    meter = Meter()
    sweeper = Sweeper(plant.parts.store, 30, plant.clock, meter)
    scheduled = await plant.submit("/succeed/a", notBefore=datetime.fromtimestamp(NOW + 3600, UTC).isoformat())
    queued = await plant.submit("/succeed/b")
    for batch_id in (scheduled, queued):
        await plant.ask("POST", f"/batch/{batch_id}/cancel")
    plant.clock.advance(61)
    await sweeper.sweep()
    for batch_id in (scheduled, queued):
        assert await plant.counts(batch_id) == ("cancelled", {"cancelled": 1})
    assert meter.take().counts.get(Metric.BATCHES_SWEPT, 0) == 0


async def test_poison_has_failed_without_a_time(rig: Rig) -> None:
    """Its handler never came to an end."""
    await rig.submit(build_operations("/reject"))
    for _ in range(4):
        delivery, chunk = await rig.receive()
        if delivery.receive_count > 1:
            await rig.parts.store.note_start(await rig.batch(), chunk.id, delivery.mark)
        rig.clock.advance(rig.settings.visibility_seconds + 1)
    figures = (await figures_of(rig)).handlers["POST /reject"]
    assert (figures.failed, figures.count, figures.seconds.count) == (1, 1, 0)
    assert rig.statuses() == {"id-0": 500}
