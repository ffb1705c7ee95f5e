"""A client pauses, resumes and steers a batch while two consumers run it."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import Installation, on_any_aws
from tests.support.api import Operation, Status


def linger(seconds: float) -> Operation:
    return {"method": "POST", "path": "/lingers", "body": {"seconds": seconds}}


ACTS_AFTER_SECONDS = 2.5
WATCHED_SECONDS = 0.7
LARGE = 50_000


@pytest.mark.full
@on_any_aws
async def test_nothing_starts_while_a_batch_is_paused_and_all_run_once_after_it(install: Install) -> None:
    total = 1_500
    penstock = await install(CONCURRENCY="4", SYNC_MAX_OPERATIONS="0", GRACE_SECONDS="0")
    batch_id = await start(penstock, linger(0.02), total)  # at most 400 in a second run in the slots of both
    paused = await pause(penstock, batch_id)
    assert total // 20 <= len(paused) < total

    await penstock.api.steer(batch_id, paused=False, priority="high")
    await penstock.api.completed(batch_id, len(paused) + 1)
    check_end(penstock, await penstock.api.ended(batch_id, units=120), total)


@pytest.mark.full
@on_any_aws
async def test_batch_of_50_000_operations_is_steered_while_it_runs(install: Install) -> None:
    penstock = await install(CONCURRENCY="4", SYNC_MAX_OPERATIONS="0", GRACE_SECONDS="0")
    batch_id = await start(penstock, linger(0), LARGE)
    paused = await pause(penstock, batch_id)
    assert LARGE // 20 <= len(paused) < LARGE

    deadline = datetime.now(UTC) + timedelta(hours=1)
    await penstock.api.steer(
        batch_id, paused=False, priority="high", concurrency=6, maxFailures=10, deadlineAt=deadline.isoformat()
    )
    await penstock.api.completed(batch_id, len(paused) + LARGE // 10)
    await penstock.api.steer(batch_id, concurrency=None, maxFailures=None)
    check_end(penstock, await penstock.api.ended(batch_id, units=120), LARGE)


async def start(penstock: Installation, operation: Operation, total: int) -> str:
    """Start a batch with two consumers, and wait until a twentieth of it has finished."""
    await penstock.serve()
    await penstock.consume()
    await penstock.consume()
    batch_id = await penstock.api.stream(operation, total)
    await penstock.api.completed(batch_id, total // 20)
    return batch_id


async def pause(penstock: Installation, batch_id: str) -> Counter[str]:
    """Pause a batch. Return what has run, after checking that nothing more runs, and that the counts are exact."""
    await penstock.api.steer(batch_id, paused=True)
    await asyncio.sleep(ACTS_AFTER_SECONDS)
    paused = penstock.journal.runs()
    await asyncio.sleep(WATCHED_SECONDS)
    assert penstock.journal.runs() == paused
    status = await penstock.api.status(batch_id)
    assert (status.status, status.completed) == ("paused", len(paused))
    return paused


def check_end(penstock: Installation, ended: Status, total: int) -> None:
    assert (ended.status, ended.completed, ended.succeeded) == ("completed", total, total)
    runs = penstock.journal.runs()
    assert (len(runs), set(runs.values())) == (total, {1})
