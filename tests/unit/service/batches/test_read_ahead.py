"""Reading ahead: how far, and until when."""

import asyncio
import weakref
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress

import pytest

from penstock.service.batches.read_ahead import AHEAD_BYTES, ReadAhead
from penstock.service.memory import Memory
from penstock.settings import MIB
from tests.support.garbage import without_collections


class Source:
    """Yields numbers, and notes how many it has yielded and whether it was closed."""

    def __init__(self, count: int = 100, error: Exception | None = None) -> None:
        self.read = 0
        self.is_closed = False
        self._count = count
        self._error = error

    async def numbers(self) -> AsyncGenerator[int]:
        try:
            for number in range(self._count):
                await asyncio.sleep(0)
                self.read = number + 1
                yield number
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True

    def ahead(self, size: int = 1, memory: Memory | None = None) -> ReadAhead[int]:
        return ReadAhead(self.numbers(), lambda _: size, memory or Memory(10**9))


async def let_it_read() -> None:
    for _ in range(1_000):
        await asyncio.sleep(0)


async def test_all_items_come_in_their_order() -> None:
    source = Source()
    async with source.ahead() as ahead:
        assert [number async for number in ahead] == list(range(100))
    async with Source(0).ahead() as nothing:
        assert [number async for number in nothing] == []


async def test_items_are_read_while_the_caller_uses_one() -> None:
    source = Source()
    async with source.ahead() as ahead:
        assert await anext(ahead) == 0
        await let_it_read()
        assert source.read == 100


@pytest.mark.parametrize(("size", "waiting"), [(AHEAD_BYTES // 4, 4), (AHEAD_BYTES // 3, 4), (10 * AHEAD_BYTES, 1)])
async def test_a_limited_number_of_bytes_waits(size: int, waiting: int) -> None:
    source, memory = Source(), Memory(10**9)
    async with source.ahead(size, memory) as ahead:
        for number in range(3):
            await let_it_read()
            assert source.read == number + waiting
            assert memory.used_bytes == waiting * size
            assert await anext(ahead) == number
    assert memory.used_bytes == 0


async def test_one_item_waits_if_half_of_the_memory_is_used() -> None:
    source, memory = Source(), Memory(10)
    with memory.share() as others:
        others.take(5)
        async with source.ahead(1, memory) as ahead:
            await let_it_read()
            assert source.read == 1
            assert [number async for number in ahead] == list(range(100))


async def test_many_downloads_leave_memory_for_requests() -> None:
    memory, size = Memory(64 * MIB), 10_000
    async with AsyncExitStack() as downloads:
        for _ in range(200):  # clients that read slowly
            await downloads.enter_async_context(Source(1_000).ahead(size, memory))
        await let_it_read()
        assert memory.used_bytes < 32 * MIB + 200 * size
        memory.share().grow_to(20 * MIB)
    assert memory.used_bytes == 20 * MIB


async def test_nothing_is_read_after_the_block() -> None:
    source, memory = Source(), Memory(10**9)
    async with source.ahead(AHEAD_BYTES, memory) as ahead:
        await anext(ahead)
        await let_it_read()
    assert source.is_closed
    assert memory.used_bytes == 0
    read = source.read
    await let_it_read()
    assert source.read == read


async def test_a_client_that_leaves_while_the_block_ends_leaves_no_memory_taken() -> None:
    memory, cancelled, is_closed = Memory(10**9), asyncio.Event(), asyncio.Event()

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 0
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
                await asyncio.Event().wait()  # a connection that is closed
        finally:
            await asyncio.sleep(0)
            is_closed.set()

    async def download() -> None:
        async with ReadAhead(numbers(), lambda _: 1, memory):
            await let_it_read()
            assert memory.used_bytes == 1

    task = asyncio.create_task(download())
    await cancelled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert memory.used_bytes == 0
    assert is_closed.is_set()


async def test_an_error_comes_after_the_items_before_it() -> None:
    async with Source(3, ValueError("a damaged record")).ahead() as ahead:
        await let_it_read()
        assert [await anext(ahead) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="a damaged record"):
            await anext(ahead)


async def test_an_error_does_not_keep_what_was_read_in_memory() -> None:
    async def numbers() -> AsyncGenerator[int]:
        yield 0
        raise ValueError("a damaged record")

    async def download() -> "weakref.ref[ReadAhead[int]]":
        ahead = ReadAhead(numbers(), lambda _: 1, Memory(10**9))
        with suppress(ValueError):
            async with ahead:
                async for _ in ahead:
                    pass
        return weakref.ref(ahead)

    with without_collections():
        noted = await download()
        await let_it_read()
        assert noted() is None
