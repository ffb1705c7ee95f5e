"""Operations that finally failed go to the dead letter queue, as messages that can be run again."""

import pytest

from penstock.priority import Priority
from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws, read_letter
from tests.support.api import Operation

SUM: Operation = {"method": "POST", "path": "/sums", "body": {"a": 1, "b": 2}}
REFUSED: Operation = {"method": "POST", "path": "/refused"}
BROKEN: Operation = {"method": "POST", "path": "/broken"}
LUCKY: Operation = {"method": "POST", "path": "/second-time-lucky"}

OPERATIONS = [SUM, REFUSED, LUCKY, SUM, SUM, BROKEN, SUM, SUM, SUM, SUM] * 11


async def test_dead_letters_hold_the_failed_operations_and_their_errors(install: Install) -> None:
    penstock = await install(CHUNK_OPERATIONS="50")
    await penstock.serve()
    await penstock.consume()

    batch_id = await penstock.api.submit(OPERATIONS)
    status = await penstock.api.ended(batch_id)
    failed = await penstock.api.results(batch_id, "?status=failed")
    await penstock.until_queue_is_empty()
    letters = [read_letter(letter) for letter in penstock.take_dead_letters()]

    operations = {operation[1]: operation[2:4] for letter in letters for operation in letter["operations"]}
    errors = {index: (status, error) for letter in letters for index, status, error in letter["failures"]}
    assert (status.succeeded, status.failed) == (88, 22)
    assert {letter["batch"] for letter in letters} == {batch_id}
    tried_twice, rejected = ["0.0.1.2.d1", "1.0.1.52.d1", "2.0.1.102.d1"], ["0.d2", "1.d2", "2.d2"]
    assert sorted(letter["chunk"] for letter in letters) == sorted(tried_twice + rejected)
    assert sum(len(letter["operations"]) for letter in letters) == len(operations) == 22
    assert operations == {
        str(number): [operation["method"], operation["path"]]
        for number, operation in enumerate(OPERATIONS)
        if operation in (REFUSED, BROKEN)
    }
    assert errors == {int(outcome["id"]): (outcome["status"], outcome["error"]) for outcome in failed}


@on_any_aws
async def test_rejections_stay_out_of_the_dead_letter_queue_where_they_are_not_wanted(install: Install) -> None:
    penstock = await install(CHUNK_OPERATIONS="50", DEAD_LETTER_REJECTIONS="false")
    await penstock.serve()
    await penstock.consume()

    await penstock.api.ended(await penstock.api.submit(OPERATIONS))
    await penstock.until_queue_is_empty()
    letters = [read_letter(letter) for letter in penstock.take_dead_letters()]

    assert {operation[3] for letter in letters for operation in letter["operations"]} == {"/broken"}
    assert sum(len(letter["operations"]) for letter in letters) == 11


async def test_message_that_is_no_chunk_is_set_aside_and_stops_nothing(install: Install) -> None:
    penstock = await install()
    await penstock.serve()
    await penstock.consume()

    penstock.send("This is no chunk.")
    batch_id = await penstock.api.submit([SUM] * 101)

    assert (await penstock.api.ended(batch_id)).succeeded == 101
    await penstock.until_queue_is_empty()
    assert penstock.take_dead_letters() == ["This is no chunk."]


@pytest.mark.story("roles")
@on_any_aws
async def test_dead_letters_of_every_priority_are_shown_and_put_back_through_the_api(install: Install) -> None:
    """The operations are slow enough for heartbeats, so that the programs use these grants of their roles, too."""
    penstock = await install(VISIBILITY_SECONDS="2", SYNC_MAX_OPERATIONS="2", SYNC_SECONDS="0.5")
    await penstock.serve()
    await penstock.consume()
    slow: Operation = {"method": "POST", "path": "/pauses", "body": {"seconds": 1.2}}

    batch_ids = []
    for priority in Priority:
        answer = await penstock.api.post([slow, LUCKY, BROKEN], priority=priority)
        batch_ids.append(answer.body["batchId"])
    handed_over = (await penstock.api.post([slow, REFUSED])).body["batchId"]
    await penstock.api.ended(handed_over)
    before = [await penstock.api.ended(batch_id) for batch_id in batch_ids]
    await penstock.until_queue_is_empty()
    shown = await penstock.api.dead_letters()
    redriven = await penstock.api.redrive()
    await penstock.until_queue_is_empty()
    after = [await penstock.api.ended(batch_id) for batch_id in batch_ids]

    assert [(status.succeeded, status.failed) for status in before] == [(2, 1)] * 3
    assert {letter["batchId"] for letter in shown.body["deadLetters"]} == {*batch_ids, handed_over}
    assert (redriven.status, redriven.body) == (202, {"redrivenChunks": 4, "isComplete": True})
    assert after == before  # what is broken fails again
