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


class Planner:
    """Cuts a batch into chunks that fit, operation by operation, in their order."""

    def __init__(self, *, max_operations: int, max_bytes: int) -> None:
        self.starts = array("I")  # the index of each chunk's first operation; four bytes each, as there can be many
        self._max_operations = max_operations
        self._max_bytes = max_bytes
        self._total = 0
        self._chunk_bytes = 0

    def begins_chunk(self, size: int) -> bool:
        """Whether the next operation, of `size` bytes as it travels with its separator, begins a new chunk."""
        is_full = self._chunk_bytes + size > self._max_bytes
        begins = not self.starts or is_full or self._total - self.starts[-1] == self._max_operations
        if begins:
            self.starts.append(self._total)
            self._chunk_bytes = 0
        self._total += 1
        self._chunk_bytes += size
        return begins


def plan_groups(starts: Sequence[int], total: int) -> tuple[int, ...]:
    """How many operations each group of 64 neighbouring chunks holds."""
    return tuple(end - start for start, end in itertools.pairwise([*starts[::GROUP_CHUNKS], total]))
