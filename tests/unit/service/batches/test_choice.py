"""A retry of chosen failures: it runs what a group of failures counts, and each failure runs again once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Context, Operations, Reject
from penstock.errors import Unavailable
from penstock.service.idempotency import ANSWER_LEASE_SECONDS
from penstock.telemetry import Event
from penstock.testing.http import Answer
from tests.support.faults import Moment
from tests.support.plant import Plant, Toys, build_plant
from tests.support.service import assert_problem
from tests.unit.service.conftest import Logs

BUSY, GONE, BROKE = (429, "Rejected"), (410, "Rejected"), (500, "Broke")
FIVE = ("busy", "gone", "broken", "busy", "busy")  # four of them are in one chunk


class Shop:
    """An application whose operations fail as their paths say, until `is_open`."""

    def __init__(self) -> None:
        self.toys = Toys()
        self.is_open = False
        self.statuses = {"busy": 429, "gone": 410}
        self.before_each: Callable[[str], Awaitable[None]] | None = None

    def operations(self) -> Operations[Any]:
        operations = self.toys.operations()

        @operations.post("/fail/{cause}", max_attempts=1)
        async def fail(cause: str, context: Context) -> str:
            self.toys.runs.append(context)
            if self.before_each is not None:
                await self.before_each(context.operation_id)
            if self.is_open:
                return cause
            if cause == "broken":
                raise RuntimeError("It is broken.")
            raise Reject(self.statuses[cause], "Not now.")

        return operations


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, shop: Shop) -> Plant:
    return await build_plant(aiohttp_client, shop.operations(), chunk_operations=4)


async def failed_batch(plant: Plant, *causes: str, **options: Any) -> str:
    batch_id = await plant.submit(*(f"/fail/{cause}" for cause in causes), **options)
    await plant.work_off()
    return batch_id


async def retry(plant: Plant, batch_id: str, key: str | None = None, **choice: Any) -> Answer:
    headers = {} if key is None else {"Idempotency-Key": f'"{key}"'}
    return await plant.ask("POST", f"/batch/{batch_id}/retry", json=choice, headers=headers)


async def groups(plant: Plant, batch_id: str) -> dict[tuple[int, str], int]:
    found = (await plant.ask("GET", f"/batch/{batch_id}/failures")).body["groups"]
    return {(group["status"], group["title"]): group["count"] for group in found}


async def ran_again(plant: Plant, shop: Shop) -> dict[str, int]:
    """Let everything succeed that runs again. Return how often each operation ran that ran more than once."""
    shop.is_open = True
    await plant.work_off()
    return {operation: times for operation, times in shop.toys.times.items() if times > 1}


async def test_what_fits_all_members_of_a_choice_runs_again(plant: Plant, shop: Shop) -> None:
    for choice, chosen in (
        ({}, "01234"),
        ({"status": [429]}, "034"),
        ({"status": [410, 429, 999]}, "0134"),
        ({"title": "Broke"}, "2"),
        ({"title": "Rejected"}, "0134"),
        ({"status": [429, 500], "title": "Rejected"}, "034"),
        ({"ids": ["1", "2", "1"]}, "12"),
        ({"ids": ["1", "2", "4"], "status": [410, 429]}, "14"),
    ):
        batch_id = await failed_batch(plant, *FIVE)
        answer = await retry(plant, batch_id, **choice)
        assert (answer.status, answer.body["retried"]) == (202, len(chosen))
        assert await ran_again(plant, shop) == dict.fromkeys(chosen, 2)
        succeeded = {"succeeded": len(chosen)} | ({"failed": 5 - len(chosen)} if len(chosen) < 5 else {})
        assert await plant.counts(batch_id) == ("completed", succeeded)
        shop.is_open = False
        shop.toys.runs.clear()


async def test_each_cause_is_retried_exactly_as_it_is_counted(plant: Plant, shop: Shop) -> None:
    batch_id = await failed_batch(plant, *FIVE * 3)
    counted = await groups(plant, batch_id)
    assert counted == {BUSY: 9, GONE: 3, BROKE: 3}
    shop.is_open = True
    for (status, title), count in counted.items():
        assert (await retry(plant, batch_id, status=[status], title=title)).body["retried"] == count
        await plant.work_off()
    assert set(shop.toys.times.values()) == {2}
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 15})
    assert (await retry(plant, batch_id)).body["retried"] == 0


async def test_what_fails_again_has_its_new_cause(plant: Plant, shop: Shop) -> None:
    batch_id = await failed_batch(plant, "busy", "gone")
    shop.statuses["busy"] = 410
    await retry(plant, batch_id, status=[429])
    await plant.work_off()
    assert await groups(plant, batch_id) == {GONE: 2}
    assert_problem(await retry(plant, batch_id, status=[429]), 409)
    assert (await retry(plant, batch_id, status=[410])).body["retried"] == 2
    assert await ran_again(plant, shop) == {"0": 3, "1": 2}


async def test_operations_of_a_chunk_can_be_retried_one_by_one(plant: Plant, shop: Shop) -> None:
    batch_id = await failed_batch(plant, *["busy"] * 4)
    shop.is_open = True
    for operation in ("2", "0", "3", "1"):
        assert (await retry(plant, batch_id, ids=[operation])).body["retried"] == 1
        await plant.work_off()
    assert set(shop.toys.times.values()) == {2}
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 4})


async def test_an_operation_that_two_retries_choose_runs_once(plant: Plant, shop: Shop) -> None:
    batch_id = await failed_batch(plant, *["busy"] * 4)
    await retry(plant, batch_id, ids=["0", "1"])
    await retry(plant, batch_id, ids=["1", "2"])
    shop.is_open = True
    await plant.work_off_one_by_one()
    assert await ran_again(plant, shop) == {"0": 2, "1": 2, "2": 2}
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 3, "failed": 1})
    assert (await retry(plant, batch_id)).body["retried"] == 1


async def test_different_operations_of_a_chunk_that_run_at_the_same_time_run_once(plant: Plant, shop: Shop) -> None:
    """The second one to finish finds the record of the first. What it has run counts all the same."""
    batch_id = await failed_batch(plant, *["busy"] * 4)
    all_run, running = asyncio.Event(), set[str]()

    async def wait_for_the_others(operation: str) -> None:
        running.add(operation)
        if running == {"0", "1", "2"}:
            all_run.set()
        await all_run.wait()

    shop.before_each = wait_for_the_others
    for operation in ("0", "1", "2"):
        await retry(plant, batch_id, ids=[operation])
    shop.is_open, consumer = True, plant.consumer()
    await consumer.turn()  # it receives one chunk
    await plant.work_off(consumer)  # and now both others
    assert await ran_again(plant, shop) == {"0": 2, "1": 2, "2": 2}
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 3, "failed": 1})
    assert await plant.statuses(batch_id) == {"0": 200, "1": 200, "2": 200, "3": 429}


async def test_a_redrive_runs_what_a_retry_has_not_chosen(plant: Plant, shop: Shop) -> None:
    batch_id = await failed_batch(plant, *["busy"] * 4)
    await retry(plant, batch_id, ids=["0", "2"])
    await plant.ask("POST", "/dead-letters/redrive", json={})
    shop.is_open = True
    await plant.work_off_one_by_one()
    assert await ran_again(plant, shop) == dict.fromkeys("0123", 2)
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 4})
    assert not plant.parts.dead_letters.messages


async def test_an_invalid_choice_says_what_is_right(plant: Plant) -> None:
    batch_id = await failed_batch(plant, *FIVE)
    for choice, pointer, words in (
        ({"status": 429}, "/status", "list"),
        ({"status": []}, "/status", "at least 1"),
        ({"status": ["429"]}, "/status/0", "integer"),
        ({"status": [4290]}, "/status/0", "less than or equal to 999"),
        ({"ids": [""]}, "/ids/0", "at least 1"),
        ({"ids": [7]}, "/ids/0", "string"),
        ({"title": None}, "/title", "string"),
        ({"state": "failed"}, "/state", "Extra inputs are not permitted"),
        ({"ids": ["0", "5"]}, "/ids/1", "The batch has no operation with the id '5'. Its ids are the numbers 0 to 4."),
        ({"ids": ["00"]}, "/ids/0", "no operation with the id '00'"),
        ({"ids": ["0"] * 6}, "/ids", "The batch has 5 operations, and these are 6 ids. Name each operation once."),
    ):
        [error] = assert_problem(await retry(plant, batch_id, **choice), 422)["errors"]
        assert error["pointer"] == pointer
        assert words in error["detail"], error
    assert not plant.messages


async def test_unknown_ids_are_named_and_counted(plant: Plant, shop: Shop) -> None:
    operations = [{"id": f"row {n}", "method": "POST", "path": "/fail/busy"} for n in range(30)]
    answer = await plant.service.post(operations, {"Prefer": "respond-async"})
    await plant.work_off()
    ids = ["row 29", *(f"line {n}" for n in range(20))]
    problem = assert_problem(await retry(plant, answer.body["batchId"], ids=ids), 422)
    assert "20 errors" in problem["detail"]
    assert [error["detail"] for error in problem["errors"]] == [
        f"The batch has no operation with the id 'line {n}'." for n in range(10)
    ]
    assert_problem(await retry(plant, answer.body["batchId"], "a key", ids=["row", "row 3"]), 422)
    assert (await retry(plant, answer.body["batchId"], "a key", ids=["row 29", "row 3"])).body["retried"] == 2
    assert await ran_again(plant, shop) == {"row 29": 2, "row 3": 2}


async def test_a_choice_that_fits_nothing_is_rejected(plant: Plant, logs: Logs) -> None:
    batch_id = await failed_batch(plant, "busy", "gone", "gone")
    answer = await retry(plant, batch_id, "a key", status=[429, 500], title="Broke", ids=["0"])
    assert assert_problem(answer, 409)["detail"] == (
        "No failure that can run again has the status 429 or 500 and the title 'Broke' and the id '0'. "
        f"GET /batch/{batch_id}/failures lists what has failed."
    )
    assert not [line for line in logs if line["event"] == Event.AUDIT]
    assert not plant.messages


async def test_a_choice_has_no_query_and_is_json(plant: Plant) -> None:
    batch_id = await failed_batch(plant, "busy")
    url = f"/batch/{batch_id}/retry"
    assert_problem(await plant.ask("POST", f"{url}?status=429"), 400)
    assert_problem(await plant.ask("POST", url, data=b'{"status": [429]'), 415)
    assert_problem(await plant.ask("POST", url, data=b"{", headers={"Content-Type": "application/json"}), 400)
    assert (await plant.ask("POST", url, data=b" { } ")).body["retried"] == 1


async def test_the_audit_says_what_was_chosen(plant: Plant, logs: Logs) -> None:
    batch_id = await failed_batch(plant, *FIVE)
    await retry(plant, batch_id, ids=["0", "1"], title="Rejected")
    [line] = [line for line in logs if line["event"] == Event.AUDIT]
    assert (line["operations"], line["choice"]) == (2, {"ids": 2, "title": "Rejected"})


async def test_a_repeated_request_with_the_same_key_gets_the_same_answer(plant: Plant, shop: Shop) -> None:
    batch_id = await failed_batch(plant, *FIVE)
    first = await retry(plant, batch_id, "a key", status=[429])
    await plant.work_off()  # they fail again
    again = await retry(plant, batch_id, "a key", status=[429])
    assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (202, first.body, "true")
    assert not plant.messages
    assert_problem(await retry(plant, batch_id, "a key", status=[410]), 422)
    assert_problem(await plant.ask("POST", "/batch", json={}, headers={"Idempotency-Key": '"a key"'}), 422)
    assert (await retry(plant, batch_id, "another key", status=[429])).body["retried"] == 3
    assert await ran_again(plant, shop) == dict.fromkeys("034", 3)


async def test_a_request_with_the_same_key_at_the_same_time_is_rejected(
    aiohttp_client: AiohttpClient, shop: Shop
) -> None:
    others: list[asyncio.Task[Answer]] = []

    def watch(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.claim_key", "after") and not others:
            others.append(asyncio.ensure_future(retry(plant, batch_id, "a key")))

    plant = await build_plant(aiohttp_client, shop.operations(), watch=watch)
    batch_id = await failed_batch(plant, "busy")
    first = await retry(plant, batch_id, "a key")
    answers = sorted([first.status, (await others[0]).status])
    assert answers in ([202, 202], [202, 409])  # the second one may come after the end of the first
    assert await ran_again(plant, shop) == {"0": 2}


async def test_a_request_that_failed_can_be_repeated_with_its_key(aiohttp_client: AiohttpClient, shop: Shop) -> None:
    fails = [True]

    def watch(call: str, moment: Moment) -> None:
        if (call, moment) == ("chunks.send", "before") and fails[0] and batch_id:
            raise Unavailable("AWS does not answer.")

    batch_id = ""
    plant = await build_plant(aiohttp_client, shop.operations(), watch=watch)
    batch_id = await failed_batch(plant, "busy")
    assert_problem(await retry(plant, batch_id, "a key"), 503)
    fails[0] = False
    assert (await retry(plant, batch_id, "a key")).body["retried"] == 1


async def test_a_key_of_a_front_end_that_died_is_taken_over(plant: Plant, shop: Shop) -> None:
    batch_id = await failed_batch(plant, "busy")
    store = plant.parts.store
    release = store.release_key
    store.release_key = store.settle_key = lambda *_: asyncio.sleep(0)  # type: ignore[assignment,method-assign]
    assert (await retry(plant, batch_id, "a key")).status == 202
    store.release_key = release  # type: ignore[method-assign]
    in_use = await retry(plant, batch_id, "a key")
    assert assert_problem(in_use, 409)["type"].endswith("key-in-use")
    plant.clock.advance(ANSWER_LEASE_SECONDS + 1)
    assert (await retry(plant, batch_id, "a key")).body["retried"] == 1
    shop.is_open = True
    await plant.work_off_one_by_one()
    assert shop.toys.times == {"0": 2}
