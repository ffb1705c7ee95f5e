"""Reads items before they are needed: AWS makes the next answer while what came before is written to the client."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from penstock.service.memory import Memory
from penstock.settings import MIB

AHEAD_BYTES = MIB  # about what one call to the table returns

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Yields the items of a generator, which is read on while the caller uses an item.

    Up to AHEAD_BYTES wait for the caller, and one item more: without a size, items would wait in any number. If
    requests and answers take half of the memory, a single item waits. Use it in `async with`: at its end the generator
    is closed.
    """

    def __init__(self, items: AsyncGenerator[T], size_of: Callable[[T], int], memory: Memory) -> None:
        self._items = items
        self._size_of = size_of
        self._memory = memory
        self._share = memory.share()
        self._waiting: deque[T] = deque()
        self._bytes = 0  # that wait
        self._changed = asyncio.Event()  # set for the one side that waits for the other

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read_on())
        self._reading.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        try:
            await asyncio.gather(self._reading, return_exceptions=True)
        finally:  # a client that leaves may cancel this, too; `gather` waits for the end of the reading in any case
            del self._reading  # may have the error that ends the block: see `penstock.waiting`
            self._share.take(0)
            await self._items.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._waiting:
            if self._reading.done():
                self._reading.result()  # raises why there is no next item, unless it was the last one
                raise StopAsyncIteration
            await self._change()
        item = self._waiting.popleft()
        self._take(-self._size_of(item))
        self._changed.set()
        return item

    async def _read_on(self) -> None:
        async for item in self._items:
            self._waiting.append(item)
            self._take(self._size_of(item))
            self._changed.set()
            while self._waiting and not self._has_room:
                await self._change()

    @property
    def _has_room(self) -> bool:
        return self._bytes < AHEAD_BYTES and self._memory.is_half_free

    def _take(self, size: int) -> None:
        self._bytes += size
        self._share.take(self._bytes)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
