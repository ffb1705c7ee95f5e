"""How much memory the streams of outcomes take together, and that they read each record once for all."""

import asyncio
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock.errors import Overloaded
from penstock.outcome import succeeded
from penstock.service.batches.results import Cursor, Reading
from penstock.service.batches.streaming import BLOCK_BYTES
from penstock.service.events.endpoint import _send_outcomes
from penstock.service.events.outcomes import OUTCOMES, READ_BYTES, SharedOutcomes, most_reads
from penstock.service.events.stream import PING_SECONDS
from penstock.service.keys import BACKEND, MEMORY, SHARE, TURNS
from penstock.service.memory import Memory
from penstock.service.turns import Turns
from penstock.settings import MIB
from penstock.testing import MemoryParts
from tests.support.builders import build_operation
from tests.support.generators import are_closed, kept_generators
from tests.unit.service.events.conftest import HandClock, Running, run_batch, settle
from tests.unit.service.events.test_stream import Changing, SlowClient, make_stream, seen

TOTAL = 1_000
OUTCOME = "x" * 4_000


class Follower:
    """A stream to a slow client, which has already got the outcomes before a position."""

    def __init__(self, clock: HandClock, running: Running, shared: SharedOutcomes, memory: Memory, start: int) -> None:
        self.start = start
        self.client = SlowClient()
        self.stream = make_stream(clock, self.client, Changing())
        request = cast("Any", self.stream._request)
        request.app[OUTCOMES] = shared
        request[SHARE] = memory.share()
        position = Cursor(0, start - 1)
        self.sending = asyncio.create_task(_send_outcomes(request, self.stream, seen(0, running.batch), position))

    async def read_all(self) -> None:
        for _ in range(TOTAL):
            self.client.reads.release()
        await asyncio.wait_for(self.sending, 10)

    @property
    def indexes(self) -> list[int]:
        return [int(index) for index in re.findall(rb"id: 0\.(\d+)\n", b"".join(self.client.written))]


@pytest.fixture
async def running(parts: MemoryParts) -> Running:
    running = await run_batch(parts, chunks=1, size=TOTAL)
    await running.record("0", [succeeded(build_operation(n), 200, OUTCOME) for n in range(TOTAL)])
    return running


def share_outcomes(parts: MemoryParts, memory: Memory) -> SharedOutcomes:
    app = {BACKEND: SimpleNamespace(store=parts.store), TURNS: Turns(), MEMORY: memory}
    return SharedOutcomes(cast("Any", app))


async def test_streams_at_different_positions_hold_little_and_read_once(
    parts: MemoryParts, clock: HandClock, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()
    read_records = parts.store.read_records

    def counted(*where: Any, **how: Any) -> Any:
        reads["records"] += 1
        return read_records(*where, **how)

    monkeypatch.setattr(parts.store, "read_records", counted)
    memory = Memory(64 * MIB)
    shared = share_outcomes(parts, memory)
    followers = [Follower(clock, running, shared, memory, start) for start in range(0, TOTAL, 20)]
    await settle()
    reads_at_start = reads.total()
    assert all(follower.client.written for follower in followers)
    assert shared.kept.bytes < memory.used_bytes < 8 * MIB
    for follower in followers[::10]:
        await follower.read_all()
        assert follower.indexes == list(range(follower.start, TOTAL))
    assert (reads_at_start, reads.total()) == (1, 1)
    for follower in followers:
        follower.sending.cancel()


async def test_read_reads_nothing_more_than_it_needs(
    parts: MemoryParts, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = kept_generators(monkeypatch, Reading, "windows")
    shared = share_outcomes(parts, Memory(64 * MIB))
    await shared.after(seen(0, running.batch), Cursor())
    assert are_closed(windows) == [True]


async def test_stream_waits_for_memory_and_loses_no_outcome(
    parts: MemoryParts, clock: HandClock, running: Running
) -> None:
    memory = Memory(100_000)
    shared = share_outcomes(parts, memory)
    first, second = (Follower(clock, running, shared, memory, start) for start in (0, 500))
    await settle()
    assert (len(first.client.written), second.client.written) == (1, [])
    assert 0 < memory.used_bytes <= BLOCK_BYTES + 2 * len(OUTCOME)
    await first.read_all()
    assert first.indexes == list(range(TOTAL))
    clock.advance(PING_SECONDS)
    second.stream.wake_if_due(clock.monotonic())
    await second.read_all()
    assert second.indexes == list(range(500, TOTAL))
    shared.kept.clear()
    assert memory.used_bytes == 0


async def test_read_takes_memory_and_what_it_keeps_is_given_to_a_request_that_needs_it(
    parts: MemoryParts, running: Running
) -> None:
    memory = Memory(64 * MIB)
    shared = share_outcomes(parts, memory)
    with memory.share() as request:
        request.grow_to(64 * MIB - READ_BYTES + 1)
        with pytest.raises(Overloaded):
            await shared.after(seen(0, running.batch), Cursor())
        request.take(64 * MIB - READ_BYTES)
        assert (await shared.after(seen(0, running.batch), Cursor())).events
        assert memory.used_bytes > 64 * MIB - READ_BYTES
        request.grow_to(64 * MIB)
        assert (memory.used_bytes, shared.kept.bytes) == (64 * MIB, 0)


@pytest.mark.parametrize(("mib", "reads"), [(64, 1), (512, 8), (4_096, 8)])
def test_reads_take_a_quarter_of_the_memory(mib: int, reads: int) -> None:
    assert most_reads(Memory(mib * MIB)) == reads
