"""One tenant has many operations and another has few, on a queue without fairness.

ElasticMQ gives messages in the order in which they came; AWS's fair queues would give the small tenant's sooner. What
needs no queue, and what is more urgent, does not wait on either.
"""

import time

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.test_priority import PAUSE, completed, measured_installation, seconds_taken

BIG, SMALL = {"X-Tenant": "big"}, {"X-Tenant": "small"}
MANY, FEW = 8_000, 100


@pytest.mark.parametrize("aws", ["real"], indirect=True)
async def test_what_a_small_tenant_waits_for_behind_a_big_one(install: Install) -> None:
    penstock = await measured_installation(install, TENANT_HEADER="X-Tenant")
    big, small = penstock.api.of(BIG), penstock.api.of(SMALL)
    alone = await seconds_taken(small, await small.stream(PAUSE, FEW))
    many = await big.stream(PAUSE, MANY)
    await big.completed(many, 200)

    began = time.monotonic()
    answer = await small.post([PAUSE] * FEW)
    at_once = time.monotonic() - began
    urgent = await seconds_taken(small, await small.stream(PAUSE, FEW, priority="high"))
    waiting = await small.stream(PAUSE, FEW)
    before = MANY - await completed(big, many)
    queued = await seconds_taken(small, waiting)
    after = MANY - await completed(big, many)

    print(  # noqa: T201 - the figures are what the test is about
        f"{FEW} operations of a small tenant took {alone:.2f} s alone. Behind {before:,} of a big one's: "
        f"{at_once:.2f} s answered at once, {urgent:.2f} s with high priority, {queued:.2f} s queued as they came: "
        f"the queue gave them when {after:,} of the big one's were left."
    )
    assert (answer.status, answer.body["summary"]["succeeded"]) == (200, FEW)
    assert before > MANY / 3
    assert at_once < queued
    assert urgent < queued
