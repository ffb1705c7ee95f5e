"""The store port on DynamoDB. `items.py` knows what the items look like, and `table.py` calls DynamoDB.

Every write may be repeated, because a call that times out may have taken effect. So every write either always writes
the same, or has a condition that its own first effect makes false.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from penstock.aws import items
from penstock.aws.api_keys import DynamoDbApiKeys
from penstock.aws.attributes import Item, Value, binary, flag, number, numbers, seconds, text, texts, whole_seconds
from penstock.aws.catalog import DynamoDbCatalog
from penstock.aws.exports import DynamoDbExports
from penstock.aws.figures import DynamoDbFigures
from penstock.aws.gathering import Gatherer, up_to
from penstock.aws.limits import DynamoDbLimits
from penstock.aws.lists import DynamoDbLists
from penstock.aws.plans import DynamoDbPlans
from penstock.aws.table import Blocked, Done, Table
from penstock.aws.webhook_items import DUE, events_value
from penstock.aws.webhooks import DynamoDbWebhooks
from penstock.batch import OPEN_STATES, Batch, BatchState, Counts, Ending
from penstock.bills import Bills
from penstock.chunk import group_of
from penstock.cost import Units
from penstock.errors import AcceptanceLost, PenstockError, RejectedCall
from penstock.files.layout import Layout
from penstock.latest import Latest
from penstock.open_limit import MOST_ENTRIES, OpenBatch, OpenOperations
from penstock.outcome import ChunkRecord
from penstock.priority import Priority
from penstock.quota import Account, Charge, Quota, Usage, nanoseconds
from penstock.record import EncodedRecord, decode_record, encode_record
from penstock.store import Group, KeyClaim, SweepLease, Traces
from penstock.webhooks.event import FinalEvent

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

FOLD_AT = 128  # ids in a counter. DynamoDB bills each write by the size of the whole item
FOLDS_KEPT = 50  # groups of which a process remembers what is folded
COMPLETE_KEPT = 1_000  # groups of which a process remembers that their counter has all attributes that a count repeats
CHUNKS_IN_COUNT = 32  # their condition has about 2 KB; DynamoDB accepts 4 KB and 300 operators
READS_IN_CALL = 40  # items of up to 400 KB: an answer of DynamoDB has up to 16 MB, so it has room for all of them
_ONE_WRITE = Units(writes=1, requests=1)
_WRITE_AND_DELETION = Units(sqs=1, writes=1, requests=2)  # what follows a count, or makes a batch final
FIRST_RECORDS = 4  # enough for most pages of results; a reader who needs more gets it, up to 1 MiB a call


@dataclass(frozen=True, slots=True)
class _Count:
    """A record to count, and the time of its count."""

    batch: Batch
    record: ChunkRecord
    at: float | None


class DynamoDbStore(
    DynamoDbApiKeys,
    DynamoDbCatalog,
    DynamoDbExports,
    DynamoDbFigures,
    DynamoDbLimits,
    DynamoDbLists,
    DynamoDbPlans,
    DynamoDbWebhooks,
):
    def __init__(self, client: "DynamoDBClient", table: str, bills: Bills | None = None) -> None:
        super().__init__(Table(client, table, bills))
        self._reads = Gatherer(self._read_items, up_to(READS_IN_CALL))
        self._counts: dict[tuple[str, int], Gatherer[_Count, Group]] = {}
        # By batch and group, as last seen. The table says if one is out of date.
        self._folds = Latest[tuple[str, int], items.Fold](FOLDS_KEPT)
        # Groups whose counter was seen with `items.OF_EVERY_COUNTER`.
        self._complete = Latest[tuple[str, int], None](COMPLETE_KEPT)

    async def check(self) -> None:
        await self._table.check(items.batch_key("none"))

    # --- Batches

    async def create_batch(self, batch: Batch) -> None:
        # Ids are unique, so a batch that exists is this one. A late repetition must not undo what happened to it since.
        await self._table.put_if("attribute_not_exists(pk)", items.batch_to_item(batch))

    async def accept_new(self, batch: Batch, at: float) -> None:
        written = items.batch_to_item(replace(batch, state=BatchState.QUEUED, accepted_at=at))
        with self._table.bills.report(batch.id, _ONE_WRITE) as report:
            accepted = await self._table.put_if(
                "attribute_not_exists(pk)",
                {**written, **items.spent_to_values(report.units)},
                return_blocker=True,
            )
            report.is_done = isinstance(accepted, Done)
        # A call that took effect, but whose answer was lost, is blocked by its own effect when it is repeated.
        if isinstance(accepted, Blocked) and not items.was_accepted(accepted.item, at):
            raise _acceptance_lost(batch.id)

    async def extend_acceptance(self, batch_id: str, at: float, until: float) -> None:
        extended = await self._table.update_if(
            "#state = :accepting AND accept_by >= :at",
            items.batch_key(batch_id),
            "SET accept_by = :until, due_at = :until",
            {"accepting": text(BatchState.ACCEPTING), "at": seconds(at), "until": seconds(until)},
        )
        if isinstance(extended, Blocked):
            raise _acceptance_lost(batch_id)

    async def accept_batch(self, batch_id: str, at: float) -> None:
        with self._table.bills.report(batch_id, _ONE_WRITE) as report:
            spent = items.spent_to_values(report.units)
            accepted = await self._table.update_if(
                "#state = :accepting AND accept_by >= :at",
                items.batch_key(batch_id),
                ", ".join(["SET #state = :queued, accepted_at = :at, due_at = deadline_at", *map(_set_to, spent)]),
                {
                    "queued": text(BatchState.QUEUED),
                    "accepting": text(BatchState.ACCEPTING),
                    "at": seconds(at),
                    **spent,
                },
                return_blocker=True,
            )
            report.is_done = isinstance(accepted, Done)
        # A call that took effect, but whose answer was lost, is blocked by its own effect when it is repeated.
        if isinstance(accepted, Blocked) and not items.was_accepted(accepted.item, at):
            raise _acceptance_lost(batch_id)

    async def abandon_batch(self, batch_id: str) -> bool:
        abandoned = await self._table.update_if(
            "#state IN (:accepting, :abandoned)",
            items.batch_key(batch_id),
            "SET #state = :abandoned REMOVE #open, due_at",
            {"accepting": text(BatchState.ACCEPTING), "abandoned": text(BatchState.ABANDONED)},
        )
        return isinstance(abandoned, Done)

    async def read_batch(self, batch_id: str) -> Batch | None:
        key = items.batch_key(batch_id)
        # A consumer asks for a batch and the record of its chunk in the same turn of the loop, and one call reads both.
        # If it has no room, or another call is in flight, the batch is read alone: it must not wait for records.
        item = await (self._reads.ask(key) if self._reads.has_room_for(key) else self._table.get(key))
        return items.batch_from_item(item) if item else None

    async def read_progress(
        self, batch_id: str, groups: Sequence[int], *, with_done: bool
    ) -> tuple[Batch | None, dict[int, Group]]:
        keys = [items.batch_key(batch_id), *(items.count_key(batch_id, group) for group in groups)]
        batch, counters = None, dict.fromkeys(groups, Group())
        decode = items.group_from_item if with_done else items.group_without_done
        for item in await self._table.get_many(keys):
            if items.is_batch(item):
                batch = items.batch_from_item(item)
            else:
                counters[items.group_number(item)] = decode(item)
        return batch, counters

    async def read_only_chunk(self, batch_id: str) -> tuple[Batch | None, Group, EncodedRecord | None]:
        keys = items.batch_key(batch_id), items.count_key(batch_id, 0), items.chunk_key(batch_id, "0")
        batch, counter, chunk = await self._read_items(keys)
        return (
            items.batch_from_item(batch) if batch else None,
            items.group_from_item(counter),
            await self._read_encoded(chunk) if items.has_record(chunk) else None,
        )

    async def start_batch(self, batch_id: str, at: float) -> None:
        await self._table.update_if(
            "#state = :queued",
            items.batch_key(batch_id),
            "SET #state = :processing, started_at = :at",
            {"processing": text(BatchState.PROCESSING), "queued": text(BatchState.QUEUED), "at": seconds(at)},
        )

    async def end_batch(self, batch_id: str, ending: Ending, reason: str, *, settle_by: float) -> bool:
        ended = await self._table.update_if(
            "#state IN (:queued, :processing)",
            items.batch_key(batch_id),
            "SET #state = :cancelling, ending = :ending, reason = :reason, due_at = :settle_by",
            {
                "cancelling": text(BatchState.CANCELLING),
                "queued": text(BatchState.QUEUED),
                "processing": text(BatchState.PROCESSING),
                "ending": text(ending),
                "reason": text(reason),
                "settle_by": seconds(settle_by),
            },
            return_blocker=True,
        )
        return isinstance(ended, Done) or items.was_ended(ended.item, ending, reason)

    async def steer_batch(self, seen: Batch, wanted: Batch, at: float) -> bool:
        before, after = items.steered_to_values(seen), items.steered_to_values(wanted)
        names = sorted(name for name in after if after[name] != before[name])
        if not names:
            return True
        conditions = [_as_seen(name, is_absent=value is None) for name, value in before.items()]
        written = [f"#{name} = :{name}" for name in names if after[name] is not None]
        if "deadline_at" in names:
            written.append("#due_at = :deadline_at")
        removed = [f"#{name}" for name in names if after[name] is None]
        steered = await self._table.update_if(
            f"#state IN (:queued, :processing) AND #deadline_at >= :at AND {' AND '.join(conditions)}",
            items.batch_key(seen.id),
            " ".join([*_clause("SET", written), *_clause("REMOVE", removed)]),
            {
                "queued": text(BatchState.QUEUED),
                "processing": text(BatchState.PROCESSING),
                "at": seconds(at),
                **{f"seen_{name}": value for name, value in before.items() if value is not None},
                **{name: value for name in names if (value := after[name]) is not None},
            },
            return_blocker=True,
        )
        # A call that took effect, but whose answer was lost, is blocked by its own effect when it is repeated.
        return isinstance(steered, Done) or items.was_steered(steered.item, after)

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
        open_states = {f"open{position}": text(name) for position, name in enumerate(sorted(OPEN_STATES))}
        is_open = f"#state IN ({', '.join(f':{name}' for name in open_states)})"
        has_ending = "attribute_not_exists(ending)" if ending is None else "ending = :ending"
        changes = ["#state = :final, finished_at = :at"]
        start = likely_start if started_at is None else started_at
        if start is not None:
            value = "if_not_exists(started_at, :started_at)" if started_at is None else ":started_at"
            changes.append(f"started_at = {value}")
        if event is not None:  # the item moves to the partition of the index that has what is due for webhooks
            changes.append("#open = :due, due_at = :event_at")
        removed = [] if event is not None else ["#open, due_at"]
        with self._table.bills.report(batch_id, _WRITE_AND_DELETION) as report:
            spent = items.spent_to_values(report.units)
            added = [*map(_add_to, spent), *([] if event is None else ["events :event"])]
            finished = await self._table.update_if(
                f"{is_open} AND {has_ending}",
                items.batch_key(batch_id),
                " ".join([*_clause("SET", changes), *_clause("REMOVE", removed), *_clause("ADD", added)]),
                {
                    "final": text(state),
                    "at": seconds(at),
                    **open_states,
                    **({} if start is None else {"started_at": seconds(start)}),
                    **({} if ending is None else {"ending": text(ending)}),
                    **({} if event is None else _due_values(event)),
                    **spent,
                },
            )
            report.is_done = isinstance(finished, Done)
        return report.is_done

    async def revise_batch(
        self, batch_id: str, before: BatchState, after: BatchState, event: FinalEvent | None = None
    ) -> None:
        added, values = "", {}
        if event is not None:
            added, values = ", #open = :due, due_at = :event_at ADD events :event", _due_values(event)
        await self._table.update_if(
            "#state = :before",
            items.batch_key(batch_id),
            f"SET #state = :after{added}",
            {"before": text(before), "after": text(after), **values},
        )

    async def suspect_batch(self, batch_id: str) -> None:
        await self._table.update_if(
            "attribute_exists(pk)", items.batch_key(batch_id), "SET suspect = :yes", {"yes": flag(True)}
        )

    async def note_deaths(self, batch_id: str, processes: Collection[str]) -> frozenset[str]:
        noted = await self._table.update_if(
            "attribute_exists(pk)",
            items.batch_key(batch_id),
            "ADD died :processes",
            {"processes": texts(sorted(processes))},
            return_new=True,
        )
        return frozenset() if isinstance(noted, Blocked) else items.batch_from_item(noted.item).died

    async def deny_death(self, batch_id: str, process: str) -> None:
        await self._table.update_if(
            "attribute_exists(pk)", items.batch_key(batch_id), "DELETE died :process", {"process": texts([process])}
        )

    # --- Operation ids

    async def write_ids(self, batch: Batch, first_index: int, ids: Sequence[str]) -> None:
        await self._put_all(items.ids_to_items(batch, first_index, ids))

    async def read_ids(self, batch_id: str, group: int) -> list[str]:
        pieces = self._table.query(items.group_pk(batch_id, group), *items.IDS_RANGE)
        return [operation_id async for piece in pieces for operation_id in items.ids_from_item(piece)]

    # --- Layouts

    async def write_layout(self, batch: Batch, layout: Layout) -> None:
        await self._table.put(items.layout_to_item(batch, layout))

    async def read_layout(self, batch_id: str) -> Layout | None:
        item = await self._table.get(items.layout_key(batch_id))
        return items.layout_from_item(item) if item else None

    # --- Chunks

    async def read_traces(self, batch_id: str, chunk_id: str) -> Traces:
        item = await self._reads.ask(items.chunk_key(batch_id, chunk_id))
        return Traces(
            await self._find_record(item), items.released(item), items.begun(item), items.has_sent_follow_ups(item)
        )

    async def note_release(self, batch: Batch, chunk_id: str, mark: str) -> None:
        await self._note(batch, chunk_id, "released", mark)

    async def note_start(self, batch: Batch, chunk_id: str, mark: str) -> ChunkRecord | None:
        return await self._find_record(await self._note(batch, chunk_id, "begun", mark))

    async def note_follow_ups(self, batch: Batch, chunk_id: str) -> None:
        await self._note(batch, chunk_id, "followed", "sent")

    async def commit_chunk(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        # The nonce separates the parts of two writers. A repeated put has the same nonce, so it is blocked by its own
        # record, which it then returns.
        nonce = secrets.token_hex(8)
        parts = items.cut(encode_record(record))
        if len(parts) > 1:
            # The parts come first: a reader who sees the record finds all of its parts.
            await self._put_all(items.record_parts_to_items(batch, record.chunk_id, nonce, parts))
        committed = await self._table.put_if(
            "attribute_not_exists(nonce)",
            items.record_to_item(batch, record.chunk_id, nonce, parts),
            return_blocker=True,
        )
        return record if isinstance(committed, Done) else await self._read_record(committed.item)

    async def read_records(
        self, batch: Batch, group: int, first_chunk: int, *, reads_all: bool = False
    ) -> AsyncIterator[EncodedRecord]:
        first, last = items.chunk_sk(str(first_chunk)), items.CHUNKS_END
        first_items = None if reads_all else FIRST_RECORDS
        async for item in self._table.query(items.group_pk(batch.id, group), first, last, first_items=first_items):
            if items.has_record(item):
                yield await self._read_encoded(item)

    async def read_record(self, batch_id: str, chunk_id: str) -> EncodedRecord:
        return await self._read_encoded(await self._table.get_existing(items.chunk_key(batch_id, chunk_id)))

    # --- Groups

    async def count_chunk(self, batch: Batch, record: ChunkRecord, at: float | None = None) -> Group:
        """Chunks of a group that become ready during an update of its counter are counted together in the next one."""
        key = (batch.id, group_of(record.chunk_id))
        gatherer = self._counts.get(key)
        if gatherer is None:
            gatherer = self._counts[key] = Gatherer(self._count_together, up_to(CHUNKS_IN_COUNT))
        try:
            return await gatherer.ask(_Count(batch, record, at))
        finally:
            if gatherer.is_idle:
                self._counts.pop(key, None)

    async def close_group(self, batch: Batch, group: int, seen: Counts, ending: Ending) -> bool:
        async def close() -> Done | Blocked:
            return await self._table.update_if(
                items.condition_of_close(seen),
                items.count_key(batch.id, group),
                f"SET closed = :ending, expires_at = :expires_at ADD {ending} :open, completed :open",
                {
                    "ending": text(ending),
                    "open": number(batch.group_totals[group] - seen.completed),
                    "expires_at": whole_seconds(batch.expires_at),
                    **items.counts_to_values(seen),
                },
            )

        return isinstance(await self._with_room(batch.id, group, close), Done)

    async def finish_group(self, batch_id: str, group: int) -> Batch | None:
        finished = await self._table.update_if(
            "attribute_exists(pk)",
            items.batch_key(batch_id),
            "ADD finished_groups :group",
            {"group": numbers([group])},
            return_new=True,
        )
        if isinstance(finished, Blocked):
            return None
        return items.batch_from_item(finished.item)

    async def read_groups(self, batch_id: str, groups: Sequence[int]) -> dict[int, Group]:
        keys = [items.count_key(batch_id, group) for group in groups]
        counters = await self._table.get_many(keys, items.GROUP_WITHOUT_DONE)
        found = {items.group_number(counter): items.group_without_done(counter) for counter in counters}
        return dict.fromkeys(groups, Group()) | found

    async def read_groups_of(self, batches: Sequence[Batch]) -> list[dict[int, Group]]:
        found = {batch.id: dict.fromkeys(range(len(batch.group_totals)), Group()) for batch in batches}
        keys = [items.count_key(batch_id, group) for batch_id, groups in found.items() for group in groups]
        for counter in await self._table.get_many(keys, items.GROUP_WITHOUT_DONE):
            found[items.batch_id_of(counter)][items.group_number(counter)] = items.group_without_done(counter)
        return [found[batch.id] for batch in batches]

    async def read_group(self, batch_id: str, group: int) -> Group:
        return items.group_from_item(await self._table.get(items.count_key(batch_id, group)) or {})

    # --- The sweep

    async def due_batches(self, now: float) -> AsyncIterator[str]:
        condition, values = "#open = :open AND due_at < :now", {"open": text(items.OPEN), "now": seconds(now)}
        async for item in self._table.query_index(items.DUE_INDEX, condition, values):
            yield items.batch_id_of(item)

    async def take_sweep(self, owner: str, until: float, *, stale: SweepLease | None = None) -> SweepLease:
        is_stale = "" if stale is None else " OR (#owner = :stale AND #until = :unchanged)"
        taken = await self._table.update_if(
            f"attribute_not_exists(#until) OR #owner = :owner{is_stale}",
            items.sweep_key(),
            "SET #owner = :owner, #until = :until",
            {
                "owner": text(owner),
                "until": seconds(until),
                **({} if stale is None else {"stale": text(stale.owner), "unchanged": seconds(stale.until)}),
            },
            return_new=True,
            return_blocker=True,
        )
        return items.sweep_from_item(taken.item)

    # --- Idempotency keys

    async def claim_key(self, claim: KeyClaim, now: float) -> KeyClaim:
        claimed = await self._table.put_if(
            # TTL deletes late, so an expired claim may still be in the table.
            "attribute_not_exists(pk) OR expires_at < :now",
            items.claim_to_item(claim),
            {"now": whole_seconds(now)},
            return_blocker=True,
        )
        return claim if isinstance(claimed, Done) else await self._read_claim(claim.tenant, claim.key, claimed.item)

    async def take_over_key(self, standing: KeyClaim, claim: KeyClaim, now: float) -> bool:
        taken = await self._table.put_if(
            "batch_id = :theirs AND NOT is_settled = :yes AND lease_until < :now",
            items.claim_to_item(claim),
            {"theirs": text(standing.batch_id), "yes": flag(True), "now": seconds(now)},
            return_blocker=True,
        )
        return isinstance(taken, Done) or items.is_claimed_for(taken.item, claim.batch_id)

    async def extend_key(self, claim: KeyClaim, until: float) -> bool:
        extended = await self._update_own_claim(claim, "SET lease_until = :until", {"until": seconds(until)})
        return isinstance(extended, Done)

    async def settle_key(self, claim: KeyClaim, answer: bytes | None) -> None:
        parts = items.cut(answer or b"")
        await self._put_all(items.answer_parts_to_items(claim, parts))
        await self._update_own_claim(
            claim,
            "SET is_settled = :yes, answer_parts = :parts",
            {"yes": flag(True), "parts": number(len(parts))},
        )

    async def release_key(self, claim: KeyClaim) -> None:
        await self.extend_key(claim, 0)

    async def has_key(self, tenant: str, key: str, now: float) -> bool:
        item = await self._table.get(items.claim_key(tenant, key))
        return item is not None and items.claim_from_item(tenant, key, item).may_have_answer(now)

    # --- Quotas

    async def charge(
        self, account: Account, quota: Quota, charge: Charge, now: float, *, seen: Usage, settled: Collection[Charge]
    ) -> Usage:
        # DynamoDB has no maximum of two numbers. So there is one update for an account whose TAT is in the past, and
        # one for all others. Each is blocked if the other one is right, and by its own effect when it is repeated.
        usage, latest_tat = seen, quota.latest_tat(charge.cost, now)
        while True:
            charged = await self._charge(
                account, quota, charge, now, is_idle=usage.tat < nanoseconds(now), settled=settled
            )
            usage = items.usage_from_item(charged.item)
            if charge in usage.open or usage.tat > latest_tat:
                return usage

    async def _charge(
        self,
        account: Account,
        quota: Quota,
        charge: Charge,
        now: float,
        *,
        is_idle: bool,
        settled: Collection[Charge],
    ) -> Done | Blocked:
        at, name = nanoseconds(now), items.charge_name(charge)
        values = {"at": number(at), "expires_at": whole_seconds(now + quota.window_seconds + items.DAY_SECONDS)}
        if is_idle:
            is_right, tat = "(attribute_not_exists(tat) OR tat < :at)", ":after"
            values["after"] = number(at + charge.cost)
        else:
            is_right, tat = "tat >= :at AND tat <= :latest", "tat + :cost"
            values |= {"cost": number(charge.cost), "latest": number(quota.latest_tat(charge.cost, now))}
        ended = ", ".join(f"#{items.charge_name(one)}" for one in settled)
        return await self._table.update_if(
            f"attribute_not_exists(#{name}) AND {is_right}",
            items.usage_key(account),
            f"SET tat = {tat}, #{name} = {tat}, expires_at = :expires_at{f' REMOVE {ended}' if ended else ''}",
            values,
            return_new=True,
            return_blocker=True,
        )

    async def end_charge(self, account: Account, charge: Charge, given_back: int) -> Usage:
        name = items.charge_name(charge)
        ended = await self._table.update_if(
            f"attribute_exists(#{name})",
            items.usage_key(account),
            f"SET tat = tat - :given_back REMOVE #{name}",
            {"given_back": number(given_back)},
            return_new=True,
            return_blocker=True,
        )
        return items.usage_from_item(ended.item)

    async def read_usage(self, account: Account) -> Usage:
        return items.usage_from_item(await self._table.get(items.usage_key(account)) or {})

    # --- Open operations

    async def add_open(
        self, account: Account, entry: OpenBatch, operations: int, *, most: int | None, expires_at: float
    ) -> OpenOperations:
        name = items.open_name(entry)
        conditions = [
            f"attribute_not_exists(#{name})",
            "(attribute_not_exists(open_entries) OR open_entries < :most_entries)",
        ]
        values = {
            "count": number(operations),
            "one": number(1),
            "most_entries": number(MOST_ENTRIES if most is not None else 2 * MOST_ENTRIES),
            "expires_at": whole_seconds(expires_at),
        }
        if most is not None:
            conditions.append("(attribute_not_exists(open_total) OR open_total <= :room)")
            values["room"] = number(most - operations)
        added = await self._table.update_if(
            " AND ".join(conditions),
            items.open_key(account),
            f"SET #{name} = :count, expires_at = :expires_at ADD open_total :count, open_entries :one",
            values,
            return_new=True,
            return_blocker=True,
        )
        return items.open_from_item(added.item)

    async def lower_open(self, account: Account, changes: Mapping[OpenBatch, tuple[int, int]]) -> OpenOperations:
        conditions, lowered, removed = [], [], []
        values = {"change": number(sum(left - seen for seen, left in changes.values()))}
        for position, (entry, (seen, left)) in enumerate(changes.items()):
            name = items.open_name(entry)
            conditions.append(f"#{name} = :seen{position}")
            values[f"seen{position}"] = number(seen)
            if left:
                lowered.append(f"#{name} = :left{position}")
                values[f"left{position}"] = number(left)
            else:
                removed.append(f"#{name}")
        values["ended"] = number(-len(removed))
        change = "ADD open_total :change, open_entries :ended"
        if lowered:
            change += f" SET {', '.join(lowered)}"
        if removed:
            change += f" REMOVE {', '.join(removed)}"
        result = await self._table.update_if(
            " AND ".join(conditions), items.open_key(account), change, values, return_new=True, return_blocker=True
        )
        return items.open_from_item(result.item)

    async def read_open(self, account: Account) -> OpenOperations:
        return items.open_from_item(await self._table.get(items.open_key(account)) or {})

    # --- Queues

    async def pause_queue(self, priority: Priority, at: float) -> None:
        change = f"SET #{priority} = if_not_exists(#{priority}, :at)"
        await self._table.update(items.queues_key(), change, {"at": seconds(at)})

    async def resume_queue(self, priority: Priority) -> None:
        await self._table.update(items.queues_key(), f"REMOVE #{priority}", {})

    async def read_paused_queues(self) -> dict[Priority, float]:
        return items.paused_queues_from_item(await self._reads.ask(items.queues_key()))

    # --- Handlers' times

    async def read_handler_seconds(self, names: Sequence[str]) -> dict[str, float]:
        found = await self._table.get_many([items.handler_key(name) for name in names])
        return dict(map(items.handler_from_item, found))

    async def write_handler_seconds(self, taken_seconds: Mapping[str, float], at: float) -> None:
        await self._put_all(items.handler_to_item(name, taken, at) for name, taken in taken_seconds.items())

    # --- The steps of several methods

    async def _put_all(self, written: Iterable[Item]) -> None:
        for item in written:
            await self._table.put(item)

    async def _read_parts(self, keys: Iterable[Item]) -> list[Item]:
        """Read items that must exist, because the item that names them was written after them."""
        return [await self._table.get_existing(key) for key in keys]

    async def _read_items(self, keys: Sequence[Item]) -> list[Item]:
        """Read items in one call. An item that does not exist is empty."""
        places = [items.place_of(key) for key in keys]
        once = dict(zip(places, keys, strict=True))  # a call may name a key only once
        found = {items.place_of(item): item for item in await self._table.get_many(list(once.values()))}
        return [found.get(place, {}) for place in places]

    async def _note(self, batch: Batch, chunk_id: str, name: str, mark: str) -> Item:
        """Add a mark to the chunk's item, with or without a record in it, and return the whole item."""
        return await self._table.update(
            items.chunk_key(batch.id, chunk_id),
            f"ADD {name} :mark SET expires_at = :expires_at",
            {"mark": texts([mark]), "expires_at": whole_seconds(batch.expires_at)},
        )

    async def _find_record(self, item: Item) -> ChunkRecord | None:
        return await self._read_record(item) if items.has_record(item) else None

    async def _read_record(self, item: Item) -> ChunkRecord:
        record = await self._read_encoded(item)
        return decode_record(record.chunk_id, record.content)

    async def _read_encoded(self, item: Item) -> EncodedRecord:
        parts = await self._read_parts(items.record_part_keys(item)) or [item]
        return EncodedRecord(items.chunk_of(item)[1], b"".join(items.record_bytes(part) for part in parts))

    async def _count_together(self, asked: Sequence["_Count"]) -> list[Group]:
        """Count chunks of one group in one update. If it is blocked, one may be counted or forged: count one by one."""
        batch, at = asked[-1].batch, asked[-1].at
        records = {one.record.chunk_id: one.record for one in asked}
        counted = await self._count(batch, list(records.values()), at)
        if isinstance(counted, Blocked) and len(records) > 1:
            groups = {name: await self._count_together([_Count(batch, record, at)]) for name, record in records.items()}
            return [groups[one.record.chunk_id][0] for one in asked]
        known = self._folds.get((batch.id, group_of(asked[0].record.chunk_id)))
        return [items.group_from_item(counted.item, known)] * len(asked)

    async def _count(self, batch: Batch, records: Sequence[ChunkRecord], at: float | None) -> Done | Blocked:
        """Count chunks in one update, unless one of them is counted already.

        The condition of the update sees what was counted after the last fold. What is in the fold is checked here. So
        the update also has the condition that the group was not folded again. If it was, the check is repeated.
        """
        group = group_of(records[0].chunk_id)
        if items.is_whole_group(batch, group, records):
            counted = await self._count_whole_group(batch, group, records, at)
            if isinstance(counted, Done):
                return counted
        while True:
            fold = self._folds.get((batch.id, group), items.Fold())
            if any(record.chunk_id in fold.ids for record in records):
                return Blocked(await self._table.get(items.count_key(batch.id, group)) or {})
            update = partial(self._count_after, fold, batch, records, at)
            counted = await self._with_room(batch.id, group, update)
            is_same_fold = items.fold_number(counted.item) == fold.number
            if not is_same_fold:
                self._folds.put((batch.id, group), items.fold_from_item(counted.item))
            elif isinstance(counted, Done) and len(items.unfolded(counted.item)) >= FOLD_AT:
                with contextlib.suppress(PenstockError):  # the next count tries again
                    await self._fold(batch.id, group, counted.item)
            if is_same_fold:
                return counted

    async def _count_whole_group(
        self, batch: Batch, group: int, records: Sequence[ChunkRecord], at: float | None
    ) -> Done | Blocked:
        """Count all of a group at once, unless something is counted in it already.

        A put takes a server less time than an update of all these attributes. Usually it is for the only chunk of a
        small batch. What follows it is known then, and reported: another write makes the batch final.
        """
        is_all = batch.total == batch.group_totals[group]
        ahead = _WRITE_AND_DELETION + _ONE_WRITE if is_all else _WRITE_AND_DELETION
        with self._table.bills.report(batch.id, ahead) as report:
            counter = items.counter_to_item(batch, group, records, at, report.units)
            counted = await self._table.put_if("attribute_not_exists(pk)", counter)
            report.is_done = isinstance(counted, Done)
        return Done(counter) if isinstance(counted, Done) else counted

    async def _count_after(
        self, fold: items.Fold, batch: Batch, records: Sequence[ChunkRecord], at: float | None
    ) -> Done | Blocked:
        """Count chunks in an update. What an earlier one has written is left out of it: each part takes a server time.

        Once the batch has expired, the table may have deleted the counter, so everything is written.
        """
        group = group_of(records[0].chunk_id)
        conditions, values = items.conditions_of_count(records, batch.group_totals[group], fold)
        is_complete = (batch.id, group) in self._complete and at is not None and at < batch.expires_at
        with self._table.bills.report(batch.id, _WRITE_AND_DELETION) as report:
            amounts = items.amounts_of_count(batch, records, at, report.units, with_zeros=not is_complete)
            times = {
                **({} if is_complete else {"expires_at": whole_seconds(batch.expires_at)}),
                **({} if at is None else {"counted_at": seconds(at)}),
            }
            added = [f"{fold.set_name} :chunks", *map(_add_to, amounts)]
            counted = await self._table.update_if(
                " AND ".join([fold.condition, *conditions]),
                items.count_key(batch.id, group),
                " ".join([*_clause("ADD", added), *_clause("SET", list(map(_set_to, times)))]),
                {
                    "chunks": texts(record.chunk_id for record in records),
                    **times,
                    **amounts,
                    **values,
                    **fold.values,
                },
                return_new=True,
                return_blocker=True,
            )
            report.is_done = isinstance(counted, Done)
        self._note_complete(batch.id, group, counted.item)
        return counted

    def _note_complete(self, batch_id: str, group: int, counter: Item) -> None:
        """Remember whether a counter has all that every count would otherwise write again."""
        if counter.keys() >= items.OF_EVERY_COUNTER:
            self._complete.put((batch_id, group), None)
        else:
            self._complete.pop((batch_id, group), None)

    async def _with_room(
        self, batch_id: str, group: int, write: Callable[[], Awaitable[Done | Blocked]]
    ) -> Done | Blocked:
        """Write to a group's counter. If AWS rejects the write, fold the counter and try again: it may be too large.

        An earlier version let it grow.
        """
        try:
            return await write()
        except RejectedCall:
            if not await self._fold(batch_id, group, await self._table.get(items.count_key(batch_id, group)) or {}):
                raise
        return await write()

    async def _fold(self, batch_id: str, group: int, item: Item) -> bool:
        """Write what the group has counted in a compact form, unless something was counted or folded meanwhile.

        Between two folds ids are only added. So what was counted is unchanged if there are as many ids as before.
        """
        seen, ids = items.fold_from_item(item), items.unfolded(item)
        if not ids:
            return False
        fold = items.Fold(seen.number + 1, seen.ids.including(ids))
        folded = await self._table.update_if(
            f"{seen.condition} AND size({seen.set_name}) = :size",
            items.count_key(batch_id, group),
            "SET done = :number, folded = :folded REMOVE counted",
            {
                "size": number(len(ids)),
                "number": number(fold.number),
                "folded": binary(fold.ids.encode()),
                **seen.values,
            },
        )
        if isinstance(folded, Done):
            self._folds.put((batch_id, group), fold)
        return isinstance(folded, Done)

    async def _update_own_claim(self, claim: KeyClaim, change: str, values: Mapping[str, Value]) -> Done | Blocked:
        """Change a claim unless another request has taken it over."""
        return await self._table.update_if(
            "batch_id = :ours",
            items.claim_key(claim.tenant, claim.key),
            change,
            {**values, "ours": text(claim.batch_id)},
        )

    async def _read_claim(self, tenant: str, key: str, item: Item) -> KeyClaim:
        claim = items.claim_from_item(tenant, key, item)
        parts = await self._read_parts(items.answer_part_keys(claim, item))
        return replace(claim, answer=b"".join(map(items.answer_bytes, parts))) if parts else claim


def _as_seen(name: str, *, is_absent: bool) -> str:
    """Return the condition that an attribute is as it was seen. A batch of an earlier version may not have it."""
    absent = f"attribute_not_exists(#{name})"
    if is_absent:
        return absent
    return f"({absent} OR #{name} = :seen_{name})" if name in items.LATER_ATTRIBUTES else f"#{name} = :seen_{name}"


def _set_to(name: str) -> str:
    """Return the part of an update that sets an attribute to the value of the same name."""
    return f"{name} = :{name}"


def _add_to(name: str) -> str:
    """Return the part of an update that adds the value of the same name to an attribute."""
    return f"{name} :{name}"


def _clause(keyword: str, changes: Sequence[str]) -> list[str]:
    return [f"{keyword} {', '.join(changes)}"] if changes else []


def _due_values(event: FinalEvent) -> dict[str, Value]:
    """Return the values of a write that gives a batch an event for webhooks to send."""
    return {"event": events_value([event]), "due": text(DUE), "event_at": seconds(event.at)}


def _acceptance_lost(batch_id: str) -> AcceptanceLost:
    return AcceptanceLost(f"Batch {batch_id} was not accepted before its acceptance lease ended.")
