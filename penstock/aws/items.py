"""What the items of the table look like: their keys, and how each kind is encoded and decoded. Pure.

The table has the keys `pk` and `sk`. DynamoDB's TTL deletes an item after its `expires_at`.

item                  pk                    sk
batch                 batch#<id>            batch
group counter         batch#<id>#<group>    count
layout of a file      batch#<id>            layout                  only if the batch was a file of rows
file of a batch       batch#<id>            file, errors            only if a consumer plans it: see `plans.py`
plan of a group       batch#<id>#<group>    plan
operation ids         batch#<id>#<group>    ids#<first index>       only if the client gave ids
chunk                 batch#<id>#<group>    chunk#<chunk id>
part of a record      batch#<id>#<group>    part#<chunk id>#<nonce>#<number>
idempotency key       key#<tenant>#<key>    key
part of its answer    key#<tenant>#<key>    answer#<batch id>#<number>
sweep lease           sweep                 sweep
paused queues         queues                queues                  an attribute for each priority that is paused
usage of a quota      rate#<tenant>         rate                    and rate#<tenant>#<key id> for a key
open operations       open#<tenant>         open                    and open#<tenant>#<key id> for a key
handler's time        handler#<METHOD path> time
entries of batches    see `lists.py`
API keys              see `api_key_items.py`
limits of the fleet   see `limits.py`
handlers' figures     see `figures.py`
exports               see `exports.py`
webhooks              see `webhook_items.py`

A chunk's item has a `nonce` if it holds the chunk's record, and the marks of deliveries in `released` and `begun`.
A record or an answer that is too large for one item is cut into parts, which are items of their own.

The index `due` has the batches that are not final, ordered by the time at which a sweep must deal with them. In another
partition, it has what is due for webhooks.

The counter of a group has the ids of the chunks that it has counted in the string set `done`. If there are many of
them, they are folded: `folded` has these ids in a compact form, `counted` has those that were counted after that, and
`done` is the number of folds. An earlier version cannot count in such a group, since it cannot add ids to a number. It
would not see which chunks are counted.

A group has a partition of its own, so that no partition has to bear the writes of more than 64 chunks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.aws import webhook_items
from penstock.aws.attributes import (
    Item,
    Value,
    binary,
    flag,
    number,
    number_list,
    read_binary,
    read_count,
    read_enum,
    read_flag,
    read_number,
    read_number_list,
    read_numbers,
    read_optional_seconds,
    read_optional_text,
    read_seconds,
    read_text,
    read_texts,
    seconds,
    text,
    texts,
    whole_seconds,
)
from penstock.batch import Batch, BatchState, Counts, Ending, FailureLimit, sum_counts
from penstock.chunk import from_sort_key, group_of, redriven_from, sort_key
from penstock.chunk_ids import ChunkIds
from penstock.cost import Units
from penstock.ending import start_left_out
from penstock.eta import SLICES, slice_at
from penstock.files.layout import Layout
from penstock.open_limit import OpenBatch, OpenOperations
from penstock.outcome import ChunkRecord, OutcomeState
from penstock.planning import Planning
from penstock.priority import Priority
from penstock.quota import Account, Charge, Usage
from penstock.store import HANDLER_DAYS, Group, KeyClaim, SweepLease

DAY_SECONDS = 24 * 3600
ITEM_BYTES = 380_000  # DynamoDB accepts 400 KB an item, including its keys and names
DUE_INDEX = "due"
OPEN = "open"  # the only partition of that index
IDS_RANGE = "ids#", "ids$"  # `$` comes right after `#`
CHUNKS_END = "chunk$"
_INDEX_DIGITS = 8
_CHARGE = "charge_"
_OPEN_BATCH, _OPEN_RETRY = "batch_", "retry_"


def key_of(pk: str, sk: str) -> dict[str, Value]:
    return {"pk": text(pk), "sk": text(sk)}


def place_of(item: Item) -> tuple[str, str]:
    """Return where an item is, from the item or from its key."""
    return read_text(item, "pk"), read_text(item, "sk")


def cut(content: bytes) -> list[bytes]:
    """Cut content into parts that fit into an item. Empty content has no parts."""
    return [content[start : start + ITEM_BYTES] for start in range(0, len(content), ITEM_BYTES)]


# --- Batches


def batch_pk(batch_id: str) -> str:
    return f"batch#{batch_id}"


def batch_key(batch_id: str) -> dict[str, Value]:
    return key_of(batch_pk(batch_id), "batch")


def is_batch(item: Item) -> bool:
    """Return True if the item is a batch, and not, for instance, the counter of one of its groups."""
    return read_text(item, "sk") == "batch"


def batch_to_item(batch: Batch) -> dict[str, Value]:
    return {
        **batch_key(batch.id),
        "tenant": text(batch.tenant),
        "state": text(batch.state),
        "total": number(batch.total),
        "chunk_count": number(batch.chunk_count),
        "group_totals": number_list(batch.group_totals),
        "created_at": seconds(batch.created_at),
        "accept_by": seconds(batch.accept_by),
        "expires_at": whole_seconds(batch.expires_at),
        **({} if batch.not_before is None else {"not_before": seconds(batch.not_before)}),
        **_steered(batch),
        **({} if batch.keys_from is None else {"keys_from": text(batch.keys_from)}),
        **({"headers": {"M": {name: text(value) for name, value in batch.headers}}} if batch.headers else {}),
        **({} if batch.callback_url is None else {"callback_url": text(batch.callback_url)}),
        **({"webhooks": flag(True)} if batch.has_webhooks else {}),
        **({"completes_anyway": flag(True)} if batch.completes_anyway else {}),
        "has_own_ids": flag(batch.has_own_ids),
        **({"has_metadata": flag(True)} if batch.has_metadata else {}),
        **({} if batch.planning is None else planning_to_values(batch.planning)),
        **({} if batch.accepted_at is None else {"accepted_at": seconds(batch.accepted_at)}),
        "open": text(OPEN),
        "due_at": seconds(batch.accept_by if batch.accepted_at is None else batch.deadline_at),
    }


def batch_from_item(item: Item) -> Batch:
    headers: dict[str, Value] = item.get("headers", {"M": {}})["M"]
    return Batch(
        id=batch_id_of(item),
        tenant=read_text(item, "tenant"),
        state=read_enum(item, "state", BatchState),
        total=read_number(item, "total"),
        chunk_count=read_number(item, "chunk_count"),
        group_totals=read_number_list(item, "group_totals"),
        created_at=read_seconds(item, "created_at"),
        accept_by=read_seconds(item, "accept_by"),
        deadline_at=read_seconds(item, "deadline_at"),
        expires_at=read_seconds(item, "expires_at"),
        priority=read_enum(item, "priority", Priority) if "priority" in item else Priority.NORMAL,
        not_before=read_optional_seconds(item, "not_before"),
        failure_limit=FailureLimit(read_number(item, "failure_limit")) if "failure_limit" in item else None,
        max_failures=_max_failures(item),
        max_failed_percent=float(read_text(item, "max_failed_percent")) if "max_failed_percent" in item else None,
        paused_at=read_optional_seconds(item, "paused_at"),
        paused_seconds=read_optional_seconds(item, "paused_seconds") or 0.0,
        concurrency=read_number(item, "concurrency") if "concurrency" in item else None,
        keys_from=read_optional_text(item, "keys_from"),
        headers=tuple((name, value["S"]) for name, value in sorted(headers.items())),
        has_own_ids=read_flag(item, "has_own_ids"),
        has_metadata="has_metadata" in item,
        ending=read_enum(item, "ending", Ending) if "ending" in item else None,
        reason=read_optional_text(item, "reason"),
        is_suspect="suspect" in item,
        died=read_texts(item, "died"),
        callback_url=read_optional_text(item, "callback_url"),
        has_webhooks="webhooks" in item,
        completes_anyway="completes_anyway" in item,
        planning=planning_from_item(item),
        events=webhook_items.events_from_item(item) if "events" in item else (),
        accepted_at=read_optional_seconds(item, "accepted_at"),
        started_at=read_optional_seconds(item, "started_at"),
        finished_at=read_optional_seconds(item, "finished_at"),
        finished_groups=finished_groups(item),
        spent=spent_from_item(item),
    )


_NUMBERS_OF_PLANNING = (
    "file_bytes",
    "read_bytes",
    "operations",
    "groups",
    "sent_groups",
    "sent_operations",
    "errors",
    "takes",
)


def planning_to_values(planning: Planning) -> dict[str, Value]:
    """Return the attributes of a batch that a consumer plans. Their names start with `plan_`."""
    return {
        **{f"plan_{name}": number(getattr(planning, name)) for name in _NUMBERS_OF_PLANNING},
        "plan_valid": flag(planning.is_valid),
        "plan_until": seconds(planning.lease_until),
        **({} if planning.planner is None else {"planner": text(planning.planner)}),
    }


def planning_from_item(item: Item) -> Planning | None:
    if "plan_file_bytes" not in item:
        return None
    return Planning(
        **{name: read_number(item, f"plan_{name}") for name in _NUMBERS_OF_PLANNING},
        is_valid=read_flag(item, "plan_valid"),
        planner=read_optional_text(item, "planner"),
        lease_until=read_seconds(item, "plan_until"),
    )


LATER_ATTRIBUTES = {"priority", "max_failures"}  # an earlier version did not write them; they are read from elsewhere


def _max_failures(item: Item) -> int | None:
    """Return the largest number of failures. An earlier version stored only the limit that followed from both."""
    has_only_limit = "failure_limit" in item and "max_failed_percent" not in item
    name = "failure_limit" if has_only_limit and "max_failures" not in item else "max_failures"
    return read_number(item, name) if name in item else None


def steered_to_values(batch: Batch) -> dict[str, Value | None]:
    """Return the attributes that a client may change while the batch runs. None stands for no attribute."""
    limit, most, percent = batch.failure_limit, batch.max_failures, batch.max_failed_percent
    return {
        "priority": text(batch.priority),
        "deadline_at": seconds(batch.deadline_at),
        "paused_at": None if batch.paused_at is None else seconds(batch.paused_at),
        "paused_seconds": seconds(batch.paused_seconds) if batch.paused_seconds else None,
        "concurrency": None if batch.concurrency is None else number(batch.concurrency),
        "failure_limit": None if limit is None else number(limit.count),
        "max_failures": None if most is None else number(most),
        "max_failed_percent": None if percent is None else text(str(percent)),
    }


def was_steered(item: Item, values: Mapping[str, Value | None]) -> bool:
    """Return True if what a client may change of the batch has exactly these values."""
    return bool(item) and steered_to_values(batch_from_item(item)) == values


def _steered(batch: Batch) -> dict[str, Value]:
    return {name: value for name, value in steered_to_values(batch).items() if value is not None}


def batch_id_of(item: Item) -> str:
    """Return the batch id from the key of a batch, or of an item of one of its groups."""
    return read_text(item, "pk").split("#")[1]


def finished_groups(item: Item) -> frozenset[int]:
    return read_numbers(item, "finished_groups")


def was_accepted(item: Item, at: float) -> bool:
    """Return True if the batch was accepted with exactly this time."""
    return read_optional_seconds(item, "accepted_at") == round(at, 3)


def was_finished(item: Item, state: BatchState, at: float) -> bool:
    """Return True if the batch got this final state at exactly this time."""
    is_so = bool(item) and read_text(item, "state") == state
    return is_so and read_optional_seconds(item, "finished_at") == round(at, 3)


def was_ended(item: Item, ending: Ending, reason: str) -> bool:
    """Return True if the batch was ended for exactly this reason."""
    return (read_optional_text(item, "ending"), read_optional_text(item, "reason")) == (ending, reason)


# --- Groups

SPENT = "sqs_units", "write_units", "read_units", "requests"  # in thousandths
_HISTORY = "slice"
# What the first count of a group writes, and a later one leaves out if it would not change. A sweep of an earlier
# version needs the four counts, even if they are 0: it closes a group only if each of them is as it was read.
OF_EVERY_COUNTER = frozenset(OutcomeState) | {"completed", "expires_at"}
GROUP_WITHOUT_DONE = ", ".join(
    ["succeeded, failed, cancelled, expired, redelivered, closed, counted_at, started_at", *SPENT]
    + [f"{_HISTORY}{number}" for number in range(SLICES)]
)


def group_pk(batch_id: str, group: int) -> str:
    return f"batch#{batch_id}#{group}"


def count_key(batch_id: str, group: int) -> dict[str, Value]:
    return key_of(group_pk(batch_id, group), "count")


def group_number(item: Item) -> int:
    return int(read_text(item, "pk").rpartition("#")[2])


def group_from_item(item: Item, known: "Fold | None" = None) -> Group:
    """Decode a group's counter. If the fold in it is `known`, it is not decoded again."""
    fold = known if known is not None and known.number == fold_number(item) else fold_from_item(item)
    return replace(group_without_done(item), done=fold.ids.including(unfolded(item)))


