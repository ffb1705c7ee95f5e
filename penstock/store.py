"""The port to the table: batches, lists, chunk records, group counters, idempotency keys, charges, API keys, limits.

Every call may wait for the network and may raise Unavailable. Every call may be repeated: a call that timed out may
have taken effect, so a repetition changes nothing that the first call has changed. The adapter is `aws/store.py`; the
store for tests is in `testing.py`. One contract suite (`tests/contract/test_store.py`) tests both.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Protocol

from penstock.api_key import ApiKeyStore
from penstock.batch import Batch, BatchState, Counts, Ending
from penstock.catalog import CatalogStore
from penstock.chunk import redriven_from
from penstock.cost import Units
from penstock.export import ExportStore
from penstock.files.layout import Layout
from penstock.fleet_limit import LimitStore
from penstock.listing import ListStore
from penstock.metrics.fleet import FigureStore
from penstock.open_limit import OpenBatch, OpenOperations
from penstock.outcome import ChunkRecord
from penstock.planning import PlanStore
from penstock.priority import Priority
from penstock.quota import Account, Charge, Quota, Usage
from penstock.record import EncodedRecord
from penstock.webhooks.event import FinalEvent
from penstock.webhooks.store import WebhookStore


@dataclass(frozen=True, slots=True)
class Traces:
    """What earlier deliveries of a chunk have left in the table: the chunk's record, and marks of deliveries."""

    record: ChunkRecord | None
    released: frozenset[str]  # deliveries that are no sign of a crash
    begun: frozenset[str] = frozenset()  # deliveries that started to run, each with the process that ran it
    has_sent_follow_ups: bool = False  # noted only if the chunk could not be counted after that

    def without_results(self) -> "Traces":
        """Return the traces without the results in the record, because these may be large."""
        return self if self.record is None else replace(self, record=self.record.without_results())


@dataclass(frozen=True, slots=True)
class Group:
    """The counter of a group. Once it is closed, it only counts redrives of chunks that it counted before.

    `redelivered` is the sum of what the counted records say. `done` has the ids of the chunks that are counted.
    It is returned only to callers that need it, because decoding it takes time.

    `spent` is what programs have reported of the cost of the batch, `counted_at` the time of the last count, and
    `history` the operations that were counted in each slice of time (`eta.py`). `started_at` is when the batch started,
    if one record has all of its outcomes: then the batch itself may get it only when it becomes final.
    """

    counts: Counts = field(default_factory=Counts)
    redelivered: int = 0
    closed: Ending | None = None
    done: AbstractSet[str] = frozenset()
    spent: Units = field(default=Units(), compare=False)
    counted_at: float | None = None
    started_at: float | None = field(default=None, compare=False)
    history: Mapping[int, int] = field(default_factory=dict)

    def is_through_with(self, chunk_id: str) -> bool:
        """Return True if the chunk is counted, or never will be because the group is closed."""
        is_open_for_it = self.closed is None or redriven_from(chunk_id) in self.done
        return chunk_id in self.done or not is_open_for_it

    def has_room(self, counts: Counts, total: int) -> bool:
        """Return True if these counts can be added: `failed` stays at least 0, and at most `total` are completed.

        Only the counts of a forged message have no room.
        """
        after = self.counts + counts
        return after.failed >= 0 and after.completed <= total


@dataclass(frozen=True, slots=True)
class SweepLease:
    """The lease of the consumer that sweeps. Each extension changes `until`, which is a time of the owner's clock."""

    owner: str
    until: float


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """A client's Idempotency-Key, claimed for one request. The request becomes the batch `batch_id`."""

    tenant: str
    key: str
    fingerprint: str
    batch_id: str
    keys_from: str  # the first claim's batch id: operations keep their keys when a later claim takes over
    lease_until: float  # 0 if the claim was released
    expires_at: float
    is_settled: bool = False
    answer: bytes | None = None  # the synchronous response; None for a batch that runs in the background
    deaths: int = 0  # of front ends that had the key before this claim took it over

    @property
    def deaths_so_far(self) -> int:
        """Return how many front ends that had the key seem to have died. Call this when the lease has expired.

        A front end that lives releases its claim or settles it.
        """
        return self.deaths + (self.lease_until > 0)

    def may_have_answer(self, now: float) -> bool:
        """Return True if a repeated request may get the answer of this one: it has not expired, and did not fail."""
        return self.expires_at >= int(now) and (self.is_settled or self.lease_until > 0)


