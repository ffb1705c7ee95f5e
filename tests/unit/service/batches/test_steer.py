"""PATCH of a batch: a merge patch takes effect as a whole, or not at all."""

from dataclasses import replace
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.batch import LONGEST_PAUSE_SECONDS, BatchState
from penstock.service.schemas import time_text
from penstock.telemetry import Event
from penstock.testing.http import Answer
from tests.support.builders import NOW
from tests.support.plant import Plant, Toys, build_plant
from tests.support.rig import take_turn
from tests.support.service import assert_problem, pointers
from tests.unit.service.conftest import Logs

DAY = 86_400
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations(), chunk_operations=1, settle_seconds=60)


async def patch(plant: Plant, batch_id: str, changes: Any, **options: Any) -> Answer:
    return await plant.ask("PATCH", f"/batch/{batch_id}", json=changes, **options)


async def members(plant: Plant, batch_id: str, changes: Any) -> dict[str, Any]:
    """Change a batch, and return what its status then says about what can be changed."""
    answer = await patch(plant, batch_id, changes)
    assert answer.status == 200, answer.content
    names = ("status", "priority", "pausedAt", "concurrency", "maxFailures", "maxFailedPercent", "deadlineAt")
    return {name: answer.body[name] for name in names}


async def test_all_members_are_changed_together(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", "/succeed/b")
    changes = {
        "paused": True,
        "priority": "low",
        "concurrency": 20,
        "maxFailures": 3,
        "maxFailedPercent": 12.5,
        "deadlineAt": "2023-11-14T23:00:00+00:00",
    }
    assert await members(plant, batch_id, changes) == {
        "status": "paused",
        "priority": "low",
        "pausedAt": time_text(NOW),
        "concurrency": 20,
        "maxFailures": 3,
        "maxFailedPercent": 12.5,
        "deadlineAt": "2023-11-14T23:00:00.000Z",
    }


async def test_absent_member_changes_nothing_and_null_removes_a_limit(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", "/succeed/b", maxFailures=1, maxFailedPercent=50, priority="high")
    before = await members(plant, batch_id, {})
    assert await members(plant, batch_id, {"maxFailures": None}) == {**before, "maxFailures": None}
    assert (await plant.batch(batch_id)).failure_limit is not None  # the percentage still counts
    assert (await members(plant, batch_id, {"maxFailedPercent": None}))["maxFailedPercent"] is None
    assert (await plant.batch(batch_id)).failure_limit is None


async def test_type_of_a_patch_is_a_merge_patch(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a")
    answer = await plant.ask("PATCH", f"/batch/{batch_id}", data=b'{"priority": "high"}', headers=MERGE_PATCH)
    assert (answer.status, answer.body["priority"]) == (200, "high")
    answer = await plant.ask("PATCH", f"/batch/{batch_id}", data=b"priority=low")
    assert_problem(answer, 415)
    assert answer.headers["Accept-Patch"] == "application/merge-patch+json"


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"state": "completed"}, "/state"),
        ({"paused": None}, "/paused"),
        ({"paused": "yes"}, "/paused"),
        ({"priority": "urgent"}, "/priority"),
        ({"priority": None}, "/priority"),
        ({"maxFailures": -1}, "/maxFailures"),
        ({"concurrency": 0}, "/concurrency"),
        ({"concurrency": 2.5}, "/concurrency"),
        ({"maxFailedPercent": 101}, "/maxFailedPercent"),
        ({"deadlineAt": None}, "/deadlineAt"),
        ({"deadlineAt": "tomorrow"}, "/deadlineAt"),
        ({"deadlineAt": "2023-11-14T22:13:19Z"}, "/deadlineAt"),
        ({"deadlineAt": "2033-11-14T22:13:19Z"}, "/deadlineAt"),
        ({"deadlineAt": "9999-12-31T23:59:59.999999Z"}, "/deadlineAt"),
        ({"deadlineAt": "9999-12-31T23:59:59-23:59"}, "/deadlineAt"),  # in the year 10000
        ([], ""),
    ],
    ids=str,
)
async def test_invalid_member_keeps_everything_as_it_is(plant: Plant, changes: Any, at: str) -> None:
    batch_id = await plant.submit("/succeed/a")
    before = await plant.batch(batch_id)
    if isinstance(changes, dict) and "priority" not in changes:
        changes = {**changes, "priority": "high"}
    assert pointers(assert_problem(await patch(plant, batch_id, changes), 422)) == [at]
    assert await plant.batch(batch_id) == before


