"""Programs that are asked to stop exit with 0, answer or hand over the work that they have, and lose nothing."""

import asyncio

import aiohttp
import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import Installation, on_any_aws
from tests.support.api import Operation
from tests.support.waiting import eventually

WAIT: Operation = {"method": "POST", "path": "/waits"}
NOTE: Operation = {"method": "POST", "path": "/notes"}
LINGER: Operation = {"method": "POST", "path": "/lingers", "body": {"seconds": 0.02}}

# Whoever must wait for a lease to run out fails his test.
LONG_LEASE = "600"


async def until_begun(penstock: Installation, count: int) -> None:
    async def has_begun() -> bool:
        return len(penstock.journal.entries("begun")) >= count

    await eventually(has_begun)


@pytest.mark.story("stopping loses nothing")
async def test_stopped_consumer_hands_on_what_it_has_not_finished(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS=LONG_LEASE, GRACE_SECONDS="0.3", CONCURRENCY="5", CHUNK_OPERATIONS="12")
    _, stopped = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([NOTE, WAIT] * 60)
    await until_begun(penstock, 5)

    stopped.terminate()
    exit_code = await stopped.ended()
    penstock.journal.open_gate()
    await penstock.consume()
    status = await penstock.api.ended(batch_id)

    assert exit_code == 0
    assert (status.status, status.succeeded) == ("completed", 120)
    assert set(penstock.journal.runs().values()) == {1}
    # What was cut short did not fail: its attempt is the first again.
    assert {outcome["result"]["attempt"] for outcome in await penstock.api.results(batch_id)} == {1}
    await penstock.until_queue_is_empty()
    assert penstock.take_dead_letters() == []


async def test_stopped_consumer_lets_running_handlers_finish_within_the_grace_period(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS=LONG_LEASE, CONCURRENCY="5", CHUNK_OPERATIONS="12")
    _, stopped = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([WAIT] * 120)
    await until_begun(penstock, 5)

    stopped.terminate()
    await stopped.says("consumer draining")
    penstock.journal.open_gate()
    exit_code = await stopped.ended()
    status = await penstock.api.status(batch_id)

    assert exit_code == 0
    assert len(penstock.journal.entries("begun")) == len(penstock.journal.entries("done")) == 5
    assert status.succeeded == 5


async def test_batch_goes_through_a_rollout_of_all_consumers_without_running_anything_twice(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS=LONG_LEASE, CHUNK_OPERATIONS="10")
    _, *consumers = await asyncio.gather(penstock.serve(), penstock.consume(), penstock.consume())
    # They would take 15 s, so that the batch outlives the rollout, even if programs start slowly.
    batch_id = await penstock.api.submit([{**LINGER, "body": {"seconds": 0.3}}] * 1_000)
    await penstock.api.completed(batch_id, 10)

    for old in consumers:
        await penstock.consume()
        old.terminate()
        assert await old.ended() == 0
    penstock.journal.open_gate()
    status = await penstock.api.ended(batch_id)

    assert (status.status, status.succeeded) == ("completed", 1_000)
    assert len(penstock.journal.pids()) > 2
    assert set(penstock.journal.runs().values()) == {1}
    assert len(await penstock.api.results(batch_id)) == 1_000
    await penstock.until_queue_is_empty()
    assert penstock.take_dead_letters() == []


@on_any_aws
async def test_second_signal_ends_a_consumer_at_once_and_loses_nothing(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS="2", CHUNK_OPERATIONS="12")
    _, stopped = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([WAIT] * 120)
    await until_begun(penstock, 5)

    stopped.terminate()
    await stopped.says("consumer draining")
    stopped.terminate()
    exit_code = await stopped.ended(units=5)
    penstock.journal.open_gate()
    await penstock.consume()

    assert exit_code == 1
    assert (await penstock.api.ended(batch_id)).succeeded == 120


async def test_idle_consumer_stops_soon(install: Install) -> None:
    penstock = await install()
    consumer = await penstock.consume()

    consumer.terminate()

    assert await consumer.ended(units=5) == 0


@on_any_aws
async def test_stopped_front_end_answers_the_requests_it_has(install: Install) -> None:
    penstock = await install(LEAVE_SECONDS="0")
    front_end = await penstock.serve()
    asked = asyncio.create_task(penstock.api.post([WAIT] * 3))
    await until_begun(penstock, 3)

    front_end.terminate()
    await eventually(lambda: refuses(penstock))
    penstock.journal.open_gate()
    answer = await asked

    assert (answer.status, answer.body["summary"]["succeeded"]) == (200, 3)
    assert await front_end.ended() == 0


async def refuses(penstock: Installation) -> bool:
    """Return True if the front end accepts no new connections."""
    try:
        await penstock.api.get("/health/live")
    except aiohttp.ClientConnectorError:
        return True
    return False