class Store(
    ApiKeyStore,
    CatalogStore,
    ExportStore,
    FigureStore,
    LimitStore,
    ListStore,
    PlanStore,
    WebhookStore,
    Protocol,
):
    async def create_batch(self, batch: Batch) -> None:
        """Write a new batch, in state accepting or validating. If the batch exists, change nothing, in any state."""

    async def accept_new(self, batch: Batch, at: float) -> None:
        """Write a new batch that is accepted: in state queued. A repetition with the same time succeeds.

        Raises AcceptanceLost if the table has the batch already: another program has taken its place to abandon it.
        """

    async def write_ids(self, batch: Batch, first_index: int, ids: Sequence[str]) -> None:
        """Write the ids that a client gave to consecutive operations of one group, at most `IDS_IN_CALL` in a call."""

    async def write_layout(self, batch: Batch, layout: Layout) -> None:
        """Write the layout of the file that a batch was."""

    async def read_layout(self, batch_id: str) -> Layout | None:
        """Return the layout of the file that a batch was, or None if its operations were sent as they are."""

    async def extend_acceptance(self, batch_id: str, at: float, until: float) -> None:
        """Extend the acceptance lease.

        Raises AcceptanceLost if the lease has ended before `at`, or if the batch is not in state accepting.
        """

    async def accept_batch(self, batch_id: str, at: float) -> None:
        """Move the batch from accepting to queued. A repetition with the same time succeeds.

        Raises AcceptanceLost if the lease has ended before `at`, or if the batch is abandoned or no longer exists.
        """

    async def abandon_batch(self, batch_id: str) -> bool:
        """Move the batch from accepting to abandoned, so that it can never be accepted.

        Returns True if the batch is abandoned, also if it was before; False if it has been accepted or does not exist.
        """

    async def read_batch(self, batch_id: str) -> Batch | None:
        """Return the batch, or None if the table has no such batch (any more)."""

    async def read_progress(
        self, batch_id: str, groups: Sequence[int], *, with_done: bool
    ) -> tuple[Batch | None, dict[int, Group]]:
        """Return the batch and the counters of these groups, in one call for up to 99 groups.

        The call reads them in any order, so a counter may be older than the batch. `done` is empty unless `with_done`.
        """

    async def read_only_chunk(self, batch_id: str) -> tuple[Batch | None, Group, EncodedRecord | None]:
        """Return a batch that has one chunk, the counter of its group, and the record of the chunk, in one call.

        The call reads them in any order. So the record may be missing although it is counted.
        """

    async def start_batch(self, batch_id: str, at: float) -> None:
        """Move the batch from queued to processing. In any other state, change nothing."""

    async def end_batch(self, batch_id: str, ending: Ending, reason: str, *, settle_by: float) -> bool:
        """Move the batch from queued or processing to cancelling. A sweep closes it after `settle_by` at the latest.

        Returns True also for a repetition with the same ending and reason; False if the batch was in any other state.
        """

    async def steer_batch(self, seen: Batch, wanted: Batch, at: float) -> bool:
        """Write what a client may change of a running batch: what was `seen` becomes what is `wanted`, in one write.

        Returns True also for a repetition. Returns False, and changes nothing, if the batch is neither queued nor
        processing, if its deadline was before `at`, or if any of what a client may change is not as it was seen.
        """

    async def suspect_batch(self, batch_id: str) -> None:
        """Note that a delivery of the batch was lost, so that every later one notes when it starts to run."""

    async def note_deaths(self, batch_id: str, processes: Collection[str]) -> frozenset[str]:
        """Note that these processes seem to have died while they ran the batch. Returns all that are noted."""

    async def deny_death(self, batch_id: str, process: str) -> None:
        """Remove a process from those that seem to have died. It calls this itself."""

    async def read_traces(self, batch_id: str, chunk_id: str) -> Traces:
        """Return the chunk's record and the marks of its deliveries."""

    async def note_release(self, batch: Batch, chunk_id: str, mark: str) -> None:
        """Note that the delivery with this mark is no sign of a crash.

        It was released before it started, or its process is alive although the lease has ended.
        """

    async def note_start(self, batch: Batch, chunk_id: str, mark: str) -> ChunkRecord | None:
        """Note that the delivery with this mark starts to run a chunk of a batch that may have crashed a consumer.

        Returns the chunk's record if it has one by now. In that case none of its operations may start.
        """

    async def note_follow_ups(self, batch: Batch, chunk_id: str) -> None:
        """Note that the follow-ups of a chunk are on the queue, although the chunk is not counted."""

    async def commit_chunk(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        """Write the record if the chunk has none, and return the record that the chunk has now.

        This is the commit point: only outcomes in the returned record count, and handlers never run again for them.
        """

    async def count_chunk(self, batch: Batch, record: ChunkRecord, at: float | None = None) -> Group:
        """Add a record's counts to its group, unless the chunk is counted already or the group is closed.

        They are also added to the history of the group, if the time `at` is given and the batch has started.

        Change nothing either if `failed` became negative, or if more operations were completed than the group has.
        Returns the group's counter after the call. A closed group still counts a redriven chunk if it has counted the
        chunk that the redrive corrects.
        """

    async def close_group(self, batch: Batch, group: int, seen: Counts, ending: Ending) -> bool:
        """Close a group and count all of its open operations as `ending`.

        Returns False, and changes nothing, if the group is closed already or its counts differ from `seen`.
        """

    async def finish_group(self, batch_id: str, group: int) -> Batch | None:
        """Add a group to the batch's finished groups. Returns the batch after it, or None if it no longer exists."""

    async def read_groups(self, batch_id: str, groups: Sequence[int]) -> dict[int, Group]:
        """Return the counter of each group, without `done`. A group that has counted nothing yet has zeros."""

    async def read_groups_of(self, batches: Sequence[Batch]) -> list[dict[int, Group]]:
        """Return the counters of all groups of several batches, without `done`, in one call for up to 100 groups."""

    async def read_group(self, batch_id: str, group: int) -> Group:
        """Return the counter of a group, with `done`."""

    async def read_ids(self, batch_id: str, group: int) -> list[str]:
        """Return the ids of a group's operations in their order; none if the client gave no ids."""

    async def finish_batch(
        self,
        batch_id: str,
        state: BatchState,
        at: float,
        *,
        started_at: float | None = None,
        likely_start: float | None = None,
        ending: Ending | None = None,
        event: FinalEvent | None = None,
    ) -> bool:
        """Move the batch to a final state, and add `event` to its events.

        `started_at` is when it started, if its counter says so. Otherwise it keeps its own time, or gets `likely_start`
        if it has none.

        Returns False, and changes nothing, if the batch is final already or not accepted, or has another ending.
        """

    async def revise_batch(
        self, batch_id: str, before: BatchState, after: BatchState, event: FinalEvent | None = None
    ) -> None:
        """Move the batch from one final state to another, after a redrive. In any other state, change nothing.

        Add `event` to its events.
        """

    def read_records(
        self, batch: Batch, group: int, first_chunk: int, *, reads_all: bool = False
    ) -> AsyncIterator[EncodedRecord]:
        """Yield the records of the planned chunks of a group from `first_chunk` on, and those of their follow-ups.

        Planned chunks come in their order. The follow-ups of each come right after it, and before their own follow-ups.
        Chunks without a record are left out. With `reads_all`, the first call to AWS does not only read a few of them.
        """

    async def read_record(self, batch_id: str, chunk_id: str) -> EncodedRecord:
        """Return the record of a chunk. Raises LostItem if the chunk has no record, or no longer has one."""

    def due_batches(self, now: float) -> AsyncIterator[str]:
        """Yield the ids of batches that a sweep must deal with, those that are overdue for longest first.

        Their acceptance, cancellation or deadline is overdue. The batches are read page by page, and a page may be
        slightly out of date. So the caller must read a batch before it acts.
        """

    async def take_sweep(self, owner: str, until: float, *, stale: SweepLease | None = None) -> SweepLease:
        """Take the sweep lease if it is free, or extend it if `owner` has it. Returns the lease that the table has now.

        The lease of another owner is taken only if it is still exactly `stale`.
        """

    async def claim_key(self, claim: KeyClaim, now: float) -> KeyClaim:
        """Claim a key if it is free. Returns the claim that the table has now: this one, or another request's."""

    async def take_over_key(self, standing: KeyClaim, claim: KeyClaim, now: float) -> bool:
        """Replace the claim `standing` if it is not settled and its lease has ended.

        Returns True if `claim` is in the table now, False if `standing` has changed in the meantime.
        """

    async def extend_key(self, claim: KeyClaim, until: float) -> bool:
        """Extend the claim's lease. Returns False if another request has taken the key over."""

    async def settle_key(self, claim: KeyClaim, answer: bytes | None) -> None:
        """Settle the claim with its answer, which later requests get. If the key was taken over, change nothing."""

    async def release_key(self, claim: KeyClaim) -> None:
        """End the lease of a claim whose request failed, so that a repetition can take the key over immediately."""

    async def has_key(self, tenant: str, key: str, now: float) -> bool:
        """Return True if an earlier request with this key has an answer, or may still get one. False if it failed."""

    async def charge(
        self, account: Account, quota: Quota, charge: Charge, now: float, *, seen: Usage, settled: Collection[Charge]
    ) -> Usage:
        """Charge an account if its quota allows it, and settle earlier charges in the same write.

        Returns the usage after the call. If the charge is not open there, the quota did not allow it, and nothing was
        changed. `seen` is the usage as last seen. The call is quicker if that is right.
        """

    async def end_charge(self, account: Account, charge: Charge, given_back: int) -> Usage:
        """End a charge, if it is still open, and give back this part of its cost. 0 settles the charge.

        Returns the usage after the call.
        """

    async def read_usage(self, account: Account) -> Usage:
        """Return the usage of an account. One that was never charged has the TAT 0."""

    async def add_open(
        self, account: Account, entry: OpenBatch, operations: int, *, most: int | None, expires_at: float
    ) -> OpenOperations:
        """Add an entry if the account then has at most `most` open operations. None adds it in any case.

        Returns all entries after the call. If the entry is not there, there was no room, and nothing was changed. An
        account has at most `MOST_ENTRIES`, or twice as many if `most` is None.
        """

    async def lower_open(self, account: Account, changes: Mapping[OpenBatch, tuple[int, int]]) -> OpenOperations:
        """Lower entries from the first number to the second. 0 removes an entry. Returns all entries after the call.

        Nothing is changed if any of them has another number by now, so no operation is subtracted twice.
        """

    async def read_open(self, account: Account) -> OpenOperations:
        """Return the open operations of an account."""

    async def pause_queue(self, priority: Priority, at: float) -> None:
        """Note that nothing may be received from the queue of a priority. One that is paused keeps its first time."""

    async def resume_queue(self, priority: Priority) -> None:
        """Note that the queue of a priority is not paused any more."""

    async def read_paused_queues(self) -> dict[Priority, float]:
        """Return since when each queue is paused that is paused."""

    async def read_handler_seconds(self, names: Sequence[str]) -> dict[str, float]:
        """Return the seconds per operation of those handlers for which the table has them."""

    async def write_handler_seconds(self, taken_seconds: Mapping[str, float], at: float) -> None:
        """Write the seconds per operation that handlers took, measured at `at`. They expire after `HANDLER_DAYS`."""

    async def check(self) -> None:
        """Make a cheap call to see if the table answers. Raises Unavailable or Misconfigured if it does not."""


IDS_IN_CALL = 10_000  # this number of usual ids, such as UUIDs, fits into one item of the table
HANDLER_DAYS = 30  # a handler that has no newer time counts as not measured