def group_without_done(item: Item) -> Group:
    return Group(
        counts=Counts(*(read_count(item, name) for name in OutcomeState)),
        redelivered=read_count(item, "redelivered"),
        closed=read_enum(item, "closed", Ending) if "closed" in item else None,
        spent=spent_from_item(item),
        counted_at=read_optional_seconds(item, "counted_at"),
        started_at=read_optional_seconds(item, "started_at"),
        history={int(name[len(_HISTORY) :]): read_number(item, name) for name in item if name.startswith(_HISTORY)},
    )


def spent_from_item(item: Item) -> Units:
    """Return what programs have reported of the cost of a batch. Earlier versions report nothing."""
    return Units(*(read_count(item, name) / 1_000 for name in SPENT))


def spent_to_values(units: Units) -> dict[str, Value]:
    """Return what a report adds to the amounts of an item. What is 0 is left out: each of them makes a call longer."""
    amounts = (round(1_000 * amount) for amount in (units.sqs, units.writes, units.reads, units.requests))
    return {name: number(amount) for name, amount in zip(SPENT, amounts, strict=True) if amount}


def slice_of_count(batch: Batch, completed: int, at: float | None) -> str | None:
    """Return the attribute that a count increases in the history of its group. None if it says nothing of the pace."""
    if at is None or batch.started_at is None or completed <= 0:
        return None
    return f"{_HISTORY}{slice_at(batch.running_seconds(at))}"


