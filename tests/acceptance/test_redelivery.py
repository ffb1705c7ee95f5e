"""Consumers that die: others finish their work, every operation has one outcome, and poison hurts no neighbour."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import Installation, read_letter
from tests.support.api import Operation
from tests.support.full import full
from tests.support.lossy_proxy import lossy_proxy
from tests.support.waiting import eventually

WAIT: Operation = {"method": "POST", "path": "/waits"}
POISON: Operation = {"method": "POST", "path": "/poison"}
POISON_AT_EVERY_ATTEMPT: Operation = {"method": "POST", "path": "/poison-at-every-attempt"}
SHORT_LEASE = "2"


def lingers(count: int, seconds: float) -> list[Operation]:
    return [{"method": "POST", "path": "/lingers", "body": {"seconds": seconds}}] * count


@asynccontextmanager
async def consumers_restarted_when_they_die(penstock: Installation, count: int) -> AsyncIterator[None]:
    """Start consumers again when they die, as a service manager does."""

    async def keep_one_running() -> None:
        while True:
            consumer = await penstock.consume()
            await consumer.process.wait()

    keeping = [asyncio.create_task(keep_one_running()) for _ in range(count)]
    try:
        yield
    finally:
        for task in keeping:
            task.cancel()
        ends = await asyncio.gather(*keeping, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends


async def test_errors_of_receives_end_no_consumer_and_fail_no_operation(install: Install) -> None:
    """Each tenth receive fails with a code that no list has. With one attempt, a single death would be the verdict."""
    penstock = await install(
        VISIBILITY_SECONDS=SHORT_LEASE, CHUNK_OPERATIONS="2", CONCURRENCY="2", SYNC_MAX_OPERATIONS="0"
    )
    async with lossy_proxy(penstock.endpoint("SQS")) as proxy:
        proxy.fail_each(10, "ReceiveMessage", "KMS.ThrottlingException")
        _, consumer = await asyncio.gather(penstock.serve(), penstock.consume(AWS_ENDPOINT_URL_SQS=proxy.url))
        once: Operation = {"method": "POST", "path": "/pauses-once", "body": {"seconds": 0.1}}
        batch_ids = [await penstock.api.submit([once] * 30) for _ in range(4)]
        ended = [await penstock.api.ended(batch_id) for batch_id in batch_ids]

        assert [(status.status, status.succeeded) for status in ended] == [("completed", 30)] * 4
        assert proxy.failed["ReceiveMessage"] >= 3
        assert consumer.process.returncode is None
        consumer.terminate()
        assert await consumer.ended() == 0


async def test_another_consumer_finishes_what_a_killed_one_had_begun(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS=SHORT_LEASE, CHUNK_OPERATIONS="30")
    _, doomed = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([*lingers(60, 0.01), *[WAIT] * 60])

    await penstock.api.completed(batch_id, 30)
    await eventually(lambda: begun(penstock, batch_id, first=60))
    doomed.kill()
    penstock.journal.open_gate()
    await penstock.consume()
    status = await penstock.api.ended(batch_id)

    assert (status.status, status.succeeded, status.failed) == ("completed", 120, 0)
    results = await penstock.api.results(batch_id)
    assert [outcome["id"] for outcome in results] == [str(number) for number in range(120)]
    await penstock.until_queue_is_empty()
    assert penstock.take_dead_letters() == []


async def begun(penstock: Installation, batch_id: str, first: int) -> bool:
    """Return True if an operation of the batch with this or a higher number has started."""
    keys = {f"{batch_id}/{number}" for number in range(first, 1_000)}
    return any(entry.key in keys for entry in penstock.journal.entries("begun"))


@pytest.mark.story("exactly one recorded outcome", "never again once recorded")
@pytest.mark.parametrize("kills", [(40, 120), *full([((40, 120, 200),)])], ids=len)
async def test_batch_survives_consumers_that_are_killed_over_and_over(install: Install, kills: tuple[int, ...]) -> None:
    """`kills` are how many operations have completed when a consumer is killed."""
    penstock = await install(VISIBILITY_SECONDS=SHORT_LEASE, CHUNK_OPERATIONS="20")
    await penstock.serve()
    batch_id = await penstock.api.submit(lingers(400, 0.02))

    for completed in kills:
        doomed = await penstock.consume()
        await penstock.api.completed(batch_id, completed)
        doomed.kill()
        await doomed.ended()
    had_outcome = [f"{batch_id}/{outcome['id']}" for outcome in await penstock.api.results(batch_id)]
    runs_before = penstock.journal.runs()
    await penstock.consume()
    status = await penstock.api.ended(batch_id)

    runs = penstock.journal.runs()
    assert (status.status, status.succeeded) == ("completed", 400)
    assert len(await penstock.api.results(batch_id)) == 400
    # A handler may run twice, but never once its outcome is recorded.
    assert {key: runs[key] for key in had_outcome} == {key: runs_before[key] for key in had_outcome}


async def test_handlers_longer_than_the_lease_run_once(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS=SHORT_LEASE, SYNC_MAX_OPERATIONS="0", CHUNK_OPERATIONS="2")
    await asyncio.gather(penstock.serve(), penstock.consume(), penstock.consume())

    batch_id = await penstock.api.submit(lingers(8, 5.0))
    status = await penstock.api.ended(batch_id)

    assert status.succeeded == 8
    assert set(penstock.journal.runs().values()) == {1}
    assert {outcome["result"]["attempt"] for outcome in await penstock.api.results(batch_id)} == {1}


@pytest.mark.story("poison hurts no neighbour")
@pytest.mark.parametrize("chunk_operations", [2, *full([4])])
async def test_poison_operation_fails_and_hurts_no_neighbour(install: Install, chunk_operations: int) -> None:
    """The chunk is divided until the poison is alone. Each time costs a lease and the start of a consumer."""
    penstock = await install(
        VISIBILITY_SECONDS=SHORT_LEASE, SYNC_MAX_OPERATIONS="0", CHUNK_OPERATIONS=str(chunk_operations)
    )
    await penstock.serve()
    operations = lingers(16, 0.01)
    operations[5] = POISON

    async with consumers_restarted_when_they_die(penstock, 1):
        batch_id = await penstock.api.submit(operations)
        status = await penstock.api.ended(batch_id, units=60)
        await penstock.until_queue_is_empty()

    assert (status.status, status.succeeded, status.failed) == ("completed", 15, 1)
    await check_that_poison_alone_failed(penstock, batch_id, 5)


async def test_poison_operation_hurts_no_neighbour_that_is_under_way_whenever_it_kills(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS=SHORT_LEASE, SYNC_MAX_OPERATIONS="0", CHUNK_OPERATIONS="2")
    await penstock.serve()

    async with consumers_restarted_when_they_die(penstock, 1):
        batch_id = await penstock.api.submit([*lingers(1, 1.0), POISON_AT_EVERY_ATTEMPT])
        status = await penstock.api.ended(batch_id, units=60)

    assert (status.succeeded, status.failed) == (1, 1), await penstock.api.results(batch_id)
    await check_that_poison_alone_failed(penstock, batch_id, 1)


async def check_that_poison_alone_failed(penstock: Installation, batch_id: str, index: int) -> None:
    failed = await penstock.api.results(batch_id, "?status=failed")
    letters = [read_letter(letter) for letter in penstock.take_dead_letters()]
    assert [(outcome["id"], outcome["status"], outcome["error"]["title"]) for outcome in failed] == [
        (str(index), 500, "Poison")
    ]
    # A dead letter may be there twice: consumers died while they were sending it. Its id is the same.
    assert len({letter["chunk"] for letter in letters}) == 1
    assert {operation[0] for letter in letters for operation in letter["operations"]} == {index}
