"""`penstock consume --processes N`: several consumers under a parent that restarts the dead and stops them all."""

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws
from tests.support.api import Operation
from tests.support.processes import Process, children_of, is_running
from tests.support.waiting import eventually

NOTE: Operation = {"method": "POST", "path": "/notes"}
LINGER: Operation = {"method": "POST", "path": "/lingers", "body": {"seconds": 0.02}}


@pytest.mark.story("consume --processes")
@on_any_aws
async def test_killed_consumer_is_replaced_and_all_stop_together(install: Install) -> None:
    penstock = await install(VISIBILITY_SECONDS="2", CHUNK_OPERATIONS="20")
    await penstock.serve()
    parent = await penstock.programs.penstock("consume", "--processes", "2")
    consumers = await eventually(lambda: _children(parent.process.pid, 2))

    batch_id = await penstock.api.submit([NOTE, LINGER] * 200)
    await parent.says("chunk done")
    consumers[0].kill()
    status = await penstock.api.ended(batch_id)
    await parent.says("consumer died")
    replaced = await eventually(lambda: _children(parent.process.pid, 2))
    parent.terminate()

    assert (status.status, status.succeeded) == ("completed", 400)
    assert await parent.ended() == 0
    assert consumers[1] in replaced
    assert not any(map(is_running, replaced))


async def _children(pid: int, count: int) -> list[Process]:
    children = children_of(pid)
    return children if len(children) == count else []