@dataclass(frozen=True, slots=True)
class Fold:
    """What a group has counted until it was folded for the last time: `number` is 0 if it never was."""

    number: int = 0
    ids: ChunkIds = field(default_factory=ChunkIds)

    @property
    def set_name(self) -> str:
        """Return the name of the set of what was counted after that."""
        return "counted" if self.number else "done"

    @property
    def condition(self) -> str:
        """Return the condition that the group was not folded again. Its value is in `values`."""
        return "done = :fold" if self.number else "attribute_not_exists(folded)"

    @property
    def values(self) -> dict[str, Value]:
        return {"fold": number(self.number)} if self.number else {}


def fold_number(item: Item) -> int:
    return read_number(item, "done") if "folded" in item else 0


def fold_from_item(item: Item) -> Fold:
    if "folded" not in item:
        return Fold()
    return Fold(fold_number(item), ChunkIds.decode(read_binary(item, "folded")))


def unfolded(item: Item) -> frozenset[str]:
    """Return the ids of the chunks that were counted after the last fold."""
    return read_texts(item, "counted" if "folded" in item else "done")


def counts_to_values(counts: Counts) -> dict[str, Value]:
    return {
        "succeeded": number(counts.succeeded),
        "failed": number(counts.failed),
        "cancelled": number(counts.cancelled),
        "expired": number(counts.expired),
    }


