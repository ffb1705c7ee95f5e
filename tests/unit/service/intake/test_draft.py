"""What a draft keeps of a batch with operations that are too large."""

from collections.abc import Iterator
from typing import Any

import pytest

from penstock import Operations
from penstock.errors import LimitPassed
from penstock.service.handler_times import HandlerTimes
from penstock.service.intake.draft import Draft
from penstock.settings import Settings
from penstock.testing import FakeClock, MemoryStore

BATCH = "01M8KXJ8PNBF17YSW98VYPX44T"
operations = Operations()


@operations.post("/any")
async def take_any(body: Any = None) -> None: ...


def of(body: Any, **members: Any) -> dict[str, Any]:
    return {"method": "POST", "path": "/any", "body": body, **members}


@pytest.fixture
def draft() -> Iterator[Draft]:
    settings = Settings(sync_max_operations=3, message_bytes=8_000)
    with Draft(BATCH, operations, settings, HandlerTimes(MemoryStore(), [], FakeClock())) as draft:
        yield draft


async def test_links_behind_an_operation_that_is_too_large_are_forgotten(draft: Draft) -> None:
    draft.add(of("x" * 9_000))
    for index in range(1, 1_001):
        draft.add(of(1, dependsOn=[str(index - 1)]) if index % 2 == 0 else of(1))
        if index % 100 == 0:
            await draft.plan_added(0.5)
    assert len(draft._links._reach) < 200
    with pytest.raises(LimitPassed, match="1 operation is too large"):
        await draft.finish_plan()
