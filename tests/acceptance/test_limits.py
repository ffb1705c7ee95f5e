"""A request that is too large is rejected before anything runs, and every message fits the queue."""

import random

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import Installation, on_any_aws, read_letter
from tests.acceptance.proxy import Call, proxy_to
from tests.support.api import Operation

MESSAGE_BYTES = 256 * 1024
NOTE: Operation = {"method": "POST", "path": "/notes"}


def texts(count: int, length: int, path: str = "/texts") -> list[Operation]:
    """Make operations with random texts, which compression does not make smaller."""
    letters = random.Random(0)
    return [
        {"method": "POST", "path": f"{path}/{number}", "body": {"text": letters.randbytes(length // 2).hex()}}
        for number in range(count)
    ]


def bytes_of(call: Call) -> int:
    return sum(len(entry["MessageBody"].encode()) for entry in call.body["Entries"])


async def test_everything_sent_fits_a_queue_that_takes_256_kib(install: Install) -> None:
    penstock = await install(MESSAGE_BYTES=str(MESSAGE_BYTES), SYNC_MAX_OPERATIONS="50")
    async with proxy_to(penstock.endpoint("SQS")) as proxy:
        await penstock.serve(AWS_ENDPOINT_URL_SQS=proxy.url)
        await penstock.consume(AWS_ENDPOINT_URL_SQS=proxy.url)

        kept = await penstock.api.submit(texts(100, 20_000))
        refused = await penstock.api.submit(texts(100, 20_000, "/refused-texts"))

        assert (await penstock.api.ended(kept)).succeeded == 100
        assert (await penstock.api.ended(refused)).failed == 100
        results = await penstock.api.results(kept)
        await penstock.until_queue_is_empty()

    letters = [read_letter(letter) for letter in penstock.take_dead_letters()]
    calls = proxy.made("SendMessageBatch")
    assert [outcome["result"] for outcome in results] == [{"name": str(n), "length": 20_000} for n in range(100)]
    assert sum(len(letter["failures"]) for letter in letters) == 100
    assert len(calls) > 3 * 100 * 20_000 / MESSAGE_BYTES
    assert max(bytes_of(call) for call in calls) <= MESSAGE_BYTES


@pytest.mark.asyncio(loop_scope="session")
async def test_results_of_a_chunk_larger_than_an_item_of_the_table_come_back_whole(running: Installation) -> None:
    operations = [{**operation, "path": "/echoes"} for operation in texts(101, 60_000)]

    batch_id = await running.api.submit(operations)
    status = await running.api.ended(batch_id)
    results = await running.api.results(batch_id)

    assert status.succeeded == 101
    assert [outcome["result"] for outcome in results] == [operation["body"]["text"] for operation in operations]


@pytest.mark.asyncio(loop_scope="session")
async def test_operation_too_large_for_a_message_is_refused_by_name(running: Installation) -> None:
    operations = [NOTE] * 100 + texts(1, 1_100_000)

    answer = await running.api.post(operations)

    assert answer.status == 413
    assert [error["pointer"] for error in answer.body["errors"]] == ["/operations/100"]
    assert running.messages_left() == 0


@on_any_aws
@pytest.mark.asyncio(loop_scope="session")
async def test_request_over_a_limit_is_refused_with_the_limit_and_nothing_runs(running: Installation) -> None:
    before = running.journal.entries()

    too_many = await running.api.post([NOTE] * 1_001)
    too_large = await running.api.post([NOTE, *texts(1, 11_000_000)])

    assert (too_many.status, too_many.body["maxOperations"]) == (413, 1_000)
    assert (too_large.status, too_large.body["maxBodyBytes"]) == (413, 10 * 1024 * 1024)
    assert running.journal.entries() == before


@pytest.mark.parametrize("others", [0, 100], ids=["small", "large"])
@on_any_aws
@pytest.mark.asyncio(loop_scope="session")
async def test_request_with_anything_wrong_is_told_everything_and_nothing_runs(
    running: Installation, others: int
) -> None:
    before = running.journal.entries()
    wrong = [NOTE, {"method": "POST", "path": "/sums", "body": {"a": "one"}}, {**NOTE, "path": "/nowhere"}]

    answer = await running.api.post([*wrong, *[NOTE] * others])

    assert answer.status == 422
    assert [error["pointer"] for error in answer.body["errors"]] == [
        "/operations/1/body/a",
        "/operations/1/body/b",
        "/operations/2/path",
    ]
    assert running.messages_left() == 0
    assert running.journal.entries() == before
