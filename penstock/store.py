"""The port to the table: batches, chunk records, group counters, idempotency keys.

Every call may block on the network and may raise Unavailable. Each may be repeated and is written so that a repetition
changes nothing, since an AWS call that times out may have taken effect. The adapter is `dynamodb.py`; the one for tests
is in `testing.py`; one contract suite holds for both.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.batch import Batch, BatchState, Counts, Ending
from penstock.outcome import ChunkRecord


@dataclass(frozen=True, slots=True)
class Traces:
    """What the table knows of a chunk that is delivered again: its record, or notes of deliveries before, by mark."""

    record: ChunkRecord | None
    released: frozenset[str]  # of deliveries that were released before anything of them ran
    begun: frozenset[str] = frozenset()  # of deliveries that began to run it though an earlier one had ended badly


@dataclass(frozen=True, slots=True)
class Group:
    """What a group has counted. Once it is closed nothing more is counted but redrives of what was counted before.

    `done`, the chunks that are counted, is read by `read_group` alone.
    """

    counts: Counts = field(default_factory=Counts)
    deaths: int = 0
    closed: Ending | None = None
    done: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """A client's Idempotency-Key, claimed for a request. `batch_id` is the batch that the request became."""

    tenant: str
    key: str
    fingerprint: str
    batch_id: str
    keys_from: str  # the batch id of the first claim: operations' keys stay the same when a later claim takes over
    lease_until: float
    expires_at: float
    is_settled: bool = False
    answer: bytes | None = None  # what was answered at once; None for a batch in the background


class Store(Protocol):
    async def create_batch(self, batch: Batch) -> None:
        """Write a new batch, in state accepting; nothing if it is there already, whatever became of it."""

    async def write_ids(self, batch: Batch, first_index: int, ids: Sequence[str]) -> None:
        """Keep the ids that a client gave to neighbouring operations of a group; at most `IDS_IN_CALL` in a call."""

    async def extend_acceptance(self, batch_id: str, at: float, until: float) -> None:
        """Move the end of the acceptance lease. Raises AcceptanceLost as `accept_batch` would."""

    async def accept_batch(self, batch_id: str, at: float) -> None:
        """From accepting to queued. Raises AcceptanceLost once the acceptance lease is over, or the batch forgotten."""

    async def abandon_batch(self, batch_id: str) -> bool:
        """From accepting to abandoned, so that it can never be accepted. False when it has been accepted."""

    async def read_batch(self, batch_id: str) -> Batch | None: ...

    async def start_batch(self, batch_id: str, at: float) -> None:
        """From queued to processing; nothing if it is further already."""

    async def end_batch(self, batch_id: str, ending: Ending, reason: str, *, settle_by: float) -> bool:
        """From queued or processing to cancelling. Whatever holds it up, a sweep closes it after `settle_by`."""

    async def read_traces(self, batch_id: str, chunk_id: str) -> Traces: ...

    async def note_release(self, batch: Batch, chunk_id: str, mark: str) -> None:
        """Remember that the delivery of this mark is given back unstarted: it is no sign of a death."""

    async def note_start(self, batch: Batch, chunk_id: str, mark: str) -> ChunkRecord | None:
        """Remember that the delivery of this mark begins to run a chunk of which an earlier one may have died.

        Returns the chunk's record if it has one by now: then nothing of it may begin any more.
        """

    async def commit_chunk(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        """Write the record if the chunk has none; return the one that stands. The commit point of everything."""

    async def count_chunk(self, batch: Batch, record: ChunkRecord) -> Group:
        """Add a record's counts to its group unless that chunk is counted or the group closed.

        Returns what the group has now. A redriven chunk is counted in a closed group too, if what it corrects is.
        """

    async def close_group(self, batch: Batch, group: int, seen: Counts, ending: Ending) -> bool:
        """Count all that is open in a group as `ending` and close it. False if its counts are not those `seen`."""

    async def finish_group(self, batch_id: str, group: int) -> frozenset[int]:
        """Add a group to the batch's finished groups; return them all."""

    async def read_groups(self, batch_id: str, groups: Sequence[int]) -> dict[int, Group]:
        """Each group without its `done`; nothing counted yet is all zeros."""

    async def read_group(self, batch_id: str, group: int) -> Group: ...

    async def read_ids(self, batch_id: str, group: int) -> list[str]:
        """The ids written for a group's operations, in their order; empty when they have none of their own."""

    async def finish_batch(self, batch_id: str, state: BatchState, at: float, *, ending: Ending | None = None) -> bool:
        """Move the batch to its final state. False when it is final already, not accepted, or its ending another."""

    async def revise_batch(self, batch_id: str, before: BatchState, after: BatchState) -> None:
        """From one final state to another, when a redrive has changed what the batch came to."""

    def read_records(self, batch: Batch, group: int, first_chunk: int) -> AsyncIterator[list[ChunkRecord]]:
        """Per planned chunk of a group from `first_chunk` on, in order: its record and those of all that followed.

        Within a planned chunk a record comes before those that follow from it. Chunks without any record are left out.
        """

    async def due_batches(self, now: float, limit: int) -> list[str]:
        """Batches that are not final and past their time: to be accepted, to settle after a cancel, or their deadline.

        It may name one that has moved on meanwhile.
        """

    async def take_sweep(self, owner: str, now: float, until: float) -> bool:
        """Become the one that sweeps, until a time; again, if we are."""

    async def claim_key(self, claim: KeyClaim, now: float) -> KeyClaim:
        """Claim a key if nobody has. Returns the claim that stands: ours, or whose it is."""

    async def take_over_key(self, standing: KeyClaim, claim: KeyClaim, now: float) -> bool:
        """Put our claim in the place of one whose lease is over and which is not settled. False if it has changed."""

    async def extend_key(self, claim: KeyClaim, until: float) -> bool:
        """Move the end of the claim's lease. False when it was taken over."""

    async def settle_key(self, claim: KeyClaim, answer: bytes | None) -> None:
        """The request of this claim is answered: from now on the answer stands. Nothing if the claim was taken over."""

    async def release_key(self, claim: KeyClaim) -> None:
        """End the lease of a claim whose request came to nothing, so that it can be taken over at once."""

    async def read_handler_seconds(self, names: Sequence[str]) -> dict[str, float]:
        """Seconds per operation as last written, of those handlers of which any are."""

    async def write_handler_seconds(self, seconds: Mapping[str, float], at: float) -> None:
        """Publish how long handlers take. `at` is when it was measured: it is forgotten a month later."""

    async def check(self) -> None:
        """Ask the table for nothing in particular; raises Unavailable or Misconfigured."""


IDS_IN_CALL = 2_500  # of at most 128 characters each; of most alphabets they fit into one item
HANDLER_DAYS = 30  # without news of a handler, it counts as not measured
