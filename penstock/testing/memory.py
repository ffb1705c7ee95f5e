"""A queue, a store and a bucket in memory, and a clock that a test controls.

They keep the contracts of `queue.py`, `store.py` and `bucket.py`, including leases and conditions: the same tests are
for them and for the real adapters. They only work within one process, and nothing is kept when it ends.
"""

import asyncio
import hashlib
import itertools
import math
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from msgspec.structs import replace as with_changes

from penstock.api_key import ApiKey
from penstock.backend import Backend
from penstock.batch import (
    OPEN_STATES,
    RUNNING_STATES,
    UNACCEPTED_STATES,
    Batch,
    BatchState,
    Counts,
    Ending,
    steered_values,
)
from penstock.bucket import StoredFile, UploadForm
from penstock.catalog import CatalogEntry
from penstock.chunk import group_of, planned_number, sort_key
from penstock.chunk_ids import ChunkIds
from penstock.clock import Clock, SystemClock
from penstock.cost import Units
from penstock.ending import start_left_out
from penstock.errors import AcceptanceLost, LostItem, RejectedCall, UploadReplaced
from penstock.eta import slice_at
from penstock.export import Export
from penstock.files.layout import Layout
from penstock.fleet_limit import LimitState
from penstock.listing import Entry, Place
from penstock.metrics.fleet import FigureReport
from penstock.open_limit import MOST_ENTRIES, OpenBatch, OpenOperations
from penstock.outcome import ChunkRecord
from penstock.planning import Errors, GroupPlan, PlannedFile, Planning
from penstock.priority import Priority
from penstock.queue import MESSAGES_IN_CALL, Delivery, Message
from penstock.quota import Account, Charge, Quota, Usage, nanoseconds
from penstock.record import EncodedRecord, encode_record
from penstock.store import Group, KeyClaim, SweepLease, Traces
from penstock.webhooks.delivery import DeliveryKey, DeliveryState, EventDelivery
from penstock.webhooks.endpoint import Endpoints
from penstock.webhooks.event import FinalEvent

POLL_SECONDS = 0.005
SPENT = Units(sqs=1, writes=3, reads=1, requests=5)  # by a front end on a small batch, as on AWS


