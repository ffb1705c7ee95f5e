"""Reads the outcomes of a batch for its streams: in the order of the operations, up to the first that has none yet.

Streams that are at the same position share a read. So many who follow a batch cost as much as one.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace

from aiohttp import web

from penstock.batch import Batch
from penstock.chunk import GROUP_CHUNKS
from penstock.service.batches.families import Window
from penstock.service.batches.results import BLOCK_BYTES, Cursor, Reading, Wanted
from penstock.service.events.framing import frame_outcome
from penstock.service.events.watching import Seen
from penstock.service.keys import BACKEND, TURNS

MOST_BLOCKS = 4  # that are kept for other streams; usually each has about 64 KiB


@dataclass(frozen=True, slots=True)
class Block:
    """The events of outcomes that follow each other, and the position behind them."""

    events: bytes
    cursor: Cursor


class SharedOutcomes:
    """The latest reads of all streams, by the batch, its version, and the position."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._reads: OrderedDict[tuple[str, str, Cursor], asyncio.Task[Block]] = OrderedDict()

    async def after(self, seen: Seen, cursor: Cursor) -> Block:
        """Return the outcomes that follow a position. There are none if the next operation has no outcome yet."""
        key = seen.batch.id, seen.version, cursor
        if key not in self._reads:
            self._reads[key] = asyncio.create_task(read_block(self._app, seen.batch, cursor))
            if len(self._reads) > MOST_BLOCKS:
                self._reads.popitem(last=False)
        try:
            return await asyncio.shield(self._reads[key])
        except Exception:
            self._reads.pop(key, None)
            raise


async def read_block(app: web.Application, batch: Batch, cursor: Cursor) -> Block:
    """Read outcomes from one group of a batch, until they have about BLOCK_BYTES."""
    following = cursor.index + 1
    if following == batch.total:
        return Block(b"", cursor)
    number = batch.group_at(following)
    store, first_chunk = app[BACKEND].store, max(cursor.chunk, number * GROUP_CHUNKS)
    group = await store.read_group(batch.id, number)
    wanted = Wanted(Cursor(first_chunk, cursor.index), None)
    # A reading goes on to the next group. Here it must end, because an operation of this one may have no outcome.
    up_to_here = replace(batch, group_totals=batch.group_totals[: number + 1])
    events: list[bytes] = []
    size = 0
    async for chunk, window in Reading(store, up_to_here, wanted, app[TURNS]).windows(group):
        added = _events_up_to_gap(chunk, window, following)
        events += added
        size += sum(map(len, added))
        following += len(added)
        cursor = Cursor(chunk, following - 1) if added else cursor
        if len(added) < len(window.indexes) or size >= BLOCK_BYTES:
            break
    return Block(b"".join(events), cursor)


def _events_up_to_gap(chunk: int, window: Window, following: int) -> list[bytes]:
    """Return the events of the outcomes in a window that follow each other from the operation `following` on."""
    indexes = window.indexes
    if indexes[0] == following and indexes[-1] == following + len(indexes) - 1:
        count = len(indexes)
    else:
        count = next(place for place, index in enumerate([*indexes, -1]) if index != following + place)
    return [
        frame_outcome(chunk, index, line) for index, line in zip(indexes[:count], window.lines[:count], strict=True)
    ]


OUTCOMES = web.AppKey("outcomes", SharedOutcomes)
