"""Handlers of every kind in real programs. Threads and processes neither outlive a consumer nor keep it from ending."""

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import Installation, on_any_aws
from tests.support.api import Operation
from tests.support.waiting import eventually

LONG_LEASE = "600"
BURN: Operation = {"method": "POST", "path": "/burns"}
WAIT: Operation = {"method": "POST", "path": "/waits-in-a-thread"}
HANGS: Operation = {"method": "POST", "path": "/hangs-in-a-thread"}
IGNORES: Operation = {"method": "POST", "path": "/ignores-its-cancellation"}
HANGS_IN_TO_THREAD: Operation = {"method": "POST", "path": "/hangs-in-to-thread"}
TOO_LONG: Operation = {"method": "POST", "path": "/burns-for-too-long"}
KILLS: Operation = {"method": "POST", "path": "/kills-its-worker"}


def squares(count: int) -> list[Operation]:
    return [{"method": "POST", "path": "/squares", "body": number} for number in range(count)]


def rows(*numbers: int) -> list[Operation]:
    return [{"method": "POST", "path": f"/rows/row-{number}", "body": number} for number in numbers]


async def until_begun(penstock: Installation, count: int) -> None:
    async def has_begun() -> bool:
        return len(penstock.journal.entries("begun")) >= count

    await eventually(has_begun)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_gone(pids: set[int]) -> None:
    await eventually(lambda: asyncio.sleep(0, not any(map(is_running, pids))))


@on_any_aws
async def test_every_kind_has_its_outcomes(install: Install) -> None:
    penstock = await install(CPU_PROCESSES="1", SYNC_MAX_OPERATIONS="0")
    await asyncio.gather(penstock.serve(), penstock.consume())
    operations = [*squares(3), TOO_LONG, KILLS, *rows(1, 2, -1, 4, 0)]

    batch_id = await penstock.api.submit(operations)
    status = await penstock.api.ended(batch_id)

    outcomes = await penstock.api.results(batch_id)
    assert [outcome["status"] for outcome in outcomes] == [200, 200, 200, 504, 500, 200, 200, 422, 200, 500]
    assert outcomes[4]["error"] == {"title": "Broke", "detail": "Its process ended: SIGKILL"}
    assert (status.succeeded, status.failed) == (6, 4)


@on_any_aws
async def test_stopped_consumer_kills_its_processes_leaves_its_threads_and_hands_all_on(install: Install) -> None:
    penstock = await install(
        VISIBILITY_SECONDS=LONG_LEASE, GRACE_SECONDS="0.2", CPU_PROCESSES="1", SYNC_MAX_OPERATIONS="0"
    )
    _, stopped = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([BURN, WAIT])
    await until_begun(penstock, 2)

    stopped.terminate()
    exit_code = await stopped.ended()
    await until_gone(penstock.journal.pids())
    penstock.journal.open_gate()
    await penstock.consume()
    status = await penstock.api.ended(batch_id)

    assert exit_code == 0
    assert (status.status, status.succeeded) == ("completed", 2)
    assert {outcome["result"]["attempt"] for outcome in await penstock.api.results(batch_id)} == {1}


@on_any_aws
@pytest.mark.parametrize(("operation", "kind"), [(HANGS, "def"), (IGNORES, "async def")], ids=["hangs", "ignores"])
async def test_front_end_whose_handlers_do_not_return_leaves_its_balancer_and_ends(
    install: Install, operation: Operation, kind: str
) -> None:
    penstock = await install(CONCURRENCY="1", STALL_SECONDS="2", LEAVE_SECONDS="2", GRACE_SECONDS="0.2")
    stuck = await penstock.serve()
    answer = await penstock.api.post([operation])
    assert [result["status"] for result in answer.body["results"]] == [504]

    await until_unready(penstock)
    assert await stuck.ended() == 1
    assert f"penstock serve: 1 `{kind}` handler has not returned" in stuck.output()


@on_any_aws
async def test_consumer_with_handlers_that_never_end_stops_when_asked(install: Install) -> None:
    penstock = await install(CONCURRENCY="4", GRACE_SECONDS="0.2", SYNC_MAX_OPERATIONS="0")
    _, stopped = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([IGNORES, HANGS_IN_TO_THREAD])
    assert (await penstock.api.ended(batch_id)).failed == 2

    stopped.terminate()
    assert await stopped.ended() == 0


@on_any_aws
async def test_consumer_whose_handlers_ignore_their_cancellation_ends(install: Install) -> None:
    penstock = await install(CONCURRENCY="1", STALL_SECONDS="2", GRACE_SECONDS="0.2", SYNC_MAX_OPERATIONS="0")
    _, stuck = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([IGNORES, *squares(3)])
    assert await stuck.ended() == 1
    assert "1 `async def` handler has not returned" in stuck.output()

    await penstock.consume()
    status = await penstock.api.ended(batch_id)
    assert (status.succeeded, status.failed) == (3, 1)


async def until_unready(penstock: Installation) -> None:
    async def is_unready() -> bool:
        return (await penstock.api.get("/health/ready")).status == 503

    await eventually(is_unready)


@on_any_aws
async def test_killed_consumer_leaves_no_process_behind(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS="2", CPU_PROCESSES="2", SYNC_MAX_OPERATIONS="0")
    _, killed = await asyncio.gather(penstock.serve(), penstock.consume())
    batch_id = await penstock.api.submit([BURN, BURN])
    await until_begun(penstock, 2)

    killed.kill()
    await until_gone(penstock.journal.pids())
    penstock.journal.open_gate()
    await penstock.consume()

    assert (await penstock.api.ended(batch_id)).succeeded == 2
