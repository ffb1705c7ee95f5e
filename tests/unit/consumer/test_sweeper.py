"""The sweeper ends what nothing else ends: once, by one consumer at a time, and no late record changes it."""

import asyncio
import itertools
from collections import Counter
from dataclasses import replace

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.batch import BatchState, Counts
from penstock.consumer.sweeper import BATCHES_AT_ONCE, FAILURES_IN_SWEEP, GROUPS_AT_ONCE, PERIODS_OF_TENURE, Sweeper
from penstock.errors import NewerVersion, PenstockError, RejectedCall, Unavailable
from penstock.store import Group, SweepLease
from penstock.testing import FakeClock
from tests.support.faults import Moment, Outage, watched
from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.service import ask_for, assert_problem

DEADLINE, SETTLE, ACCEPT, PERIOD = 600, 300, 60, 30
AFTER = DEADLINE + 1


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build(aiohttp_client, toys)


async def build(aiohttp_client: AiohttpClient, toys: Toys, watch: Outage | None = None) -> Plant:
    return await build_plant(
        aiohttp_client,
        toys.operations(),
        watch=watch,
        chunk_operations=1,
        deadline_seconds=DEADLINE,
        settle_seconds=SETTLE,
        accept_seconds=ACCEPT,
        sweep_seconds=PERIOD,
    )


def lose_all_messages(plant: Plant) -> None:
    plant.parts.chunks._kept.clear()


async def submit_due(plant: Plant, batches: int) -> list[str]:
    """Submit batches that nothing but a sweep ends any more."""
    batch_ids = [await plant.submit("/succeed/a") for _ in range(batches)]
    lose_all_messages(plant)
    plant.clock.advance(AFTER)
    return batch_ids


