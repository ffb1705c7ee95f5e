"""Batches as this process knows them: read seldom, shared by all chunks, and judged by what the table said when."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from penstock.batch import FINAL_STATES, OPEN_STATES, Batch, BatchState
from penstock.clock import SKEW_SECONDS
from penstock.consumer.batches import ACCEPT_WAIT_SECONDS, FRESH_SECONDS, KEPT, Batches, NotAdmitted
from penstock.consumer.queue_switches import FRESH_SECONDS as SWITCHES_FRESH_SECONDS
from penstock.consumer.queue_switches import QueueSwitches
from penstock.errors import AcceptanceLost, Unavailable
from penstock.priority import Priority
from penstock.queue import SentAhead
from penstock.testing import FakeClock, MemoryParts, memory_parts
from tests.support.builders import BATCH_ID, NOW, build_batch
from tests.support.faults import Moment, Outage, Watch, watched


class Calls(Counter[str]):
    """Counts the calls to the store by name."""

    def __call__(self, call: str, moment: Moment) -> None:
        self[call.removeprefix("store.")] += moment == "after"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def parts() -> MemoryParts:
    return memory_parts()


def build_batches(parts: MemoryParts, clock: FakeClock, watch: Watch) -> Batches:
    return Batches(watched(parts, watch).store, clock)


def put(parts: MemoryParts, **changes: Any) -> Batch:
    """Set the batch to what it is now."""
    batch = build_batch(1, **changes)
    parts.store._batches[batch.id] = batch
    return batch


@pytest.mark.parametrize("state", sorted(OPEN_STATES | FINAL_STATES))
async def test_accepted_batch_is_admitted(parts: MemoryParts, clock: FakeClock, state: BatchState) -> None:
    batch = put(parts, state=state)
    assert await Batches(parts.store, clock).admit(BATCH_ID) == batch


async def test_batch_past_its_retention_is_unknown(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts, expires_at=NOW)
    assert await Batches(parts.store, clock).admit(BATCH_ID) is NotAdmitted.UNKNOWN


async def admit(batches: Batches) -> Batch:
    admitted = await batches.admit(BATCH_ID)
    assert isinstance(admitted, Batch)
    return admitted


async def test_first_admission_starts_the_batch(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts)
    clock.advance(5)
    batches = Batches(parts.store, clock)
    await batches.start(await admit(batches))
    started = parts.store._batches[BATCH_ID]
    assert (started.state, started.started_at) == (BatchState.PROCESSING, NOW + 5)
    clock.advance(5)
    await batches.start(await admit(batches))
    assert parts.store._batches[BATCH_ID] == started


async def test_batch_is_admitted_while_it_is_being_started(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts)
    calls = Calls()
    batches = build_batches(parts, clock, calls)
    batch = await admit(batches)
    assert (batch.state, calls["start_batch"]) == (BatchState.QUEUED, 0)
    await asyncio.gather(*(batches.start(batch) for _ in range(10)))
    assert calls["start_batch"] == 1
    assert parts.store._batches[BATCH_ID].state is BatchState.PROCESSING


async def test_batch_before_its_time_is_admitted_but_not_started(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts, not_before=NOW + 60)
    calls = Calls()
    await admit(build_batches(parts, clock, calls))
    await asyncio.sleep(0)
    assert calls == {"read_batch": 1}


async def test_batch_of_a_paused_queue_is_started_once_the_queue_is_resumed(
    parts: MemoryParts, clock: FakeClock
) -> None:
    put(parts, chunk_count=2)
    batches = Batches(parts.store, clock, switches=QueueSwitches(parts.store, clock))
    await parts.store.pause_queue(Priority.NORMAL, NOW)
    await admit(batches)
    await asyncio.gather(*batches._starts)
    assert parts.store._batches[BATCH_ID].state is BatchState.QUEUED
    await parts.store.resume_queue(Priority.NORMAL)
    clock.advance(SWITCHES_FRESH_SECONDS)
    await admit(batches)
    await asyncio.gather(*batches._starts)
    assert parts.store._batches[BATCH_ID].started_at == clock.now()


async def test_batch_that_was_moved_to_a_paused_queue_is_started_when_a_chunk_of_it_runs(
    parts: MemoryParts, clock: FakeClock
) -> None:
    """The chunk is still in the queue of the old priority, which is not paused."""
    put(parts, chunk_count=2, priority=Priority.LOW)
    batches = Batches(parts.store, clock, switches=QueueSwitches(parts.store, clock))
    await parts.store.pause_queue(Priority.LOW, NOW)
    batch = await admit(batches)
    clock.advance(1)
    for _ in range(2):
        batches.note_running(batch)
        await asyncio.gather(*batches._starts)
        clock.advance(1)
    assert parts.store._batches[BATCH_ID].started_at == clock.now() - 2


async def test_batch_that_ends_while_a_death_is_denied_is_read_again(parts: MemoryParts, clock: FakeClock) -> None:
    """The denial may take long. What was read before it is stale, and would let a cancelled batch run."""
    put(parts)

    async def deny_slowly(batch: Batch) -> None:
        if batch.state is BatchState.QUEUED:
            clock.advance(5)
            put(parts, state=BatchState.CANCELLED)

    assert (await admit(Batches(parts.store, clock, deny_slowly))).state is BatchState.CANCELLED


async def test_batch_is_read_once_a_second(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts)
    calls = Calls()
    batches = build_batches(parts, clock, calls)
    for _ in range(100):
        await batches.start(await admit(batches))
    assert calls == {"read_batch": 1, "start_batch": 1}
    clock.advance(FRESH_SECONDS)
    put(parts, state=BatchState.COMPLETED)
    assert (await admit(batches)).state is BatchState.COMPLETED
    assert calls["read_batch"] == 2


async def test_batch_is_read_again_once_its_deadline_has_passed(parts: MemoryParts, clock: FakeClock) -> None:
    """A client may have moved the deadline in the last second before it."""
    put(parts, deadline_at=NOW + 0.5)
    calls = Calls()
    batches = build_batches(parts, clock, calls)
    await admit(batches)
    moved = put(parts, deadline_at=NOW + 0.8)
    clock.advance(0.6)
    assert await admit(batches) == moved
    clock.advance(0.3)
    await admit(batches)
    await admit(batches)
    assert calls["read_batch"] == 3


async def test_batch_whose_deadline_passes_while_it_is_read_is_read_again(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts, deadline_at=NOW + 0.5)

    def move_the_deadline_afterwards(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_batch", "after"):
            put(parts, deadline_at=NOW + 60)
            clock.advance(0.6)

    assert (await admit(build_batches(parts, clock, move_the_deadline_afterwards))).deadline_at == NOW + 60


async def test_many_chunks_at_once_share_one_read(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts)
    calls = Calls()
    batches = build_batches(parts, clock, calls)
    await asyncio.gather(*(batches.admit(BATCH_ID) for _ in range(100)))
    assert calls["read_batch"] == 1


async def test_failed_read_is_not_remembered(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts)
    batches = build_batches(parts, clock, Outage("store.read_batch", times=1))
    with pytest.raises(Unavailable):
        await batches.admit(BATCH_ID)
    assert isinstance(await batches.admit(BATCH_ID), Batch)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_batch_is_started_though_the_first_try_failed(
    parts: MemoryParts, clock: FakeClock, moment: Moment
) -> None:
    put(parts)
    batches = build_batches(parts, clock, Outage("store.start_batch", moment, times=1))
    batch = await admit(batches)
    await asyncio.gather(*batches._starts)  # the first try
    await batches.start(batch)
    assert parts.store._batches[BATCH_ID].started_at == NOW


async def test_unknown_batch_is_told_and_looked_for_again(parts: MemoryParts, clock: FakeClock) -> None:
    batches = Batches(parts.store, clock)
    assert await batches.admit(BATCH_ID) is NotAdmitted.UNKNOWN
    put(parts)
    clock.advance(0.1)
    assert isinstance(await batches.admit(BATCH_ID), Batch)


async def test_acceptance_is_waited_for_and_then_given_up(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts, state=BatchState.ACCEPTING, accepted_at=None)
    assert await Batches(parts.store, clock).admit(BATCH_ID) is NotAdmitted.ACCEPTING
    assert ACCEPT_WAIT_SECONDS <= clock.now() - NOW < ACCEPT_WAIT_SECONDS + 0.1


async def test_acceptance_is_noticed_early_if_it_comes_early(parts: MemoryParts, clock: FakeClock) -> None:
    """The first polls are short, and become longer."""
    put(parts, state=BatchState.ACCEPTING, accepted_at=None)
    reads: list[float] = []

    def note(call: str, moment: Moment) -> None:
        if call == "store.read_batch" and moment == "before":
            reads.append(round(clock.now() - NOW, 3))

    await build_batches(parts, clock, note).admit(BATCH_ID)
    assert reads[:6] == [0, 0.005, 0.015, 0.035, 0.075, 0.125]


async def test_slow_read_is_followed_by_the_next_one_immediately(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts, state=BatchState.ACCEPTING, accepted_at=None)
    reads: list[float] = []

    def take_10_ms(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_batch", "before"):
            reads.append(round(clock.now() - NOW, 3))
            clock.advance(0.01)

    await build_batches(parts, clock, take_10_ms).admit(BATCH_ID)
    assert reads[:5] == [0, 0.01, 0.02, 0.04, 0.08]


async def test_acceptance_is_noticed_at_the_next_poll(parts: MemoryParts, clock: FakeClock) -> None:
    batch = put(parts, state=BatchState.ACCEPTING, accepted_at=None)
    reads = Calls()

    def accept_after_five_reads(call: str, moment: Moment) -> None:
        reads(call, moment)
        if reads["read_batch"] == 5:
            parts.store._batches.setdefault(BATCH_ID, batch)
            parts.store._batches[BATCH_ID] = replace(batch, state=BatchState.QUEUED)

    assert isinstance(await build_batches(parts, clock, accept_after_five_reads).admit(BATCH_ID), Batch)
    assert reads["read_batch"] == 6


async def test_batch_not_accepted_in_time_is_abandoned_for_good(parts: MemoryParts, clock: FakeClock) -> None:
    batch = put(parts, state=BatchState.ACCEPTING, accepted_at=None)
    clock.advance(batch.accept_by - NOW + 0.1)
    batches = Batches(parts.store, clock)
    assert await batches.admit(BATCH_ID) is NotAdmitted.ABANDONED
    assert await batches.admit(BATCH_ID) is NotAdmitted.ABANDONED
    with pytest.raises(AcceptanceLost):
        await parts.store.accept_batch(BATCH_ID, batch.accept_by)


async def test_batch_is_abandoned_while_it_is_waited_for(parts: MemoryParts, clock: FakeClock) -> None:
    batch = put(parts, state=BatchState.ACCEPTING, accepted_at=None)
    clock.advance(batch.accept_by - NOW - ACCEPT_WAIT_SECONDS / 2)
    assert await Batches(parts.store, clock).admit(BATCH_ID) is NotAdmitted.ABANDONED


async def test_batch_accepted_at_the_last_moment_is_not_taken_for_abandoned(
    parts: MemoryParts, clock: FakeClock
) -> None:
    """Read just before its deadline, accepted right then, asked for again just after: what was read is out of date."""
    batch = put(parts, state=BatchState.ACCEPTING, accepted_at=None)
    clock.advance(batch.accept_by - NOW - ACCEPT_WAIT_SECONDS - 0.06)
    batches = Batches(parts.store, clock)
    assert await batches.admit(BATCH_ID) is NotAdmitted.ACCEPTING
    clock.advance(batch.accept_by - clock.now())
    await parts.store.accept_batch(BATCH_ID, clock.now())
    clock.advance(0.001)
    assert isinstance(await batches.admit(BATCH_ID), Batch)


async def test_batch_accepted_late_by_our_clock_is_admitted(parts: MemoryParts, clock: FakeClock) -> None:
    """Clocks differ, and a call may be long under way: while we look, the front end's acceptance takes effect."""
    batch = put(parts, state=BatchState.ACCEPTING, accepted_at=None)
    clock.advance(batch.accept_by - NOW + 5)

    def accept_right_before(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.abandon_batch", "before"):
            put(parts, state=BatchState.QUEUED)

    assert isinstance(await build_batches(parts, clock, accept_right_before).admit(BATCH_ID), Batch)


# A chunk that was sent ahead of its batch.

AHEAD = SentAhead(accept_by=NOW + 60, expires_at=NOW + 90_000)


async def test_batch_that_is_not_written_yet_is_waited_for_like_one_that_is_being_accepted(
    parts: MemoryParts, clock: FakeClock
) -> None:
    assert await Batches(parts.store, clock).admit(BATCH_ID, AHEAD) is NotAdmitted.ACCEPTING
    assert ACCEPT_WAIT_SECONDS <= clock.now() - NOW < ACCEPT_WAIT_SECONDS + 0.1
    assert parts.store._batches == {}


async def test_batch_is_admitted_as_soon_as_it_is_written(parts: MemoryParts, clock: FakeClock) -> None:
    reads = Calls()

    def write_after_five_reads(call: str, moment: Moment) -> None:
        reads(call, moment)
        if reads["read_batch"] == 5:
            put(parts, state=BatchState.QUEUED)

    assert isinstance(await build_batches(parts, clock, write_after_five_reads).admit(BATCH_ID, AHEAD), Batch)
    assert reads["read_batch"] <= 6


async def test_batch_that_is_not_written_in_time_can_never_be_accepted(parts: MemoryParts, clock: FakeClock) -> None:
    batch = build_batch(1, state=BatchState.ACCEPTING, accepted_at=None)
    clock.advance(60.1)
    batches = Batches(parts.store, clock)
    assert [await batches.admit(BATCH_ID, AHEAD) for _ in range(2)] == [NotAdmitted.ABANDONED] * 2
    assert parts.store._batches[BATCH_ID].expires_at == AHEAD.expires_at
    with pytest.raises(AcceptanceLost):
        await parts.store.accept_new(batch, NOW)


async def test_batch_that_is_written_late_by_our_clock_is_admitted(parts: MemoryParts, clock: FakeClock) -> None:
    clock.advance(60.1)

    def write_right_before(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.create_batch", "before"):
            put(parts, state=BatchState.QUEUED)

    assert isinstance(await build_batches(parts, clock, write_right_before).admit(BATCH_ID, AHEAD), Batch)


async def test_abandoned_batch_stays_abandoned_until_the_table_deletes_it(parts: MemoryParts, clock: FakeClock) -> None:
    put(parts, state=BatchState.ABANDONED, accepted_at=None, expires_at=NOW)
    assert await Batches(parts.store, clock).admit(BATCH_ID) is NotAdmitted.ABANDONED


@pytest.mark.parametrize("seconds", [0, -SKEW_SECONDS, 1_000_000])
async def test_batch_that_may_be_past_its_retention_is_unknown(
    parts: MemoryParts, clock: FakeClock, seconds: float
) -> None:
    clock.advance(90_000 + seconds)
    assert await Batches(parts.store, clock).admit(BATCH_ID, AHEAD) is NotAdmitted.UNKNOWN
    assert parts.store._batches == {}


async def test_batches_not_asked_for_longest_are_forgotten(parts: MemoryParts, clock: FakeClock) -> None:
    batches = Batches(parts.store, clock)
    put(parts)
    for number in range(2 * KEPT):
        await batches.admit(f"other-{number}")
        await batches.admit(BATCH_ID)
    assert len(batches._entries) == KEPT
    assert BATCH_ID in batches._entries