class FakeClock:
    """A clock whose time only moves by `advance` and `sleep`. `sleep` returns immediately."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)


@dataclass
class _Kept:
    """A message on the in-memory queue. `receipt` belongs to its last delivery."""

    id: str
    message: Message
    sent_at: float
    visible_at: float
    receive_count: int = 0
    receipt: str | None = None


class MemoryQueue:
    """A queue in memory. `deleted` counts the acknowledged messages.

    Message ids start with `name`, so give each queue of a test its own name.
    """

    def __init__(self, clock: Clock | None = None, visibility_seconds: float = 30, name: str = "m") -> None:
        self._clock = clock or SystemClock()
        self._visibility_seconds = visibility_seconds
        self._name = name
        self._numbers = itertools.count(1)
        self._kept: dict[str, _Kept] = {}
        self.deleted = 0

    @property
    def messages(self) -> list[Message]:
        """Return all messages on the queue: waiting, delayed, and delivered but not acknowledged."""
        return [kept.message for kept in self._kept.values()]

    @property
    def next_visible_at(self) -> float:
        """Return the time at which the next message can be received. It is infinite if the queue is empty."""
        return min((kept.visible_at for kept in self._kept.values()), default=math.inf)

    async def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            message_id = f"{self._name}{next(self._numbers)}"
            now = self._clock.now()
            self._kept[message_id] = _Kept(message_id, message, now, now + message.delay_seconds)

    async def receive(self, limit: int, wait_seconds: int) -> list[Delivery]:
        give_up_at = self._clock.monotonic() + wait_seconds
        while True:
            visible = [kept for kept in self._kept.values() if kept.visible_at <= self._clock.now()]
            if visible or self._clock.monotonic() >= give_up_at:
                return [self._deliver(kept) for kept in visible[: min(limit, MESSAGES_IN_CALL)]]
            await self._clock.sleep(POLL_SECONDS)

    async def delete(self, delivery: Delivery) -> None:
        if self._held(delivery) is not None:
            del self._kept[delivery.message_id]
            self.deleted += 1

    async def extend(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        lost = []
        for delivery in deliveries:
            kept = self._held(delivery)
            if kept is None:
                lost.append(delivery)
            else:
                kept.visible_at = self._clock.now() + seconds
        return lost

    async def depth(self) -> int:
        return sum(kept.visible_at <= self._clock.now() for kept in self._kept.values())

    def _deliver(self, kept: _Kept) -> Delivery:
        kept.receive_count += 1
        kept.visible_at = self._clock.now() + self._visibility_seconds
        kept.receipt = f"{kept.id}#{kept.receive_count}"
        message = kept.message
        return Delivery(
            message_id=kept.id,
            body=message.body,
            receipt=kept.receipt,
            receive_count=kept.receive_count,
            tenant=message.tenant,
            sent_at=kept.sent_at,
            trace=message.trace,
            sent_ahead=message.sent_ahead,
        )

    def _held(self, delivery: Delivery) -> _Kept | None:
        """Return the message if this delivery is its last one and its lease has not ended; otherwise None."""
        kept = self._kept.get(delivery.message_id)
        if kept is None or kept.receipt != delivery.receipt or kept.visible_at <= self._clock.now():
            return None
        return kept


class MemoryApiKeys:
    def __init__(self) -> None:
        super().__init__()
        self._api_keys: dict[str, ApiKey] = {}

    async def create_api_key(self, key: ApiKey) -> None:
        self._api_keys[key.digest] = key

    async def find_api_key(self, digest: str) -> ApiKey | None:
        return self._api_keys.get(digest)

    async def read_api_key(self, key_id: str) -> ApiKey | None:
        return next((key for key in self._api_keys.values() if key.id == key_id), None)

    async def list_api_keys(self) -> list[ApiKey]:
        return sorted(self._api_keys.values(), key=lambda key: key.id)

    async def replace_api_key(self, key: ApiKey, new_id: str, until: float) -> None:
        current = self._api_keys.get(key.digest)
        if current is not None and (current.expires_at is None or current.expires_at >= until):
            self._api_keys[key.digest] = replace(current, expires_at=until, replaced_by=new_id)

    async def revoke_api_key(self, key: ApiKey, at: float) -> None:
        current = self._api_keys.get(key.digest)
        if current is not None and current.revoked_at is None:
            self._api_keys[key.digest] = replace(current, revoked_at=at)

    async def note_api_key_use(self, key: ApiKey, hour: float) -> None:
        if key.digest in self._api_keys:
            self._api_keys[key.digest] = replace(self._api_keys[key.digest], used_at=hour)


class MemoryLimits:
    def __init__(self) -> None:
        super().__init__()
        self._limits: dict[str, LimitState] = {}

    async def read_limit(self, name: str) -> LimitState:
        return self._limits.get(name, LimitState())

    async def read_limits(self, names: Sequence[str]) -> dict[str, LimitState]:
        return {name: self._limits[name] for name in names if name in self._limits}

    async def lease_limit(self, name: str, seen: LimitState, state: LimitState) -> bool:
        current = self._limits.get(name, LimitState())
        if current.lease == seen.lease:
            current = self._limits[name] = state
        return current.lease == state.lease


class MemoryCatalog:
    def __init__(self) -> None:
        super().__init__()
        self._catalog: dict[tuple[str, str], dict[str, CatalogEntry]] = {}

    async def write_entry(self, entry: CatalogEntry) -> None:
        self._catalog.setdefault((entry.kind, entry.tenant), {})[entry.id] = entry

    async def read_entry(self, kind: str, tenant: str, entry_id: str) -> CatalogEntry | None:
        return self._catalog.get((kind, tenant), {}).get(entry_id)

    async def read_entries(self, kind: str, tenant: str, ids: Sequence[str]) -> list[CatalogEntry]:
        entries = self._catalog.get((kind, tenant), {})
        return [entries[one] for one in ids if one in entries]

    async def list_entries(
        self, kind: str, tenant: str, after: str | None, limit: int, *, now: float, oldest_first: bool = False
    ) -> list[CatalogEntry]:
        catalog = self._catalog.get((kind, tenant), {})
        entries = {one: entry for one, entry in catalog.items() if not entry.is_gone(now)}
        ids = sorted(entries, reverse=not oldest_first)
        following = [one for one in ids if after is None or (one > after if oldest_first else one < after)]
        return [entries[one] for one in following[:limit]]


class MemoryExports:
    def __init__(self) -> None:
        super().__init__()
        self._exports: dict[tuple[str, str], Export] = {}

    async def read_export(self, batch_id: str, export_id: str) -> Export | None:
        return self._exports.get((batch_id, export_id))

    async def write_export(self, export: Export, seen: Export | None, revision: str) -> Export | None:
        key, written = (export.batch_id, export.id), with_changes(export, revision=revision)
        current = self._exports.get(key)
        if (current and current.revision) == (seen and seen.revision):
            current = self._exports[key] = written
        return written if current is not None and current.revision == revision else None


class MemoryFigures:
    def __init__(self) -> None:
        super().__init__()
        self._figures: dict[str, FigureReport] = {}

    async def write_figures(self, report: FigureReport) -> None:
        self._figures[report.process] = report

    async def read_figures(self, since: float) -> list[FigureReport]:
        return [report for report in self._figures.values() if report.at >= since]


class MemoryWebhooks:
    def __init__(self) -> None:
        super().__init__()
        self._endpoints: dict[str, Endpoints] = {}
        self._marks: set[str] = set()
        self._deliveries: dict[DeliveryKey, EventDelivery] = {}

    async def read_endpoints(self, tenant: str) -> Endpoints:
        return self._endpoints.get(tenant, Endpoints(tenant))

    async def write_endpoints(self, endpoints: Endpoints, revision: str) -> bool:
        current = await self.read_endpoints(endpoints.tenant)
        if current.revision == endpoints.revision:
            current = self._endpoints[endpoints.tenant] = replace(endpoints, revision=revision)
        return current.revision == revision

    async def read_webhook_marks(self) -> frozenset[str]:
        return frozenset(self._marks)

    async def add_webhook_mark(self, mark: str) -> None:
        self._marks.add(mark)

    async def create_delivery(self, delivery: EventDelivery) -> None:
        self._deliveries.setdefault(DeliveryKey(delivery.tenant, delivery.id), delivery)

    async def claim_delivery(self, key: DeliveryKey, claim: str, now: float, until: float) -> EventDelivery | None:
        current = self._deliveries.get(key)
        if current is None:
            return None
        if current.state is DeliveryState.PENDING and current.due_at is not None and current.due_at <= now:
            current = replace(current, claim=claim, due_at=until, attempt=current.attempt + 1)
            self._deliveries[key] = current
        return current if current.claim == claim else None

    async def settle_delivery(self, delivery: EventDelivery) -> bool:
        key = DeliveryKey(delivery.tenant, delivery.id)
        current = self._deliveries.get(key)
        if current is None or current.claim != delivery.claim:
            return False
        self._deliveries[key] = delivery
        return True

    async def read_delivery(self, key: DeliveryKey) -> EventDelivery | None:
        return self._deliveries.get(key)

    async def list_deliveries(self, tenant: str, before: str | None, limit: int) -> list[EventDelivery]:
        keys = sorted(self._deliveries, key=lambda key: key.id, reverse=True)
        own = [key for key in keys if key.tenant == tenant and (before is None or key.id < before)]
        return [self._deliveries[key] for key in own[:limit]]

    async def replay_delivery(self, key: DeliveryKey, now: float, expires_at: float) -> EventDelivery | None:
        current = self._deliveries.get(key)
        if current is None:
            return None
        if current.state is not DeliveryState.PENDING:
            current = replace(
                current,
                state=DeliveryState.PENDING,
                due_at=now,
                expires_at=expires_at,
                replayed_after=current.attempt,
                error=None,
                claim=None,
            )
            self._deliveries[key] = current
        return current if current.due_at == now else None


class MemoryPlans:
    _batches: dict[str, Batch]
    _due: dict[str, float]

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[str, PlannedFile] = {}
        self._plans: dict[tuple[str, int], GroupPlan] = {}
        self._file_errors: dict[str, Errors] = {}

    async def write_file(self, batch: Batch, file: PlannedFile) -> None:
        self._files[batch.id] = PlannedFile.decode(file.encode())

    async def read_file(self, batch_id: str) -> PlannedFile | None:
        return self._files.get(batch_id)

    async def take_planning(self, batch_id: str, planner: str, now: float, until: float) -> Batch | None:
        batch = self._batches.get(batch_id)
        planning = None if batch is None else batch.planning
        if batch is None or planning is None or batch.state is not BatchState.VALIDATING:
            return batch
        if planning.planner is None or planning.lease_until < now:
            takes = planning.takes + 1
            planning = replace(planning, planner=planner, lease_until=until, takes=takes)
            batch = replace(batch, planning=planning, reason=None)
            self._batches[batch_id], self._due[batch_id] = batch, until
        return batch

    async def note_planning(self, batch_id: str, planning: Planning, due_at: float) -> bool:
        batch = self._validating(batch_id, planning.planner)
        if batch is None or batch.planning is None or batch.planning.sent_groups > planning.sent_groups:
            return False
        self._batches[batch_id], self._due[batch_id] = replace(batch, planning=planning), due_at
        return True

    async def extend_planning(self, batch_id: str, planner: str, until: float, due_at: float) -> bool:
        batch = self._validating(batch_id, planner)
        if batch is None or batch.planning is None:
            return False
        self._batches[batch_id] = replace(batch, planning=replace(batch.planning, lease_until=until))
        self._due[batch_id] = due_at
        return True

    async def leave_planning(self, batch_id: str, planner: str, due_at: float, reason: str | None = None) -> None:
        batch = self._validating(batch_id, planner)
        if batch is not None and batch.planning is not None:
            planning = replace(batch.planning, planner=None, takes=0)
            self._batches[batch_id] = replace(batch, planning=planning, reason=reason)
            self._due[batch_id] = due_at

    async def postpone_planning(self, batch_id: str, due_at: float) -> None:
        batch = self._batches.get(batch_id)
        if batch is not None and batch.state is BatchState.VALIDATING:
            self._due[batch_id] = due_at

    async def write_plan(self, batch: Batch, plan: GroupPlan) -> GroupPlan:
        made = GroupPlan.decode(plan.encode(), plan.errors.encode())
        return self._plans.setdefault((batch.id, plan.number), made)

    async def read_plans(self, batch_id: str, numbers: Sequence[int]) -> dict[int, GroupPlan]:
        return {number: self._plans[batch_id, number] for number in numbers if (batch_id, number) in self._plans}

    async def write_errors(self, batch: Batch, errors: Errors) -> None:
        self._file_errors[batch.id] = Errors.decode(errors.encode())

    async def read_errors(self, batch_id: str) -> Errors | None:
        return self._file_errors.get(batch_id)

    async def accept_planned(self, batch: Batch, at: float) -> bool:
        current = self._batches.get(batch.id)
        if current is not None and current.accepted_at == at:
            return True
        planning = None if current is None else current.planning
        if current is None or planning is None or current.state is not BatchState.VALIDATING:
            return False
        if not planning.is_valid or not planning.groups == planning.sent_groups == len(batch.group_totals):
            return False
        self._batches[batch.id] = replace(
            current,
            state=BatchState.QUEUED,
            accepted_at=at,
            total=batch.total,
            chunk_count=batch.chunk_count,
            group_totals=batch.group_totals,
            has_own_ids=batch.has_own_ids,
            failure_limit=batch.failure_limit,
            planning=replace(planning, planner=None),
            spent=SPENT,
        )
        self._due[batch.id] = current.deadline_at
        return True

    async def end_planning(
        self,
        batch_id: str,
        state: BatchState,
        at: float,
        reason: str,
        *,
        ending: Ending | None = None,
        errors: int = 0,
        event: FinalEvent | None = None,
    ) -> bool:
        batch = self._batches.get(batch_id)
        if batch is None or batch.planning is None or batch.state is not BatchState.VALIDATING:
            return batch is not None and (batch.state, batch.finished_at) == (state, at)
        planning = replace(batch.planning, planner=None, errors=errors)
        self._batches[batch_id] = replace(
            batch, state=state, finished_at=at, reason=reason, ending=ending, planning=planning
        )
        self._due.pop(batch_id, None)
        self._add_event(batch_id, event)
        return True

    def _add_event(self, batch_id: str, event: FinalEvent | None) -> None:
        raise NotImplementedError

    def _validating(self, batch_id: str, planner: str | None) -> Batch | None:
        """Return the batch if it is validating, and this planner has its lease."""
        batch = self._batches.get(batch_id)
        if batch is None or batch.planning is None or batch.state is not BatchState.VALIDATING:
            return None
        return batch if planner is not None and batch.planning.planner == planner else None


class MemoryStore(
    MemoryApiKeys,
    MemoryCatalog,
    MemoryExports,
    MemoryFigures,
    MemoryLimits,
    MemoryPlans,
    MemoryWebhooks,
):
    def __init__(self) -> None:
        super().__init__()
        self._batches: dict[str, Batch] = {}
        self._lists: dict[str, dict[Place, Entry]] = {}
        self._groups: dict[tuple[str, int], Group] = {}
        self._done: dict[tuple[str, int], ChunkIds] = {}
        self._records: dict[tuple[str, str], ChunkRecord] = {}
        self._released: dict[tuple[str, str], set[str]] = {}
        self._ids: dict[tuple[str, int], dict[int, list[str]]] = {}
        self._keys: dict[tuple[str, str], KeyClaim] = {}
        self._due: dict[str, float] = {}
        self._sweep: SweepLease | None = None
        self._handler_seconds: dict[str, float] = {}
        self._usages: dict[Account, Usage] = {}
        self._open: dict[Account, OpenOperations] = {}
        self._layouts: dict[str, bytes] = {}
        self._paused_queues: dict[Priority, float] = {}
        self._begun: dict[tuple[str, str], set[str]] = {}
        self._followed: set[tuple[str, str]] = set()
        self._due_events: dict[str, float] = {}

    async def create_batch(self, batch: Batch) -> None:
        if batch.id not in self._batches:
            self._batches[batch.id] = batch
            self._due[batch.id] = batch.accept_by

    async def list_batch(self, batch: Batch, metadata: Mapping[str, str]) -> None:
        place = Place.of(batch)
        self._lists.setdefault(batch.tenant, {})[place] = Entry(place, dict(metadata))

    async def read_list(self, tenant: str | None, since: Place, before: Place, limit: int) -> list[Entry]:
        lists = self._lists.values() if tenant is None else [self._lists.get(tenant, {})]
        places = {place: entry for entries in lists for place, entry in entries.items() if since <= place < before}
        return [places[place] for place in sorted(places, reverse=True)[:limit]]

    async def read_metadata(self, batch: Batch) -> dict[str, str]:
        if not batch.has_metadata:
            return {}
        return dict(self._lists[batch.tenant][Place.of(batch)].metadata)

    async def read_batches(self, batch_ids: Sequence[str]) -> dict[str, Batch]:
        return {batch_id: self._batches[batch_id] for batch_id in batch_ids if batch_id in self._batches}

    async def write_layout(self, batch: Batch, layout: Layout) -> None:
        self._layouts[batch.id] = layout.encode()

    async def read_layout(self, batch_id: str) -> Layout | None:
        return Layout.decode(self._layouts[batch_id]) if batch_id in self._layouts else None

    async def write_ids(self, batch: Batch, first_index: int, ids: Sequence[str]) -> None:
        self._ids.setdefault((batch.id, batch.group_at(first_index)), {})[first_index] = list(ids)

    async def accept_new(self, batch: Batch, at: float) -> None:
        if batch.id not in self._batches:
            self._batches[batch.id] = replace(batch, state=BatchState.QUEUED, accepted_at=at, spent=SPENT)
            self._due[batch.id] = batch.deadline_at
        elif self._batches[batch.id].accepted_at != at:
            raise AcceptanceLost(f"Batch {batch.id} was not accepted before its acceptance lease ended.")

    async def extend_acceptance(self, batch_id: str, at: float, until: float) -> None:
        batch = self._batches.get(batch_id)
        if batch is None or batch.state is not BatchState.ACCEPTING or batch.accept_by < at:
            raise AcceptanceLost(f"Batch {batch_id} was not accepted before its acceptance lease ended.")
        self._batches[batch_id] = replace(batch, accept_by=until)
        self._due[batch_id] = until

    async def accept_batch(self, batch_id: str, at: float) -> None:
        batch = self._batches.get(batch_id)
        if batch is not None and batch.accepted_at == at:
            return
        if batch is None or batch.state is not BatchState.ACCEPTING or at > batch.accept_by:
            raise AcceptanceLost(f"Batch {batch_id} was not accepted before its acceptance lease ended.")
        self._batches[batch_id] = replace(batch, state=BatchState.QUEUED, accepted_at=at, spent=SPENT)
        self._due[batch_id] = batch.deadline_at

    async def abandon_batch(self, batch_id: str) -> bool:
        batch = self._batches.get(batch_id)
        if batch is None or batch.state not in UNACCEPTED_STATES:
            return False
        self._batches[batch_id] = replace(batch, state=BatchState.ABANDONED)
        self._due.pop(batch_id, None)
        return True

    async def read_batch(self, batch_id: str) -> Batch | None:
        return self._batches.get(batch_id)

    async def read_progress(
        self, batch_id: str, groups: Sequence[int], *, with_done: bool
    ) -> tuple[Batch | None, dict[int, Group]]:
        if not with_done:
            return await self.read_batch(batch_id), await self.read_groups(batch_id, groups)
        return await self.read_batch(batch_id), {group: await self.read_group(batch_id, group) for group in groups}

    async def read_only_chunk(self, batch_id: str) -> tuple[Batch | None, Group, EncodedRecord | None]:
        record = await self.read_record(batch_id, "0") if (batch_id, "0") in self._records else None
        return await self.read_batch(batch_id), await self.read_group(batch_id, 0), record

    async def start_batch(self, batch_id: str, at: float) -> None:
        batch = self._batches.get(batch_id)
        if batch is not None and batch.state is BatchState.QUEUED:
            self._batches[batch_id] = replace(batch, state=BatchState.PROCESSING, started_at=at)

    async def end_batch(self, batch_id: str, ending: Ending, reason: str, *, settle_by: float) -> bool:
        batch = self._batches.get(batch_id)
        if batch is None or batch.state not in {BatchState.QUEUED, BatchState.PROCESSING}:
            return batch is not None and (batch.ending, batch.reason) == (ending, reason)
        self._batches[batch_id] = replace(batch, state=BatchState.CANCELLING, ending=ending, reason=reason)
        self._due[batch_id] = settle_by
        return True

    async def steer_batch(self, seen: Batch, wanted: Batch, at: float) -> bool:
        batch, before, after = self._batches.get(seen.id), steered_values(seen), steered_values(wanted)
        if batch is None or before == after or steered_values(batch) == after:
            return batch is not None
        if batch.state not in RUNNING_STATES or batch.deadline_at < at or steered_values(batch) != before:
            return False
        self._batches[batch.id] = replace(batch, **after)
        self._due[batch.id] = wanted.deadline_at
        return True

    async def suspect_batch(self, batch_id: str) -> None:
        if batch_id in self._batches:
            self._batches[batch_id] = replace(self._batches[batch_id], is_suspect=True)

    async def note_deaths(self, batch_id: str, processes: Collection[str]) -> frozenset[str]:
        batch = self._batches.get(batch_id)
        if batch is None:
            return frozenset()
        self._batches[batch_id] = replace(batch, died=batch.died.union(processes))
        return self._batches[batch_id].died

    async def deny_death(self, batch_id: str, process: str) -> None:
        batch = self._batches.get(batch_id)
        if batch is not None:
            self._batches[batch_id] = replace(batch, died=batch.died - {process})

    async def read_traces(self, batch_id: str, chunk_id: str) -> Traces:
        key = batch_id, chunk_id
        released, begun = self._released.get(key, ()), self._begun.get(key, ())
        return Traces(self._records.get(key), frozenset(released), frozenset(begun), key in self._followed)

    async def note_release(self, batch: Batch, chunk_id: str, mark: str) -> None:
        self._released.setdefault((batch.id, chunk_id), set()).add(mark)

    async def note_start(self, batch: Batch, chunk_id: str, mark: str) -> ChunkRecord | None:
        self._begun.setdefault((batch.id, chunk_id), set()).add(mark)
        return self._records.get((batch.id, chunk_id))

    async def note_follow_ups(self, batch: Batch, chunk_id: str) -> None:
        self._followed.add((batch.id, chunk_id))

    async def commit_chunk(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        return self._records.setdefault((batch.id, record.chunk_id), record)

    async def count_chunk(self, batch: Batch, record: ChunkRecord, at: float | None = None) -> Group:
        key = batch.id, group_of(record.chunk_id)
        group = self._groups.get(key, Group())
        total = batch.group_totals[group_of(record.chunk_id)]
        if not group.is_through_with(record.chunk_id) and group.has_room(record.counts, total):
            is_first = key not in self._groups
            self._done[key] = self._done.get(key, ChunkIds()).including([record.chunk_id])
            group = replace(
                group,
                counts=group.counts + record.counts,
                redelivered=group.redelivered + record.redelivered,
                done=self._done[key],
                counted_at=at or group.counted_at,
                started_at=start_left_out(batch, [record]) if is_first else group.started_at,
                history=_with_count(group.history, batch, record.counts.completed, at),
            )
            self._groups[key] = group
        return group

    async def close_group(self, batch: Batch, group: int, seen: Counts, ending: Ending) -> bool:
        standing = self._groups.get((batch.id, group), Group())
        if standing.closed is not None or standing.counts != seen:
            return False
        rest = Counts(**{ending: batch.group_totals[group] - seen.completed})
        self._groups[batch.id, group] = replace(standing, counts=seen + rest, closed=ending)
        return True

    async def finish_group(self, batch_id: str, group: int) -> Batch | None:
        batch = self._batches.get(batch_id)
        if batch is None:
            return None
        batch = replace(batch, finished_groups=batch.finished_groups | {group})
        self._batches[batch_id] = batch
        return batch

    async def read_groups(self, batch_id: str, groups: Sequence[int]) -> dict[int, Group]:
        return {group: replace(await self.read_group(batch_id, group), done=frozenset()) for group in groups}

    async def read_groups_of(self, batches: Sequence[Batch]) -> list[dict[int, Group]]:
        return [await self.read_groups(batch.id, range(len(batch.group_totals))) for batch in batches]

    async def read_group(self, batch_id: str, group: int) -> Group:
        return self._groups.get((batch_id, group), Group())

    async def read_ids(self, batch_id: str, group: int) -> list[str]:
        pieces = self._ids.get((batch_id, group), {})
        return [operation_id for _, ids in sorted(pieces.items()) for operation_id in ids]

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
        batch = self._batches.get(batch_id)
        if batch is None or batch.state not in OPEN_STATES or batch.ending is not ending:
            return False
        started_at = started_at or batch.started_at or likely_start
        self._batches[batch_id] = replace(batch, state=state, started_at=started_at, finished_at=at)
        self._due.pop(batch_id, None)
        self._add_event(batch_id, event)
        return True

    async def revise_batch(
        self, batch_id: str, before: BatchState, after: BatchState, event: FinalEvent | None = None
    ) -> None:
        batch = self._batches.get(batch_id)
        if batch is not None and batch.state is before:
            self._batches[batch_id] = replace(batch, state=after)
            self._add_event(batch_id, event)

    def _add_event(self, batch_id: str, event: FinalEvent | None) -> None:
        if event is not None:
            batch = self._batches[batch_id]
            self._batches[batch_id] = replace(batch, events=(*batch.events, event))
            self._due_events[batch_id] = event.at

    async def clear_events(self, batch_id: str, events: Sequence[FinalEvent]) -> bool:
        batch = self._batches.get(batch_id)
        if batch is None or set(batch.events) != set(events):
            return False
        self._batches[batch_id] = replace(batch, events=())
        self._due_events.pop(batch_id, None)
        return True

    async def due_webhooks(self, now: float, since: float = 0.0) -> AsyncIterator[tuple[float, str | DeliveryKey]]:
        due: list[tuple[float, str | DeliveryKey]] = [(at, batch_id) for batch_id, at in self._due_events.items()]
        due += [(one.due_at, key) for key, one in self._deliveries.items() if one.due_at is not None]
        for at, what in sorted(due, key=lambda one: one[0]):
            if since <= at <= now:
                yield at, what

    async def read_records(
        self,
        batch: Batch,
        group: int,
        first_chunk: int,
        *,
        reads_all: bool = False,  # noqa: ARG002 - nothing is read in calls here
    ) -> AsyncIterator[EncodedRecord]:
        ids = [chunk_id for batch_id, chunk_id in self._records if batch_id == batch.id]
        ids = [chunk_id for chunk_id in ids if group_of(chunk_id) == group and planned_number(chunk_id) >= first_chunk]
        for chunk_id in sorted(ids, key=sort_key):
            yield await self.read_record(batch.id, chunk_id)

    async def read_record(self, batch_id: str, chunk_id: str) -> EncodedRecord:
        if (batch_id, chunk_id) not in self._records:
            raise LostItem(f"The store has lost the record of chunk {chunk_id}.")
        return EncodedRecord(chunk_id, encode_record(self._records[batch_id, chunk_id]))

    async def due_batches(self, now: float) -> AsyncIterator[str]:
        for _, batch_id in sorted((due_at, batch_id) for batch_id, due_at in self._due.items() if due_at < now):
            yield batch_id

    async def take_sweep(self, owner: str, until: float, *, stale: SweepLease | None = None) -> SweepLease:
        if self._sweep is None or self._sweep.owner == owner or self._sweep == stale:
            self._sweep = SweepLease(owner, until)
        return self._sweep

    async def claim_key(self, claim: KeyClaim, now: float) -> KeyClaim:
        standing = self._keys.get((claim.tenant, claim.key))
        if standing is None or standing.expires_at < int(now):
            standing = self._keys[claim.tenant, claim.key] = claim
        return standing

    async def take_over_key(self, standing: KeyClaim, claim: KeyClaim, now: float) -> bool:
        key = claim.tenant, claim.key
        current = self._keys.get(key)
        if current is None:
            return False
        if current.batch_id == standing.batch_id and not current.is_settled and current.lease_until < now:
            self._keys[key] = claim
        return self._keys[key].batch_id == claim.batch_id

    async def extend_key(self, claim: KeyClaim, until: float) -> bool:
        current = self._keys.get((claim.tenant, claim.key))
        if current is None or current.batch_id != claim.batch_id:
            return False
        self._keys[claim.tenant, claim.key] = replace(current, lease_until=until)
        return True

    async def settle_key(self, claim: KeyClaim, answer: bytes | None) -> None:
        key = claim.tenant, claim.key
        current = self._keys.get(key)
        if current is not None and current.batch_id == claim.batch_id:
            self._keys[key] = replace(current, is_settled=True, answer=answer)

    async def release_key(self, claim: KeyClaim) -> None:
        key = claim.tenant, claim.key
        current = self._keys.get(key)
        if current is not None and current.batch_id == claim.batch_id:
            self._keys[key] = replace(current, lease_until=0)

    async def has_key(self, tenant: str, key: str, now: float) -> bool:
        claim = self._keys.get((tenant, key))
        return claim is not None and claim.may_have_answer(now)

    async def charge(
        self,
        account: Account,
        quota: Quota,
        charge: Charge,
        now: float,
        *,
        seen: Usage,  # noqa: ARG002 - here it makes nothing quicker
        settled: Collection[Charge],
    ) -> Usage:
        usage = await self.read_usage(account)
        if charge in usage.open or usage.tat > quota.latest_tat(charge.cost, now):
            return usage
        tat = max(usage.tat, nanoseconds(now)) + charge.cost
        is_open = {one: until for one, until in usage.open.items() if one not in settled}
        return self._use(account, Usage(tat, is_open | {charge: tat}))

    async def end_charge(self, account: Account, charge: Charge, given_back: int) -> Usage:
        usage = await self.read_usage(account)
        if charge not in usage.open:
            return usage
        left = {one: until for one, until in usage.open.items() if one != charge}
        return self._use(account, Usage(usage.tat - given_back, left))

    async def read_usage(self, account: Account) -> Usage:
        return self._usages.get(account, Usage())

    def _use(self, account: Account, usage: Usage) -> Usage:
        self._usages[account] = usage
        return usage

    async def add_open(
        self,
        account: Account,
        entry: OpenBatch,
        operations: int,
        *,
        most: int | None,
        expires_at: float,  # noqa: ARG002 - here they never expire
    ) -> OpenOperations:
        now = await self.read_open(account)
        is_full = len(now.entries) >= (2 * MOST_ENTRIES if most is None else MOST_ENTRIES)
        if entry in now.entries or is_full or (most is not None and now.total + operations > most):
            return now
        return self._set_open(account, {**now.entries, entry: operations})

    async def lower_open(self, account: Account, changes: Mapping[OpenBatch, tuple[int, int]]) -> OpenOperations:
        now = await self.read_open(account)
        if any(now.entries.get(entry) != seen for entry, (seen, _) in changes.items()):
            return now
        after = {**now.entries, **{entry: left for entry, (_, left) in changes.items()}}
        return self._set_open(account, {entry: left for entry, left in after.items() if left})

    async def read_open(self, account: Account) -> OpenOperations:
        return self._open.get(account, OpenOperations())

    def _set_open(self, account: Account, entries: Mapping[OpenBatch, int]) -> OpenOperations:
        self._open[account] = OpenOperations(sum(entries.values()), entries)
        return self._open[account]

    async def pause_queue(self, priority: Priority, at: float) -> None:
        self._paused_queues.setdefault(priority, at)

    async def resume_queue(self, priority: Priority) -> None:
        self._paused_queues.pop(priority, None)

    async def read_paused_queues(self) -> dict[Priority, float]:
        return dict(self._paused_queues)

    async def read_handler_seconds(self, names: Sequence[str]) -> dict[str, float]:
        return {name: self._handler_seconds[name] for name in names if name in self._handler_seconds}

    async def write_handler_seconds(self, taken_seconds: Mapping[str, float], at: float) -> None:  # noqa: ARG002 - here they never expire
        self._handler_seconds |= taken_seconds

    async def check(self) -> None:
        pass


class MemoryBucket:
    """A bucket in memory. Nobody can use the URLs that it returns: `write` what a client would upload.

    `contents` has the files by their keys.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self._parts: dict[str, dict[int, bytes]] = {}

    async def offer_upload(self, key: str, most_bytes: int, seconds: int) -> UploadForm:
        return UploadForm("memory:", {"key": key, "most_bytes": str(most_bytes), "seconds": str(seconds)})

    async def offer_download(self, key: str, name: str, seconds: int) -> str:
        return f"memory:{key}?name={name}&seconds={seconds}"

    async def find(self, key: str) -> StoredFile | None:
        content = self.contents.get(key)
        return None if content is None else _stored(key, content)

    async def read(self, file: StoredFile, first: int, count: int) -> bytes:
        if await self.find(file.key) != file:
            raise UploadReplaced
        return self.contents[file.key][first : first + count]

    async def load(self, key: str) -> bytes | None:
        return self.contents.get(key)

    async def write(self, key: str, content: bytes, content_type: str) -> None:  # noqa: ARG002 - it is not kept
        self.contents[key] = content

    async def delete(self, key: str) -> None:
        self.contents.pop(key, None)

    async def begin_parts(self, key: str, content_type: str) -> str:  # noqa: ARG002 - they are not kept
        parts_id = secrets.token_hex(8)
        self._parts[parts_id] = {}
        return parts_id

    async def write_part(self, key: str, parts_id: str, number: int, content: bytes) -> str:  # noqa: ARG002
        self._parts[parts_id][number] = content
        return str(number)

    async def finish_parts(self, key: str, parts_id: str, etags: Sequence[str]) -> None:
        parts = self._parts.pop(parts_id, None)
        if parts is not None:
            self.contents[key] = b"".join(parts[int(etag)] for etag in etags)
        elif key not in self.contents:
            raise RejectedCall(f"The parts of {key} were dropped before they became a file.")

    async def drop_parts(self, key: str, parts_id: str) -> None:  # noqa: ARG002 - the id is enough
        self._parts.pop(parts_id, None)