async def test_query_is_rejected(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a")
    assert_problem(await patch(plant, batch_id, {"paused": True}, params={"paused": "true"}), 400)


async def test_condition_that_no_batch_meets_changes_nothing(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", "/succeed/b")
    for tags in ('"1"', 'W/"1", "2"', "", '*, "1"'):
        answer = await patch(plant, batch_id, {"paused": True}, headers={**MERGE_PATCH, "If-Match": tags})
        assert assert_problem(answer, 412)["type"] == "urn:penstock:problem:no-such-version"
        assert (await members(plant, batch_id, {}))["status"] == "queued"
    answer = await patch(plant, batch_id, {"paused": 1}, headers={**MERGE_PATCH, "If-Match": '"1"'})
    assert_problem(answer, 422)
    answer = await patch(plant, batch_id, {"paused": True}, headers={**MERGE_PATCH, "If-Match": "*"})
    assert answer.body["status"] == "paused"


async def test_batch_that_is_over_cannot_be_changed(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a")
    await plant.work_off()
    problem = assert_problem(await patch(plant, batch_id, {"priority": "high"}), 409)
    assert problem["detail"] == "The batch is completed, so it cannot be changed any more."


async def test_batch_whose_end_is_not_written_yet_cannot_be_changed(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a")
    await plant.work_off()
    written = await plant.forget_end(batch_id)
    problem = assert_problem(await patch(plant, batch_id, {"priority": "high"}), 409)
    assert problem["detail"] == "The batch is completed, so it cannot be changed any more."
    assert await plant.batch(batch_id) == written


async def test_batch_that_is_cancelling_cannot_be_changed(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a")
    await patch(plant, batch_id, {"paused": True})
    await plant.ask("POST", f"/batch/{batch_id}/cancel")
    assert_problem(await patch(plant, batch_id, {"paused": False}), 409)
    assert (await plant.status(batch_id))["status"] == "cancelling"


async def test_batch_past_its_deadline_cannot_be_changed(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", deadlineSeconds=60)
    plant.clock.advance(61)
    problem = assert_problem(await patch(plant, batch_id, {"deadlineAt": "2023-11-14T23:00:00Z"}), 409)
    assert problem["detail"] == "The deadline of the batch is over, so it cannot be changed any more."


async def test_batch_of_nobody_is_unknown(plant: Plant) -> None:
    assert_problem(await patch(plant, "01ARZ3NDEKTSV4RRFFQ69G5FAA", {"paused": True}), 404)


async def test_pause_ends_after_seven_days_and_a_second_one_does_not_make_it_longer(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", deadlineSeconds=10 * DAY)
    first = (await patch(plant, batch_id, {"paused": True})).body
    plant.clock.advance(DAY)
    again = (await patch(plant, batch_id, {"paused": True})).body
    assert (again["status"], again["pausedAt"], again["eta"]) == ("paused", first["pausedAt"], None)
    assert again["pausedUntil"] == time_text(NOW + LONGEST_PAUSE_SECONDS)
    plant.clock.advance(6 * DAY)
    assert (await plant.status(batch_id))["status"] == "queued"
    assert (await members(plant, batch_id, {"paused": True}))["pausedAt"] == time_text(NOW + 7 * DAY)
    assert await members(plant, batch_id, {"paused": False}) | {"status": "queued", "pausedAt": None} == await members(
        plant, batch_id, {}
    )


async def test_deadline_can_be_moved_until_half_of_the_retention(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", deadlineSeconds=60)
    batch = await plant.batch(batch_id)
    retention = batch.expires_at - batch.deadline_at
    latest = batch.deadline_at + retention / 2
    problem = assert_problem(await patch(plant, batch_id, {"deadlineAt": time_text(latest + 1)}), 422)
    assert str(time_text(latest)) in problem["errors"][0]["detail"]
    assert (await members(plant, batch_id, {"deadlineAt": time_text(latest)}))["deadlineAt"] == time_text(latest)
    assert (await plant.batch(batch_id)).expires_at == batch.expires_at


async def test_lower_limit_ends_a_batch_in_which_more_has_failed(plant: Plant, logs: Logs) -> None:
    batch_id = await plant.submit("/break/a", "/second-time-right/b")
    await take_turn(plant.consumer())
    answer = await patch(plant, batch_id, {"maxFailures": 0})
    assert answer.body["status"] == "cancelling"
    await plant.work_off()
    assert await plant.counts(batch_id) == ("cancelled", {"failed": 1, "cancelled": 1})
    assert Event.BATCH_ENDED in [line["event"] for line in logs]


async def test_batch_that_other_requests_change_too_is_read_again(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id, store = await plant.submit("/succeed/a"), plant.parts.store
    steer, races = store.steer_batch, 1

    async def race(seen: Any, wanted: Any, at: float) -> bool:
        nonlocal races
        if races:
            races -= 1
            await steer(seen, replace(seen, max_failures=7), at)
        return await steer(seen, wanted, at)

    monkeypatch.setattr(store, "steer_batch", race)
    changed = await members(plant, batch_id, {"paused": True})
    assert (changed["status"], changed["maxFailures"]) == ("paused", 7)
    races = 100
    monkeypatch.setattr(store, "steer_batch", _never)
    assert_problem(await patch(plant, batch_id, {"paused": False}), 409)


async def _never(*_: Any) -> bool:
    return False


async def test_audit_says_what_was_changed(plant: Plant, logs: Logs) -> None:
    batch_id = await plant.submit("/succeed/a")
    await patch(plant, batch_id, {"paused": True, "deadlineAt": "2023-11-15T00:00:00+01:00", "maxFailures": None})
    [line] = [line for line in logs if line["event"] == Event.AUDIT]
    assert (line["action"], line["batch_id"]) == ("steer", batch_id)
    assert line["changes"] == {"paused": True, "deadlineAt": "2023-11-14T23:00:00.000Z", "maxFailures": None}


async def test_state_in_the_table_is_unchanged_by_a_pause(plant: Plant) -> None:
    """So an earlier version can read the batch, and a pause loses no transition of the state."""
    batch_id = await plant.submit("/succeed/a")
    await patch(plant, batch_id, {"paused": True})
    assert (await plant.batch(batch_id)).state is BatchState.QUEUED


async def test_pauses_do_not_count_as_time_for_which_the_batch_has_run(plant: Plant) -> None:
    batch_id = await plant.submit("/succeed/a", "/succeed/b")
    await plant.parts.store.start_batch(batch_id, NOW)
    for pause in (100, 200):
        plant.clock.advance(5)
        for paused in (True, True, False, False):
            await patch(plant, batch_id, {"paused": paused})
            plant.clock.advance(pause / 2 if paused else 0)
    batch = await plant.batch(batch_id)
    assert (batch.paused_seconds, batch.running_seconds(plant.clock.now())) == (300, 10)
