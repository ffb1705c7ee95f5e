"""The contract of every store for batches that a consumer plans from an uploaded file."""

import time
from dataclasses import replace
from typing import Any

import pytest
from ulid import ULID

from penstock.aws.store import DynamoDbStore
from penstock.batch import Batch, BatchState, Counts, Ending, FailureLimit
from penstock.bucket import StoredFile
from penstock.errors import Flaw
from penstock.open_limit import OpenLimit
from penstock.planning import Errors, GroupPlan, PlannedFile, Planning
from penstock.quota import Account, Limit, Quota
from penstock.store import Store
from penstock.testing import MemoryStore
from penstock.webhooks.event import new_event
from tests.contract.conftest import Servers
from tests.support.builders import build_batch

pytestmark = pytest.mark.asyncio(loop_scope="module")
on_all = pytest.mark.parametrize("aws", ["memory", "embedded", "real"], indirect=True)

NOW = float(int(time.time()))


@pytest.fixture
def store(servers: Servers | None) -> Store:
    return MemoryStore() if servers is None else DynamoDbStore(servers.clients.dynamodb, servers.table)


def planned_batch(**changes: Any) -> Batch:
    validating = {"state": BatchState.VALIDATING, "accepted_at": None, "accept_by": NOW - 1, "planning": Planning(100)}
    return build_batch(**{"id": str(ULID()), "total": 0, "chunk_count": 0, **validating, **changes})


def plan_of(number: int, *sizes: int, **changes: Any) -> GroupPlan:
    end = {"byte": 10, "line": 3, "header": [["a"], 1, {";": 2}, ",", "utf-8", False]}
    return replace(GroupPlan(number, 7, sizes, end, is_last=False, handler_seconds=0.5), **changes)


async def taken(store: Store, batch: Batch, planner: str = "one", now: float = NOW) -> Batch:
    found = await store.take_planning(batch.id, planner, now, now + 60)
    assert found is not None
    return found


async def sent(store: Store, batch: Batch) -> Planning:
    """Note that both groups of a batch are valid and sent."""
    planning = (await taken(store, batch)).planning
    assert planning is not None
    planning = replace(planning, is_valid=True, groups=2, operations=5, sent_groups=2, sent_operations=5)
    assert await store.note_planning(batch.id, planning, NOW + 90)
    return planning


@on_all
async def test_the_file_of_a_batch_is_kept_as_it_was_written(store: Store) -> None:
    batch, account = planned_batch(), Account("default", "key")
    file = PlannedFile(
        StoredFile("uploads/default/x", 100, '"etag"'),
        {"kind": "csv"},
        "secret",
        (Limit("operations", account, Quota(5, 60)),),
        (OpenLimit("open", account, 9),),
    )

    await store.write_file(batch, file)

    found = await store.read_file(batch.id)
    assert found is not None
    assert (found.stored, found.form, found.hash_key) == (file.stored, file.form, file.hash_key)
    assert (list(found.limits), list(found.open_limits)) == (list(file.limits), list(file.open_limits))
    assert await store.read_file(str(ULID())) is None


@on_all
async def test_one_planner_has_the_lease_until_it_ends(store: Store) -> None:
    batch = planned_batch()
    await store.create_batch(batch)

    first, second = await taken(store, batch), await taken(store, batch, "two")
    later = await taken(store, batch, "two", NOW + 61)

    assert [one.planning and one.planning.planner for one in (first, second, later)] == ["one", "one", "two"]
    assert later.planning is not None
    assert (later.planning.takes, later.planning.lease_until) == (2, NOW + 121)
    assert await store.take_planning(str(ULID()), "one", NOW, NOW + 60) is None


@on_all
async def test_only_the_planner_with_the_lease_notes_its_progress(store: Store) -> None:
    batch = planned_batch()
    await store.create_batch(batch)
    planning = (await taken(store, batch)).planning
    assert planning is not None
    progress = replace(planning, read_bytes=40, operations=3, groups=1, lease_until=NOW + 99, takes=0)

    assert await store.note_planning(batch.id, progress, NOW + 99)
    assert not await store.note_planning(batch.id, replace(progress, planner="two", groups=9), NOW + 99)

    found = await store.read_batch(batch.id)
    assert found is not None
    assert found.planning == progress


@on_all
async def test_a_planner_that_leaves_lets_another_one_go_on(store: Store) -> None:
    batch = planned_batch()
    await store.create_batch(batch)
    await taken(store, batch)

    await store.leave_planning(batch.id, "two", NOW)
    assert (await taken(store, batch, "two")).planning.planner == "one"  # type: ignore[union-attr]
    await store.leave_planning(batch.id, "one", NOW, "It waits.")
    waiting, again = await store.read_batch(batch.id), await taken(store, batch, "two")

    assert waiting is not None
    assert again.planning is not None
    assert (waiting.reason, again.reason) == ("It waits.", None)
    assert (again.planning.planner, again.planning.takes) == ("two", 1)


