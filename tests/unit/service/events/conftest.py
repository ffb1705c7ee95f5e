"""A clock that stands still until a test moves it, and a batch whose outcomes a test lets come in."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from penstock.batch import Batch, BatchState
from penstock.outcome import ChunkRecord, Outcome, succeeded
from penstock.testing import FakeClock, MemoryParts, memory_parts
from tests.support.builders import NOW, build_batch, build_operation

LOOP_TURNS = 40  # in which everything that does not wait for the clock or for a client gets done


class HandClock(FakeClock):
    """A clock on which sleeps end when a test moves it past their ends."""

    def __init__(self) -> None:
        super().__init__(NOW)
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now() + seconds, waiting))
        await waiting

    async def forward(self, seconds: int = 1) -> None:
        """Let seconds pass, one after the other."""
        for _ in range(seconds):
            await settle()
            self.advance(1)
            for end, waiting in self._sleepers:
                if end <= self.now() and not waiting.done():
                    waiting.set_result(None)
            self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]
            await settle()


async def settle() -> None:
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)


@dataclass
class Running:
    """A batch in the store, with chunks of `size` operations, which a test counts when it likes."""

    parts: MemoryParts
    batch: Batch
    size: int

    async def count(self, *chunks: int) -> None:
        """Record and count chunks in which every operation succeeds."""
        for chunk in chunks:
            indexes = range(chunk * self.size, (chunk + 1) * self.size)
            await self.record(str(chunk), [succeeded(build_operation(n), 201, {"n": n}) for n in indexes])

    async def record(self, chunk_id: str, outcomes: Sequence[Outcome]) -> None:
        record = ChunkRecord(chunk_id, tuple(outcomes))
        await self.parts.store.commit_chunk(self.batch, record)
        await self.parts.store.count_chunk(self.batch, record)

    async def finish(self, state: BatchState = BatchState.COMPLETED) -> None:
        await self.parts.store.finish_batch(self.batch.id, state, NOW + 100)


async def run_batch(
    parts: MemoryParts, chunks: int, size: int, batch_id: str | None = None, tenant: str = "default"
) -> Running:
    totals = [min(64, chunks - start) * size for start in range(0, chunks, 64)]
    changes = {} if batch_id is None else {"id": batch_id}
    batch = build_batch(*totals, chunk_count=chunks, state=BatchState.PROCESSING, tenant=tenant, **changes)
    await parts.store.create_batch(batch)
    return Running(parts, batch, size)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def parts(clock: HandClock) -> MemoryParts:
    return memory_parts(clock)
