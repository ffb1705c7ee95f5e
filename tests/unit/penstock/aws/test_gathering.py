"""Requests are combined while other calls are in flight, and never wait for others to arrive."""

import asyncio
import weakref
from collections.abc import Sequence
from contextlib import suppress

import pytest

from penstock.aws.gathering import Gatherer, up_to
from penstock.errors import RejectedCall
from tests.support.garbage import without_collections
from tests.support.waiting import eventually, settle


class Server:
    """Answers each number with its double, once the gate is open."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()

    async def is_called(self, times: int = 1) -> bool:
        return len(self.calls) >= times

    async def call(self, items: Sequence[int]) -> list[int]:
        self.calls.append(list(items))
        await self.gate.wait()
        if 13 in items:
            raise ConnectionError("unlucky")
        if 14 in items:
            raise RejectedCall("invalid")
        return [2 * item for item in items]


@pytest.fixture
def server() -> Server:
    return Server()


async def test_what_is_asked_for_in_one_turn_goes_in_one_call(server: Server) -> None:
    server.gate.set()
    gatherer = Gatherer(server.call, up_to(10))
    assert await asyncio.gather(*map(gatherer.ask, range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert server.calls == [list(range(7))]
    assert gatherer.is_idle


async def test_one_alone_goes_at_once(server: Server) -> None:
    server.gate.set()
    gatherer = Gatherer(server.call, up_to(10))
    async with asyncio.timeout(1):
        assert await gatherer.ask(4) == 8
    assert gatherer.is_idle  # without another turn of the loop: its owner forgets it here


async def test_what_comes_while_a_call_is_under_way_goes_together_in_the_next(server: Server) -> None:
    gatherer = Gatherer(server.call, up_to(10))
    first = asyncio.create_task(gatherer.ask(1))
    await eventually(server.is_called)
    others = []
    for item in (2, 3, 4):
        others.append(asyncio.create_task(gatherer.ask(item)))
        await asyncio.sleep(0)
    assert server.calls == [[1]]
    server.gate.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert server.calls == [[1], [2, 3, 4]]


async def test_calls_are_as_large_as_fits_and_several_are_under_way(server: Server) -> None:
    gatherer = Gatherer(server.call, up_to(3), at_once=2)
    asked = [asyncio.create_task(gatherer.ask(item)) for item in range(8)]
    await eventually(lambda: server.is_called(2))
    await asyncio.sleep(0)
    assert server.calls == [[0, 1, 2], [3, 4, 5]]
    server.gate.set()
    assert await asyncio.gather(*asked) == [2 * item for item in range(8)]
    assert server.calls[2:] == [[6, 7]]


async def test_item_has_room_only_in_a_call_that_starts_in_this_turn(server: Server) -> None:
    server.gate.set()
    gatherer = Gatherer(server.call, up_to(3))
    room: list[bool] = []

    async def look() -> None:
        room.append(gatherer.has_room_for(9))

    await asyncio.gather(look(), gatherer.ask(1), look(), gatherer.ask(2), look(), gatherer.ask(3), look())
    assert room == [False, True, True, False]


async def test_item_has_no_room_in_a_call_that_is_under_way(server: Server) -> None:
    gatherer = Gatherer(server.call, up_to(3))
    asked = asyncio.create_task(gatherer.ask(1))
    await eventually(server.is_called)
    assert not gatherer.has_room_for(9)
    server.gate.set()
    assert await asked == 2


async def test_failure_is_told_to_all_that_were_in_the_call_and_to_no_other(server: Server) -> None:
    server.gate.set()
    gatherer = Gatherer(server.call, up_to(2))
    results = await asyncio.gather(*map(gatherer.ask, [1, 13, 3, 4]), return_exceptions=True)
    assert [isinstance(result, ConnectionError) for result in results] == [True, True, False, False]
    assert results[2:] == [6, 8]
    assert await gatherer.ask(5) == 10


async def test_item_that_aws_rejects_fails_alone(server: Server) -> None:
    server.gate.set()
    gatherer = Gatherer(server.call, up_to(10))
    results = await asyncio.gather(*map(gatherer.ask, [1, 14, 3]), return_exceptions=True)
    assert [type(result) for result in results] == [int, RejectedCall, int]
    assert server.calls == [[1, 14, 3], [1], [14], [3]]


async def test_call_that_answers_too_few_leaves_nobody_waiting() -> None:
    async def answer_one(items: Sequence[int]) -> list[int]:
        return [2 * item for item in items[:1]]

    gatherer = Gatherer(answer_one, up_to(10))
    results = await asyncio.gather(*map(gatherer.ask, range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 3


async def test_who_gives_up_does_not_disturb_the_others(server: Server) -> None:
    gatherer = Gatherer(server.call, up_to(10))
    patient, hasty = (asyncio.create_task(gatherer.ask(item)) for item in (1, 2))
    await eventually(server.is_called)
    hasty.cancel()
    server.gate.set()
    assert await patient == 2
    with pytest.raises(asyncio.CancelledError):
        await hasty


async def test_failed_call_does_not_keep_its_items_in_memory() -> None:
    class Item:
        """Something large, such as a chunk."""

    async def call(_items: Sequence[Item]) -> list[int]:
        raise ConnectionError("unlucky")

    async def ask() -> "weakref.ref[Item]":
        item = Item()
        with suppress(ConnectionError):
            await Gatherer(call, up_to(10)).ask(item)
        return weakref.ref(item)

    with without_collections():
        noted = await ask()
        await settle()
        assert noted() is None
