"""A batch always ends: operations whose messages are lost expire at the deadline."""

import pytest

from tests.acceptance.conftest import Install
from tests.support.api import Operation, Status

NOTE: Operation = {"method": "POST", "path": "/notes"}


@pytest.mark.story("a batch always ends")
async def test_batch_whose_messages_are_lost_is_expired_at_its_deadline(install: Install) -> None:
    penstock = await install(SWEEP_SECONDS="0.5")
    await penstock.serve()
    batch_id = await penstock.api.submit([NOTE] * 120, deadlineSeconds=2)
    penstock.lose_messages()
    await penstock.consume()

    status = await penstock.api.ended(batch_id)
    results = await penstock.api.results(batch_id)

    assert status == Status("expired", 120, 120, 0, 0, 0, 120, 1.0)
    assert len(results) == 120
    assert penstock.journal.entries() == []
