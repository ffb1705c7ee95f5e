"""The contract of every store: the one in memory, and the DynamoDB adapter on the embedded AWS and DynamoDB Local."""

import asyncio
import base64
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
import pytest_asyncio
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from ulid import ULID

from penstock.abandoning import stand_in, was_accepted
from penstock.api_key import ApiKey, Scope, make_key
from penstock.aws import items, table
from penstock.aws.attributes import text, texts
from penstock.aws.store import DynamoDbStore
from penstock.batch import Batch, BatchState, Counts, Ending, FailureLimit, sum_counts
from penstock.catalog import CatalogEntry
from penstock.chunk import Operation, follow_up_id, group_of, planned_number
from penstock.clock import SKEW_SECONDS
from penstock.errors import AcceptanceLost, LostItem, Misconfigured, Unavailable
from penstock.eta import slice_at
from penstock.export import Export, ExportPart
from penstock.files.layout import Layout
from penstock.files.template import Template
from penstock.fleet_limit import LimitState
from penstock.fleet_permits import Holder
from penstock.infra.provision import provision
from penstock.listing import Place
from penstock.metrics.fleet import FigureReport
from penstock.metrics.meter import HandlerFigures
from penstock.open_limit import OpenBatch, OpenOperations
from penstock.outcome import ChunkRecord, FollowUp, Outcome, OutcomeState
from penstock.priority import Priority
from penstock.quota import Account, Charge, Quota, Usage, nanoseconds
from penstock.record import decode_record, encode_record
from penstock.settings import Settings
from penstock.store import IDS_IN_CALL, Group, KeyClaim, Store, SweepLease, Traces
from penstock.testing import MemoryStore
from penstock.webhooks.delivery import DeliveryKey, DeliveryState, EventDelivery
from penstock.webhooks.endpoint import Endpoint, Endpoints
from penstock.webhooks.event import FinalEvent, event_id
from penstock.webhooks.schedule import Answer
from tests.contract.conftest import Servers
from tests.support.aws import Aws
from tests.support.builders import build_record
from tests.support.lossy_proxy import LossyProxy, lossy_proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

on_all = pytest.mark.parametrize("aws", ["memory", "embedded", "real"], indirect=True)
on_servers = pytest.mark.parametrize("aws", ["embedded", "real"], indirect=True)

NOW = float(int(time.time()))  # not in the past, because DynamoDB deletes expired items


@pytest.fixture
def store(servers: Servers | None) -> Store:
    return MemoryStore() if servers is None else DynamoDbStore(servers.clients.dynamodb, servers.table)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store_of_few(servers: Servers | None) -> Store:
    """Return a store with few batches. Every check of what is due reads all that are due."""
    if servers is None:
        return MemoryStore()
    settings = Settings(name="contract-of-few")
    provision(settings)
    return DynamoDbStore(servers.clients.dynamodb, settings.table)


@pytest.fixture
def batch() -> Batch:
    """Return a batch of 70 chunks with one operation each, so it has two groups."""
    return make_batch((64, 6))


def make_batch(group_totals: tuple[int, ...]) -> Batch:
    return Batch(
        id=str(ULID()),
        tenant="acme",
        state=BatchState.ACCEPTING,
        total=sum(group_totals),
        chunk_count=sum(group_totals),
        group_totals=group_totals,
        created_at=NOW + 0.125,
        accept_by=NOW + 60.5,
        deadline_at=NOW + 3_600.25,
        expires_at=NOW + 86_400,
    )


def make_record(chunk_id: str, result: Any = None) -> ChunkRecord:
    return ChunkRecord(chunk_id, outcomes=(Outcome(0, "a", OutcomeState.SUCCEEDED, 200, result=result),))


def noise(length: int, seed: int = 0) -> str:
    return base64.b64encode(random.Random(seed).randbytes(length)).decode()


def counting(chunk_id: str, counts: Counts, redelivered: int = 0) -> ChunkRecord:
    """Return a record with these numbers of outcomes. In a redriven chunk, each outcome replaces a failure."""
    states = [state for state in OutcomeState for _ in range(getattr(counts, state))]
    outcomes = tuple(Outcome(index, str(index), state, 200) for index, state in enumerate(states))
    return ChunkRecord(chunk_id, outcomes=outcomes, redelivered=redelivered)


async def count(store: Store, batch: Batch, chunk_id: str, counts: Counts) -> Counts:
    """Count a chunk with this record, and return what its group has counted after that."""
    return (await store.count_chunk(batch, counting(chunk_id, counts))).counts


async def read_counts(store: Store, batch: Batch, *groups: int) -> list[Counts]:
    return [group.counts for group in (await store.read_groups(batch.id, groups)).values()]


def finished_groups(batch: Batch | None) -> frozenset[int]:
    assert batch is not None
    return batch.finished_groups


async def read(store: Store, batch: Batch) -> Batch:
    stored = await store.read_batch(batch.id)
    assert stored is not None
    return stored


async def accept(store: Store, batch: Batch) -> Batch:
    await store.create_batch(batch)
    await store.accept_batch(batch.id, NOW + 1)
    return await read(store, batch)


async def read_records(store: Store, batch: Batch, first_chunk: int = 0) -> list[list[ChunkRecord]]:
    """Read records as a reader of results does: group by group. Return those of each planned chunk."""
    groups = range(group_of(str(first_chunk)), len(batch.group_totals))
    encoded = [record for group in groups async for record in store.read_records(batch, group, first_chunk)]
    found = [decode_record(record.chunk_id, record.content) for record in encoded]
    return [list(family) for _, family in groupby(found, key=lambda record: planned_number(record.chunk_id))]


async def records(store: Store, batch: Batch, first_chunk: int = 0) -> list[list[str]]:
    return [[record.chunk_id for record in family] for family in await read_records(store, batch, first_chunk)]


# --- Batches


@on_all
async def test_batch_is_read_as_it_was_created(store: Store, batch: Batch) -> None:
    await store.create_batch(batch)
    assert await store.read_batch(batch.id) == batch


@on_all
async def test_batch_with_all_that_a_client_may_ask_for_is_read_as_it_was_created(store: Store, batch: Batch) -> None:
    headers = (("accept-language", ""), ("authorization", 'Bearer "x"'))
    batch = replace(batch, failure_limit=FailureLimit(0), has_own_ids=True, keys_from=str(ULID()), headers=headers)
    batch = replace(batch, priority=Priority.LOW, not_before=batch.created_at + 3600)
    batch = replace(batch, max_failures=0, max_failed_percent=33.3, paused_at=batch.created_at + 1, concurrency=7)
    await store.create_batch(batch)
    assert await store.read_batch(batch.id) == batch


@on_all
async def test_batch_of_a_million_chunks_is_read_as_it_was_created(store: Store) -> None:
    batch = make_batch((64,) * 15_625)
    await store.create_batch(batch)
    assert await store.read_batch(batch.id) == batch


@on_all
async def test_batch_that_nobody_created_is_none(store: Store, batch: Batch) -> None:
    assert await store.read_batch(batch.id) is None


@on_all
async def test_creating_again_undoes_nothing(store: Store, batch: Batch) -> None:
    """A call that was delayed and repeated may arrive after everything that followed."""
    accepted = await accept(store, batch)
    await store.create_batch(batch)
    assert await store.read_batch(batch.id) == accepted


# --- Acceptance


@on_all
async def test_accepted_batch_is_queued(store: Store, batch: Batch) -> None:
    assert await accept(store, batch) == replace(batch, state=BatchState.QUEUED, accepted_at=NOW + 1)


@on_all
async def test_batch_that_is_accepted_as_it_is_written_is_queued(store: Store, batch: Batch) -> None:
    """It has all that a batch has that was written first."""
    other = replace(batch, id=str(ULID()))
    await store.accept_new(other, NOW + 1)
    assert replace(await read(store, other), id=batch.id) == await accept(store, batch)
    assert await store.abandon_batch(other.id) is False


@on_all
async def test_acceptance_of_a_new_batch_that_is_repeated_late_undoes_nothing(store: Store, batch: Batch) -> None:
    await store.accept_new(batch, NOW + 1.123456789)
    await store.start_batch(batch.id, NOW + 2)
    await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 3)
    await store.accept_new(batch, NOW + 1.123456789)
    assert (await read(store, batch)).state is BatchState.COMPLETED
    with pytest.raises(AcceptanceLost):
        await store.accept_new(batch, NOW + 1.2)


@on_all
@pytest.mark.parametrize("is_abandoned", [True, False])
async def test_new_batch_whose_place_is_taken_can_never_be_accepted(
    store: Store, batch: Batch, *, is_abandoned: bool
) -> None:
    placeholder = stand_in(batch.id, NOW, NOW + 3_600)
    await store.create_batch(placeholder)
    if is_abandoned:
        assert await store.abandon_batch(batch.id)
    with pytest.raises(AcceptanceLost):
        await store.accept_new(batch, NOW + 1)
    state = BatchState.ABANDONED if is_abandoned else BatchState.ACCEPTING
    assert await store.read_batch(batch.id) == replace(placeholder, state=state)
    await store.abandon_batch(batch.id)  # otherwise it would be due in other tests


@on_all
async def test_racing_front_end_and_consumers_agree_on_what_became_of_a_new_batch(store: Store) -> None:
    for _ in range(10):
        batch = make_batch((1,))
        accepted, *others = await asyncio.gather(
            store.accept_new(batch, NOW + 1),
            *(was_accepted(store, batch.id, NOW, NOW + 3_600) for _ in range(5)),
            return_exceptions=True,
        )
        state = (await read(store, batch)).state
        if accepted is None:
            assert (state, others) == (BatchState.QUEUED, [True] * 5)
        else:
            assert isinstance(accepted, AcceptanceLost)
            assert (state, others) == (BatchState.ABANDONED, [False] * 5)


@on_all
@pytest.mark.parametrize("seconds", [60.5, 1.123456789])
async def test_batch_can_be_accepted_until_the_last_moment_of_its_lease(
    store: Store, batch: Batch, seconds: float
) -> None:
    await store.create_batch(batch)
    await store.accept_batch(batch.id, NOW + seconds)
    await store.accept_batch(batch.id, NOW + seconds)  # repeated, because the first answer may have been lost
    assert (await read(store, batch)).state is BatchState.QUEUED


@on_all
async def test_batch_cannot_be_accepted_once_its_lease_is_over(store: Store, batch: Batch) -> None:
    await store.create_batch(batch)
    with pytest.raises(AcceptanceLost):
        await store.accept_batch(batch.id, NOW + 60.501)
    assert await store.read_batch(batch.id) == batch


@on_all
async def test_acceptance_lease_can_be_extended_while_it_holds(store: Store, batch: Batch) -> None:
    await store.create_batch(batch)
    for _ in range(2):
        await store.extend_acceptance(batch.id, batch.accept_by, NOW + 90)
    assert await read(store, batch) == replace(batch, accept_by=NOW + 90)
    await store.accept_batch(batch.id, NOW + 90)
    with pytest.raises(AcceptanceLost):
        await store.extend_acceptance(batch.id, NOW + 90, NOW + 120)


@on_all
async def test_acceptance_lease_that_is_over_stays_over(store: Store, batch: Batch) -> None:
    with pytest.raises(AcceptanceLost):
        await store.extend_acceptance(batch.id, NOW, NOW + 90)
    await store.create_batch(batch)
    with pytest.raises(AcceptanceLost):
        await store.extend_acceptance(batch.id, NOW + 60.501, NOW + 90)
    await store.abandon_batch(batch.id)
    with pytest.raises(AcceptanceLost):
        await store.extend_acceptance(batch.id, NOW, NOW + 90)
    assert await read(store, batch) == replace(batch, state=BatchState.ABANDONED)


@on_all
async def test_batch_whose_acceptance_is_extended_is_due_later(store_of_few: Store, batch: Batch) -> None:
    await store_of_few.create_batch(batch)
    await store_of_few.extend_acceptance(batch.id, NOW, NOW + 90)
    assert not await is_due(store_of_few, batch, NOW + 90)
    assert await is_due(store_of_few, batch, NOW + 90.001)


@on_all
async def test_batch_that_the_table_has_forgotten_cannot_be_accepted(store: Store, batch: Batch) -> None:
    with pytest.raises(AcceptanceLost):
        await store.accept_batch(batch.id, NOW)
    assert await store.read_batch(batch.id) is None


@on_all
async def test_acceptance_repeated_late_finds_its_own_mark(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    await store.start_batch(batch.id, NOW + 2)
    await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 3)
    await store.accept_batch(batch.id, NOW + 1)
    assert (await read(store, batch)).state is BatchState.COMPLETED


@on_all
async def test_of_racing_acceptances_one_stands(store: Store, batch: Batch) -> None:
    await store.create_batch(batch)
    answers = await asyncio.gather(
        *(store.accept_batch(batch.id, NOW + number) for number in range(1, 21)), return_exceptions=True
    )
    (winner,) = [number for number, answer in enumerate(answers, start=1) if answer is None]
    assert all(isinstance(answer, AcceptanceLost) for answer in answers if answer is not None)
    assert (await read(store, batch)).accepted_at == NOW + winner


@on_all
async def test_abandoned_batch_can_never_be_accepted(store: Store, batch: Batch) -> None:
    """Not even by a front end whose clock is slow."""
    await store.create_batch(batch)
    assert await store.abandon_batch(batch.id) is True
    with pytest.raises(AcceptanceLost):
        await store.accept_batch(batch.id, NOW + 1)
    await store.start_batch(batch.id, NOW + 2)
    assert await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 3) is False
    assert await store.read_batch(batch.id) == replace(batch, state=BatchState.ABANDONED)


@on_all
async def test_abandoning_again_says_the_same(store: Store, batch: Batch) -> None:
    """Each consumer that receives one of its chunks asks, and must drop the chunk."""
    await store.create_batch(batch)
    assert [await store.abandon_batch(batch.id) for _ in range(3)] == [True] * 3


@on_all
async def test_accepted_batch_is_not_abandoned(store: Store, batch: Batch) -> None:
    accepted = await accept(store, batch)
    assert await store.abandon_batch(batch.id) is False
    assert await store.read_batch(batch.id) == accepted
    await store.start_batch(batch.id, NOW + 2)
    await store.finish_batch(batch.id, BatchState.FAILED, NOW + 3)
    assert await store.abandon_batch(batch.id) is False
    assert (await read(store, batch)).state is BatchState.FAILED


@on_all
async def test_batch_that_the_table_has_forgotten_is_not_abandoned(store: Store, batch: Batch) -> None:
    assert await store.abandon_batch(batch.id) is False
    assert await store.read_batch(batch.id) is None


@on_all
async def test_racing_front_end_and_consumers_agree_on_what_became_of_a_batch(store: Store) -> None:
    for _ in range(10):
        batch = make_batch((1,))
        await store.create_batch(batch)
        accepted, *abandoned = await asyncio.gather(
            store.accept_batch(batch.id, NOW + 1),
            *(store.abandon_batch(batch.id) for _ in range(5)),
            return_exceptions=True,
        )
        state = (await read(store, batch)).state
        if accepted is None:
            assert (state, abandoned) == (BatchState.QUEUED, [False] * 5)
        else:
            assert isinstance(accepted, AcceptanceLost)
            assert (state, abandoned) == (BatchState.ABANDONED, [True] * 5)


# --- From queued to final


