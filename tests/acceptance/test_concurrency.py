"""A process never runs more handlers at once than allowed, which protects the database behind them."""

import asyncio

from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws
from tests.support.api import Operation

LINGER: Operation = {"method": "POST", "path": "/lingers", "body": {"seconds": 0.02}}
LIMIT = 4


async def test_consumers_run_as_many_handlers_at_once_as_allowed(install: Install) -> None:
    # Chunks of three, so that a process needs several to fill its four slots, and could take too many.
    penstock = await install(CONCURRENCY=str(LIMIT), CHUNK_OPERATIONS="3")
    await asyncio.gather(penstock.serve(), penstock.consume(), penstock.consume())

    batch_id = await penstock.api.submit([LINGER] * 300)
    status = await penstock.api.ended(batch_id)

    assert status.succeeded == 300
    assert set(penstock.journal.runs().values()) == {1}
    assert [penstock.journal.most_at_once(pid) for pid in penstock.journal.pids()] == [LIMIT, LIMIT]


@on_any_aws
async def test_small_batches_share_the_slots_of_the_front_end(install: Install) -> None:
    penstock = await install(CONCURRENCY=str(LIMIT))
    front_end = await penstock.serve()

    answers = await asyncio.gather(*(penstock.api.post([LINGER] * 20) for _ in range(5)))

    assert [answer.body["summary"]["succeeded"] for answer in answers] == [20] * 5
    assert penstock.journal.pids() == {front_end.process.pid}
    assert penstock.journal.most_at_once(front_end.process.pid) == LIMIT
