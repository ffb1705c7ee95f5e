"""A client that follows the events of a batch from one front end to the next."""

import asyncio

import aiohttp

from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws
from tests.support.api import Operation
from tests.support.event_source import EventStream, ServerEvent, headers_after

LINGER: Operation = {"method": "POST", "path": "/lingers", "body": {"seconds": 0.05}}


@on_any_aws
async def test_client_that_connects_again_gets_every_outcome_once(install: Install) -> None:
    penstock = await install(CHUNK_OPERATIONS="10", LEAVE_SECONDS="0", GRACE_SECONDS="30")
    first, consumer = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([LINGER] * 300)
    url = f"{penstock.api.url}/batch/{batch_id}/events?outcomes=1"
    got: list[ServerEvent] = []
    async with aiohttp.ClientSession() as session:
        async with EventStream(session.get(url, headers=headers_after(""))) as events:
            while len(outcomes_in(got)) < 15:
                got.append(await events.next())
            consumer.terminate()  # the batch must not finish before the front end has ended the stream
            assert await consumer.ended(units=15) == 0
            first.terminate()
            got += await events.rest()
        last_event_id = got[-1].last_event_id
        assert got[-1].kind != "end"
        assert await first.ended(units=15) == 0  # before its grace period is over

        await asyncio.gather(penstock.serve(), penstock.consume())
        async with EventStream(session.get(url, headers=headers_after(last_event_id)), last_event_id) as events:
            got += await events.rest()
        async with session.get(url, headers=headers_after(got[-1].last_event_id)) as answer:
            assert answer.status == 204

    assert outcomes_in(got) == [str(index) for index in range(300)]
    assert got[-1].kind == "end"
    assert (got[-1].body["status"], got[-1].body["succeeded"]) == ("completed", 300)


def outcomes_in(events: list[ServerEvent]) -> list[str]:
    return [event.body["id"] for event in events if event.kind == "outcome"]