def is_whole_group(batch: Batch, group: int, records: Sequence[ChunkRecord]) -> bool:
    """Return True if the records have all outcomes of the group, as that of the only chunk of a small batch has.

    A redrive corrects what was counted before it, so it is none of them.
    """
    if any(redriven_from(record.chunk_id) is not None for record in records):
        return False
    return sum_counts(record.counts for record in records).completed == batch.group_totals[group]


def amounts_of_count(
    batch: Batch, records: Sequence[ChunkRecord], at: float | None, spent: Units, *, with_zeros: bool = True
) -> dict[str, Value]:
    """Return what a count adds to the counter of its group.

    The four counts and `completed` are among them even if they are 0, unless the counter has them already.
    """
    counts = sum_counts(record.counts for record in records)
    redelivered = sum(record.redelivered for record in records)
    slice_ = slice_of_count(batch, counts.completed, at)
    counted = {**counts_to_values(counts), "completed": number(counts.completed)}
    return {
        **{name: amount for name, amount in counted.items() if with_zeros or amount != number(0)},
        **({"redelivered": number(redelivered)} if redelivered else {}),
        **({slice_: number(counts.completed)} if slice_ else {}),
        **spent_to_values(spent),
    }


def counter_to_item(
    batch: Batch, group: int, records: Sequence[ChunkRecord], at: float | None, spent: Units
) -> dict[str, Value]:
    """Encode the counter of a group in which only these records are counted.

    Counts that are 0 are left out, except for `succeeded`: it tells a sweep of any version that something is counted.
    """
    amounts = amounts_of_count(batch, records, at, spent)
    return {
        **count_key(batch.id, group),
        "done": texts(record.chunk_id for record in records),
        **{name: amount for name, amount in amounts.items() if amount != number(0) or name == "succeeded"},
        **({} if at is None else {"counted_at": seconds(at)}),
        **({} if (start := start_left_out(batch, records)) is None else {"started_at": seconds(start)}),
        "expires_at": whole_seconds(batch.expires_at),
    }


