"""Dead letters can be shown without removing them, and moved back: all, or those of one batch. Each runs once more."""

import asyncio
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock.error_ids import see_log
from penstock.queue import Message
from penstock.running.verdict import error_id
from tests.support.faults import Moment, Outage
from tests.support.plant import Plant, Toys, build_plant
from tests.support.service import assert_problem


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
async def plant(aiohttp_client: AiohttpClient, toys: Toys) -> Plant:
    return await build_plant(aiohttp_client, toys.operations())


async def redrive(plant: Plant, batch_id: str | None = None) -> Any:
    document = {} if batch_id is None else {"batchId": batch_id}
    answer = await plant.ask("POST", "/dead-letters/redrive", json=document)
    assert answer.status == 202, answer.content
    return answer.body


async def letters(plant: Plant, query: str = "") -> Any:
    answer = await plant.service.get(f"/dead-letters{query}")
    assert answer.status == 200
    return answer.body


async def failed_batch(plant: Plant, *paths: str) -> str:
    batch_id = await plant.submit(*(paths or ["/break/a"]))
    await plant.work_off()
    return batch_id


async def test_no_letters(plant: Plant) -> None:
    assert await letters(plant) == {"approximateCount": 0, "deadLetters": []}
    assert await redrive(plant) == {"redrivenChunks": 0, "isComplete": True}


async def test_unknown_parameter_is_rejected(plant: Plant) -> None:
    problem = assert_problem(await plant.service.get("/dead-letters?batchId=x"), 400)
    assert problem["detail"] == "The parameter 'batchId' is unknown. Use limit."


@pytest.mark.parametrize("body", [None, b"", b"{}"])
async def test_batch_in_the_query_redrives_nothing(plant: Plant, body: bytes | None) -> None:
    batch_id = await failed_batch(plant)
    await failed_batch(plant)
    headers = {"Content-Type": "application/json"}
    answer = await plant.ask("POST", f"/dead-letters/redrive?batchId={batch_id}", data=body, headers=headers)
    assert "no query" in assert_problem(answer, 400)["detail"]
    await plant.work_off()
    assert (await letters(plant))["approximateCount"] == 2


async def test_letters_tell_what_failed_and_how(plant: Plant) -> None:
    batch_id = await failed_batch(plant, "/succeed/a", "/break/b", "/reject/c")
    broke, rejected = (await letters(plant))["deadLetters"]
    assert (broke["batchId"], broke["chunkId"]) == (batch_id, "0.d1")
    assert broke["operations"] == [
        {
            "id": "1",
            "method": "POST",
            "path": "/break/b",
            "body": None,
            "status": 500,
            "error": {"title": "Broke", "detail": f"The handler failed. {see_log(error_id(f'{batch_id}/1', 1))}"},
        }
    ]
    assert rejected["chunkId"] == "0.d2"
    assert rejected["operations"][0]["status"] == 409


async def test_looking_takes_nothing(plant: Plant) -> None:
    await failed_batch(plant)
    first = await letters(plant)
    assert (first["approximateCount"], len(first["deadLetters"])) == (1, 1)
    assert await letters(plant) == first


async def test_limit_is_how_many_are_shown(plant: Plant) -> None:
    for _ in range(12):
        await failed_batch(plant)
    assert len((await letters(plant))["deadLetters"]) == 10
    assert len((await letters(plant, "?limit=3"))["deadLetters"]) == 3
    assert len((await letters(plant, "?limit=10000"))["deadLetters"]) == 12
    assert (await letters(plant))["approximateCount"] == 12


async def test_redrive_runs_all_that_failed_once_more(plant: Plant, toys: Toys) -> None:
    batches = [await failed_batch(plant, "/break/a", "/succeed/b") for _ in range(15)]
    toys.is_mended = True
    assert await redrive(plant) == {"redrivenChunks": 15, "isComplete": True}
    assert await redrive(plant) == {"redrivenChunks": 0, "isComplete": True}
    await plant.work_off()
    for batch_id in batches:
        assert await plant.counts(batch_id) == ("completed", {"succeeded": 2})
        assert await plant.statuses(batch_id) == {"0": 200, "1": 201}
    assert toys.times == {"0": 30, "1": 15}