@on_all
async def test_a_lease_is_extended_by_its_planner_only_and_a_late_note_takes_nothing_back(store: Store) -> None:
    batch = planned_batch()
    await store.create_batch(batch)
    planning = await sent(store, batch)

    assert await store.extend_planning(batch.id, "one", NOW + 200, NOW + 230)
    assert not await store.extend_planning(batch.id, "two", NOW + 300, NOW + 330)
    assert not await store.note_planning(batch.id, replace(planning, sent_groups=1), NOW + 90)

    found = await store.read_batch(batch.id)
    assert found is not None
    assert found.planning == replace(planning, lease_until=NOW + 200)


@on_all
async def test_the_plan_of_a_group_is_written_once(store: Store) -> None:
    batch = planned_batch()
    errors = Errors(2, is_complete=False, invalid_bytes=7, flaws=[(8, Flaw("/operations/8/body", "Wrong.", 4))])
    first, second = plan_of(0, 2, 1, errors=errors, digests="name", parts=(1, 2)), plan_of(0, 3)

    assert await store.write_plan(batch, first) == first
    assert await store.write_plan(batch, second) == first
    other = await store.write_plan(batch, plan_of(1, 4, is_last=True, has_own_ids=True))

    assert await store.read_plans(batch.id, range(3)) == {0: first, 1: other}
    assert await store.read_plans(batch.id, []) == {}


@on_all
async def test_a_batch_is_accepted_with_its_totals_when_all_groups_are_sent(store: Store) -> None:
    batch = planned_batch(max_failures=1)
    await store.create_batch(batch)
    whole = replace(batch, total=5, chunk_count=3, group_totals=(3, 2), has_own_ids=True, failure_limit=FailureLimit(1))

    assert not await store.accept_planned(whole, NOW)
    await sent(store, batch)
    assert not await store.accept_planned(replace(whole, group_totals=(3, 2, 1)), NOW)
    assert await store.accept_planned(whole, NOW)
    assert await store.accept_planned(whole, NOW)
    assert not await store.accept_planned(whole, NOW + 1)

    found = await store.read_batch(batch.id)
    assert found is not None
    assert (found.state, found.accepted_at, found.total, found.chunk_count) == (BatchState.QUEUED, NOW, 5, 3)
    assert (found.group_totals, found.has_own_ids, found.failure_limit) == ((3, 2), True, FailureLimit(1))
    assert not await store.end_planning(batch.id, BatchState.CANCELLED, NOW, "Late.", ending=Ending.CANCELLED)


@on_all
@pytest.mark.parametrize("callback_url", [None, "https://receiver.example"])
async def test_a_batch_that_has_ended_is_not_accepted(store: Store, callback_url: str | None) -> None:
    batch = planned_batch(callback_url=callback_url)
    await store.create_batch(batch)
    planning = await sent(store, batch)
    event = new_event(batch, BatchState.FAILED, Counts(), NOW)

    assert await store.end_planning(batch.id, BatchState.FAILED, NOW, "Two errors.", errors=2, event=event)
    assert await store.end_planning(batch.id, BatchState.FAILED, NOW, "Two errors.", errors=2, event=event)
    assert not await store.end_planning(batch.id, BatchState.EXPIRED, NOW, "Late.", ending=Ending.EXPIRED)
    assert not await store.accept_planned(replace(batch, total=5, chunk_count=2, group_totals=(3, 2)), NOW)
    assert not await store.note_planning(batch.id, planning, NOW + 90)
    ended = await taken(store, batch, "two", NOW + 100)

    assert (ended.state, ended.reason, ended.finished_at) == (BatchState.FAILED, "Two errors.", NOW)
    assert ended.was_never_accepted
    assert ended.planning is not None
    assert ended.planning.errors == 2
    assert ended.events == (() if event is None else (event,))


@on_all
async def test_errors_of_a_file_are_kept_and_cut_if_they_are_too_many(store: Store) -> None:
    batch = planned_batch()
    flaws = [(index, Flaw(f"/operations/{index}", f"{index:x}" * 400, index + 1)) for index in range(1_000)]

    assert await store.read_errors(batch.id) is None
    await store.write_errors(batch, Errors(5_000, flaws=flaws))

    found = await store.read_errors(batch.id)
    assert found is not None
    assert found.count == 5_000
    assert list(found.flaws) == flaws[: len(found.flaws)]
    assert found.flaws


@on_all
async def test_a_batch_that_is_validated_is_due_until_it_ends(store: Store) -> None:
    batch = planned_batch()
    await store.create_batch(batch)

    async def is_due(now: float) -> bool:
        return batch.id in [batch_id async for batch_id in store.due_batches(now)]

    assert await is_due(NOW)
    await store.postpone_planning(batch.id, NOW + 50)
    assert (await is_due(NOW + 49), await is_due(NOW + 51)) == (False, True)
    await taken(store, batch)
    assert (await is_due(NOW + 59), await is_due(NOW + 61)) == (False, True)
    await store.end_planning(batch.id, BatchState.CANCELLED, NOW, "Enough.", ending=Ending.CANCELLED)
    assert not await is_due(NOW + 1_000)
