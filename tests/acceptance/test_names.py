"""PENSTOCK_NAME separates installations that share an AWS account."""

import asyncio

from tests.acceptance.conftest import Install
from tests.support.api import Operation

NOTE: Operation = {"method": "POST", "path": "/notes"}


async def test_installations_on_one_aws_know_nothing_of_each_other(install: Install) -> None:
    one, other = await install(), await install()
    await asyncio.gather(one.serve(), other.serve(), one.consume())

    batch_of_one = await one.api.submit([NOTE] * 120)
    batch_of_other = await other.api.submit([NOTE] * 120)
    await one.api.ended(batch_of_one)
    await one.until_queue_is_empty()

    assert (await other.api.status(batch_of_other)).completed == 0
    assert (await one.api.get(f"/batch/{batch_of_other}/status")).status == 404
    assert (await other.api.get(f"/batch/{batch_of_one}/results")).status == 404

    await other.consume()

    assert (await other.api.ended(batch_of_other)).succeeded == 120
    assert set(one.journal.runs()) == {f"{batch_of_one}/{number}" for number in range(120)}
    assert set(other.journal.runs()) == {f"{batch_of_other}/{number}" for number in range(120)}
