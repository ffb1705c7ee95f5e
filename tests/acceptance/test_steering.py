"""A client pauses and resumes a batch of 1,500 operations while two consumers run it."""

import asyncio

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws
from tests.support.api import Operation

LINGER: Operation = {
    "method": "POST",
    "path": "/lingers",
    "body": {"seconds": 0.02},
}  # at most 400 in a second run in the slots of both
TOTAL = 1_500
ACTS_AFTER_SECONDS = 2.5
WATCHED_SECONDS = 0.7


@pytest.mark.full
@on_any_aws
async def test_nothing_starts_while_a_batch_is_paused_and_all_run_once_after_it(install: Install) -> None:
    penstock = await install(CONCURRENCY="4", SYNC_MAX_OPERATIONS="0", GRACE_SECONDS="0")
    await penstock.serve()
    await penstock.consume()
    await penstock.consume()
    batch_id = await penstock.api.stream(LINGER, TOTAL)
    await penstock.api.completed(batch_id, TOTAL // 20)

    await penstock.api.steer(batch_id, paused=True)
    await asyncio.sleep(ACTS_AFTER_SECONDS)
    paused = penstock.journal.runs()
    await asyncio.sleep(WATCHED_SECONDS)
    assert penstock.journal.runs() == paused
    assert TOTAL // 20 <= len(paused) < TOTAL
    status = await penstock.api.status(batch_id)
    assert (status.status, status.completed) == ("paused", len(paused))

    await penstock.api.steer(batch_id, paused=False, priority="high")
    await penstock.api.completed(batch_id, len(paused) + 1)
    ended = await penstock.api.ended(batch_id, units=120)

    assert (ended.status, ended.completed) == ("completed", TOTAL)
    assert set(penstock.journal.runs().values()) == {1}
    assert len(penstock.journal.runs()) == TOTAL