async def test_what_is_open_at_the_deadline_is_expired(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", "/second-time-right/b", "/succeed/c")
    consumer = plant.consumer()
    await take_turn(consumer)  # it receives one chunk
    await take_turn(consumer)  # and now both others
    lose_all_messages(plant)
    plant.clock.advance(DEADLINE - 1)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("processing", {"succeeded": 2})
    plant.clock.advance(2)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("expired", {"succeeded": 2, "expired": 1})
    assert await plant.statuses(batch_id) == {"0": 201, "1": 504, "2": 201}
    assert (await plant.status(batch_id))["finishedAt"] is not None


async def test_batch_of_which_every_message_is_lost_is_expired_whole(plant: Plant) -> None:
    batch_id = await plant.submit(*["/succeed/a"] * 130)
    lose_all_messages(plant)
    plant.clock.advance(AFTER)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("expired", {"expired": 130})
    assert await plant.statuses(batch_id) == {str(index): 504 for index in range(130)}


@pytest.mark.parametrize("error", [RejectedCall("AWS rejected an invalid call."), Unavailable("AWS throttles.")])
async def test_batch_that_aws_rejects_does_not_keep_the_others_open(plant: Plant, error: PenstockError) -> None:
    rejections = iter([True])

    def reject_once(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.close_group", "before") and next(rejections, False):
            raise error

    sweeper = Sweeper(watched(plant.parts, reject_once).store, PERIOD, plant.clock)
    batch_ids = [await plant.submit("/succeed/a") for _ in range(2)]
    lose_all_messages(plant)
    plant.clock.advance(AFTER)
    with pytest.raises(type(error)):
        await sweeper.sweep()
    assert {(await plant.counts(batch_id))[0] for batch_id in batch_ids} == {"queued", "expired"}
    await sweeper.sweep()
    assert {(await plant.counts(batch_id))[0] for batch_id in batch_ids} == {"expired"}


async def test_batch_that_fails_unexpectedly_does_not_keep_the_others_open(
    plant: Plant,
) -> None:
    failures = iter([True])

    def fail_once(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.close_group", "before") and next(failures, False):
            raise ValueError("'paused' is not a valid BatchState")

    sweeper = Sweeper(watched(plant.parts, fail_once).store, PERIOD, plant.clock)
    batch_ids = [await plant.submit("/succeed/a") for _ in range(2)]
    lose_all_messages(plant)
    plant.clock.advance(AFTER)
    await sweeper.sweep()
    assert {(await plant.counts(batch_id))[0] for batch_id in batch_ids} == {"queued", "expired"}


async def test_batch_of_a_newer_version_is_left_to_it(plant: Plant) -> None:
    newer = iter([True])

    def read_unknown_state(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_batch", "after") and next(newer, False):
            raise NewerVersion("state", "paused")

    batch_ids = await submit_due(plant, 2)
    await Sweeper(watched(plant.parts, read_unknown_state).store, PERIOD, plant.clock).sweep()
    assert {(await plant.counts(batch_id))[0] for batch_id in batch_ids} == {"queued", "expired"}


async def test_sweep_ends_early_if_aws_is_unavailable(plant: Plant) -> None:
    calls: list[str] = []

    def fail(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.close_group", "before"):
            calls.append(call)
            raise Unavailable("AWS does not answer.")

    sweeper = Sweeper(watched(plant.parts, fail).store, PERIOD, plant.clock)
    await submit_due(plant, 3 * BATCHES_AT_ONCE)
    with pytest.raises(Unavailable):
        await sweeper.sweep()
    assert FAILURES_IN_SWEEP <= len(calls) <= FAILURES_IN_SWEEP + BATCHES_AT_ONCE


async def test_ids_that_the_client_gave_are_known_though_the_messages_are_lost(plant: Plant) -> None:
    names = [f"mine-{index}" if index % 3 else None for index in range(130)]
    asked = [
        {**one, **({"id": name} if name else {})}
        for one, name in zip(ask_for(*["/succeed/a"] * 130), names, strict=True)
    ]
    answer = await plant.service.post(asked, {"Prefer": "respond-async"})
    await take_turn(plant.consumer())
    lose_all_messages(plant)
    plant.clock.advance(AFTER)
    await plant.sweep()
    statuses = await plant.statuses(answer.body["batchId"])
    assert list(statuses) == [name or str(index) for index, name in enumerate(names)]
    assert set(statuses.values()) == {201, 504}


async def test_deadline_of_the_batch_itself_counts(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", deadlineSeconds=5)
    lose_all_messages(plant)
    plant.clock.advance(6)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("expired", {"expired": 1})


async def test_record_that_comes_late_does_not_count_and_does_not_show(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/hang/a")
    async with asyncio.TaskGroup() as group:
        group.create_task(take_turn(plant.consumer()))
        await toys.arrived.wait()
        plant.clock.advance(AFTER)
        await plant.sweep()
        assert await plant.counts(batch_id) == ("expired", {"expired": 1})
        toys.gate.set()
    assert toys.times == {"0": 1}
    assert await plant.counts(batch_id) == ("expired", {"expired": 1})
    assert await plant.statuses(batch_id) == {"0": 504}


async def test_chunk_delivered_after_the_end_does_not_run(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/succeed/a")
    plant.clock.advance(AFTER)
    await plant.sweep()
    await plant.work_off()
    assert toys.runs == []
    assert await plant.counts(batch_id) == ("expired", {"expired": 1})


async def test_without_a_sweep_chunks_past_the_deadline_expire_by_themselves(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/succeed/a", "/succeed/b")
    plant.clock.advance(AFTER)
    await plant.work_off()
    assert toys.runs == []
    assert await plant.counts(batch_id) == ("expired", {"expired": 2})


async def test_failures_counted_before_the_end_can_still_be_redriven(plant: Plant, toys: Toys) -> None:
    batch_id = await plant.submit("/break/a", "/second-time-right/b")
    await take_turn(plant.consumer())
    lose_all_messages(plant)
    plant.clock.advance(AFTER)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("expired", {"failed": 1, "expired": 1})
    toys.is_mended = True
    await plant.ask("POST", "/dead-letters/redrive", json={})
    await plant.work_off()
    assert await plant.counts(batch_id) == ("expired", {"succeeded": 1, "expired": 1})
    assert await plant.statuses(batch_id) == {"0": 200, "1": 504}


async def test_cancelled_batch_that_does_not_settle_is_ended(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", "/second-time-right/b")
    await take_turn(plant.consumer())
    await plant.ask("POST", f"/batch/{batch_id}/cancel")
    lose_all_messages(plant)
    plant.clock.advance(SETTLE - 1)
    await plant.sweep()
    assert (await plant.counts(batch_id))[0] == "cancelling"
    plant.clock.advance(2)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("cancelled", {"succeeded": 1, "cancelled": 1})
    assert await plant.statuses(batch_id) == {"0": 201, "1": 410}


async def test_batch_that_ended_by_itself_is_left_alone(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a")
    await plant.work_off()
    before = await plant.status(batch_id)
    plant.clock.advance(AFTER)
    await plant.sweep()
    assert await plant.status(batch_id) == before


async def test_full_batch_whose_consumer_died_before_it_was_final_is_completed(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", "/succeed/b")
    await plant.work_off()
    batch = await plant.batch(batch_id)
    store = plant.parts.store
    store._batches[batch_id] = replace(
        batch, state=BatchState.PROCESSING, finished_groups=frozenset(), finished_at=None
    )
    store._due[batch_id] = batch.deadline_at
    plant.clock.advance(AFTER)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})


async def test_group_in_which_a_consumer_counts_meanwhile_is_closed_by_the_same_sweep(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", "/succeed/b")
    counted = Group(Counts(succeeded=1), done=frozenset({"0"}))

    def count_meanwhile(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.close_group", "before"):
            plant.parts.store._groups.setdefault((batch_id, 0), counted)

    plant.clock.advance(AFTER)
    await Sweeper(watched(plant.parts, count_meanwhile).store, PERIOD, plant.clock).sweep()
    assert await plant.counts(batch_id) == ("expired", {"succeeded": 1, "expired": 1})


@pytest.mark.parametrize("hours_fast", [0, 1, -1])
async def test_sweep_is_taken_over_if_it_is_unchanged_for_a_tenure(plant: Plant, *, hours_fast: int) -> None:
    """It does not matter how far the clock of the consumer was off that died."""
    first = Sweeper(plant.parts.store, PERIOD, FakeClock(plant.clock.now() + hours_fast * 3_600))
    second = Sweeper(plant.parts.store, PERIOD, plant.clock)
    await first.sweep()
    batch_id = await plant.submit("/succeed/a", deadlineSeconds=1)
    await second.sweep()
    plant.clock.advance(PERIODS_OF_TENURE * PERIOD - 1)
    await second.sweep()
    assert (await plant.counts(batch_id))[0] == "queued"
    plant.clock.advance(2)  # the first has missed two sweeps: it counts as dead
    await second.sweep()
    assert (await plant.counts(batch_id))[0] == "expired"


async def test_long_sweep_extends_its_lease(plant: Plant) -> None:
    extensions = []

    def be_slow(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.close_group", "before"):
            plant.clock.advance(0.02 * PERIODS_OF_TENURE * PERIOD)
        if (call, moment) == ("store.take_sweep", "after"):
            extensions.append(plant.clock.now())

    await submit_due(plant, 100)
    await Sweeper(watched(plant.parts, be_slow).store, PERIOD, plant.clock).sweep()
    assert plant.parts.store._due == {}
    assert max(later - one for one, later in itertools.pairwise(extensions)) < PERIODS_OF_TENURE * PERIOD


async def test_sweep_stops_when_its_tenure_is_over(plant: Plant) -> None:
    closed = []

    def lose_tenure(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.close_group", "before"):
            plant.clock.advance(PERIODS_OF_TENURE * PERIOD)
            plant.parts.store._sweep = SweepLease("another", 0)
            closed.append(call)

    await submit_due(plant, 3 * BATCHES_AT_ONCE)
    await Sweeper(watched(plant.parts, lose_tenure).store, PERIOD, plant.clock).sweep()
    assert 1 <= len(closed) <= BATCHES_AT_ONCE


async def test_who_sweeps_goes_on_sweeping(plant: Plant) -> None:
    first, second = (Sweeper(plant.parts.store, PERIOD, plant.clock) for _ in range(2))
    for _ in range(10):
        await first.sweep()
        await second.sweep()
        plant.clock.advance(PERIOD)
    batch_id = await plant.submit("/succeed/a", deadlineSeconds=1)
    plant.clock.advance(2)
    await second.sweep()
    assert (await plant.counts(batch_id))[0] == "queued"
    await first.sweep()
    assert (await plant.counts(batch_id))[0] == "expired"


async def test_two_that_sweep_at_once_count_once(plant: Plant) -> None:
    """A sweeper may be paused past its tenure, and go on where another has begun."""
    batch_id = await plant.submit(*["/succeed/a"] * 130)
    lose_all_messages(plant)
    plant.clock.advance(AFTER)
    batch = await plant.batch(batch_id)
    sweepers = [Sweeper(plant.parts.store, PERIOD, plant.clock) for _ in range(3)]
    await asyncio.gather(*(sweeper._settle(batch, plant.clock.now()) for sweeper in sweepers))
    assert await plant.counts(batch_id) == ("expired", {"expired": 130})


async def test_batch_that_was_never_accepted_is_abandoned(
    aiohttp_client: AiohttpClient, toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.service.intake.acceptance.MESSAGES_IN_CALL", 0)  # it is written before it is sent
    plant = await build(aiohttp_client, toys, Outage("chunks.send", "after"))
    answer = await plant.service.post(ask_for("/succeed/a"), {"Prefer": "respond-async"})
    assert_problem(answer, 503)
    [batch_id] = plant.parts.store._batches
    plant.clock.advance(ACCEPT - 1)
    await plant.sweep()
    assert (await plant.batch(batch_id)).state is BatchState.ACCEPTING
    plant.clock.advance(2)
    await plant.sweep()
    assert (await plant.batch(batch_id)).state is BatchState.ABANDONED
    await plant.work_off()
    assert toys.runs == []
    assert plant.parts.store._due == {}


async def test_one_sweep_ends_all_that_is_due_a_few_at_a_time(plant: Plant) -> None:
    at_once = Counter[str]()
    most = Counter[str]()

    def count(call: str, moment: Moment) -> None:
        at_once[call] += 1 if moment == "before" else -1
        most[call] = max(most[call], at_once[call])

    batches = await submit_due(plant, 150)
    await Sweeper(watched(plant.parts, count).store, PERIOD, plant.clock).sweep()
    assert {(await plant.counts(batch_id))[0] for batch_id in batches} == {"expired"}
    assert (most["store.read_batch"], most["store.close_group"]) == (BATCHES_AT_ONCE, GROUPS_AT_ONCE)


async def test_groups_of_a_large_batch_are_closed_a_few_at_a_time(plant: Plant) -> None:
    closing, most = 0, 0

    def count(call: str, moment: Moment) -> None:
        nonlocal closing, most
        if call == "store.close_group":
            closing += 1 if moment == "before" else -1
            most = max(most, closing)

    batch_id = await plant.submit(*["/succeed/a"] * 64 * 13)
    lose_all_messages(plant)
    plant.clock.advance(AFTER)
    await Sweeper(watched(plant.parts, count).store, PERIOD, plant.clock).sweep()
    assert await plant.counts(batch_id) == ("expired", {"expired": 64 * 13})
    assert most == GROUPS_AT_ONCE


async def test_failures_take_no_place_for_ever(plant: Plant) -> None:
    """Other groups may be cancelled before they have started."""

    def fail(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_group", "before"):
            raise RejectedCall("AWS rejected an invalid call.")

    await plant.submit(*["/succeed/a"] * 64 * 13)
    lose_all_messages(plant)
    plant.clock.advance(AFTER)
    sweeper = Sweeper(watched(plant.parts, fail).store, PERIOD, plant.clock)
    for _ in range(GROUPS_AT_ONCE + 1):
        with pytest.raises(RejectedCall):
            await sweeper.sweep()
    assert sweeper._group_places._value == GROUPS_AT_ONCE


async def test_batch_whose_groups_are_all_finished_is_finished(plant: Plant) -> None:
    """Its consumer died between the last group and the batch."""
    batch_id = await plant.submit(*["/succeed/a"] * 65)
    await plant.work_off()
    batch = await plant.batch(batch_id)
    plant.parts.store._batches[batch_id] = replace(batch, state=BatchState.PROCESSING, finished_at=None)
    plant.parts.store._due[batch_id] = batch.deadline_at
    plant.clock.advance(AFTER)
    await plant.sweep()
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 65})