@on_all
async def test_batch_is_started_once(store: Store, batch: Batch) -> None:
    accepted = await accept(store, batch)
    await store.start_batch(batch.id, NOW + 2)
    await store.start_batch(batch.id, NOW + 3)
    assert await store.read_batch(batch.id) == replace(accepted, state=BatchState.PROCESSING, started_at=NOW + 2)


@on_all
async def test_batch_that_is_not_accepted_is_neither_started_nor_finished(store: Store, batch: Batch) -> None:
    await store.create_batch(batch)
    await store.start_batch(batch.id, NOW + 2)
    assert await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 3) is False
    assert await store.read_batch(batch.id) == batch


@on_all
async def test_batch_that_nobody_created_is_neither_started_nor_finished(store: Store, batch: Batch) -> None:
    await store.start_batch(batch.id, NOW)
    assert await store.finish_batch(batch.id, BatchState.FAILED, NOW) is False
    assert await store.finish_group(batch.id, 0) is None
    assert await store.read_batch(batch.id) is None


@on_all
@pytest.mark.parametrize("state", [BatchState.COMPLETED, BatchState.FAILED])
async def test_batch_is_finished_once(store: Store, batch: Batch, state: BatchState) -> None:
    await accept(store, batch)
    await store.start_batch(batch.id, NOW + 2)
    assert await store.finish_batch(batch.id, state, NOW + 3) is True
    assert await store.finish_batch(batch.id, BatchState.FAILED, NOW + 4) is False
    await store.start_batch(batch.id, NOW + 5)
    stored = await read(store, batch)
    assert (stored.state, stored.started_at, stored.finished_at) == (state, NOW + 2, NOW + 3)


@on_all
@pytest.mark.parametrize("was_started", [True, False])
async def test_finished_batch_has_the_time_of_its_first_start(store: Store, batch: Batch, *, was_started: bool) -> None:
    await accept(store, batch)
    if was_started:
        await store.start_batch(batch.id, NOW + 2)
    assert await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 4, likely_start=NOW + 3) is True
    assert (await read(store, batch)).started_at == (NOW + 2 if was_started else NOW + 3)


@on_all
@pytest.mark.parametrize("was_started", [True, False])
async def test_finished_batch_has_the_start_that_its_counter_has(
    store: Store, batch: Batch, *, was_started: bool
) -> None:
    """A second copy of its chunk may have started it once more, after a client has read the time in the counter."""
    await accept(store, batch)
    if was_started:
        await store.start_batch(batch.id, NOW + 2)
    state, at = BatchState.COMPLETED, NOW + 4
    assert await store.finish_batch(batch.id, state, at, started_at=NOW + 1, likely_start=NOW + 3) is True
    assert (await read(store, batch)).started_at == NOW + 1


@on_all
async def test_batch_that_is_to_end_says_why(store: Store, batch: Batch) -> None:
    accepted = await accept(store, batch)
    assert await store.end_batch(batch.id, Ending.CANCELLED, "Asked for.", settle_by=NOW + 9) is True
    ending = replace(accepted, state=BatchState.CANCELLING, ending=Ending.CANCELLED, reason="Asked for.")
    assert await store.read_batch(batch.id) == ending
    await store.start_batch(batch.id, NOW + 2)
    assert await store.read_batch(batch.id) == ending
    assert await store.finish_batch(batch.id, BatchState.CANCELLED, NOW + 3, ending=Ending.CANCELLED) is True
    assert await store.read_batch(batch.id) == replace(ending, state=BatchState.CANCELLED, finished_at=NOW + 3)


def steered(batch: Batch, **changes: Any) -> Batch:
    changes = {"priority": Priority.HIGH, "paused_at": NOW + 1.5, "max_failures": 3, **changes}
    return replace(batch, failure_limit=FailureLimit(3), deadline_at=batch.deadline_at + 7.25, **changes)


@on_all
async def test_running_batch_is_steered_in_one_step(store_of_few: Store, batch: Batch) -> None:
    accepted = await accept(store_of_few, batch)
    wanted = steered(accepted)
    assert await store_of_few.steer_batch(accepted, wanted, NOW) is True
    assert await store_of_few.steer_batch(accepted, wanted, NOW) is True  # repeated
    assert await store_of_few.read_batch(batch.id) == wanted
    assert not await is_due(store_of_few, batch, wanted.deadline_at)
    assert await is_due(store_of_few, batch, wanted.deadline_at + 1)
    again = replace(accepted, max_failed_percent=5.5, failure_limit=FailureLimit(0))
    assert await store_of_few.steer_batch(wanted, again, NOW) is True
    assert await store_of_few.read_batch(batch.id) == again


@on_servers
async def test_batch_of_an_earlier_version_can_be_steered(store: DynamoDbStore, batch: Batch) -> None:
    item = items.batch_to_item(replace(await accept(store, batch), failure_limit=FailureLimit(7)))
    await store._table.put({name: value for name, value in item.items() if name != "priority"})
    seen = await read(store, batch)
    assert (seen.max_failures, seen.priority) == (7, Priority.NORMAL)
    for wanted in (replace(seen, paused_at=NOW), replace(seen, max_failures=8, failure_limit=FailureLimit(8))):
        assert await store.steer_batch(seen, wanted, NOW) is True
        assert await store.steer_batch(seen, wanted, NOW) is True  # repeated
        seen = await read(store, batch)
        assert seen == wanted


@on_all
async def test_batch_that_is_not_as_it_was_seen_is_not_steered(store: Store, batch: Batch) -> None:
    accepted = await accept(store, batch)
    paused = replace(accepted, paused_at=NOW)
    assert await store.steer_batch(accepted, paused, NOW) is True
    assert await store.steer_batch(accepted, steered(accepted), NOW) is False
    assert await store.steer_batch(paused, steered(paused), accepted.deadline_at + 1) is False
    assert await store.read_batch(batch.id) == paused


@on_all
async def test_batch_that_is_over_or_not_accepted_is_not_steered(store: Store, batch: Batch) -> None:
    assert await store.steer_batch(batch, steered(batch), NOW) is False  # nobody created it
    await store.create_batch(batch)
    assert await store.steer_batch(batch, steered(batch), NOW) is False
    await store.accept_batch(batch.id, NOW)
    await store.end_batch(batch.id, Ending.CANCELLED, "Asked for.", settle_by=NOW)
    assert await store.steer_batch(batch, steered(batch), NOW) is False
    await store.finish_batch(batch.id, BatchState.CANCELLED, NOW, ending=Ending.CANCELLED)
    assert await store.steer_batch(batch, steered(batch), NOW) is False
    assert (await read(store, batch)).priority is Priority.NORMAL


@on_all
async def test_batch_is_finished_only_under_the_ending_that_decided(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    assert await store.finish_batch(batch.id, BatchState.FAILED, NOW + 3, ending=Ending.FAILED) is False
    await store.end_batch(batch.id, Ending.FAILED, "Too much.", settle_by=NOW + 9)
    assert await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 3) is False
    assert await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 3, ending=Ending.CANCELLED) is False
    assert (await read(store, batch)).state is BatchState.CANCELLING
    assert await store.finish_batch(batch.id, BatchState.FAILED, NOW + 4, ending=Ending.FAILED) is True
    assert await store.finish_batch(batch.id, BatchState.FAILED, NOW + 5, ending=Ending.FAILED) is False


