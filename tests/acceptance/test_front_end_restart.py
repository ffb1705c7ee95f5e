"""Front ends that die: an accepted batch continues without them, and a batch that was not accepted never runs."""

import asyncio
import json
import re

import aiohttp
import pytest

from penstock.process.watchdog import EXIT_CODE
from tests.acceptance.conftest import Install
from tests.acceptance.proxy import Call, proxy_to
from tests.support.api import Operation
from tests.support.waiting import UNIT_SECONDS

LINGER: Operation = {"method": "POST", "path": "/lingers", "body": {"seconds": 0.02}}
ULID = r"[0-9A-HJKMNP-TV-Z]{26}"
NOTE: Operation = {"method": "POST", "path": "/notes"}


async def test_accepted_batch_goes_on_without_its_front_end_and_another_one_tells_of_it(install: Install) -> None:
    penstock = await install(CHUNK_OPERATIONS="10")
    doomed, _ = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([LINGER] * 500)
    before = await penstock.api.completed(batch_id, 20)

    doomed.kill()
    await doomed.ended()
    await penstock.until_queue_is_empty()
    await penstock.serve()
    after = await penstock.api.status(batch_id)

    assert not before.is_final
    assert (after.status, after.succeeded) == ("completed", 500)
    results = await penstock.api.results(batch_id)
    assert [outcome["id"] for outcome in results] == [str(number) for number in range(500)]
    assert set(penstock.journal.runs().values()) == {1}


@pytest.mark.parametrize(
    ("service", "action", "let_through"),
    [
        pytest.param("SQS", "SendMessageBatch", 0, id="before sending"),
        pytest.param("SQS", "SendMessageBatch", 3, id="while sending", marks=pytest.mark.story("acceptance is atomic")),
        pytest.param("DYNAMODB", "UpdateItem", 0, id="before marking it accepted"),
    ],
)
async def test_nothing_runs_of_a_batch_whose_front_end_died_while_accepting_it(
    install: Install, service: str, action: str, let_through: int
) -> None:
    penstock = await install(ACCEPT_SECONDS="1", CHUNK_OPERATIONS="1")
    async with proxy_to(penstock.endpoint(service)) as proxy:
        proxy.hold_back(action, after=let_through)
        doomed, _ = await asyncio.gather(
            penstock.serve(**{f"AWS_ENDPOINT_URL_{service}": proxy.url}), penstock.consume()
        )
        asked = asyncio.create_task(penstock.api.post([NOTE] * 120))
        await asyncio.wait_for(proxy.held_back.wait(), 20 * UNIT_SECONDS)
        doomed.kill()
        with pytest.raises(aiohttp.ClientError):
            await asked

    await penstock.until_queue_is_empty()
    await penstock.serve()
    answer = await penstock.api.get(f"/batch/{batch_id_in(proxy.made(action)[0])}/status")
    assert answer.status == 404
    assert penstock.journal.entries() == []


async def test_batch_accepted_too_late_runs_as_a_whole_or_not_at_all(install: Install) -> None:
    """The write that accepts the batch takes longer than the acceptance lease, so consumers abandon the batch."""
    penstock = await install(ACCEPT_SECONDS="1", CHUNK_OPERATIONS="1")
    async with proxy_to(penstock.endpoint("DYNAMODB")) as proxy:
        proxy.hold_back("UpdateItem")
        await asyncio.gather(penstock.serve(AWS_ENDPOINT_URL_DYNAMODB=proxy.url), penstock.consume())
        asked = asyncio.create_task(penstock.api.post([NOTE] * 120))
        await asyncio.wait_for(proxy.held_back.wait(), 20 * UNIT_SECONDS)
        await penstock.until_queue_is_empty()
        proxy.let_go.set()
        answer = await asked

        if answer.status == 202:
            await penstock.api.ended(answer.body["batchId"], units=5)
        else:
            assert answer.status == 503
            assert penstock.journal.entries() == []


def batch_id_in(call: Call) -> str:
    found = re.search(ULID, json.dumps(call.body))
    assert found is not None
    return found[0]


@pytest.mark.full
async def test_front_end_whose_loop_is_blocked_ends_and_says_where(install: Install) -> None:
    penstock = await install(STALL_SECONDS="2")
    blocked = await penstock.serve()
    with pytest.raises(aiohttp.ClientError):
        await penstock.api.post([{"method": "POST", "path": "/blocks-the-loop"}])
    assert await blocked.ended() == EXIT_CODE
    assert "loop blocked" in blocked.output()
    assert "in block_the_loop" in blocked.output()
