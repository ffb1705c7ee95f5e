"""The port to the table: batches, chunk records, group counters.

Every call may block on the network and may raise Unavailable. Each may be repeated and is written so that a repetition
changes nothing, since an AWS call that times out may have taken effect. The adapter is `dynamodb.py`; the one for tests
is in `testing.py`; one contract suite holds for both.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.batch import Batch, BatchState, Counts
from penstock.chunk import Chunk
from penstock.outcome import ChunkRecord


@dataclass(frozen=True, slots=True)
class Traces:
    """What the table knows of a chunk that is delivered again: its record, or which deliveries were given back."""

    record: ChunkRecord | None
    released: frozenset[int]  # the receive counts of deliveries that were released before anything of them ran
    begun: frozenset[int] = frozenset()  # of deliveries that began to run it though an earlier one had ended badly


class Store(Protocol):
    async def create_batch(self, batch: Batch) -> None:
        """Write a new batch, in state accepting; nothing if it is there already, whatever became of it."""

    async def accept_batch(self, batch_id: str, at: float) -> None:
        """From accepting to queued. Raises AcceptanceLost once the acceptance lease is over, or the batch forgotten."""

    async def abandon_batch(self, batch_id: str) -> bool:
        """From accepting to abandoned, so that it can never be accepted. False when it has been accepted."""

    async def read_batch(self, batch_id: str) -> Batch | None: ...

    async def start_batch(self, batch_id: str, at: float) -> None:
        """From queued to processing; nothing if it is further already."""

    async def read_traces(self, batch_id: str, chunk_id: str) -> Traces: ...

    async def note_release(self, batch: Batch, chunk_id: str, receive_count: int) -> None:
        """Remember that this delivery is given back unstarted: its receive count is no sign of a death."""

    async def note_start(self, batch: Batch, chunk_id: str, receive_count: int) -> None:
        """Remember that this delivery begins to run a chunk of which an earlier one may have died."""

    async def commit_chunk(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        """Write the record if the chunk has none; return the one that stands. The commit point of everything."""

    async def count_chunk(self, batch: Batch, chunk: Chunk, counts: Counts) -> Counts:
        """Add a chunk's counts to its group unless that chunk is counted; return what the group has now."""

    async def finish_group(self, batch_id: str, group: int) -> frozenset[int]:
        """Add a group to the batch's finished groups; return them all."""

    async def read_counts(self, batch_id: str, groups: Sequence[int]) -> dict[int, Counts]:
        """The counts of each group; nothing counted yet is all zeros."""

    async def finish_batch(self, batch_id: str, state: BatchState, at: float) -> bool:
        """Move the batch to its final state. False when it is final already, or not accepted."""

    def read_records(self, batch: Batch, first_chunk: int) -> AsyncIterator[list[ChunkRecord]]:
        """Per planned chunk from `first_chunk` on, in order: its record and those of all that followed from it.

        Within a planned chunk a record comes before those that follow from it. Chunks without any record are left out.
        """

    async def check(self) -> None:
        """Ask the table for nothing in particular; raises Unavailable or Misconfigured."""
