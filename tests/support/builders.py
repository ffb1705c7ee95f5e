"""Builds settings, operations, chunks and batches for tests that run in one process."""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from penstock.batch import Batch, BatchState, Counts
from penstock.chunk import Chunk, Operation, plan_groups
from penstock.message import encode_chunk
from penstock.outcome import ChunkRecord, Outcome, OutcomeState
from penstock.queue import Message
from penstock.settings import Settings
from penstock.testing import MemoryParts

BATCH_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
NOW = 1_700_000_000.0  # where a FakeClock begins


def build_settings(**changes: Any) -> Settings:
    """Return what a program would read, except that nothing waits and that a small batch may be a single chunk.

    The environment of tests is scrubbed, so it changes nothing here.
    """
    quick: dict[str, Any] = {"backoff_seconds": 0, "receive_wait_seconds": 0, "grace_seconds": 5, "min_chunks": 1}
    return read_settings_once(**{**quick, **changes})


def read_settings_once(**given: Any) -> Settings:
    """Return Settings(**given), which take more than a millisecond to read, from a cache if they were read before."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "PENSTOCK_"))}
    return _read_settings(tuple(sorted(given.items())), tuple(sorted(variables.items())))


@cache
def _read_settings(given: tuple[tuple[str, Any], ...], _variables: tuple[tuple[str, str], ...]) -> Settings:
    return Settings(**dict(given))


def build_operation(index: int, path: str = "/succeed", body: Any = None) -> Operation:
    return Operation(index, f"id-{index}", "POST", path, body)


def build_operations(*paths: str) -> list[Operation]:
    return [build_operation(index, path) for index, path in enumerate(paths)]


def build_chunk(operations: Sequence[Operation], chunk_id: str = "0", **changes: Any) -> Chunk:
    given: dict[str, Any] = {"batch_id": BATCH_ID, "attempt": 1, **changes}
    return Chunk(id=chunk_id, operations=tuple(operations), **given)


def build_record(chunk_id: str, counts: Counts) -> ChunkRecord:
    """Return a record with these numbers of outcomes."""
    states = [state for state in OutcomeState for _ in range(getattr(counts, state))]
    outcomes = [Outcome(index, str(index), state, 200) for index, state in enumerate(states)]
    return ChunkRecord(chunk_id, tuple(outcomes))


def build_batch(*group_totals: int, **changes: Any) -> Batch:
    """Return an accepted batch of which nothing has run."""
    given: dict[str, Any] = {
        "id": BATCH_ID,
        "tenant": "default",
        "state": BatchState.QUEUED,
        "total": sum(group_totals),
        "chunk_count": len(group_totals),
        "group_totals": group_totals,
        "created_at": NOW,
        "accept_by": NOW + 60,
        "deadline_at": 4_000_000_000.0,  # later than any clock in a test, also the real one
        "expires_at": 5e9,
        "accepted_at": NOW,
        **changes,
    }
    return Batch(**given)


def plan(operations: Sequence[Operation], chunk_operations: int) -> tuple[Batch, list[Chunk]]:
    """Return an accepted batch of these operations, and its chunks."""
    starts = range(0, len(operations), chunk_operations)
    chunks = [
        build_chunk(operations[start : start + chunk_operations], chunk_id=str(number))
        for number, start in enumerate(starts)
    ]
    return build_batch(*plan_groups(starts, len(operations)), chunk_count=len(starts)), chunks


async def submit(parts: MemoryParts, operations: Sequence[Operation], chunk_operations: int = 100) -> Batch:
    """Store an accepted batch and send its chunks, as the front end does."""
    batch, chunks = plan(operations, chunk_operations)
    await parts.store.create_batch(batch)
    await parts.chunks.send([Message(encode_chunk(chunk)) for chunk in chunks])
    return batch