@on_all
async def test_first_ending_stands(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    await store.start_batch(batch.id, NOW + 2)
    assert await store.end_batch(batch.id, Ending.FAILED, "Too deadly.", settle_by=NOW + 9) is True
    assert await store.end_batch(batch.id, Ending.FAILED, "Too deadly.", settle_by=NOW + 10) is True  # repeated
    assert await store.end_batch(batch.id, Ending.CANCELLED, "Asked for.", settle_by=NOW + 9) is False
    stored = await read(store, batch)
    assert (stored.ending, stored.reason) == (Ending.FAILED, "Too deadly.")


@on_all
async def test_batch_that_is_over_or_not_accepted_is_not_ended(store: Store, batch: Batch) -> None:
    assert await store.end_batch(batch.id, Ending.CANCELLED, "No.", settle_by=NOW) is False  # nobody created it
    await store.create_batch(batch)
    assert await store.end_batch(batch.id, Ending.CANCELLED, "No.", settle_by=NOW) is False
    await store.accept_batch(batch.id, NOW)
    await store.finish_batch(batch.id, BatchState.COMPLETED, NOW)
    assert await store.end_batch(batch.id, Ending.CANCELLED, "No.", settle_by=NOW) is False
    assert (await read(store, batch)).state is BatchState.COMPLETED


@on_all
async def test_final_state_is_revised_only_from_the_one_that_was_seen(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    await store.revise_batch(batch.id, BatchState.FAILED, BatchState.COMPLETED)
    assert (await read(store, batch)).state is BatchState.QUEUED
    await store.finish_batch(batch.id, BatchState.FAILED, NOW + 3)
    for _ in range(2):
        await store.revise_batch(batch.id, BatchState.FAILED, BatchState.COMPLETED)
    stored = await read(store, batch)
    assert (stored.state, stored.finished_at) == (BatchState.COMPLETED, NOW + 3)
    await store.revise_batch(make_batch((1,)).id, BatchState.FAILED, BatchState.COMPLETED)


@on_all
async def test_batch_can_be_finished_before_anybody_said_that_it_began(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    assert await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 3) is True


@on_all
async def test_batch_is_finished_only_with_the_ending_that_it_has(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    await store.end_batch(batch.id, Ending.CANCELLED, "Asked for.", settle_by=NOW + 9)
    assert await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 3) is False
    assert (await read(store, batch)).state is BatchState.CANCELLING
    assert await store.finish_batch(batch.id, BatchState.CANCELLED, NOW + 4, ending=Ending.CANCELLED) is True
    assert (await read(store, batch)).state is BatchState.CANCELLED


@on_all
async def test_of_racing_finishes_one_counts(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    answers = await asyncio.gather(
        *(store.finish_batch(batch.id, BatchState.COMPLETED, NOW + number) for number in range(20))
    )
    assert answers.count(True) == 1


@on_all
async def test_finished_groups_gather(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    assert finished_groups(await store.finish_group(batch.id, 1)) == {1}
    assert finished_groups(await store.finish_group(batch.id, 1)) == {1}
    assert finished_groups(await store.finish_group(batch.id, 0)) == {0, 1}
    assert (await read(store, batch)).finished_groups == {0, 1}


@on_all
async def test_of_racing_groups_the_last_finds_the_set_whole(store: Store) -> None:
    batch = make_batch((1,) * 40)
    await accept(store, batch)
    answers = await asyncio.gather(*(store.finish_group(batch.id, group) for group in range(40)))
    assert max(map(finished_groups, answers), key=len) == set(range(40))
    assert (await read(store, batch)).finished_groups == set(range(40))


# --- Counters


@on_all
async def test_counts_add_up_by_group(store: Store, batch: Batch) -> None:
    assert await count(store, batch, "0", Counts(3, 1)) == Counts(3, 1)
    assert await count(store, batch, "63", Counts(1, 2, 3, 4)) == Counts(4, 3, 3, 4)
    assert await count(store, batch, "64", Counts(5)) == Counts(5)
    assert await read_counts(store, batch, 0, 1) == [Counts(4, 3, 3, 4), Counts(5)]


@on_all
async def test_counters_and_batches_have_what_their_status_tells(store: Store, batch: Batch) -> None:
    """A slice of time has the operations that were counted in it. A repeated count changes nothing."""
    await accept(store, batch)
    started = replace(batch, started_at=NOW)
    for at in (NOW + 1, NOW + 100):
        await store.count_chunk(started, build_record("0", Counts(1)), at)
    await store.count_chunk(batch, build_record("1", Counts(1)), NOW + 50)  # not started when it was read
    group = await store.count_chunk(started, build_record("2", Counts(1)), NOW + 20)
    assert group.history == {slice_at(1): 1, slice_at(20): 1}
    assert (group.counted_at, group.started_at) == (NOW + 20, None)
    assert (await store.read_groups(batch.id, [0]))[0].history == group.history
    found, groups = await store.read_progress(batch.id, [0], with_done=False)
    assert found is not None
    assert found.spent.requests > 0
    assert (groups[0].history, groups[0].counted_at) == (group.history, group.counted_at)


@on_all
async def test_chunk_is_counted_once(store: Store, batch: Batch) -> None:
    await count(store, batch, "17", Counts(5, 1))
    assert await count(store, batch, "17", Counts(5, 1)) == Counts(5, 1)
    assert await read_counts(store, batch, 0) == [Counts(5, 1)]


@on_all
@pytest.mark.parametrize(
    "counts",
    [Counts(5), Counts(3, 2), Counts(failed=5), Counts(cancelled=5), Counts(0, 1, 2, 2)],
    ids=["succeeded", "one in two failed", "failed", "cancelled", "mixed"],
)
async def test_group_of_one_chunk_is_counted_at_once(store: Store, counts: Counts) -> None:
    """It counts once, is never closed, and takes corrections."""
    batch = make_batch((5,))
    accepted = replace(await accept(store, batch), started_at=NOW)
    for at in (NOW + 1, NOW + 100):
        group = await store.count_chunk(accepted, counting("0", counts, redelivered=2), at)
        assert (group.counts, group.redelivered, group.done) == (counts, 2, {"0"})
        assert (group.counted_at, group.started_at, group.history) == (NOW + 1, NOW, {slice_at(1): 5})
    _, groups = await store.read_progress(batch.id, [0], with_done=False)
    assert [groups[0].started_at, (await store.read_groups(batch.id, [0]))[0].started_at] == [NOW, NOW]

    for seen in (Counts(), replace(counts, succeeded=counts.succeeded + 1)):
        assert await store.close_group(batch, 0, seen, Ending.EXPIRED) is False
    if counts.failed:
        redriven = await count(store, batch, "0.d1", Counts(1))
        assert redriven == replace(counts, succeeded=counts.succeeded + 1, failed=counts.failed - 1)
        assert await count(store, batch, "0", counts) == redriven
    assert (await store.read_groups(batch.id, [0]))[0].counts.completed == 5


@on_all
async def test_group_keeps_the_start_of_its_batch_only_if_one_record_completes_the_batch(store: Store) -> None:
    batch = replace(make_batch((5, 2)), started_at=NOW)
    assert (await store.count_chunk(batch, counting("0", Counts(5)), NOW + 1)).started_at is None
    batch = replace(make_batch((5,)), started_at=NOW)
    for chunk_id, counts in (("0", Counts(3)), ("1", Counts(2))):
        assert (await store.count_chunk(batch, counting(chunk_id, counts), NOW + 1)).started_at is None


@on_all
async def test_redrive_that_is_counted_with_a_whole_group_does_not_make_failed_negative(store: Store) -> None:
    batch = make_batch((5,))
    together = (counting("0", Counts(5)), counting("0.d1", Counts(1)))
    for group in await asyncio.gather(*(store.count_chunk(batch, record) for record in together)):
        assert group.counts in {Counts(), Counts(5)}
    assert (await store.read_group(batch.id, 0)).counts == Counts(5)


@on_all
async def test_whole_group_is_not_counted_once_it_is_closed(store: Store) -> None:
    batch = make_batch((5,))
    assert await store.close_group(batch, 0, Counts(), Ending.EXPIRED)
    group = await store.count_chunk(batch, counting("0", Counts(5)))
    assert (group.counts, group.closed, group.done) == (Counts(expired=5), Ending.EXPIRED, frozenset())


@on_all
async def test_group_is_counted_whatever_was_counted_before_as_nothing(store: Store) -> None:
    batch = make_batch((5,))
    await count(store, batch, "0", Counts())
    assert await count(store, batch, "0.1", Counts(4, 1)) == Counts(4, 1)
    assert (await store.read_group(batch.id, 0)).done == {"0", "0.1"}


@on_all
async def test_what_follows_from_a_chunk_is_counted_beside_it(store: Store, batch: Batch) -> None:
    ids = ["1", "1.1", "1.1.1", "1.2", "11", "10"]  # some names contain others, but all are different chunks
    for number, chunk_id in enumerate(ids, start=1):
        assert await count(store, batch, chunk_id, Counts(succeeded=1)) == Counts(number)


@on_all
async def test_chunk_without_outcomes_counts_as_nothing_and_as_counted(store: Store, batch: Batch) -> None:
    assert await count(store, batch, "0", Counts()) == Counts()
    assert await count(store, batch, "0", Counts(1)) == Counts()
    assert (await store.read_group(batch.id, 0)).done == {"0"}


@on_all
async def test_group_tells_what_is_counted_in_it(store: Store, batch: Batch) -> None:
    first = await store.count_chunk(batch, counting("1", Counts(2, 1), redelivered=1))
    again = await store.count_chunk(batch, counting("1", Counts(2, 1), redelivered=1))
    last = await store.count_chunk(batch, counting("1.1", Counts(1), redelivered=2))
    assert first == again == Group(Counts(2, 1), redelivered=1, done=frozenset({"1"}))
    assert (
        last == await store.read_group(batch.id, 0) == Group(Counts(3, 1), redelivered=3, done=frozenset({"1", "1.1"}))
    )
    assert await store.read_groups(batch.id, [0]) == {0: Group(Counts(3, 1), redelivered=3)}


def hops(number: int, origin: str = "1") -> list[str]:
    """Return the ids of this many chunks of which each follows from the one before."""
    ids = [origin]
    for _ in range(number):
        ids.append(follow_up_id(ids[-1], 1))
    return ids


@on_all
async def test_chunk_that_is_followed_often_is_counted_once_each_time(
    store: Store, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.aws.store.FOLD_AT", 20)
    ids = hops(30)
    for chunk_id in ids:
        await count(store, batch, chunk_id, Counts())
    for chunk_id in (ids[0], ids[1], ids[15], ids[-1]):
        assert await count(store, batch, chunk_id, Counts(1)) == Counts()
    group = await store.read_group(batch.id, 0)
    assert group == Group(done=frozenset(ids))
    assert all(chunk_id in group.done for chunk_id in ids)
    assert not {follow_up_id(ids[-1], 1), "2", "1.1", "1.0.1.2"} & group.done
    assert await count(store, batch, "2", Counts(1)) == Counts(1)


@on_servers
async def test_counter_stays_small_however_many_chunks_are_counted(
    store: DynamoDbStore, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folds after every third chunk, so that few calls do."""
    monkeypatch.setattr("penstock.aws.store.FOLD_AT", 3)
    ids = hops(60) + hops(60, "1.0.7.9.d1")
    for chunk_id in ids:
        await count(store, batch, chunk_id, Counts())
    item = await store._table.get(items.count_key(batch.id, 0))
    assert item is not None
    assert len(items.unfolded(item)) <= 3
    assert len(item["folded"]["B"]) < 150
    assert (await store.read_group(batch.id, 0)).done == set(ids)


@on_servers
async def test_racing_counts_and_folds_of_several_processes_count_each_chunk_once(
    servers: Servers, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.aws.store.FOLD_AT", 2)
    processes = [DynamoDbStore(servers.clients.dynamodb, servers.table) for _ in range(3)]
    ids = [*map(str, range(20)), *hops(10, "30")]
    names = [(process, chunk_id) for chunk_id in ids for process in processes]
    random.Random(1).shuffle(names)
    await asyncio.gather(*(count(process, batch, chunk_id, Counts(1)) for process, chunk_id in names))
    assert await read_counts(processes[0], batch, 0) == [Counts(len(ids))]
    assert (await processes[0].read_group(batch.id, 0)).done == set(ids)


@on_servers
async def test_closed_group_knows_what_it_had_folded(
    store: DynamoDbStore, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.aws.store.FOLD_AT", 1)
    await count(store, batch, "0", Counts(failed=2))
    await store.close_group(batch, 0, Counts(failed=2), Ending.EXPIRED)
    assert await count(store, batch, "1", Counts(1)) == Counts(failed=2, expired=62)
    assert await count(store, batch, "2.d1", Counts(1)) == Counts(failed=2, expired=62)
    assert await count(store, batch, "0.d1", Counts(1)) == Counts(1, 1, expired=62)
    assert await count(store, batch, "0.d1.0.1.0", Counts(1)) == Counts(2, 0, expired=62)
    assert await count(store, batch, "0.d1", Counts(1)) == Counts(2, 0, expired=62)


@on_servers
async def test_counter_that_an_earlier_version_has_filled_still_counts_and_closes(
    store: DynamoDbStore, batch: Batch
) -> None:
    filled = {f"{number}" + ".1" * length for number in range(64) for length in range(76)}
    for group, last in ((0, False), (1, True)):
        item = items.count_key(batch.id, group) | {"done": texts(filled), "filling": text("x" * 28_200)}
        await store._table.put(item)
        if last:
            assert await store.close_group(batch, group, Counts(), Ending.EXPIRED)
        else:
            assert await count(store, batch, "1" + ".1" * 300, Counts(1)) == Counts(1)
            assert await count(store, batch, "1.1", Counts(1)) == Counts(1)
            assert filled < (await store.read_group(batch.id, group)).done


@on_all
async def test_redrive_takes_back_failures(store: Store, batch: Batch) -> None:
    await count(store, batch, "0", Counts(succeeded=1, failed=3))
    assert await count(store, batch, "0.d1", Counts(succeeded=1, failed=1)) == Counts(2, 2)
    assert await count(store, batch, "0.d1", Counts(succeeded=1, failed=1)) == Counts(2, 2)
    assert await count(store, batch, "0.d1.1", Counts(succeeded=1)) == Counts(3, 1)


@on_all
async def test_racing_counts_of_one_chunk_count_once(store: Store, batch: Batch) -> None:
    answers = await asyncio.gather(*(count(store, batch, "7", Counts(2, 1)) for _ in range(50)))
    assert answers == [Counts(2, 1)] * 50


@on_all
async def test_racing_counts_of_different_chunks_all_count(store: Store) -> None:
    """Several chunks may be counted in one call: then each caller gets the same totals."""
    batch = make_batch((150,))
    answers = await asyncio.gather(*(count(store, batch, str(number), Counts(2, 1)) for number in range(50)))
    assert all(answer.completed in range(3, 151, 3) for answer in answers)
    assert max(answer.completed for answer in answers) == 150
    assert await read_counts(store, batch, 0) == [Counts(100, 50)]


@on_all
async def test_chunks_counted_together_with_one_that_is_counted_all_count_once(store: Store, batch: Batch) -> None:
    await count(store, batch, "3", Counts(succeeded=5))
    names = [*map(str, range(8)), "3", "5"]
    await asyncio.gather(*(count(store, batch, name, Counts(succeeded=1)) for name in names))
    assert await read_counts(store, batch, 0) == [Counts(succeeded=5 + 7)]


@on_all
async def test_chunks_counted_together_in_a_closed_group_count_only_as_corrections(store: Store, batch: Batch) -> None:
    await count(store, batch, "0", Counts(failed=2))
    await store.close_group(batch, 0, Counts(failed=2), Ending.EXPIRED)
    late = [("1", Counts(succeeded=1)), ("0.d1", Counts(succeeded=2)), ("2.d1", Counts(succeeded=1))]
    await asyncio.gather(*(count(store, batch, name, counts) for name, counts in late))
    assert await read_counts(store, batch, 0) == [Counts(succeeded=2, expired=62)]


@on_all
async def test_sent_follow_ups_are_noted(store: Store, batch: Batch) -> None:
    await store.commit_chunk(batch, make_record("1"))
    assert not (await store.read_traces(batch.id, "1")).has_sent_follow_ups
    await store.note_follow_ups(batch, "1")
    await store.note_follow_ups(batch, "1")
    assert await store.read_traces(batch.id, "1") == Traces(make_record("1"), frozenset(), has_sent_follow_ups=True)


@on_all
async def test_chunks_looked_for_together_are_told_apart(store: Store, batch: Batch) -> None:
    for number in (1, 2, 64):
        await store.commit_chunk(batch, make_record(str(number), result=number))
    await store.note_release(batch, "3", "m#1")
    names = ["1", "2", "64", "3", "4", "2", "1.1"]
    traces = await asyncio.gather(*(store.read_traces(batch.id, name) for name in names))
    results = [one.record and one.record.outcomes[0].result for one in traces]
    assert results == [1, 2, 64, None, None, 2, None]
    assert [one.released for one in traces] == [frozenset({"m#1"} if name == "3" else ()) for name in names]


@on_all
async def test_batch_is_read_together_with_its_chunks(store: Store, batch: Batch) -> None:
    accepted = await accept(store, batch)
    await store.commit_chunk(batch, FULL)
    traces, read, unknown, again = await asyncio.gather(
        store.read_traces(batch.id, FULL.chunk_id),
        store.read_batch(batch.id),
        store.read_batch(make_batch((1,)).id),
        store.read_batch(batch.id),
    )
    assert (traces.record, read, unknown, again) == (FULL, accepted, None, accepted)


@on_all
async def test_batches_count_apart(store: Store) -> None:
    one, other = make_batch((1,)), make_batch((1,))
    await count(store, one, "0", Counts(1))
    assert await read_counts(store, other, 0) == [Counts()]


@on_all
async def test_groups_of_which_nothing_is_counted_are_zero(store: Store) -> None:
    """There may be more groups than one call can read."""
    batch = make_batch((64,) * 250)
    await count(store, batch, str(64 * 101), Counts(succeeded=9))
    assert await store.read_groups(batch.id, range(250)) == {
        group: Group(Counts(succeeded=9)) if group == 101 else Group() for group in range(250)
    }
    assert await store.read_groups(batch.id, []) == {}
    assert await store.read_group(batch.id, 100) == Group()


@on_all
async def test_batch_and_counters_are_read_together(store: Store) -> None:
    batch = make_batch((64,) * 3)
    await store.create_batch(batch)
    await count(store, batch, "70", Counts(succeeded=9))
    counted = Group(Counts(succeeded=9), done=frozenset({"70"}))
    unknown = make_batch((1,))
    for with_done, expected in ((True, counted), (False, replace(counted, done=frozenset()))):
        read = await store.read_progress(batch.id, [0, 1], with_done=with_done)
        assert read == (batch, {0: Group(), 1: expected})
        assert await store.read_progress(unknown.id, [0], with_done=with_done) == (None, {0: Group()})
        assert await store.read_progress(batch.id, [], with_done=with_done) == (batch, {})


@on_all
@pytest.mark.parametrize("length", [10, 600_000], ids=["small", "in parts"])
async def test_only_chunk_is_read_together_with_its_batch(store: Store, length: int) -> None:
    batch = make_batch((1,))
    assert await store.read_only_chunk(batch.id) == (None, Group(), None)
    await store.create_batch(batch)
    await store.note_release(batch, "0", "a#1")
    assert await store.read_only_chunk(batch.id) == (batch, Group(), None)
    record = make_record("0", noise(length))
    await store.commit_chunk(batch, record)
    await store.count_chunk(batch, record)
    read_batch, group, found = await store.read_only_chunk(batch.id)
    assert (read_batch, group) == (batch, Group(record.counts, done=frozenset({"0"})))
    assert found is not None
    assert decode_record(found.chunk_id, found.content) == record


# --- Closing a group whose operations have not all ended


CLOSED_COUNTS = [
    (Ending.CANCELLED, Counts(3, 1, cancelled=60)),
    (Ending.EXPIRED, Counts(3, 1, expired=60)),
    (Ending.FAILED, Counts(3, 61)),
]


@on_all
@pytest.mark.parametrize(("ending", "counts"), CLOSED_COUNTS)
async def test_all_that_is_open_in_a_closed_group_is_counted(
    store: Store, batch: Batch, ending: Ending, counts: Counts
) -> None:
    await count(store, batch, "5", Counts(3, 1))
    assert await store.close_group(batch, 0, Counts(3, 1), ending) is True
    assert await store.read_group(batch.id, 0) == Group(counts, closed=ending, done=frozenset({"5"}))
    assert await store.read_groups(batch.id, [0, 1]) == {0: Group(counts, closed=ending), 1: Group()}


@on_all
@pytest.mark.parametrize("ending", list(Ending))
async def test_group_of_which_nothing_is_counted_can_be_closed(store: Store, batch: Batch, ending: Ending) -> None:
    assert await store.close_group(batch, 1, Counts(), ending) is True
    group = await store.read_group(batch.id, 1)
    assert (group.counts, group.closed) == (Counts(**{ending: 6}), ending)


@on_all
async def test_group_that_was_counted_as_nothing_can_be_closed(store: Store, batch: Batch) -> None:
    """A chunk whose operations are all in follow-ups is counted, with zeros."""
    await count(store, batch, "5", Counts())
    assert await store.close_group(batch, 0, Counts(), Ending.EXPIRED) is True
    assert await read_counts(store, batch, 0) == [Counts(expired=64)]


@on_all
async def test_group_whose_counts_have_moved_is_not_closed(store: Store, batch: Batch) -> None:
    await count(store, batch, "5", Counts(3, 1))
    for seen in (Counts(), Counts(3), Counts(2, 2), Counts(3, 1, 1), Counts(3, 1, 0, 1)):
        assert await store.close_group(batch, 0, seen, Ending.EXPIRED) is False
    assert await read_counts(store, batch, 0) == [Counts(3, 1)]


@on_all
async def test_group_is_closed_once(store: Store, batch: Batch) -> None:
    await store.close_group(batch, 1, Counts(), Ending.CANCELLED)
    for seen in (Counts(), Counts(cancelled=6)):
        assert await store.close_group(batch, 1, seen, Ending.EXPIRED) is False
    group = await store.read_group(batch.id, 1)
    assert (group.counts, group.closed) == (Counts(cancelled=6), Ending.CANCELLED)


@on_all
async def test_nothing_is_counted_in_a_closed_group(store: Store, batch: Batch) -> None:
    await count(store, batch, "64", Counts(1))
    await store.close_group(batch, 1, Counts(1), Ending.EXPIRED)
    for chunk_id in ("65", "64.1", "65.d1", "64.1.d1"):  # late, or a redrive of a chunk that was not counted
        group = await store.count_chunk(batch, counting(chunk_id, Counts(1, 1)))
        assert group == Group(Counts(1, expired=5), closed=Ending.EXPIRED, done=frozenset({"64"}))


@on_all
async def test_redrive_of_what_was_counted_counts_in_a_closed_group(store: Store, batch: Batch) -> None:
    await count(store, batch, "64", Counts(1, 2))
    await store.close_group(batch, 1, Counts(1, 2), Ending.EXPIRED)
    assert await count(store, batch, "64.d1", Counts(1, 0)) == Counts(2, 1, expired=3)
    assert await count(store, batch, "64.d1.1", Counts(1, 0)) == Counts(3, 0, expired=3)


@on_all
async def test_whatever_races_with_closing_a_group_it_ends_complete(store: Store) -> None:
    """Consumers count while a sweep closes: chunks that come first are counted, all others are expired."""
    for _ in range(5):
        batch = make_batch((20,))
        sweeps = [close(store, batch) for _ in range(2)]
        await asyncio.gather(*(count(store, batch, str(number), Counts(1)) for number in range(20)), *sweeps)
        group = await store.read_group(batch.id, 0)
        assert group.counts == Counts(succeeded=len(group.done), expired=20 - len(group.done))


async def close(store: Store, batch: Batch) -> None:
    while True:
        seen = (await store.read_group(batch.id, 0)).counts
        if seen.completed == batch.total:
            return
        await store.close_group(batch, 0, seen, Ending.EXPIRED)


# --- Chunk records


FULL = ChunkRecord(
    "17",
    outcomes=(
        Outcome(0, "a", OutcomeState.SUCCEEDED, 201, result={"name": "Zoë \uffff\x00", "n": [1.5, None]}),
        Outcome(1, "b", OutcomeState.FAILED, 409, error={"title": "Rejected", "detail": "Taken."}, rejected=True),
    ),
    follow_ups=(FollowUp("17.1", 2, (2, 3), NOW + 0.25), FollowUp("17.2", 1, (4,))),
    failed_operations=(Operation(1, "b", "POST", "/users", {"email": "x"}),),
)


@on_all
async def test_record_is_read_as_it_was_committed(store: Store, batch: Batch) -> None:
    assert await store.commit_chunk(batch, FULL) == FULL
    assert await store.read_traces(batch.id, "17") == Traces(FULL, frozenset())
    assert await read_records(store, batch) == [[FULL]]


@on_all
async def test_first_record_stands(store: Store, batch: Batch) -> None:
    await store.commit_chunk(batch, FULL)
    assert await store.commit_chunk(batch, make_record("17", "late")) == FULL
    assert (await store.read_traces(batch.id, "17")).record == FULL


@on_all
@pytest.mark.parametrize("length", [10, 600_000], ids=["small", "in parts"])
async def test_of_racing_records_exactly_one_stands_and_all_get_it(store: Store, batch: Batch, length: int) -> None:
    rivals = [make_record("3", noise(length, seed)) for seed in range(20)]
    answers = await asyncio.gather(*(store.commit_chunk(batch, record) for record in rivals))
    standing = (await store.read_traces(batch.id, "3")).record
    assert standing in rivals
    assert answers == [standing] * 20


@on_all
async def test_record_too_large_for_an_item_is_read_as_it_was_committed(store: Store, batch: Batch) -> None:
    large = make_record("5", noise(1_500_000))
    assert len(encode_record(large)) > 3 * 400_000
    assert await store.commit_chunk(batch, large) == large
    assert (await store.read_traces(batch.id, "5")).record == large
    assert await read_records(store, batch) == [[large]]
    again = await store.read_record(batch.id, "5")
    assert decode_record(again.chunk_id, again.content) == large


@on_all
async def test_record_that_does_not_exist_cannot_be_read(store: Store, batch: Batch) -> None:
    with pytest.raises(LostItem):
        await store.read_record(batch.id, "5")


@on_all
async def test_large_and_small_records_lose_to_each_other(store: Store, batch: Batch) -> None:
    small, large = make_record("5", "small"), make_record("5", noise(500_000))
    await store.commit_chunk(batch, large)
    assert await store.commit_chunk(batch, small) == large

    small, large = (replace(record, chunk_id="6") for record in (small, large))
    await store.commit_chunk(batch, small)
    assert await store.commit_chunk(batch, large) == small
    assert await records(store, batch) == [["5"], ["6"]]


@on_servers
async def test_record_is_cut_into_parts_anywhere(store: Store, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(encode_record(FULL))
    for number, part in enumerate([1 + size // 20, size // 2, size - 1, size, size + 1]):
        monkeypatch.setattr("penstock.aws.items.ITEM_BYTES", part)
        record = replace(FULL, chunk_id=str(number))
        await store.commit_chunk(batch, record)
        assert (await store.read_traces(batch.id, str(number))).record == record
    assert await records(store, batch) == [["0"], ["1"], ["2"], ["3"], ["4"]]


@on_all
async def test_records_of_batches_keep_apart(store: Store) -> None:
    one, other = make_batch((1,)), make_batch((1,))
    await store.commit_chunk(one, make_record("0", "one"))
    assert await store.read_traces(other.id, "0") == Traces(None, frozenset())
    assert await store.commit_chunk(other, make_record("0", "other")) == make_record("0", "other")


# --- Notes of releases


@on_all
async def test_notes_of_releases_gather(store: Store, batch: Batch) -> None:
    assert await store.read_traces(batch.id, "17") == Traces(None, frozenset())
    for mark in ("a#1", "a#3", "a#3", "b#1"):
        await store.note_release(batch, "17", mark)
    assert await store.read_traces(batch.id, "17") == Traces(None, frozenset({"a#1", "a#3", "b#1"}))
    assert await store.read_traces(batch.id, "17.1") == Traces(None, frozenset())


@on_all
async def test_note_of_a_release_is_no_record(store: Store, batch: Batch) -> None:
    await store.note_release(batch, "1", "a#1")
    await store.commit_chunk(batch, make_record("2"))
    await store.note_release(batch, "2.1", "a#1")
    assert await records(store, batch) == [["2"]]


@on_all
async def test_note_of_a_release_does_not_stand_in_a_records_way_nor_undo_it(store: Store, batch: Batch) -> None:
    await store.note_release(batch, "17", "a#1")
    assert await store.commit_chunk(batch, FULL) == FULL
    await store.note_release(batch, "17", "a#2")  # by a consumer that lost the lease long ago
    assert (await store.read_traces(batch.id, "17")).record == FULL
    assert await store.commit_chunk(batch, make_record("17", "late")) == FULL


@on_all
async def test_notes_of_starts_gather_beside_those_of_releases(store: Store, batch: Batch) -> None:
    for mark in ("a#2", "a#4", "a#4"):
        assert await store.note_start(batch, "17", mark) is None
    await store.note_release(batch, "17", "a#3")
    assert await store.read_traces(batch.id, "17") == Traces(None, frozenset({"a#3"}), frozenset({"a#2", "a#4"}))
    assert await records(store, batch) == []
    assert await store.commit_chunk(batch, FULL) == FULL


@on_all
async def test_note_of_a_start_answers_with_the_record_that_stands(store: Store, batch: Batch) -> None:
    await store.commit_chunk(batch, FULL)
    await store.commit_chunk(batch, make_record("17.1", "another"))
    for mark in ("a#2", "a#3", "a#3"):
        assert await store.note_start(batch, "17", mark) == FULL
    assert (await store.read_traces(batch.id, "17")).record == FULL
    assert await store.note_start(batch, "18", "a#2") is None


@on_all
async def test_note_of_a_start_answers_with_a_record_in_parts(store: Store, batch: Batch) -> None:
    large = make_record("17", noise(500_000))
    await store.commit_chunk(batch, large)
    assert await store.note_start(batch, "17", "a#2") == large


@on_all
async def test_deaths_are_noted_once_for_each_process_and_can_be_denied(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    assert await store.note_deaths(batch.id, ["a", "b"]) == {"a", "b"}
    assert await store.note_deaths(batch.id, {"b", "c"}) == {"a", "b", "c"}
    for _ in range(2):
        await store.deny_death(batch.id, "b")
        await store.deny_death(batch.id, "unknown")
        await store.suspect_batch(batch.id)
    found = await store.read_batch(batch.id)
    assert found is not None
    assert found.died == {"a", "c"}
    assert found.is_suspect
    await store.deny_death(batch.id, "a")
    await store.deny_death(batch.id, "c")
    assert await store.note_deaths(batch.id, ["a"]) == {"a"}


@on_all
async def test_nothing_is_noted_about_a_batch_that_does_not_exist(store: Store, batch: Batch) -> None:
    await store.suspect_batch("unknown")
    await store.deny_death("unknown", "a")
    assert await store.note_deaths("unknown", ["a"]) == frozenset()
    assert await store.read_batch("unknown") is None


# --- Reading records


@on_all
async def test_records_come_in_the_order_of_their_operations(store: Store) -> None:
    """The order is not that of their names or of their commits, and it holds across groups."""
    batch = make_batch((64, 64, 64))
    numbers = list(range(0, 192, 3))
    shuffled = random.Random(1).sample(numbers, len(numbers))
    await asyncio.gather(*(store.commit_chunk(batch, make_record(str(number))) for number in shuffled))
    assert await records(store, batch) == [[str(number)] for number in numbers]
    assert await records(store, batch, first_chunk=64) == [[str(number)] for number in numbers if number >= 64]
    assert await records(store, batch, first_chunk=100) == [[str(number)] for number in numbers if number >= 100]
    assert await records(store, batch, first_chunk=190) == []
    assert [record async for record in store.read_records(batch, 2, 10**9)] == []
    assert [record async for record in store.read_records(batch, 9, 0)] == []


@on_all
async def test_records_come_with_all_that_followed_from_them(store: Store, batch: Batch) -> None:
    families = [["1", "1.1", "1.1.1", "1.2"], ["2.1"], ["9"], ["10", "10.1", "10.1.d1", "10.d1"], ["65", "65.d1"]]
    written = [chunk_id for family in families for chunk_id in family]
    for chunk_id in random.Random(1).sample(written, len(written)):
        await store.commit_chunk(batch, make_record(chunk_id))

    read_back = await records(store, batch)
    assert [sorted(family) for family in read_back] == [sorted(family) for family in families]
    for family in read_back:
        for number, chunk_id in enumerate(family):
            assert not any(chunk_id.startswith(f"{later}.") for later in family[number:])
    assert await records(store, batch, first_chunk=2) == read_back[1:]


@on_all
async def test_records_of_more_than_a_page_are_all_read(store: Store, batch: Batch) -> None:
    """DynamoDB returns at most a megabyte per query, so a page may end between a chunk and its follow-ups."""
    written = [make_record(f"{number}{end}", noise(150_000, number)) for number in range(8) for end in ("", ".1")]
    await asyncio.gather(*(store.commit_chunk(batch, record) for record in written))
    families = await read_records(store, batch)
    assert families == [written[start : start + 2] for start in range(0, 16, 2)]


@on_all
async def test_batch_without_records_has_none(store: Store, batch: Batch) -> None:
    assert await records(store, batch) == []


@on_all
async def test_reading_may_be_left_half_way(store: Store, batch: Batch) -> None:
    for number in range(5):
        await store.commit_chunk(batch, make_record(str(number)))
    async for record in store.read_records(batch, 0, 0):
        assert record.chunk_id == "0"
        break


@on_all
async def test_table_is_there(store: Store) -> None:
    await store.check()


# --- Operations' ids


@on_all
async def test_ids_come_back_in_the_order_of_the_operations(store: Store) -> None:
    batch = make_batch((30, 5))
    ids = [f"Zoë 🛠 {number}" for number in range(35)]
    for start in (20, 0, 30, 10):  # calls may overtake each other
        await store.write_ids(batch, start, ids[start : start + (10 if start < 30 else 5)])
    assert await store.read_ids(batch.id, 0) == ids[:30]
    assert await store.read_ids(batch.id, 1) == ids[30:]


@on_all
async def test_operations_without_ids_of_their_own_have_none(store: Store, batch: Batch) -> None:
    assert await store.read_ids(batch.id, 0) == []


@on_all
async def test_ids_written_again_are_the_same(store: Store, batch: Batch) -> None:
    for _ in range(2):
        await store.write_ids(batch, 0, ["a", "b"])
    assert await store.read_ids(batch.id, 0) == ["a", "b"]


@on_all
@pytest.mark.parametrize("characters", [(0x21, 0x7F), (0x4E00, 0x9FA5), (0x20000, 0x2A6D0), (0x1, 0x20)])
async def test_as_many_ids_as_go_into_a_call_fit_whatever_they_are(store: Store, characters: tuple[int, int]) -> None:
    """These are the longest ids that a client may give, random and in any script."""
    draw = random.Random(1)
    batch = make_batch((IDS_IN_CALL,))
    ids = ["".join(map(chr, draw.choices(range(*characters), k=128))) for _ in range(IDS_IN_CALL)]
    await store.write_ids(batch, 0, ids)
    assert await store.read_ids(batch.id, 0) == ids


# --- Layouts of files


@on_all
async def test_layout_of_a_file_comes_back(store: Store, batch: Batch) -> None:
    assert await store.read_layout(batch.id) is None
    layout = Layout(Template("PUT", "/users/{id}", {"Zoë": "name", "x": None}), ["id", "Zoë", "x"], ";")
    for _ in range(2):  # repeated, because the first answer may have been lost
        await store.write_layout(batch, layout)
    assert await store.read_layout(batch.id) == layout


@on_all
async def test_layout_of_the_longest_header_fits(store: Store, batch: Batch) -> None:
    draw = random.Random(1)
    columns = ["".join(chr(draw.randrange(0x20000, 0x2A6D0)) for _ in range(16)) for _ in range(1_000)]
    layout = Layout(Template("POST", "/" + "x" * 8_000), columns, "\t")
    await store.write_layout(batch, layout)
    assert await store.read_layout(batch.id) == layout


# --- Batches past their time


async def due(store: Store, now: float) -> list[str]:
    return [batch_id async for batch_id in store.due_batches(now)]


async def is_due(store: Store, batch: Batch, now: float) -> bool:
    return batch.id in await due(store, now)


@on_all
async def test_batch_is_due_when_something_must_become_of_it(store_of_few: Store, batch: Batch) -> None:
    await store_of_few.create_batch(batch)
    assert not await is_due(store_of_few, batch, batch.accept_by)
    assert await is_due(store_of_few, batch, batch.accept_by + 1)

    await store_of_few.accept_batch(batch.id, NOW + 1)
    assert not await is_due(store_of_few, batch, batch.deadline_at)
    assert await is_due(store_of_few, batch, batch.deadline_at + 1)

    await store_of_few.start_batch(batch.id, NOW + 2)
    assert not await is_due(store_of_few, batch, batch.deadline_at)
    await store_of_few.end_batch(batch.id, Ending.CANCELLED, "Asked for.", settle_by=NOW + 90)
    assert not await is_due(store_of_few, batch, NOW + 90)
    assert await is_due(store_of_few, batch, NOW + 91)

    await store_of_few.finish_batch(batch.id, BatchState.CANCELLED, NOW + 91, ending=Ending.CANCELLED)
    assert not await is_due(store_of_few, batch, batch.expires_at)


@on_all
async def test_batch_that_is_accepted_as_it_is_written_is_due_at_its_deadline(
    store_of_few: Store, batch: Batch
) -> None:
    await store_of_few.accept_new(batch, NOW + 1)
    assert not await is_due(store_of_few, batch, batch.deadline_at)
    assert await is_due(store_of_few, batch, batch.deadline_at + 1)


@on_all
async def test_abandoned_batch_is_never_due(store_of_few: Store, batch: Batch) -> None:
    await store_of_few.create_batch(batch)
    await store_of_few.abandon_batch(batch.id)
    assert not await is_due(store_of_few, batch, batch.expires_at)


@on_all
async def test_those_longest_due_come_first_also_if_they_leave_while_they_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "ITEMS_IN_INDEX_PAGE", 2)
    batches = [replace(make_batch((1,)), accept_by=NOW - 1e6 + number // 2) for number in range(7)]
    for batch in reversed(batches):
        await store.create_batch(batch)
    found = []
    async for batch_id in store.due_batches(NOW - 1e6 + 100):
        found.append(batch_id)
        await store.abandon_batch(batch_id)
    times = {batch.id: batch.accept_by for batch in batches}
    assert sorted(found) == sorted(times)
    assert [times[batch_id] for batch_id in found] == sorted(times.values())
    assert await due(store, NOW - 1e6 + 100) == []


@on_all
async def test_one_at_a_time_sweeps(store: Store) -> None:
    before = await store.take_sweep("one", NOW)
    first = await store.take_sweep("one", NOW + 60, stale=before)
    assert first == SweepLease("one", NOW + 60)
    assert await store.take_sweep("other", NOW + 61) == first
    extended = await store.take_sweep("one", NOW + 90)
    assert extended == SweepLease("one", NOW + 90)
    assert await store.take_sweep("other", NOW + 1e6) == extended  # no clock decides when the lease ends
    assert await store.take_sweep("other", NOW + 92, stale=first) == extended
    assert await store.take_sweep("other", NOW + 93, stale=extended) == SweepLease("other", NOW + 93)
    assert await store.take_sweep("one", NOW + 94, stale=extended) == SweepLease("other", NOW + 93)


@on_all
async def test_one_of_many_takes_a_stale_sweep_over(store: Store) -> None:
    stale = await store.take_sweep("gone", NOW)
    taken = [store.take_sweep(str(number), NOW + number, stale=stale) for number in range(20)]
    assert len(set(await asyncio.gather(*taken))) == 1


# --- Idempotency keys


@on_all
async def test_queue_is_paused_since_its_first_pause_until_it_is_resumed(store: Store) -> None:
    await store.resume_queue(Priority.LOW)  # nothing is paused
    await store.pause_queue(Priority.LOW, NOW)
    await store.pause_queue(Priority.LOW, NOW + 5)
    await store.pause_queue(Priority.HIGH, NOW + 1.5)
    assert await store.read_paused_queues() == {Priority.LOW: NOW, Priority.HIGH: NOW + 1.5}
    for priority in Priority:
        await store.resume_queue(priority)
    assert await store.read_paused_queues() == {}


def make_claim(key: str | None = None, tenant: str = "acme") -> KeyClaim:
    batch_id = str(ULID())
    return KeyClaim(
        tenant=tenant,
        key=key or str(ULID()),
        fingerprint="0" * 64,
        batch_id=batch_id,
        keys_from=batch_id,
        lease_until=NOW + 70.5,
        expires_at=NOW + 86_400,
    )


@on_all
async def test_first_claim_of_a_key_stands(store: Store) -> None:
    first = make_claim()
    assert await store.claim_key(first, NOW) == first
    assert await store.claim_key(make_claim(first.key), NOW) == first
    assert await store.claim_key(first, NOW) == first  # repeated


@on_all
async def test_of_racing_claims_one_stands_and_all_are_told(store: Store) -> None:
    key = str(ULID())
    rivals = [make_claim(key) for _ in range(20)]
    answers = await asyncio.gather(*(store.claim_key(claim, NOW) for claim in rivals))
    assert len(set(answers)) == 1
    assert answers[0] in rivals


@on_all
async def test_keys_of_tenants_keep_apart_whatever_their_names(store: Store) -> None:
    tag = str(ULID())
    claims = [make_claim(f"b#{tag}", "a"), make_claim(tag, "a#b"), make_claim(tag, "a"), make_claim(f"%23{tag}", "a")]
    for claim in claims:
        assert await store.claim_key(claim, NOW) == claim


@on_all
async def test_any_key_that_a_client_may_send_is_kept(store: Store) -> None:
    for key in (" ", '"', "a" * 255, "".join(map(chr, range(0x20, 0x7F))), f"#{ULID()}"):
        claim = make_claim(key, tenant=f"!{ULID()}~#%")
        assert await store.claim_key(claim, NOW) == claim
        assert await store.claim_key(make_claim(key, claim.tenant), NOW) == claim


@on_all
async def test_key_can_be_claimed_anew_once_it_has_expired(store: Store) -> None:
    """It does not matter if the table has deleted it by then. Nothing of the first claim is left."""
    first = await store.claim_key(make_claim(), NOW)
    await store.settle_key(first, b"answer")
    assert (await store.claim_key(make_claim(first.key), first.expires_at)).batch_id == first.batch_id
    second = replace(make_claim(first.key), expires_at=first.expires_at + 1_000)
    assert await store.claim_key(second, first.expires_at + 1) == second
    assert await store.claim_key(first, first.expires_at + 1) == second


@on_all
@pytest.mark.parametrize(
    "answer", [None, b"{}", noise(900_000).encode()], ids=["in the background", "small", "in parts"]
)
async def test_settled_claim_stands_with_its_answer(store: Store, answer: bytes | None) -> None:
    claim = await store.claim_key(make_claim(), NOW)
    for _ in range(2):
        await store.settle_key(claim, answer)
    assert await store.claim_key(make_claim(claim.key), NOW) == replace(claim, is_settled=True, answer=answer)


@on_all
async def test_lease_of_a_claim_can_be_extended_by_whose_it_is(store: Store) -> None:
    first = await store.claim_key(make_claim(), NOW)
    for _ in range(2):
        assert await store.extend_key(first, first.lease_until + 60)
    extended = await store.claim_key(make_claim(first.key), NOW)
    assert extended == replace(first, lease_until=first.lease_until + 60)
    rival = make_claim(first.key)
    assert not await store.extend_key(rival, NOW)
    assert not await store.take_over_key(extended, rival, extended.lease_until)
    assert await store.take_over_key(extended, rival, extended.lease_until + 1)
    assert not await store.extend_key(first, first.lease_until)
    assert not await store.extend_key(make_claim(), NOW)  # never claimed


@on_all
async def test_claim_is_taken_over_once_its_lease_is_over(store: Store) -> None:
    theirs = await store.claim_key(make_claim(), NOW)
    ours = replace(make_claim(theirs.key), keys_from=theirs.keys_from, lease_until=NOW + 200, deaths=1)
    assert await store.take_over_key(theirs, ours, theirs.lease_until) is False
    assert await store.take_over_key(theirs, ours, theirs.lease_until + 0.001) is True
    assert await store.take_over_key(theirs, ours, theirs.lease_until + 0.001) is True  # repeated
    assert await store.claim_key(make_claim(theirs.key), NOW) == ours


@on_servers
async def test_claim_of_an_earlier_version_has_no_deaths(store: DynamoDbStore) -> None:
    claim = make_claim()
    item = items.claim_to_item(claim)
    del item["deaths"]
    await store._table.put(item)
    assert await store.claim_key(make_claim(claim.key), NOW) == claim


@on_all
async def test_settled_claim_is_not_taken_over(store: Store) -> None:
    theirs = await store.claim_key(make_claim(), NOW)
    await store.settle_key(theirs, None)
    assert await store.take_over_key(theirs, make_claim(theirs.key), theirs.lease_until + 1) is False


@on_all
async def test_of_racing_takers_one_takes_a_claim_over(store: Store) -> None:
    theirs = await store.claim_key(make_claim(), NOW)
    rivals = [replace(make_claim(theirs.key), lease_until=NOW + 200) for _ in range(20)]
    taken = await asyncio.gather(*(store.take_over_key(theirs, rival, theirs.lease_until + 1) for rival in rivals))
    assert taken.count(True) == 1
    assert await store.claim_key(make_claim(theirs.key), NOW) == rivals[taken.index(True)]


@on_all
async def test_claim_is_not_taken_over_from_another_request_than_the_one_that_was_seen(store: Store) -> None:
    """Its batch may have been accepted. Whoever takes over must have tried to abandon exactly that batch."""
    seen = await store.claim_key(make_claim(), NOW)
    between = make_claim(seen.key)
    assert await store.take_over_key(seen, between, seen.lease_until + 1)
    await store.release_key(between)
    assert not await store.take_over_key(seen, make_claim(seen.key), seen.lease_until + 1)


@on_all
async def test_who_lost_the_claim_neither_settles_nor_releases_it(store: Store) -> None:
    theirs = await store.claim_key(make_claim(), NOW)
    ours = replace(make_claim(theirs.key), lease_until=NOW + 200)
    await store.take_over_key(theirs, ours, theirs.lease_until + 1)
    await store.settle_key(theirs, b"late")
    await store.release_key(theirs)
    assert await store.claim_key(make_claim(theirs.key), NOW) == ours


@on_all
async def test_released_claim_can_be_taken_over_at_once(store: Store) -> None:
    theirs = await store.claim_key(make_claim(), NOW)
    for _ in range(2):
        await store.release_key(theirs)
    released = await store.claim_key(make_claim(theirs.key), NOW)
    assert (theirs.deaths_so_far, released.deaths_so_far) == (1, 0)
    ours = make_claim(theirs.key)
    assert await store.take_over_key(theirs, ours, NOW) is True
    assert await store.claim_key(make_claim(theirs.key), NOW) == ours


@on_all
async def test_claim_that_the_table_has_forgotten_is_nobodys(store: Store) -> None:
    claim = make_claim()
    await store.settle_key(claim, None)
    await store.release_key(claim)
    assert await store.take_over_key(claim, make_claim(claim.key), claim.lease_until + 1) is False
    fresh = make_claim(claim.key)
    assert await store.claim_key(fresh, NOW) == fresh


@on_all
async def test_a_key_is_known_from_its_claim_until_it_expires(store: Store) -> None:
    claim = make_claim()
    assert not await store.has_key(claim.tenant, claim.key, NOW)
    await store.claim_key(claim, NOW)
    assert await store.has_key(claim.tenant, claim.key, claim.expires_at)
    assert not await store.has_key(claim.tenant, claim.key, claim.expires_at + 1)
    assert not await store.has_key("other", claim.key, NOW)


@on_all
async def test_a_key_whose_request_failed_is_known_only_if_it_was_settled(store: Store) -> None:
    claim = await store.claim_key(make_claim(), NOW)
    await store.release_key(claim)
    assert not await store.has_key(claim.tenant, claim.key, NOW)
    await store.settle_key(claim, b"answer")
    assert await store.has_key(claim.tenant, claim.key, NOW)


# --- Quotas

TEN_A_MINUTE = Quota(10, 60)


def make_account(key_id: str | None = None) -> Account:
    return Account(str(ULID()), key_id)


def make_charge(operations: int, quota: Quota = TEN_A_MINUTE) -> Charge:
    return Charge(str(ULID()), quota.cost(operations), int(NOW) + 60)


async def charge(
    store: Store,
    account: Account,
    one: Charge,
    now: float = NOW,
    *,
    quota: Quota = TEN_A_MINUTE,
    seen: Usage | None = None,
    settled: tuple[Charge, ...] = (),
) -> bool:
    """Return True if the quota allowed the charge."""
    return one in (await store.charge(account, quota, one, now, seen=seen or Usage(), settled=settled)).open


@on_all
async def test_charges_are_allowed_until_the_quota_is_used_up_and_again_later(store: Store) -> None:
    account = make_account()
    assert await store.read_usage(account) == Usage()
    first = make_charge(7)
    assert await charge(store, account, first)
    until = nanoseconds(NOW + 42)
    assert await store.read_usage(account) == Usage(until, {first: until})
    assert not await charge(store, account, make_charge(4))
    second = make_charge(3)
    assert await charge(store, account, second)
    assert (await store.read_usage(account)).open == {first: until, second: nanoseconds(NOW + 60)}
    assert not await charge(store, account, make_charge(1), NOW + 5.9)
    assert await charge(store, account, make_charge(1), NOW + 6)
    assert await charge(store, account, make_charge(10), NOW + 66)


@on_all
@pytest.mark.parametrize("seen", [Usage(), Usage(nanoseconds(NOW + 30)), Usage(nanoseconds(NOW + 900))])
async def test_what_was_last_seen_of_a_usage_does_not_matter(store: Store, seen: Usage) -> None:
    account = make_account()
    assert await charge(store, account, make_charge(6), seen=seen)
    assert not await charge(store, account, make_charge(6), seen=seen)
    assert await charge(store, account, make_charge(4), seen=seen)


@on_all
async def test_of_twenty_front_ends_no_more_than_the_quota_is_allowed(store: Store) -> None:
    """Their clocks differ by up to two seconds. In that time one more operation becomes available."""
    account, quota, count = make_account(), Quota(60, 120), 20
    charges = [make_charge(number % 9 + 1, quota) for number in range(count)]
    clocks = [NOW + number / 10 for number in range(count)]
    allowed = await asyncio.gather(
        *(charge(store, account, one, now, quota=quota) for one, now in zip(charges, clocks, strict=True))
    )
    used = sum(number % 9 + 1 for number, is_allowed in enumerate(allowed) if is_allowed)
    assert 53 <= used <= 61
    assert len((await store.read_usage(account)).open) == sum(allowed)


@on_all
async def test_a_repeated_charge_is_made_once(store: Store) -> None:
    account, one = make_account(), make_charge(6)
    for seen in (Usage(), Usage(nanoseconds(NOW + 36))):
        assert await charge(store, account, one, seen=seen)
    assert (await store.read_usage(account)).tat == nanoseconds(NOW + 36)


@on_all
async def test_a_charge_is_given_back_once(store: Store) -> None:
    account, one, other = make_account(), make_charge(6), make_charge(2)
    assert await charge(store, account, one)
    assert await charge(store, account, other)
    for _ in range(2):
        usage = await store.end_charge(account, one, one.cost)
        assert usage == Usage(nanoseconds(NOW + 12), {other: nanoseconds(NOW + 48)})
    assert await store.end_charge(account, make_charge(1), 1) == usage
    assert await store.end_charge(make_account(), one, one.cost) == Usage()


@on_all
async def test_charges_are_settled_and_stay_charged(store: Store) -> None:
    account, charges = make_account(), [make_charge(1) for _ in range(4)]
    for one in charges:
        assert await charge(store, account, one)
    for _ in range(2):
        for one in charges[:2]:
            usage = await store.end_charge(account, one, 0)
        assert usage.tat == nanoseconds(NOW + 24)
        assert set(usage.open) == set(charges[2:])
    assert await charge(store, account, last := make_charge(1), settled=(*charges[1:3],))
    assert set((await store.read_usage(account)).open) == {charges[3], last}
    assert await store.end_charge(account, charges[0], charges[0].cost) == await store.read_usage(account)
    assert await store.end_charge(make_account(), charges[0], 0) == Usage()


@on_all
async def test_accounts_never_share_a_usage(store: Store) -> None:
    tag = str(ULID())
    accounts = [Account(tag), Account(tag, "a"), Account(f"{tag}#a"), Account(f"{tag}%23a"), Account(tag, "a#b")]
    for account in accounts:
        assert await charge(store, account, make_charge(10))


# --- Open operations


def make_entry(*, is_retry: bool = False) -> OpenBatch:
    return OpenBatch(str(ULID()), int(NOW) + 30, str(ULID()) if is_retry else None)


async def add_open(
    store: Store, account: Account, entry: OpenBatch, operations: int, most: int | None = 10
) -> OpenOperations:
    return await store.add_open(account, entry, operations, most=most, expires_at=NOW + 1_000)


@on_all
async def test_open_operations_are_added_while_there_is_room(store: Store) -> None:
    account, first, second, retry = make_account(), make_entry(), make_entry(), make_entry(is_retry=True)
    assert await store.read_open(account) == OpenOperations()
    assert await add_open(store, account, first, 7) == OpenOperations(7, {first: 7})
    assert await add_open(store, account, second, 4) == OpenOperations(7, {first: 7})
    assert await add_open(store, account, retry, 3) == OpenOperations(10, {first: 7, retry: 3})
    assert await add_open(store, account, first, 7, 100) == OpenOperations(10, {first: 7, retry: 3}), "it is there"
    forced = OpenOperations(14, {first: 7, retry: 3, second: 4})
    assert await add_open(store, account, second, 4, None) == forced
    assert await store.read_open(account) == forced


@on_all
async def test_open_operations_are_counted_out_once(store: Store) -> None:
    account, first, second = make_account(), make_entry(), make_entry(is_retry=True)
    await add_open(store, account, first, 6)
    await add_open(store, account, second, 4)
    after = OpenOperations(2, {first: 2})
    for _ in range(2):
        assert await store.lower_open(account, {first: (6, 2), second: (4, 0)}) == after
    assert await store.lower_open(account, {first: (6, 0)}) == after
    assert await store.lower_open(account, {first: (2, 0), second: (4, 0)}) == after
    assert await store.lower_open(account, {first: (2, 1)}) == OpenOperations(1, {first: 1})
    assert await store.lower_open(account, {first: (1, 0)}) == OpenOperations()
    assert await store.lower_open(make_account(), {first: (1, 0)}) == OpenOperations()
    assert await add_open(store, account, second, 10) == OpenOperations(10, {second: 10})


@on_all
async def test_of_twenty_front_ends_no_more_than_the_limit_is_open(store: Store) -> None:
    account, entries = make_account(), [make_entry() for _ in range(20)]
    await asyncio.gather(*(add_open(store, account, entry, 3, 40) for entry in entries))
    is_open = await store.read_open(account)
    assert (is_open.total, len(is_open.entries)) == (39, 13)


@on_all
async def test_an_account_has_only_so_many_open_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("penstock.testing.memory", "penstock.aws.store"):
        monkeypatch.setattr(f"{module}.MOST_ENTRIES", 2)
    account, entries = make_account(), [make_entry() for _ in range(5)]
    for entry in entries[:3]:
        is_open = await add_open(store, account, entry, 1, 100)
    assert set(is_open.entries) == set(entries[:2])
    for entry in entries[2:]:
        is_open = await add_open(store, account, entry, 1, None)
    assert set(is_open.entries) == set(entries[:4])


@on_all
async def test_accounts_never_share_open_operations(store: Store) -> None:
    tag, entry = str(ULID()), make_entry()
    for account in (Account(tag), Account(tag, "a"), Account(f"{tag}#a"), Account(tag, "a#b")):
        assert await add_open(store, account, entry, 10) == OpenOperations(10, {entry: 10})


# --- How long handlers take


@on_all
async def test_handlers_seconds_are_read_as_they_were_written_last(store: Store) -> None:
    tag = str(ULID())
    first, second, unknown = f"POST /{tag}/{{id}}", f"GET /{tag}#ä", f"PUT /{tag}"
    assert await store.read_handler_seconds([first, second]) == {}
    for taking in (0.5, 0.000012):
        await store.write_handler_seconds({first: taking, second: 12.25}, NOW)
    assert await store.read_handler_seconds([first, second, unknown]) == {first: 0.000012, second: 12.25}
    await store.write_handler_seconds({second: 1}, NOW)
    assert await store.read_handler_seconds([first, second]) == {first: 0.000012, second: 1}
    assert await store.read_handler_seconds([]) == {}
    await store.write_handler_seconds({}, NOW)


@on_all
async def test_seconds_of_very_many_handlers_are_read(store: Store) -> None:
    tag = str(ULID())
    written = {f"POST /{tag}/{number}": number / 8 for number in range(230)}
    await store.write_handler_seconds(written, NOW)
    assert await store.read_handler_seconds(list(written)) == written


@on_servers
async def test_handler_of_which_there_is_no_news_is_forgotten(servers: Servers, store: Store) -> None:
    name = f"POST /{ULID()}"
    await store.write_handler_seconds({name: 1}, NOW)
    key = {"pk": {"S": f"handler#{name}"}, "sk": {"S": "time"}}
    item = (await servers.clients.dynamodb.get_item(TableName=servers.table, Key=key))["Item"]
    assert item["expires_at"] == {"N": str(int(NOW) + 30 * 24 * 3600)}


# --- DynamoDB's own


@on_servers
async def test_missing_table_is_told(servers: Servers, batch: Batch) -> None:
    store, claim = DynamoDbStore(servers.clients.dynamodb, "nowhere"), make_claim()
    calls: list[Awaitable[Any]] = [
        store.check(),
        store.create_batch(batch),
        store.accept_new(batch, NOW),
        store.extend_acceptance(batch.id, NOW, NOW),
        store.accept_batch(batch.id, NOW),
        store.abandon_batch(batch.id),
        store.read_batch(batch.id),
        store.start_batch(batch.id, NOW),
        store.read_traces(batch.id, "0"),
        store.suspect_batch(batch.id),
        store.note_deaths(batch.id, ["a"]),
        store.deny_death(batch.id, "a"),
        store.note_release(batch, "0", "a#1"),
        store.note_start(batch, "0", "a#2"),
        store.commit_chunk(batch, FULL),
        store.count_chunk(batch, FULL),
        store.close_group(batch, 0, Counts(), Ending.EXPIRED),
        store.finish_group(batch.id, 0),
        store.read_group(batch.id, 0),
        store.read_groups(batch.id, [0]),
        store.read_progress(batch.id, [0], with_done=True),
        store.read_only_chunk(batch.id),
        store.write_ids(batch, 0, ["a"]),
        store.read_ids(batch.id, 0),
        store.write_layout(batch, Layout(Template("POST", "/"))),
        store.read_layout(batch.id),
        store.end_batch(batch.id, Ending.CANCELLED, "No.", settle_by=NOW),
        store.revise_batch(batch.id, BatchState.FAILED, BatchState.COMPLETED),
        due(store, NOW),
        store.take_sweep("me", NOW),
        store.claim_key(claim, NOW),
        store.take_over_key(claim, claim, NOW),
        store.settle_key(claim, None),
        store.extend_key(claim, NOW),
        store.release_key(claim),
        store.read_handler_seconds(["POST /a"]),
        store.write_handler_seconds({"POST /a": 1}, NOW),
        store.finish_batch(batch.id, BatchState.COMPLETED, NOW),
        records(store, batch),
    ]
    for call in calls:
        with pytest.raises(Misconfigured, match="Run `penstock provision`: a queue or the table does not exist"):
            await call


@on_servers
async def test_everything_of_a_batch_is_forgotten_at_its_time(servers: Servers, store: Store, batch: Batch) -> None:
    await accept(store, batch)
    await store.start_batch(batch.id, NOW + 2)
    await store.note_release(batch, "1", "a#1")
    await store.commit_chunk(batch, FULL)
    await store.commit_chunk(batch, make_record("18", noise(500_000)))
    await store.count_chunk(batch, FULL)
    await store.close_group(batch, 1, Counts(), Ending.EXPIRED)
    await store.write_ids(batch, 0, ["a"] * 64)
    await store.write_layout(batch, Layout(Template("POST", "/")))
    await store.finish_group(batch.id, 0)

    items = await items_of(servers, batch)
    assert sorted(item["sk"]["S"].partition("#")[0] for item in items) == [
        *("batch", "chunk", "chunk", "chunk", "count", "count", "ids", "layout", "part", "part"),
    ]
    assert {item["expires_at"]["N"] for item in items} == {str(int(batch.expires_at))}


@on_servers
async def test_table_forgets_by_that_attribute(servers: Servers) -> None:
    answer = await servers.clients.dynamodb.describe_time_to_live(TableName=servers.table)
    assert answer["TimeToLiveDescription"]["AttributeName"] == "expires_at"
    assert answer["TimeToLiveDescription"]["TimeToLiveStatus"] in {"ENABLED", "ENABLING"}


@on_servers
async def test_groups_have_partitions_of_their_own(servers: Servers, store: Store, batch: Batch) -> None:
    for chunk_id in ("0", "64"):
        await store.commit_chunk(batch, make_record(chunk_id))
        await count(store, batch, chunk_id, Counts(1))
    assert {(item["pk"]["S"], item["sk"]["S"]) for item in await items_of(servers, batch)} == {
        (f"batch#{batch.id}#0", "chunk#00000000"),
        (f"batch#{batch.id}#0", "count"),
        (f"batch#{batch.id}#1", "chunk#00000064"),
        (f"batch#{batch.id}#1", "count"),
    }


async def items_of(servers: Servers, batch: Batch) -> list[Any]:
    items: list[Any] = []
    for pk in (f"batch#{batch.id}", *(f"batch#{batch.id}#{group}" for group in range(len(batch.group_totals)))):
        answer = await servers.clients.dynamodb.query(
            TableName=servers.table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": pk}},
        )
        items += answer["Items"]
    return items


# --- Answers that are lost after the call took effect


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(aws: Aws) -> AsyncIterator[LossyProxy]:
    server = aws.environment.get("AWS_ENDPOINT_URL_DYNAMODB") or aws.environment["AWS_ENDPOINT_URL"]
    async with lossy_proxy(server) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", params=["the SDK repeats", "the caller repeats"])
async def proxied(
    request: pytest.FixtureRequest, aws: Aws, servers: Servers, proxy: LossyProxy
) -> AsyncIterator[Store]:
    """Yield a store whose SDK silently repeats calls without an answer, or one whose SDK leaves that to the caller."""
    tries = 3 if request.param == "the SDK repeats" else 1
    session = get_session()
    async with session.create_client(
        "dynamodb",
        region_name=aws.environment["AWS_REGION"],
        endpoint_url=proxy.url,
        aws_access_key_id=aws.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=aws.environment["AWS_SECRET_ACCESS_KEY"],
        config=AioConfig(retries={"mode": "standard", "total_max_attempts": tries}),
    ) as client:
        yield DynamoDbStore(client, servers.table)


async def until_answered(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat a call until it is answered, as the programs do."""
    while True:
        try:
            return await call()
        except Unavailable:
            continue


@on_servers
async def test_creation_and_acceptance_whose_answers_are_lost_stand(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch
) -> None:
    proxy.lose_answers("PutItem")
    await until_answered(lambda: proxied.create_batch(batch))
    proxy.lose_answers("UpdateItem")
    await until_answered(lambda: proxied.accept_batch(batch.id, NOW + 1.23456))
    assert (await read(store, batch)).state is BatchState.QUEUED
    assert (proxy.calls["PutItem"], proxy.calls["UpdateItem"]) == (2, 2)
    other = replace(batch, id=str(ULID()))
    proxy.lose_answers("PutItem")
    await until_answered(lambda: proxied.accept_new(other, NOW + 1.23456))
    assert (await read(store, other)).state is BatchState.QUEUED


@on_servers
@pytest.mark.parametrize("length", [10, 600_000], ids=["small", "in parts"])
async def test_record_whose_answer_is_lost_is_found_by_its_own_writer(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch, length: int
) -> None:
    record = make_record("3", noise(length))
    proxy.lose_answers("PutItem", times=1)
    assert await until_answered(lambda: proxied.commit_chunk(batch, record)) == record
    assert (await store.read_traces(batch.id, "3")).record == record


@on_servers
async def test_record_that_a_rival_wrote_meanwhile_stands(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch
) -> None:
    await store.commit_chunk(batch, FULL)
    proxy.lose_answers("PutItem")
    assert await until_answered(lambda: proxied.commit_chunk(batch, make_record("17", "late"))) == FULL


@on_servers
async def test_counts_whose_answer_is_lost_are_counted_once(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch
) -> None:
    proxy.lose_answers("UpdateItem")
    counted = await until_answered(lambda: proxied.count_chunk(batch, counting("3", Counts(2, 1))))
    assert counted == Group(Counts(2, 1), done=frozenset({"3"}))
    assert await read_counts(store, batch, 0) == [Counts(2, 1)]
    assert proxy.calls["UpdateItem"] == 2


@on_servers
async def test_whole_group_whose_answer_is_lost_is_counted_once(
    proxied: Store, store: Store, proxy: LossyProxy
) -> None:
    batch = make_batch((5,))
    proxy.lose_answers("PutItem")
    counted = await until_answered(lambda: proxied.count_chunk(batch, counting("0", Counts(4, 1))))
    assert counted == Group(Counts(4, 1), done=frozenset({"0"}))
    assert await read_counts(store, batch, 0) == [Counts(4, 1)]


@on_servers
async def test_sweep_of_an_earlier_version_sees_that_a_whole_group_is_counted(store: DynamoDbStore) -> None:
    """Its condition for a group of which nothing was counted is that there is no `succeeded`."""
    batch = make_batch((5,))
    await count(store, batch, "0", Counts(failed=5))
    counter = await store._table.get(items.count_key(batch.id, 0))
    assert counter is not None
    assert (counter["succeeded"], counter["completed"]) == ({"N": "0"}, {"N": "5"})


@on_servers
async def test_later_counts_leave_out_what_the_counter_has(
    store: DynamoDbStore, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep of an earlier version needs all four counts, and the table needs the time of the deletion."""
    changes: list[str] = []
    update_if = store._table.update_if

    async def noting(condition: str, key: Any, change: str, values: Any, **options: Any) -> table.Done | table.Blocked:
        changes.append(change)
        return await update_if(condition, key, change, values, **options)

    monkeypatch.setattr(store._table, "update_if", noting)
    for chunk_id, counts in ("0", Counts(1)), ("1", Counts(1, 2)), ("2", Counts(cancelled=3)):
        await store.count_chunk(batch, counting(chunk_id, counts), NOW)
    assert [re.findall("succeeded|failed|cancelled|expired|expires_at", change)[::2] for change in changes] == [
        ["succeeded", "failed", "cancelled", "expired", "expires_at"],
        ["succeeded", "failed"],
        ["cancelled"],
    ]
    counter = await store._table.get(items.count_key(batch.id, 0))
    assert counter is not None
    assert counter.keys() >= items.OF_EVERY_COUNTER
    assert await read_counts(store, batch, 0) == [Counts(2, 2, 3)]


@on_servers
@pytest.mark.parametrize("seconds_after_expiry", [-1, 0])
async def test_counter_that_the_table_has_lost_is_written_as_a_whole(
    store: DynamoDbStore, batch: Batch, seconds_after_expiry: float
) -> None:
    """Before the batch expires, as when a backup is restored, that takes one more count."""
    key, at = items.count_key(batch.id, 0), batch.expires_at + seconds_after_expiry
    for chunk_id in "01":
        await store.count_chunk(batch, counting(chunk_id, Counts(1)), NOW)
    await store._table.client.delete_item(TableName=store._table.name, Key=key)
    for chunk_id in "23" if seconds_after_expiry < 0 else "2":
        await store.count_chunk(batch, counting(chunk_id, Counts(1)), at)
    counter = await store._table.get(key)
    assert counter is not None
    assert counter.keys() >= items.OF_EVERY_COUNTER


@on_servers
async def test_finish_whose_answer_is_lost_stands(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch
) -> None:
    """A caller who gets False may have finished the batch itself; the batch is final in any case."""
    await accept(store, batch)
    proxy.lose_answers("UpdateItem")
    assert finished_groups(await until_answered(lambda: proxied.finish_group(batch.id, 1))) == {1}
    proxy.lose_answers("UpdateItem")
    assert await until_answered(lambda: proxied.finish_batch(batch.id, BatchState.COMPLETED, NOW + 5)) is False
    stored = await read(store, batch)
    assert (stored.state, stored.finished_at) == (BatchState.COMPLETED, NOW + 5)


@on_servers
async def test_abandoning_whose_answer_is_lost_says_so(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch
) -> None:
    await store.create_batch(batch)
    proxy.lose_answers("UpdateItem")
    assert await until_answered(lambda: proxied.abandon_batch(batch.id)) is True
    assert (await read(store, batch)).state is BatchState.ABANDONED


@on_servers
async def test_start_and_release_whose_answers_are_lost_stand(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch
) -> None:
    await accept(store, batch)
    proxy.lose_answers("UpdateItem")
    await until_answered(lambda: proxied.start_batch(batch.id, NOW + 5))
    proxy.lose_answers("UpdateItem")
    await until_answered(lambda: proxied.note_release(batch, "3", "a#2"))
    assert (await read(store, batch)).started_at == NOW + 5
    assert await store.read_traces(batch.id, "3") == Traces(None, frozenset({"a#2"}))


@on_servers
async def test_group_that_is_closed_without_an_answer_is_closed(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch
) -> None:
    """A caller who gets False reads the group again, and finds it complete."""
    proxy.lose_answers("UpdateItem")
    assert await until_answered(lambda: proxied.close_group(batch, 1, Counts(), Ending.EXPIRED)) is False
    assert await read_counts(store, batch, 1) == [Counts(expired=6)]


@on_servers
async def test_ending_whose_answer_is_lost_says_so(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch
) -> None:
    await accept(store, batch)
    proxy.lose_answers("UpdateItem")
    ended = await until_answered(lambda: proxied.end_batch(batch.id, Ending.CANCELLED, "Asked for.", settle_by=NOW + 9))
    assert ended is True
    assert (await read(store, batch)).state is BatchState.CANCELLING


@on_servers
async def test_key_that_is_claimed_without_an_answer_is_ours(proxied: Store, store: Store, proxy: LossyProxy) -> None:
    claim = make_claim()
    proxy.lose_answers("PutItem")
    standing = await until_answered(lambda: proxied.claim_key(claim, NOW))
    assert standing.batch_id == claim.batch_id

    ours = replace(claim, batch_id=str(ULID()))
    proxy.lose_answers("PutItem")
    assert await until_answered(lambda: proxied.take_over_key(claim, ours, claim.lease_until + 1)) is True
    assert (await store.claim_key(make_claim(claim.key), NOW)).batch_id == ours.batch_id


@on_servers
async def test_key_that_is_settled_without_an_answer_is_settled(
    proxied: Store, store: Store, proxy: LossyProxy
) -> None:
    claim = await store.claim_key(make_claim(), NOW)
    proxy.lose_answers("PutItem")
    proxy.lose_answers("UpdateItem")
    await until_answered(lambda: proxied.settle_key(claim, b"answer"))
    standing = await store.claim_key(make_claim(claim.key), NOW)
    assert (standing.is_settled, standing.answer) == (True, b"answer")


@on_servers
async def test_reads_whose_answers_are_lost_are_repeated(
    proxied: Store, store: Store, proxy: LossyProxy, batch: Batch
) -> None:
    accepted = await accept(store, batch)
    await store.commit_chunk(batch, FULL)
    await store.count_chunk(batch, FULL)
    for action in ("GetItem", "Query", "BatchGetItem"):
        proxy.lose_answers(action)
    assert await until_answered(lambda: proxied.read_batch(batch.id)) == accepted
    assert await until_answered(lambda: records(proxied, batch)) == [["17"]]
    assert await until_answered(lambda: proxied.read_groups(batch.id, [0])) == {0: Group(FULL.counts)}


@on_all
@pytest.mark.parametrize("counted", [[], [Counts(4)]], ids=["empty", "begun"])
async def test_no_more_operations_complete_than_a_group_has(store: Store, counted: list[Counts]) -> None:
    batch = make_batch((5,))
    for number, counts in enumerate(counted):
        await count(store, batch, str(number), counts)
    before = sum_counts(counted)
    group = await store.count_chunk(batch, counting("3", Counts(3, 3)))
    assert (group.counts, "3" in group.done) == (before, False)
    assert not group.is_through_with("3")
    room = Counts(failed=5 - before.completed)
    assert await count(store, batch, "4", room) == before + room


@on_all
async def test_redrive_takes_back_no_more_failures_than_were_counted(store: Store) -> None:
    batch = make_batch((10,))
    await count(store, batch, "0", Counts(3, 2))
    group = await store.count_chunk(batch, counting("0.d1", Counts(3)))
    assert (group.counts, "0.d1" in group.done) == (Counts(3, 2), False)
    assert await count(store, batch, "0.d2", Counts(2)) == Counts(5)


@on_all
async def test_one_forged_chunk_keeps_no_other_from_being_counted_with_it(store: Store) -> None:
    batch = make_batch((4,))
    records = [counting("0", Counts(2)), counting("1", Counts(9)), counting("2", Counts(2)), counting("3", Counts(2))]
    await asyncio.gather(*(store.count_chunk(batch, record) for record in records))
    group = await store.read_group(batch.id, 0)
    assert group.counts == Counts(4)
    assert len(group.done) == 2
    assert "1" not in group.done


@on_all
async def test_closed_group_has_no_room_left(store: Store) -> None:
    batch = make_batch((4,))
    await count(store, batch, "0", Counts(1, 1))
    assert await store.close_group(batch, 0, Counts(1, 1), Ending.EXPIRED)
    group = await store.count_chunk(batch, counting("0.d1", Counts(3)))
    assert group.counts == Counts(1, 1, expired=2)
    assert await count(store, batch, "0.d2", Counts(1)) == Counts(2, expired=2)


# --- API keys


def make_api_key(**changes: Any) -> ApiKey:
    made = make_key("test")
    known: dict[str, Any] = {"tenant": "acme", "scopes": frozenset({Scope.READ}), "created_at": NOW + 0.125}
    return ApiKey(made.id, made.digest, **{**known, **changes})


@on_all
async def test_api_key_is_found_by_its_digest_and_by_its_id(store: Store) -> None:
    plain = make_api_key()
    whole = make_api_key(
        name="importer", scopes=frozenset(Scope), limit="100000/3600", max_open=5, expires_at=NOW + 60.5
    )
    for key in (plain, whole):
        await store.create_api_key(key)
        await store.create_api_key(key)  # a repetition

    for key in (plain, whole):
        assert await store.find_api_key(key.digest) == key
        assert await store.read_api_key(key.id) == key
    other = make_api_key()
    assert await store.find_api_key(other.digest) is None
    assert await store.read_api_key(other.id) is None


@on_all
async def test_api_keys_are_listed(store: Store) -> None:
    keys = [make_api_key() for _ in range(3)]
    for key in keys:
        await store.create_api_key(key)
    listed = await store.list_api_keys()
    assert [key.id for key in listed] == sorted(key.id for key in listed)
    assert [key for key in listed if key in keys] == sorted(keys, key=lambda key: key.id)


@on_all
async def test_revoked_api_key_keeps_the_time_of_its_end(store: Store) -> None:
    key = make_api_key()
    await store.create_api_key(key)
    await store.revoke_api_key(key, NOW + 1)
    await store.revoke_api_key(key, NOW + 2)
    assert await store.find_api_key(key.digest) == replace(key, revoked_at=NOW + 1)
    assert replace(key, revoked_at=NOW + 1) in await store.list_api_keys()


@on_all
async def test_replaced_api_key_is_only_shortened(store: Store) -> None:
    key = make_api_key()
    await store.create_api_key(key)
    for new_id, until, expected in (
        ("a", NOW + 20.5, ("a", NOW + 20.5)),
        ("b", NOW + 30, ("a", NOW + 20.5)),
        ("c", NOW + 20.5, ("c", NOW + 20.5)),
        ("d", NOW + 10, ("d", NOW + 10)),
    ):
        await store.replace_api_key(key, new_id, until)
        assert await store.find_api_key(key.digest) == replace(key, replaced_by=expected[0], expires_at=expected[1])


@on_all
async def test_use_of_an_api_key_is_noted_and_nothing_creates_a_key_that_is_gone(store: Store) -> None:
    key, gone = make_api_key(), make_api_key()
    await store.create_api_key(key)
    await store.note_api_key_use(key, NOW)
    assert await store.find_api_key(key.digest) == replace(key, used_at=NOW)
    await store.note_api_key_use(gone, NOW)
    await store.replace_api_key(gone, "a", NOW)
    await store.revoke_api_key(gone, NOW)
    assert await store.find_api_key(gone.digest) is None


@on_servers
async def test_nothing_of_an_api_key_stays_for_ever_after_its_end(store: Store, servers: Servers) -> None:
    """DynamoDB deletes what has the attribute `expires_at`: the key, and its place in the list."""
    key = make_api_key()
    await store.create_api_key(key)
    await store.revoke_api_key(key, NOW)
    for pk, sk in ((f"apikey#{key.digest}", "key"), ("apikeys", key.id)):
        found = await servers.clients.dynamodb.get_item(
            TableName=servers.table, Key={"pk": text(pk), "sk": text(sk)}, ConsistentRead=True
        )
        assert found["Item"]["expires_at"] == {"N": str(int(NOW) + 30 * 86_400)}


def make_limit_name() -> str:
    return f"limit-{ULID()}"


FULL_STATE = LimitState(
    rate=12.5,
    tat=NOW + 0.25,
    not_before=NOW + 1.5,
    cut_at=NOW - 2,
    ceiling=20.125,
    earlier_ceiling=30.0,
    away_at=NOW - 1,
    passed_from=NOW - 3,
    window_at=NOW - 4,
    used=-2,
    throttled=3,
    leases=4,
    consumers=5,
    at=NOW,
    lease="first",
    holders={"one": Holder(3, 5, 7, 9), "two": Holder(0, 1, 8, 1)},
)


@on_all
async def test_state_of_a_limit_is_replaced_by_whoever_knows_it(store: Store) -> None:
    name = make_limit_name()
    cut = replace(FULL_STATE, ceiling=None, earlier_ceiling=None, rate=8.75, lease="second", holders={})
    assert await store.read_limit(name) == LimitState()
    assert await store.lease_limit(name, LimitState(), FULL_STATE)
    assert await store.read_limit(name) == FULL_STATE
    assert not await store.lease_limit(name, LimitState(), cut)
    assert not await store.lease_limit(name, replace(FULL_STATE, lease="other"), cut)
    assert await store.read_limit(name) == FULL_STATE
    assert await store.lease_limit(name, FULL_STATE, cut)
    assert await store.read_limit(name) == cut


@on_all
async def test_of_several_consumers_one_replaces_the_state_of_a_limit(store: Store) -> None:
    name = make_limit_name()
    states = [replace(FULL_STATE, used=number, lease=f"lease {number}") for number in range(8)]
    leased = await asyncio.gather(*(store.lease_limit(name, LimitState(), state) for state in states))
    assert leased.count(True) == 1
    assert await store.read_limit(name) == states[leased.index(True)]


@on_all
async def test_repeated_lease_knows_its_own_effect(store: Store) -> None:
    name, second = make_limit_name(), replace(FULL_STATE, lease="second")
    for _ in range(2):
        assert await store.lease_limit(name, LimitState(), FULL_STATE)
    assert await store.lease_limit(name, FULL_STATE, second)
    assert not await store.lease_limit(name, LimitState(), FULL_STATE)
    assert await store.read_limit(name) == second


@on_all
async def test_several_limits_are_read_together(store: Store) -> None:
    one, other = make_limit_name(), make_limit_name()
    for name in (one, other):
        await store.lease_limit(name, LimitState(), replace(FULL_STATE, lease=name))
    found = await store.read_limits([one, make_limit_name(), other])
    assert found == {name: replace(FULL_STATE, lease=name) for name in (one, other)}
    assert await store.read_limits([]) == {}


@on_servers
async def test_limit_that_nobody_uses_does_not_stay_for_ever(store: Store, servers: Servers) -> None:
    name = make_limit_name()
    await store.lease_limit(name, LimitState(), FULL_STATE)
    found = await servers.clients.dynamodb.get_item(
        TableName=servers.table, Key={"pk": text(f"limit#{name}"), "sk": text("limit")}, ConsistentRead=True
    )
    assert found["Item"]["expires_at"] == {"N": str(int(NOW) + 30 * 86_400)}


# --- The catalog


@on_all
async def test_catalog_lists_the_entries_of_a_kind_and_tenant_in_both_directions(store: Store) -> None:
    tenant = f"a/#{ULID()}"  # no name of a tenant leads to the entries of another
    entries = [CatalogEntry("file", tenant, f"file-{number}", NOW + 60, {"at": number}) for number in range(5)]
    others = [CatalogEntry("file", tenant.partition("#")[0], "file-1", NOW + 60), replace(entries[0], kind="batch")]
    for entry in [*reversed(entries), *others]:
        await store.write_entry(entry)
    assert await store.list_entries("file", tenant, None, 3, now=NOW) == entries[4:1:-1]
    assert await store.list_entries("file", tenant, "file-2", 3, now=NOW) == entries[1::-1]
    assert await store.list_entries("file", tenant, None, 3, now=NOW, oldest_first=True) == entries[:3]
    assert await store.list_entries("file", tenant, "file-2", 3, now=NOW, oldest_first=True) == entries[3:]
    assert await store.list_entries("file", tenant, "file-2-", 1, now=NOW) == [entries[2]]  # an id that no entry has
    assert await store.list_entries("file", "nobody", None, 3, now=NOW) == []


@on_all
async def test_catalog_entry_is_read_replaced_and_deleted(store: Store) -> None:
    entry = CatalogEntry("file", str(ULID()), "file-1", NOW + 60, {"name": "\u00e4", "lines": [1, None, {"a": 0.5}]})
    assert await store.read_entry(entry.kind, entry.tenant, entry.id) is None
    for written in (entry, replace(entry, content={"name": "b"}), entry.deleted(NOW)):
        await store.write_entry(written)
        assert await store.read_entry(entry.kind, entry.tenant, entry.id) == written
    other = replace(entry, id="file-2")
    await store.write_entry(other)
    found = await store.read_entries(entry.kind, entry.tenant, ["file-2", "file-3", "file-1"])
    assert sorted(found, key=lambda one: one.id) == [entry.deleted(NOW), other]
    assert await store.read_entries(entry.kind, entry.tenant, []) == []
    assert entry.deleted(NOW).is_gone(NOW - SKEW_SECONDS)
    assert not entry.is_gone(NOW)


@on_all
async def test_catalog_does_not_list_what_is_gone(store: Store) -> None:
    tenant = str(ULID())
    entries = [CatalogEntry("file", tenant, f"file-{number:02}", NOW + 60) for number in range(30)]
    for entry in entries:
        is_kept = entry.id in {"file-01", "file-28"}
        await store.write_entry(entry if is_kept else entry.deleted(NOW))
    assert await store.list_entries("file", tenant, None, 1, now=NOW) == [entries[28]]
    assert await store.list_entries("file", tenant, None, 3, now=NOW) == [entries[28], entries[1]]
    assert await store.list_entries("file", tenant, "file-28", 1, now=NOW) == [entries[1]]
    assert await store.list_entries("file", tenant, "file-01", 1, now=NOW, oldest_first=True) == [entries[28]]
    assert await store.list_entries("file", tenant, "file-01", 1, now=NOW) == []
    assert await store.list_entries("file", tenant, None, 3, now=NOW + 60) == []


# --- Lists of batches


def made_at(tenant: str, created_at: float) -> Batch:
    return replace(make_batch((1,)), tenant=tenant, created_at=created_at)


async def listed(store: Store, tenant: str | None, since: Place, before: Place, limit: int = 100) -> list[str]:
    return [entry.place.batch_id for entry in await store.read_list(tenant, since, before, limit)]


EVER = Place(0), Place(10**14)


@on_all
async def test_list_has_the_batches_of_a_tenant_newest_first(store: Store) -> None:
    tenant = f"a/#{ULID()}"  # no name of a tenant leads to the list of another
    batches = [made_at(tenant, NOW + at) for at in (0.0, 0.5, 0.5, 0.999_6, 7.125)]
    batches.sort(key=Place.of)
    for batch in [*reversed(batches), made_at(tenant.partition("#")[0], NOW)]:
        await store.list_batch(batch, {})
        await store.list_batch(batch, {})  # repeated, because the first answer may have been lost
    ids = [batch.id for batch in reversed(batches)]
    assert await listed(store, tenant, *EVER) == ids
    assert await listed(store, tenant, *EVER, limit=2) == ids[:2]
    for position, batch in enumerate(reversed(batches)):
        assert await listed(store, tenant, Place(0), Place.of(batch)) == ids[position + 1 :]
        assert await listed(store, tenant, Place.of(batch), EVER[1]) == ids[: position + 1]
    from_the_half = Place(round(NOW * 1000) + 500)
    assert await listed(store, tenant, from_the_half, Place(round(NOW * 1000) + 1_000)) == ids[2:4]
    assert await listed(store, tenant, from_the_half, from_the_half) == []
    assert await listed(store, tenant, EVER[1], from_the_half) == []
    assert await listed(store, "nobody", *EVER) == []


@on_all
async def test_list_of_all_has_the_batches_of_every_tenant(store: Store) -> None:
    at = NOW + ULID().timestamp % 10_000 + 10**6  # where no other test has batches
    batches = [made_at(tenant, at + second) for second, tenant in enumerate(["default", "b", "default", "c"])]
    for batch in batches:
        await store.list_batch(batch, {})
    ids = [batch.id for batch in reversed(batches)]
    since, before = Place.of(batches[0]), Place(Place.of(batches[3]).created_ms + 1)
    assert await listed(store, None, since, before) == ids
    assert await listed(store, None, since, before, limit=3) == ids[:3]
    assert await listed(store, None, since, Place.of(batches[2])) == ids[2:]


@on_all
async def test_metadata_is_in_the_list_and_is_found_with_the_batch(store: Store) -> None:
    metadata = {"team": "growth", "empty": "", "\u00e4.#": "\u20ac" * 512}
    batch = replace(made_at(str(ULID()), NOW + 0.1239), has_metadata=True)
    await store.create_batch(batch)
    await store.list_batch(batch, metadata)
    stored = await read(store, batch)
    assert stored.has_metadata
    assert [await store.read_metadata(one) for one in (batch, stored)] == [metadata] * 2
    assert [entry.metadata for entry in await store.read_list(batch.tenant, *EVER, 1)] == [metadata]
    assert await store.read_metadata(make_batch((1,))) == {}


@on_all
async def test_batches_and_the_counters_of_all_their_groups_are_read_together(store: Store, batch: Batch) -> None:
    other = make_batch((64,) * 120)
    for one in (batch, other):
        await store.create_batch(one)
    await store.count_chunk(batch, counting("64", Counts(1)))
    await store.count_chunk(other, counting(str(64 * 119), Counts(0, 1)))
    assert await store.read_batches([other.id, make_batch((1,)).id, batch.id]) == {batch.id: batch, other.id: other}
    assert await store.read_batches([]) == {}
    assert await store.read_groups_of([batch, other]) == [
        {0: Group(), 1: Group(Counts(1))},
        {**{number: Group() for number in range(119)}, 119: Group(Counts(0, 1))},
    ]
    assert await store.read_groups_of([]) == []


@on_servers
async def test_entries_of_a_batch_expire_with_it(store: Store, servers: Servers) -> None:
    batch = made_at(str(ULID()), NOW)
    await store.list_batch(batch, {})
    for name in (f"tenant#{batch.tenant}", "batches"):
        found = await servers.clients.dynamodb.get_item(
            TableName=servers.table,
            Key={"pk": text(name), "sk": text(f"batch#{NOW * 1000:015.0f}#{batch.id}")},
            ConsistentRead=True,
        )
        assert found["Item"]["expires_at"] == {"N": str(int(batch.expires_at))}


# --- Webhooks


def make_event(state: str = "completed", at: float = NOW + 9) -> FinalEvent:
    return FinalEvent(event_id(at, secrets.token_hex(10)), state, at, (("succeeded", 70), ("failed", 0)))


def make_delivery(tenant: str, *, at: float = NOW - 100, endpoint_id: str = "we_1") -> EventDelivery:
    return EventDelivery(
        tenant=tenant,
        event_id=event_id(at, secrets.token_hex(10)),
        endpoint_id=endpoint_id,
        type="batch.completed",
        body=b'{"id":1}',
        created_at=at,
        expires_at=NOW + 86_400,
        batch_id="b1",
        due_at=at,
    )


def key_of(delivery: EventDelivery) -> DeliveryKey:
    return DeliveryKey(delivery.tenant, delivery.id)


def make_tenant() -> str:
    return f"tenant/{ULID()}#1"  # with characters that separate the parts of a key


async def due_webhooks(store: Store, now: float) -> list[str | DeliveryKey]:
    return [one async for _, one in store.due_webhooks(now)]


async def accepted_with_webhooks(store: Store, batch: Batch) -> Batch:
    return await accept(store, replace(batch, callback_url="https://example.com/hook?token=1", has_webhooks=True))


@on_all
async def test_batch_that_completes_anyway_is_stored_as_such(store: Store, batch: Batch) -> None:
    assert not (await accept(store, batch)).completes_anyway
    assert (await accept(store, replace(make_batch((1,)), completes_anyway=True))).completes_anyway


@on_all
async def test_who_wants_events_is_stored_with_the_batch(store: Store, batch: Batch) -> None:
    assert not (await accept(store, batch)).wants_events
    told = await accepted_with_webhooks(store, make_batch((1,)))
    assert (told.callback_url, told.has_webhooks, told.events) == ("https://example.com/hook?token=1", True, ())


@on_all
async def test_event_is_part_of_the_write_that_makes_the_batch_final(store: Store, batch: Batch) -> None:
    batch, event = await accepted_with_webhooks(store, batch), make_event()
    assert await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 5, event=event)  # that is due at NOW + 9
    assert not await store.finish_batch(batch.id, BatchState.COMPLETED, NOW + 5, event=make_event())
    final = await read(store, batch)
    assert (final.state, final.events) == (BatchState.COMPLETED, (event,))
    assert batch.id in await due_webhooks(store, NOW + 10)
    assert batch.id not in await due_webhooks(store, NOW + 8)
    assert batch.id not in [one async for one in store.due_batches(NOW + 1_000_000)]


@on_all
async def test_each_final_state_adds_an_event(store: Store, batch: Batch) -> None:
    batch, first, second = await accepted_with_webhooks(store, batch), make_event("failed"), make_event()
    await store.finish_batch(batch.id, BatchState.FAILED, NOW + 9, event=first)
    for _ in range(2):
        await store.revise_batch(batch.id, BatchState.FAILED, BatchState.COMPLETED, second)
    assert set((await read(store, batch)).events) == {first, second}
    assert not await store.clear_events(batch.id, [first])
    assert batch.id in await due_webhooks(store, NOW + 10)
    assert await store.clear_events(batch.id, [second, first])
    assert not await store.clear_events(batch.id, [second, first]), "as another consumer does at the same time"
    assert (await read(store, batch)).events == ()
    assert batch.id not in await due_webhooks(store, NOW + 10)


@on_all
async def test_batch_without_receivers_leaves_the_index_when_it_is_final(store: Store, batch: Batch) -> None:
    await accept(store, batch)
    await store.finish_batch(batch.id, BatchState.FAILED, NOW + 9)
    await store.revise_batch(batch.id, BatchState.FAILED, BatchState.COMPLETED)
    assert (await read(store, batch)).events == ()
    assert batch.id not in await due_webhooks(store, NOW + 1_000_000)


@on_all
async def test_endpoints_are_replaced_by_whoever_knows_them(store: Store) -> None:
    tenant = make_tenant()
    nothing = await store.read_endpoints(tenant)
    assert nothing == Endpoints(tenant)
    endpoint = Endpoint(
        "we_1", "https://example.com", NOW, frozenset({"batch.failed"}), "mine", 3, NOW, NOW, "gone", ((2, NOW),)
    )
    one = nothing.with_endpoint(endpoint)
    for _ in range(2):
        assert await store.write_endpoints(one, "first")
    assert await store.read_endpoints(tenant) == replace(one, revision="first")
    assert not await store.write_endpoints(nothing, "second")
    assert await store.write_endpoints(replace(one, revision="first").without("we_1"), "third")
    assert await store.read_endpoints(tenant) == Endpoints(tenant, (), "third")


@on_all
async def test_marks_stay(store: Store) -> None:
    for mark in ("abc", "def", "abc"):
        await store.add_webhook_mark(mark)
    assert await store.read_webhook_marks() >= {"abc", "def"}


@on_all
async def test_delivery_is_written_once(store: Store) -> None:
    delivery = replace(make_delivery(make_tenant()), url="https://example.com/a?b=c")
    await store.create_delivery(delivery)
    await store.create_delivery(replace(delivery, body=b"other"))
    assert await store.read_delivery(key_of(delivery)) == delivery
    assert key_of(delivery) in await due_webhooks(store, NOW)


@on_all
async def test_attempt_belongs_to_whoever_claims_it_until_its_lease_ends(store: Store) -> None:
    delivery = make_delivery(make_tenant())
    await store.create_delivery(delivery)
    claims = [store.claim_delivery(key_of(delivery), f"claim {number}", NOW, NOW + 60) for number in range(5)]
    claimed = [one for one in await asyncio.gather(*claims) if one is not None]
    assert [(one.attempt, one.due_at) for one in claimed] == [(1, NOW + 60)]
    assert await store.claim_delivery(key_of(delivery), str(claimed[0].claim), NOW, NOW + 60) == claimed[0]
    second = await store.claim_delivery(key_of(delivery), "later", NOW + 61, NOW + 120)
    assert second is not None
    assert second.attempt == 2
    assert not await store.settle_delivery(replace(claimed[0], state=DeliveryState.DELIVERED, due_at=None))
    assert await store.settle_delivery(second.after(Answer(503, text="busy"), NOW + 62, 0))
    waiting = await store.read_delivery(key_of(delivery))
    assert waiting is not None
    assert (waiting.state, waiting.due_at, waiting.status, waiting.response) == ("pending", NOW + 362, 503, "busy")
    assert await store.claim_delivery(key_of(delivery), "too early", NOW + 300, NOW + 360) is None


@on_all
async def test_delivery_that_has_ended_is_not_due_until_it_is_replayed(store: Store) -> None:
    delivery = make_delivery(make_tenant())
    await store.create_delivery(delivery)
    assert await store.replay_delivery(key_of(delivery), NOW, NOW) is None
    claimed = await store.claim_delivery(key_of(delivery), "first", NOW, NOW + 60)
    assert claimed is not None
    failed = claimed.given_up("The endpoint is disabled.")
    assert await store.settle_delivery(failed)
    assert await store.read_delivery(key_of(delivery)) == failed
    assert key_of(delivery) not in await due_webhooks(store, NOW + 1_000)
    for _ in range(2):
        replayed = await store.replay_delivery(key_of(delivery), NOW + 100, NOW + 500_000)
        assert replayed is not None
        assert (replayed.state, replayed.replayed_after, replayed.error) == ("pending", 1, None)
        assert replayed.expires_at == NOW + 500_000
    assert not await store.settle_delivery(failed)  # a repetition that arrives late
    assert key_of(delivery) in await due_webhooks(store, NOW + 1_000)
    assert await store.replay_delivery(DeliveryKey(make_tenant(), delivery.id), NOW, NOW) is None


@on_all
async def test_due_webhooks_are_read_from_a_time_on(store: Store) -> None:
    tenant = make_tenant()
    made = [make_delivery(tenant, at=NOW - 100 + number) for number in range(3)]
    for delivery in made:
        await store.create_delivery(delivery)
    found = [(at, one) async for at, one in store.due_webhooks(NOW, NOW - 99)]
    own = [(at, one) for at, one in found if isinstance(one, DeliveryKey) and one.tenant == tenant]
    assert own == [(delivery.due_at, key_of(delivery)) for delivery in made[1:]]
    assert [one async for one in store.due_webhooks(NOW - 200, NOW)] == []


@on_all
async def test_deliveries_of_a_tenant_are_listed_with_the_newest_first(store: Store) -> None:
    tenant = make_tenant()
    made = [make_delivery(tenant, at=NOW - 100 + number) for number in range(5)]
    for delivery in (*made, make_delivery(make_tenant())):
        await store.create_delivery(delivery)
    ids = [one.id for one in await store.list_deliveries(tenant, None, 100)]
    assert ids == [one.id for one in reversed(made)]
    assert [one.id for one in await store.list_deliveries(tenant, ids[1], 2)] == ids[2:4]


# --- Figures of handlers


@on_all
async def test_each_process_replaces_its_figures(store: Store) -> None:
    handlers = {"POST /a": HandlerFigures(succeeded=3, failed=2, retried=1)}
    for process, at in (("a", NOW - 1), ("b", NOW), ("a", NOW + 1), ("c", NOW - 100)):
        await store.write_figures(FigureReport(process, at, handlers))
    found = sorted(await store.read_figures(NOW), key=lambda report: report.process)
    assert [(report.process, report.at, report.handlers["POST /a"].count) for report in found] == [
        ("a", NOW + 1, 6),
        ("b", NOW, 6),
    ]


def an_export(batch: Batch) -> Export:
    return Export(
        batch_id=batch.id,
        tenant=batch.tenant,
        id="0" * 20,
        format="ndjson",
        status=None,
        compression="gzip",
        total=3,
        created_at=NOW,
        expires_at=batch.expires_at,
    )


async def test_an_export_is_read_as_it_was_written(store: Store, batch: Batch) -> None:
    export = an_export(batch)
    assert await store.read_export(batch.id, export.id) is None
    first = await store.write_export(export, None, "one")
    part = ExportPart("exports/a/part-00001.ndjson.gz", rows=3, bytes=10, sha256="f" * 64)

    assert first is not None
    second = await store.write_export(first.with_part(part, "0.2", NOW), first, "two")
    assert second is not None
    assert (second.rows, second.revision) == (3, "two")
    assert await store.read_export(batch.id, export.id) == second


async def test_an_export_is_written_only_by_who_has_seen_it_last(store: Store, batch: Batch) -> None:
    export = an_export(batch)
    first = await store.write_export(export, None, "one")
    assert first is not None
    assert await store.write_export(export, None, "other") is None
    second = await store.write_export(first.claimed(NOW), first, "two")

    assert second is not None
    assert await store.write_export(first.claimed(NOW), first, "three") is None
    assert await store.write_export(first.claimed(NOW), first, "two") == second  # the same call again
    assert await store.read_export(batch.id, export.id) == second
