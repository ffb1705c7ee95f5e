"""All who watch a batch share its reads."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from penstock.batch import Batch, BatchState
from penstock.errors import Unavailable, UnknownBatch
from penstock.service.events.watching import Status, Watcher
from penstock.telemetry import Event
from tests.support.builders import BATCH_ID, build_batch
from tests.unit.service.conftest import Logs
from tests.unit.service.events.conftest import HandClock, settle

RUNNING = replace(build_batch(3), state=BatchState.PROCESSING)


class Table:
    """What a watcher reads. It fails with `error` if there is one."""

    def __init__(self) -> None:
        self.batch = RUNNING
        self.completed = 0
        self.eta = 0
        self.reads = 0
        self.error: Exception | None = None

    async def read(self, _batch_id: str) -> tuple[Batch, Status]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.batch, {"status": self.batch.state, "completed": self.completed, "eta": self.eta}


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def watcher(table: Table, clock: HandClock) -> Watcher:
    return Watcher(table.read, clock)


async def test_two_hundred_who_watch_a_batch_cost_one_read_a_second(
    watcher: Watcher, table: Table, clock: HandClock
) -> None:
    async with AsyncExitStack() as stack:
        entering = [stack.enter_async_context(watcher.watching(BATCH_ID)) for _ in range(200)]
        watches = await asyncio.gather(*entering)
        assert table.reads == 1
        await clock.forward(3)
        assert table.reads == 4
        for watch in watches:
            watch.wake.clear()
        table.completed = 1
        await clock.forward()
        assert all(watch.wake.is_set() for watch in watches)
        assert len({id(watch.newest) for watch in watches}) == 1
    await clock.forward(3)
    assert table.reads == 5


async def test_estimate_alone_is_no_news(watcher: Watcher, table: Table, clock: HandClock) -> None:
    async with watcher.watching(BATCH_ID) as watch:
        before = watch.newest
        table.eta = 1
        await clock.forward()
        assert watch.newest is before


async def test_reads_stop_when_the_batch_is_final_and_start_again_for_who_comes_later(
    watcher: Watcher, table: Table, clock: HandClock
) -> None:
    async with watcher.watching(BATCH_ID) as first:
        table.batch = replace(RUNNING, state=BatchState.COMPLETED)
        await clock.forward(5)
        assert first.newest.is_final
        assert table.reads == 2
        table.completed = 1  # by a retry
        async with watcher.watching(BATCH_ID) as second:
            assert second.newest.status["completed"] == 1


async def test_trouble_with_the_table_ends_nothing(
    watcher: Watcher, table: Table, clock: HandClock, logs: Logs
) -> None:
    async with watcher.watching(BATCH_ID) as watch:
        table.error = Unavailable("AWS does not answer.")
        await clock.forward(3)
        assert watch.newest.status["completed"] == 0
        table.error, table.completed = None, 1
        await clock.forward()
        assert watch.newest.status["completed"] == 1
    assert [log["event"] for log in logs] == [Event.AWS_UNAVAILABLE]


async def test_error_of_the_first_read_reaches_all_who_wait_for_it(watcher: Watcher, table: Table) -> None:
    table.error = Unavailable("AWS does not answer.")

    async def watch() -> None:
        async with watcher.watching(BATCH_ID):
            raise AssertionError("nothing was read")

    errors = await asyncio.gather(*(watch() for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [Unavailable] * 3
    assert table.reads == 1


async def test_end_of_the_retention_ends_the_watch(watcher: Watcher, table: Table, clock: HandClock) -> None:
    async with watcher.watching(BATCH_ID) as watch:
        table.error = UnknownBatch(BATCH_ID)
        watch.wake.clear()
        await clock.forward()
        assert watch.wake.is_set()
        with pytest.raises(UnknownBatch):
            _ = watch.newest


async def test_reads_go_on_if_the_first_who_watches_leaves_before_they_answer(
    watcher: Watcher, table: Table, clock: HandClock
) -> None:
    async def enter() -> None:
        async with watcher.watching(BATCH_ID):
            pass

    first = asyncio.create_task(enter())
    await asyncio.sleep(0)
    first.cancel()
    async with watcher.watching(BATCH_ID) as watch:
        await settle()
        assert watch.newest.batch is RUNNING