def conditions_of_count(
    records: Sequence[ChunkRecord], group_total: int, fold: Fold | None = None
) -> tuple[list[str], dict[str, Value]]:
    """Return the conditions under which chunks may be counted that are not in the fold, and their values.

    None of the chunks may be counted yet, and the group must be open and have room for their outcomes: what a forged
    message says must not take a counter out of its bounds. A closed group is full, so both are one condition. A counter
    that an older version started has no `completed`, or one that is too low: then its bound is less strict.

    A redriven chunk may also be counted in a closed group if the chunk that it corrects is counted there; otherwise its
    correction would subtract what was never added. It completes nothing, and needs the failures that it takes back.
    """
    fold = fold or Fold()
    done = fold.set_name
    counts = sum_counts(record.counts for record in records)
    room = group_total - counts.completed
    conditions: list[str] = []
    values: dict[str, Value] = {}
    if counts.failed < 0:
        conditions.append("failed >= :taken_back")
        values["taken_back"] = number(-counts.failed)
    for position, record in enumerate(records):
        corrected = redriven_from(record.chunk_id)
        conditions.append(f"NOT contains({done}, :chunk{position})")
        values[f"chunk{position}"] = text(record.chunk_id)
        if corrected is None:
            has_room = "NOT (attribute_exists(closed) OR completed > :room)" if room >= 0 else "completed <= :room"
            conditions.append(has_room)
            values["room"] = number(room)
        elif corrected not in fold.ids:
            conditions.append(f"(attribute_not_exists(closed) OR contains({done}, :corrected{position}))")
            values[f"corrected{position}"] = text(corrected)
    return list(dict.fromkeys(conditions)), values


def condition_of_close(seen: Counts) -> str:
    """Return the condition under which a group may be closed: it is open, and its counts are those that were seen."""
    unchanged = [
        f"{name} = :{name}" if getattr(seen, name) else f"(attribute_not_exists({name}) OR {name} = :{name})"
        for name in OutcomeState
    ]
    return " AND ".join(["attribute_not_exists(closed)", *unchanged])


# --- Operation ids


def ids_to_items(batch: Batch, first_index: int, ids: Sequence[str]) -> list[dict[str, Value]]:
    """Encode ids as one item, or as several if they are too long for one, as in a script of many letters."""
    compressed = zstd.compress(to_json(list(ids)))
    if len(compressed) > ITEM_BYTES:
        middle = len(ids) // 2
        first, rest = ids[:middle], ids[middle:]
        return ids_to_items(batch, first_index, first) + ids_to_items(batch, first_index + middle, rest)
    return [
        {
            **key_of(group_pk(batch.id, batch.group_at(first_index)), f"ids#{first_index:0{_INDEX_DIGITS}}"),
            "ids": binary(compressed),
            "expires_at": whole_seconds(batch.expires_at),
        }
    ]


def ids_from_item(item: Item) -> list[str]:
    ids: list[str] = from_json(zstd.decompress(read_binary(item, "ids")))
    return ids


# --- Layouts


def layout_key(batch_id: str) -> dict[str, Value]:
    return key_of(f"batch#{batch_id}", "layout")


def layout_to_item(batch: Batch, layout: Layout) -> dict[str, Value]:
    return {
        **layout_key(batch.id),
        "layout": binary(layout.encode()),
        "expires_at": whole_seconds(batch.expires_at),
    }