def _stored(key: str, content: bytes) -> StoredFile:
    return StoredFile(key, len(content), f'"{hashlib.sha256(content).hexdigest()}"')


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """The parts of a backend in memory, with their own types."""

    queues: Mapping[Priority, MemoryQueue]
    dead_letters: MemoryQueue
    store: MemoryStore
    bucket: MemoryBucket | None = field(default_factory=MemoryBucket)

    @property
    def chunks(self) -> MemoryQueue:
        """Return the queue for batches of normal priority."""
        return self.queues[Priority.NORMAL]

    @property
    def backend(self) -> Backend:
        return Backend(self.queues, self.dead_letters, self.store, bucket=self.bucket)


def memory_parts(clock: Clock | None = None, visibility_seconds: float = 30) -> MemoryParts:
    """Create the queues and the store of a backend in memory."""
    queues = {priority: MemoryQueue(clock, visibility_seconds, priority) for priority in Priority}
    return MemoryParts(queues, MemoryQueue(clock, visibility_seconds), MemoryStore())


def _with_count(history: Mapping[int, int], batch: Batch, completed: int, at: float | None) -> Mapping[int, int]:
    if at is None or batch.started_at is None or completed <= 0:
        return history
    number = slice_at(batch.running_seconds(at))
    return {**history, number: history.get(number, 0) + completed}
