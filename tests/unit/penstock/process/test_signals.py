"""A request to stop that arrives while the lifespan starts cancels the start, so that it can clean up."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from penstock.process.signals import StoppedWhileStarting, listening_for_stop, open_unless_stopped
from tests.support.waiting import settle


async def soon() -> None:
    """End in the next turn of the loop."""
    await asyncio.sleep(0)


async def for_ever() -> None:
    await asyncio.Event().wait()


class Lifespan:
    """Notes what happens to it. Its start waits until `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.happened: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            self.happened.append("start")
            await self.gate.wait()
            self.happened.append("open")
            yield
        finally:
            self.happened.append("end")


@pytest.fixture
def lifespan() -> Lifespan:
    return Lifespan()


async def test_sigterm_while_the_lifespan_starts_ends_it(lifespan: Lifespan) -> None:
    async with listening_for_stop() as stopping:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedWhileStarting):
            async with open_unless_stopped(lifespan.open(), stopping):
                pytest.fail("the lifespan never opens")
    _default_signals()
    assert lifespan.happened == ["start", "end"]
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_request_after_the_start_is_left_to_the_block(lifespan: Lifespan) -> None:
    lifespan.gate.set()
    stopping = asyncio.create_task(soon())
    async with open_unless_stopped(lifespan.open(), stopping):
        await stopping
        await asyncio.sleep(0)
        lifespan.happened.append("block")
    assert lifespan.happened == ["start", "open", "block", "end"]


async def test_request_and_the_end_of_the_start_at_the_same_time_cancel_nothing_later(lifespan: Lifespan) -> None:
    stopping = asyncio.create_task(soon())
    stopping.add_done_callback(lambda _: lifespan.gate.set())
    try:
        async with open_unless_stopped(lifespan.open(), stopping):
            await settle()
            lifespan.happened.append("block")
    except StoppedWhileStarting:
        assert lifespan.happened == ["start", "end"]
    else:
        assert lifespan.happened == ["start", "open", "block", "end"]


async def test_time_limit_of_the_start_itself_is_no_request_to_stop() -> None:
    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        raise TimeoutError("the database does not answer")
        yield

    never = asyncio.create_task(for_ever())
    with pytest.raises(TimeoutError, match="database"):
        async with open_unless_stopped(slow(), never):
            pytest.fail("the lifespan never opens")
    never.cancel()


def _default_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)