def layout_from_item(item: Item) -> Layout:
    return Layout.decode(read_binary(item, "layout"))


# --- Chunks


def chunk_key(batch_id: str, chunk_id: str) -> dict[str, Value]:
    return key_of(group_pk(batch_id, group_of(chunk_id)), chunk_sk(chunk_id))


def chunk_sk(chunk_id: str) -> str:
    return f"chunk#{sort_key(chunk_id)}"


def chunk_of(item: Item) -> tuple[str, str]:
    """Return the batch id and the chunk id from a chunk's keys."""
    return batch_id_of(item), from_sort_key(read_text(item, "sk").removeprefix("chunk#"))


def has_record(item: Item) -> bool:
    """Return False for a chunk of which only deliveries are noted so far."""
    return "nonce" in item


def released(item: Item) -> frozenset[str]:
    return read_texts(item, "released")


def has_sent_follow_ups(item: Item) -> bool:
    return "followed" in item


def begun(item: Item) -> frozenset[str]:
    return read_texts(item, "begun")


def record_to_item(batch: Batch, chunk_id: str, nonce: str, parts: Sequence[bytes]) -> dict[str, Value]:
    """Encode a record. A single part is in the item itself; several are items of their own."""
    content = {"record": binary(parts[0])} if len(parts) == 1 else {"parts": number(len(parts))}
    return {
        **chunk_key(batch.id, chunk_id),
        "nonce": text(nonce),
        "expires_at": whole_seconds(batch.expires_at),
        **content,
    }


def record_parts_to_items(batch: Batch, chunk_id: str, nonce: str, parts: Sequence[bytes]) -> list[dict[str, Value]]:
    return [
        {
            **_record_part_key(batch.id, chunk_id, nonce, position),
            "record": binary(part),
            "expires_at": whole_seconds(batch.expires_at),
        }
        for position, part in enumerate(parts)
    ]


def record_bytes(item: Item) -> bytes:
    """Return a record, or the part of it that is in this item."""
    return read_binary(item, "record")


def record_part_keys(item: Item) -> list[dict[str, Value]]:
    """Return the keys of a record's parts; none if the record is in the item itself."""
    batch_id, chunk_id = chunk_of(item)
    count = read_count(item, "parts")
    return [_record_part_key(batch_id, chunk_id, read_text(item, "nonce"), position) for position in range(count)]


def _record_part_key(batch_id: str, chunk_id: str, nonce: str, position: int) -> dict[str, Value]:
    return key_of(group_pk(batch_id, group_of(chunk_id)), f"part#{chunk_id}#{nonce}#{position}")


# --- Sweep lease


def queues_key() -> dict[str, Value]:
    return key_of("queues", "queues")


def paused_queues_from_item(item: Item) -> dict[Priority, float]:
    return {priority: read_seconds(item, priority) for priority in Priority if priority in item}


def sweep_key() -> dict[str, Value]:
    return key_of("sweep", "sweep")


def sweep_from_item(item: Item) -> SweepLease:
    return SweepLease(read_text(item, "owner"), read_seconds(item, "until"))


# --- Idempotency keys


def claim_key(tenant: str, key: str) -> dict[str, Value]:
    return key_of(_claim_pk(tenant, key), "key")


def _claim_pk(tenant: str, key: str) -> str:
    """Return the partition of a key. The tenant is quoted, so that no tenant can name a key of another."""
    return f"key#{quote(tenant, safe='')}#{key}"


def claim_to_item(claim: KeyClaim) -> dict[str, Value]:
    return {
        **claim_key(claim.tenant, claim.key),
        "fingerprint": text(claim.fingerprint),
        "batch_id": text(claim.batch_id),
        "keys_from": text(claim.keys_from),
        "lease_until": seconds(claim.lease_until),
        "expires_at": whole_seconds(claim.expires_at),
        "is_settled": flag(False),
        "deaths": number(claim.deaths),
    }


def claim_from_item(tenant: str, key: str, item: Item) -> KeyClaim:
    """Decode a claim. Its answer is not in the item, but in parts."""
    return KeyClaim(
        tenant=tenant,
        key=key,
        fingerprint=read_text(item, "fingerprint"),
        batch_id=read_text(item, "batch_id"),
        keys_from=read_text(item, "keys_from"),
        lease_until=read_seconds(item, "lease_until"),
        expires_at=read_seconds(item, "expires_at"),
        is_settled=read_flag(item, "is_settled"),
        deaths=read_count(item, "deaths"),  # claims of earlier versions have none
    )


