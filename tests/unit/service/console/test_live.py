"""Open pages share what they read, and the progress that was seen."""

import asyncio

import pytest

from penstock.service.console.live import MOST_BATCHES, MOST_POINTS, MOST_SHARED, SHARED_SECONDS, History, Live
from penstock.testing import FakeClock


class Table:
    """Counts how often it is read. It fails while `is_away`."""

    def __init__(self) -> None:
        self.reads = 0
        self.is_away = False

    async def read(self) -> int:
        self.reads += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise ConnectionError
        return self.reads


async def test_pages_share_one_read_a_second() -> None:
    clock, table = FakeClock(), Table()
    live = Live(clock)
    assert await asyncio.gather(*(live.read(("a",), table.read) for _ in range(20))) == [1] * 20
    assert await live.read(("a",), table.read) == 1
    assert await live.read(("b",), table.read) == 2
    clock.advance(SHARED_SECONDS)
    assert await live.read(("a",), table.read) == 3


async def test_change_makes_pages_read_again() -> None:
    live, table = Live(FakeClock()), Table()
    await live.read(("status", "x", "acme"), table.read)
    live.forget("status", "y")
    assert await live.read(("status", "x", "acme"), table.read) == 1
    live.forget("status", "x")
    assert await live.read(("status", "x", "acme"), table.read) == 2


async def test_error_is_shared_and_not_kept() -> None:
    live, table = Live(FakeClock()), Table()
    table.is_away = True
    errors = await asyncio.gather(*(live.read(("a",), table.read) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [ConnectionError] * 3
    assert table.reads == 1
    table.is_away = False
    assert await live.read(("a",), table.read) == 2


async def test_page_that_is_closed_takes_nothing_from_others() -> None:
    live, table = Live(FakeClock()), Table()
    closed = asyncio.create_task(live.read(("a",), table.read))
    other = asyncio.create_task(live.read(("a",), table.read))
    await asyncio.sleep(0)
    closed.cancel()
    assert await other == 1


async def test_memory_is_bounded() -> None:
    live, table = Live(FakeClock()), Table()
    for number in range(MOST_SHARED + 10):
        await live.read((number,), table.read)
    assert len(live._shared) == MOST_SHARED
    history = History()
    for number in range(MOST_BATCHES + 10):
        history.note(str(number), number, 0)
    assert not history.of("0")
    for at in range(10 * MOST_POINTS):
        history.note("x", at, at)
    assert len(history.of("x")) <= MOST_POINTS
    assert history.of("x")[0].at == 0


async def test_expired_answers_are_freed() -> None:
    clock, table = FakeClock(), Table()
    live = Live(clock)
    for number in range(3):
        await live.read((number,), table.read)
    clock.advance(SHARED_SECONDS)
    await live.read(("new",), table.read)
    assert list(live._shared) == [("new",)]


def test_rate_is_that_of_late() -> None:
    history = History()
    assert history.rate("x") is None
    for at, completed in ((0, 0), (100, 1_000), (105, 1_010), (110, 1_020)):
        history.note("x", at, completed)
    assert history.rate("x") == pytest.approx(2)
    history.note("x", 110.2, 5_000)  # almost the same moment, from another page
    assert history.rate("x") == pytest.approx(2)
