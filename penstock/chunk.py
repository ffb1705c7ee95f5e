"""A chunk: the operations that travel in one message; and how a batch is cut into chunks. Pure.

A chunk's id is dotted: `17` was planned by the front end, `17.1` and `17.2` follow from chunk 17, `17.d1` is a dead
letter of it. Neighbouring planned chunks form a group, the unit of counting; whatever follows from a chunk counts in
the group of the chunk it came from.
"""

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

QUICK_SECONDS = 0.1
_ROUNDING = 1 + 1e-9  # a hundred times 0.02 is a little more than 2
GROUP_CHUNKS = 64  # so that one group counter is written by few, and its set of counted chunks stays near 1 KB


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing asked for. `index` is its place in the batch, from 0; `body` is JSON, None when there is none."""

    index: int
    id: str
    method: str
    path: str
    body: Any = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """`attempt` counts from 1 and holds for all its operations. `not_before` is seconds since the epoch."""

    batch_id: str
    id: str
    attempt: int
    operations: tuple[Operation, ...]
    not_before: float | None = None

    @property
    def group(self) -> int:
        return group_of(self.id)


def planned_number(chunk_id: str) -> int:
    """17 for `17` and for everything that followed from it."""
    return int(chunk_id.partition(".")[0])


def redriven_from(chunk_id: str) -> str | None:
    """`17.1` for `17.1.d1` and all that follows from it: the chunk whose failures it runs again; None for others."""
    head, mark, _ = chunk_id.rpartition(".d")
    return head if mark else None


def group_of(chunk_id: str) -> int:
    return planned_number(chunk_id) // GROUP_CHUNKS


@dataclass(frozen=True, slots=True)
class Fit:
    """How large chunks are. A single operation may take longer than `seconds`, but no more than `most_bytes`."""

    most_operations: int
    most_bytes: int
    seconds: float  # of handler time, what a chunk aims at
    least_chunks: int  # of a batch, so that every consumer finds one

    def aim(self, batch_seconds: float) -> float:
        """The handler time of a chunk, in a batch of so much. Work that is done at once is not worth spreading."""
        return min(self.seconds, max(batch_seconds / self.least_chunks, QUICK_SECONDS))


class Planner:
    """Cuts a batch into chunks that fit, operation by operation, in their order."""

    def __init__(self, fit: Fit) -> None:
        self.starts = array("I")  # the index of each chunk's first operation; four bytes each, as there can be many
        self._fit = fit
        self._aim = fit.seconds
        self._total = 0
        self._chunk_bytes = 0
        self._chunk_seconds = 0.0

    def expect(self, batch_seconds: float) -> None:
        """How much handler time the whole batch will take, as far as can be told by now."""
        self._aim = self._fit.aim(batch_seconds) * _ROUNDING

    def begins_chunk(self, size: int, seconds: float) -> bool:
        """Whether the next operation, of `size` bytes as it travels with its separator, begins a new chunk."""
        begins = (
            not self.starts
            or self._chunk_bytes + size > self._fit.most_bytes
            or self._chunk_seconds + seconds > self._aim
            or self._total - self.starts[-1] == self._fit.most_operations
        )
        if begins:
            self.starts.append(self._total)
            self._chunk_bytes = 0
            self._chunk_seconds = 0.0
        self._total += 1
        self._chunk_bytes += size
        self._chunk_seconds += seconds
        return begins


def plan_groups(starts: Sequence[int], total: int) -> tuple[int, ...]:
    """How many operations each group of 64 neighbouring chunks holds."""
    return tuple(end - start for start, end in itertools.pairwise([*starts[::GROUP_CHUNKS], total]))