async def test_redrive_of_one_batch_leaves_the_others_where_they_are(plant: Plant, toys: Toys) -> None:
    batches = [await failed_batch(plant) for _ in range(25)]
    toys.is_mended = True
    assert await redrive(plant, batches[13]) == {"redrivenChunks": 1, "isComplete": True}
    await plant.work_off()
    states = [(await plant.counts(batch_id))[0] for batch_id in batches]
    assert states == ["completed" if number == 13 else "failed" for number in range(25)]
    assert (await letters(plant))["approximateCount"] == 24, "they can be seen again at once"


async def test_redrive_of_a_batch_without_letters_moves_none(plant: Plant) -> None:
    await failed_batch(plant)
    assert await redrive(plant, "another") == {"redrivenChunks": 0, "isComplete": True}
    assert (await letters(plant))["approximateCount"] == 1


async def test_what_fails_again_while_it_goes_on_is_not_moved_again(aiohttp_client: AiohttpClient, toys: Toys) -> None:
    """Otherwise, an operation that always fails would keep a redrive busy until its time is over."""
    plant: Plant
    back: list[asyncio.Task[None]] = []

    def fail_at_once(call: str, moment: Moment) -> None:
        if (call, moment) == ("dead_letters.delete", "after"):
            plant.clock.advance(0.001)
            back.append(asyncio.create_task(plant.parts.dead_letters.send([Message(letter)])))

    plant = await build_plant(aiohttp_client, toys.operations(), watch=fail_at_once)
    await failed_batch(plant)
    [letter] = [message.body for message in plant.parts.dead_letters.messages]
    assert await redrive(plant) == {"redrivenChunks": 1, "isComplete": True}
    assert len(back) == 1
    assert len(plant.parts.dead_letters.messages) == 1


async def test_what_fails_again_is_a_letter_again(plant: Plant, toys: Toys) -> None:
    batch_id = await failed_batch(plant)
    for times in (2, 3):
        assert (await redrive(plant))["redrivenChunks"] == 1
        await plant.work_off()
        assert await plant.counts(batch_id) == ("failed", {"failed": 1})
        assert toys.times == {"0": times}
    [letter] = (await letters(plant))["deadLetters"]
    assert letter["chunkId"] == "0.d1.d1.d1"


async def test_letter_that_is_no_chunk_of_ours_is_shown_and_stays(plant: Plant, toys: Toys) -> None:
    await plant.parts.dead_letters.send([Message("not ours"), Message('{"v": 99}', reason="of a newer version")])
    await failed_batch(plant)
    shown = (await letters(plant))["deadLetters"]
    assert ["unreadable" in letter for letter in shown] == [True, True, False]
    assert (await redrive(plant))["redrivenChunks"] == 1
    assert [message.body for message in plant.parts.dead_letters.messages] == ["not ours", '{"v": 99}']
    assert (await letters(plant))["approximateCount"] == 2


@pytest.mark.parametrize("call", ["chunks.send", "dead_letters.delete"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_redrive_that_breaks_off_loses_no_letter_and_runs_none_twice(
    aiohttp_client: AiohttpClient, toys: Toys, call: str, moment: Moment
) -> None:
    outage = Outage(call, moment, times=0)
    plant = await build_plant(aiohttp_client, toys.operations(), watch=outage)
    batch_id = await failed_batch(plant)
    toys.is_mended = True
    outage.times = 1
    assert_problem(await plant.ask("POST", "/dead-letters/redrive", json={}), 503)
    plant.clock.advance(plant.settings.visibility_seconds + 1)
    await redrive(plant)
    await plant.work_off()
    assert toys.times == {"0": 2}
    assert await plant.counts(batch_id) == ("completed", {"succeeded": 1})


@pytest.mark.parametrize("document", [{"batchId": 1}, {"batch": "a"}, [], "a"])
async def test_wrong_request_moves_nothing(plant: Plant, document: Any) -> None:
    await failed_batch(plant)
    assert_problem(await plant.ask("POST", "/dead-letters/redrive", json=document), 422)
    assert plant.parts.chunks.messages == []


async def test_letters_of_a_forgotten_batch_are_set_aside_again(plant: Plant, toys: Toys) -> None:
    batch_id = await failed_batch(plant)
    del plant.parts.store._batches[batch_id]
    await redrive(plant)
    await plant.work_off()
    assert toys.times == {"0": 1}
    [letter] = plant.parts.dead_letters.messages
    assert letter.reason is not None
