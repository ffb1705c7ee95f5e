"""A chunk holds the operations that travel in one message. The planner splits a batch into chunks. Pure.

A chunk's id is dotted: the front end planned `17`, the chunks `17.1` and `17.2` follow from chunk 17, and `17.d1` is a
dead letter of chunk 17. Neighbouring planned chunks form a group, the unit of counting. A chunk that follows from
another is counted in the same group.
"""

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

QUICK_SECONDS = 0.1
_ROUNDING = 1 + 1e-9  # in floats, the sum of a hundred times 0.02 is a little more than 2
GROUP_CHUNKS = 64  # few consumers write to one group counter, and its set of counted chunks stays near 1 KB


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a batch. `index` is its position in the batch, from 0. `body` is a JSON value or None."""

    index: int
    id: str
    method: str
    path: str
    body: Any = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a batch. `attempt` (from 1) applies to all its operations. `not_before` is seconds since the epoch."""

    batch_id: str
    id: str
    attempt: int
    operations: tuple[Operation, ...]
    not_before: float | None = None

    @property
    def group(self) -> int:
        return group_of(self.id)


def planned_number(chunk_id: str) -> int:
    """Return 17 for chunk `17` and for every chunk that follows from it."""
    return int(chunk_id.partition(".")[0])


def redriven_from(chunk_id: str) -> str | None:
    """Return the id of the chunk whose failed operations this chunk runs again, or None if it is not a redrive.

    This is `17.1` for `17.1.d1` and for every chunk that follows from `17.1.d1`.
    """
    head, mark, _ = chunk_id.rpartition(".d")
    return head if mark else None


def group_of(chunk_id: str) -> int:
    return planned_number(chunk_id) // GROUP_CHUNKS


@dataclass(frozen=True, slots=True)
class Fit:
    """How large chunks are. `most_operations` and `most_bytes` are hard limits; the others are targets."""

    most_operations: int
    most_bytes: int
    seconds: float  # target for the handler time of a chunk
    least_chunks: int  # target for the number of chunks of a batch, so that every consumer gets one

    def aim(self, batch_seconds: float) -> float:
        """Return the target for a chunk's handler time, if the whole batch takes `batch_seconds` of handler time.

        The target is at least QUICK_SECONDS: it does not pay to distribute less work than that.
        """
        return min(self.seconds, max(batch_seconds / self.least_chunks, QUICK_SECONDS))


class Planner:
    """Split a batch into chunks, one operation after the other, in the order of the operations."""

    def __init__(self, fit: Fit) -> None:
        self.starts = array("I")  # index of each chunk's first operation; an array, since there can be a million
        self._fit = fit
        self._aim = fit.seconds
        self._total = 0
        self._chunk_bytes = 0
        self._chunk_seconds = 0.0

    def expect(self, batch_seconds: float) -> None:
        """Set the handler time of the whole batch, as estimated so far. It determines the size of further chunks."""
        self._aim = self._fit.aim(batch_seconds) * _ROUNDING

    def begins_chunk(self, size: int, seconds: float) -> bool:
        """Add the next operation, and return True if it starts a new chunk.

        `size` is its encoded size in bytes with the separator; `seconds` is its estimated handler time.
        """
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
    """Return the number of operations in each group of 64 neighbouring chunks."""
    return tuple(end - start for start, end in itertools.pairwise([*starts[::GROUP_CHUNKS], total]))
