"""Reads the outcomes of a batch for its streams: in the order of the operations, up to the first that has none yet.

A read decodes whole records, which may have several MiB. What it finds is kept for a while for all streams, and each
stream takes a small block of it at a time. So many who follow a batch cost as much as one, and hold little.

Reads, kept runs and blocks all take from the memory for requests. A request that needs the memory of kept runs gets it.
"""

import asyncio
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import islice

from aiohttp import web

from penstock.batch import Batch
from penstock.chunk import GROUP_CHUNKS
from penstock.service.batches.families import HELD_BYTES, WINDOW_BYTES, Window
from penstock.service.batches.results import Cursor, Reading, Wanted
from penstock.service.batches.streaming import BLOCK_BYTES
from penstock.service.events.framing import frame_outcome
from penstock.service.events.watching import Seen
from penstock.service.keys import BACKEND, MEMORY
from penstock.service.memory import Memory
from penstock.settings import MIB
from penstock.store import Group

READ_BYTES = HELD_BYTES + 2 * WINDOW_BYTES  # a read holds records, and a window of them as lines and as events
MOST_READS = 8  # at the same time
KEPT_BYTES = 16 * MIB  # of runs that are kept for streams that are in them

_Batch = tuple[str, str]  # its id, and the version of its status


@dataclass(frozen=True, slots=True)
class Block:
    """The events of outcomes that follow each other, and the position behind them."""

    events: bytes
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Run:
    """What one read has found: the events of outcomes that follow each other from operation `first` on.

    A run has up to a window of outcomes, from which each stream takes a block at a time.
    """

    first: int
    events: list[bytes]
    cursors: list[Cursor]  # each is the position behind an event
    size: int

    def __contains__(self, index: int) -> bool:
        return self.first <= index < self.first + len(self.events)

    def block_after(self, cursor: Cursor) -> Block:
        """Return outcomes with about BLOCK_BYTES, or only one that is larger."""
        start = end = cursor.index + 1 - self.first
        size = 0
        while end < len(self.events) and size < BLOCK_BYTES:
            size += len(self.events[end])
            end += 1
        return Block(b"".join(self.events[start:end]), self.cursors[end - 1] if end > start else cursor)


class KeptRuns:
    """The latest runs, by the batch and by the position before them."""

    def __init__(self, most_bytes: int, memory: Memory) -> None:
        self.bytes = 0
        self._most_bytes = most_bytes
        self._share = memory.share_of_cache(self.clear)
        self._runs: OrderedDict[tuple[_Batch, Cursor], Run] = OrderedDict()

    def find(self, batch: _Batch, cursor: Cursor) -> Run | None:
        """Return a run that has the operation behind a position, or that has found no outcome from there on."""
        for key, run in self._runs.items():
            # A client chooses the chunk of its cursor. With an invalid one, nothing is found, but only for this client.
            if key == (batch, cursor) or (key[0] == batch and cursor.index + 1 in run):
                self._runs.move_to_end(key)
                return run
        return None

    def add(self, batch: _Batch, cursor: Cursor, run: Run) -> None:
        self._runs[batch, cursor] = run
        self.bytes += _kept_bytes(run)
        while self.bytes > self._most_bytes and len(self._runs) > 1:
            _, dropped = self._runs.popitem(last=False)
            self.bytes -= _kept_bytes(dropped)
        self._share.take(self.bytes)

    def clear(self) -> None:
        self._runs.clear()
        self.bytes = 0
        self._share.take(0)


def _kept_bytes(run: Run) -> int:
    return max(run.size, 4 * BLOCK_BYTES)  # so that there are not too many to search


class SharedOutcomes:
    """The reads of all streams. Streams in the same run share it."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._reads: dict[tuple[_Batch, Cursor], asyncio.Task[Run]] = {}
        self._memory = app[MEMORY]
        self._free_reads = asyncio.Semaphore(most_reads(self._memory))
        self.kept = KeptRuns(KEPT_BYTES, self._memory)

    async def after(self, seen: Seen, cursor: Cursor) -> Block:
        """Return the outcomes that follow a position. There are none if the next operation has no outcome yet.

        Raises Overloaded if there is no memory to read them.
        """
        key = (seen.batch.id, seen.version), cursor
        run = self.kept.find(*key)
        if run is None:
            if key not in self._reads:
                self._reads[key] = asyncio.create_task(self._read(key[0], seen.batch, cursor))
                self._reads[key].add_done_callback(lambda _: self._reads.pop(key))
            run = await asyncio.shield(self._reads[key])
        return run.block_after(cursor)

    async def _read(self, key: _Batch, batch: Batch, cursor: Cursor) -> Run:
        if cursor.index + 1 == batch.total:
            return Run(batch.total, [], [], 0)
        # Before the wait for a free read: while AWS is away, nobody may wait here for the failures of all others.
        group = await self._app[BACKEND].store.read_group(batch.id, batch.group_at(cursor.index + 1))
        async with self._free_reads:
            run = self.kept.find(key, cursor)  # another stream may have read it in the meantime
            if run is None:
                with self._memory.share() as share:
                    share.grow_to(READ_BYTES)
                    run = await read_run(self._app, batch, group, cursor)
                self.kept.add(key, cursor, run)
        return run


def most_reads(memory: Memory) -> int:
    """Return how many reads may be under way. All of them take at most a quarter of the memory, but one is allowed."""
    return max(1, min(MOST_READS, memory.most_bytes // (4 * READ_BYTES)))


async def read_run(app: web.Application, batch: Batch, group: Group, cursor: Cursor) -> Run:
    """Read outcomes from one group of a batch, until they have about BLOCK_BYTES, and at least a window of them."""
    first = following = cursor.index + 1
    number = batch.group_at(first)
    wanted = Wanted(Cursor(max(cursor.chunk, number * GROUP_CHUNKS), cursor.index), None)
    # A reading goes on to the next group. Here it must end, because an operation of this one may have no outcome.
    up_to_here = replace(batch, group_totals=batch.group_totals[: number + 1])
    events: list[bytes] = []
    cursors: list[Cursor] = []
    size = 0
    async with aclosing(Reading(app, up_to_here, wanted).windows(group)) as windows:
        async for chunk, window in windows:
            added = _events_up_to_gap(chunk, window, following)
            events += added
            cursors += (Cursor(chunk, index) for index in window.indexes[: len(added)])
            size += sum(map(len, added))
            following += len(added)
            if len(added) < len(window.indexes) or size >= BLOCK_BYTES:
                break
    return Run(first, events, cursors, size)


def _events_up_to_gap(chunk: int, window: Window, following: int) -> list[bytes]:
    """Return the events of the outcomes in a window that follow each other from the operation `following` on."""
    indexes = window.indexes
    if indexes[0] == following and indexes[-1] == following + len(indexes) - 1:
        count = len(indexes)
    else:
        count = next(place for place, index in enumerate([*indexes, -1]) if index != following + place)
    lines = islice(window.lines, count)
    return [frame_outcome(chunk, index, line) for index, line in zip(indexes[:count], lines, strict=True)]


OUTCOMES = web.AppKey("outcomes", SharedOutcomes)