def is_claimed_for(item: Item, batch_id: str) -> bool:
    return read_optional_text(item, "batch_id") == batch_id


def answer_parts_to_items(claim: KeyClaim, parts: Sequence[bytes]) -> list[dict[str, Value]]:
    return [
        {
            **_answer_part_key(claim, position),
            "answer": binary(part),
            "expires_at": whole_seconds(claim.expires_at),
        }
        for position, part in enumerate(parts)
    ]


def answer_part_keys(claim: KeyClaim, item: Item) -> list[dict[str, Value]]:
    """Return the keys of a claim's answer; none if it has no answer yet, or never will."""
    return [_answer_part_key(claim, position) for position in range(read_count(item, "answer_parts"))]


def answer_bytes(item: Item) -> bytes:
    """Return the part of an answer that is in this item."""
    return read_binary(item, "answer")


def _answer_part_key(claim: KeyClaim, position: int) -> dict[str, Value]:
    return key_of(_claim_pk(claim.tenant, claim.key), f"answer#{claim.batch_id}#{position}")


# --- Quotas


def usage_key(account: Account) -> dict[str, Value]:
    return _account_key("rate", account)


def open_key(account: Account) -> dict[str, Value]:
    return _account_key("open", account)


def _account_key(kind: str, account: Account) -> dict[str, Value]:
    """Return the key of an account's item. The parts are quoted, so that no tenant can name a key of another."""
    parts = [account.tenant] if account.key_id is None else [account.tenant, account.key_id]
    return key_of("#".join([kind, *(quote(part, safe="") for part in parts)]), kind)


def charge_name(charge: Charge) -> str:
    """Return the attribute of an open charge. Its name has all of the charge, and its value is the TAT after it."""
    return f"{_CHARGE}{charge.lapses_at}_{charge.cost}_{charge.id}"


def usage_from_item(item: Item) -> Usage:
    """Decode the usage of an account, of which the table may have no item yet."""
    names = [name for name in item if name.startswith(_CHARGE)]
    return Usage(read_count(item, "tat"), {_charge_from_name(name): read_number(item, name) for name in names})


def _charge_from_name(name: str) -> Charge:
    lapses_at, cost, id_ = name.removeprefix(_CHARGE).split("_", 2)
    return Charge(id_, int(cost), int(lapses_at))


def open_name(entry: OpenBatch) -> str:
    """Return the attribute of an open batch or a retry. Its value is the number of operations."""
    if entry.retry_id is None:
        return f"{_OPEN_BATCH}{entry.lapses_at}_{entry.id}"
    return f"{_OPEN_RETRY}{entry.lapses_at}_{entry.retry_id}_{entry.id}"


def open_from_item(item: Item) -> OpenOperations:
    """Decode the open operations of an account, of which the table may have no item yet."""
    names = [name for name in item if name.startswith((_OPEN_BATCH, _OPEN_RETRY))]
    return OpenOperations(
        read_count(item, "open_total"), {_open_from_name(name): read_number(item, name) for name in names}
    )


def _open_from_name(name: str) -> OpenBatch:
    if name.startswith(_OPEN_BATCH):
        lapses_at, id_ = name.removeprefix(_OPEN_BATCH).split("_", 1)
        return OpenBatch(id_, int(lapses_at))
    lapses_at, retry_id, id_ = name.removeprefix(_OPEN_RETRY).split("_", 2)
    return OpenBatch(id_, int(lapses_at), retry_id)


# --- Handlers' times


def handler_key(name: str) -> dict[str, Value]:
    return key_of(f"handler#{name}", "time")


def handler_to_item(name: str, taken_seconds: float, at: float) -> dict[str, Value]:
    return {
        **handler_key(name),
        "seconds": {"N": f"{taken_seconds:.9f}"},  # a handler may take microseconds
        "at": seconds(at),
        "expires_at": whole_seconds(at + HANDLER_DAYS * DAY_SECONDS),
    }


def handler_from_item(item: Item) -> tuple[str, float]:
    return read_text(item, "pk").removeprefix("handler#"), read_seconds(item, "seconds")
