"""A chunk: the operations that travel in one message; and how a batch is cut into chunks. Pure.

A chunk's id is dotted: `17` was planned by the front end, `17.1` and `17.2` follow from chunk 17, `17.d1` is a dead
letter of it. Neighbouring planned chunks form a group, the unit of counting; whatever follows from a chunk counts in
the group of the chunk it came from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.errors import Flaw, LimitPassed

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


def plan_chunks(sizes: Sequence[int], *, max_operations: int, max_bytes: int) -> list[range]:
    """Cut operations into neighbouring runs that fit: each run is the range of its operations' indexes.

    `sizes` are the operations' sizes in bytes as they travel, separators included; `max_bytes` is what one chunk may
    hold of them. Raises LimitPassed naming every operation that fits in no chunk.
    """
    _refuse_giants(sizes, max_bytes)
    runs: list[range] = []
    start = run_bytes = 0
    for index, size in enumerate(sizes):
        if index - start == max_operations or run_bytes + size > max_bytes:
            runs.append(range(start, index))
            start, run_bytes = index, 0
        run_bytes += size
    if sizes:
        runs.append(range(start, len(sizes)))
    return runs


def plan_groups(runs: Sequence[range]) -> tuple[int, ...]:
    """How many operations each group of 64 neighbouring chunks holds."""
    return tuple(
        sum(len(run) for run in runs[first : first + GROUP_CHUNKS]) for first in range(0, len(runs), GROUP_CHUNKS)
    )


def _refuse_giants(sizes: Sequence[int], max_bytes: int) -> None:
    giants = [
        Flaw(f"/operations/{index}", f"takes {size:,} bytes as a message; at most {max_bytes:,} fit.")
        for index, size in enumerate(sizes)
        if size > max_bytes
    ]
    if giants:
        raise LimitPassed(
            f"{len(giants)} of the operations is too large for a message of the queue."
            if len(giants) == 1
            else f"{len(giants)} of the operations are too large for a message of the queue.",
            limit={"maxOperationBytes": max_bytes},
            flaws=giants,
        )
