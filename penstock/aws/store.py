"""The store port spoken to DynamoDB: one table, keys `pk` and `sk`, forgotten by TTL on `expires_at`.

item             pk                    sk
batch            batch#<id>            batch
group counter    batch#<id>#<group>    count
operations' ids  batch#<id>#<group>    ids#<first index>            only where the client gave them ids
chunk record     batch#<id>#<group>    chunk#<chunk id>
part of a record batch#<id>#<group>    part#<chunk id>#<nonce>#<number>
idempotency      key#<tenant>#<key>    key
its answer       key#<tenant>#<key>    answer#<batch id>#<number>
who sweeps       sweep                 sweep
handler's time   handler#<METHOD path> time

The index `due` has the batches that are not final, by the time at which something must become of them.

A group has a partition of its own, so that no counter is hotter than 64 chunks can make it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from backports import zstd
from botocore.exceptions import ClientError
from pydantic_core import from_json, to_json

from penstock.aws.clients import error_code, explained
from penstock.aws.gathering import Gatherer, up_to
from penstock.batch import OPEN_STATES, Batch, BatchState, Counts, Ending, FailureLimit, sum_counts
from penstock.chunk import group_of, planned_number, redriven_from
from penstock.errors import AcceptanceLost
from penstock.outcome import ChunkRecord, OutcomeState
from penstock.priority import Priority
from penstock.record import decode_record, encode_record
from penstock.store import HANDLER_DAYS, Group, KeyClaim, Traces

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

DAY_SECONDS = 24 * 3600
ITEM_BYTES = 380_000  # DynamoDB takes 400 KB an item, its names and keys included
KEYS_IN_CALL = 100
CHUNKS_IN_COUNT = 32  # the condition of that many is about 2 KB; DynamoDB takes 4 KB, and 300 operators
FIRST_RECORDS = 4  # a page of results seldom needs more; who reads on is given the rest, a mebibyte a call
_CONDITION_FAILED = "ConditionalCheckFailedException"
_PLANNED_DIGITS = 8
_INDEX_DIGITS = 8

DUE_INDEX = "due"
OPEN = "open"  # the one partition of that index

Item = Mapping[str, Any]


class DynamoDbStore:
    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table
        self._looks = Gatherer(self._read_chunk_items, up_to(KEYS_IN_CALL))
        self._counts: dict[tuple[str, int], Gatherer[tuple[Batch, ChunkRecord], Group]] = {}

    async def create_batch(self, batch: Batch) -> None:
        try:
            with explained():
                await self._client.put_item(
                    TableName=self._table,
                    Item=_batch_to_item(batch),
                    ConditionExpression="attribute_not_exists(pk)",
                )
        except ClientError as error:
            # Ids are unique, so it is ours: a call that was long under way must not undo what came after it.
            _standing(error)

    async def extend_acceptance(self, batch_id: str, at: float, until: float) -> None:
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression="SET accept_by = :until, due_at = :until",
                    ConditionExpression="#state = :accepting AND accept_by >= :at",
                    ExpressionAttributeNames={"#state": "state"},
                    ExpressionAttributeValues={
                        ":accepting": {"S": BatchState.ACCEPTING},
                        ":at": _number(at),
                        ":until": _number(until),
                    },
                )
        except ClientError as error:
            _standing(error)
            raise AcceptanceLost(f"Batch {batch_id} was not accepted within its lease.") from error

    async def accept_batch(self, batch_id: str, at: float) -> None:
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression="SET #state = :queued, accepted_at = :at, due_at = deadline_at",
                    ConditionExpression="#state = :accepting AND accept_by >= :at",
                    ExpressionAttributeNames={"#state": "state"},
                    ExpressionAttributeValues={
                        ":queued": {"S": BatchState.QUEUED},
                        ":accepting": {"S": BatchState.ACCEPTING},
                        ":at": _number(at),
                    },
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
        except ClientError as error:
            # A call that took effect though its answer was lost finds its own mark.
            if _time(_standing(error), "accepted_at") != round(at, 3):
                raise AcceptanceLost(f"Batch {batch_id} was not accepted within its lease.") from error

    async def abandon_batch(self, batch_id: str) -> bool:
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression="SET #state = :abandoned REMOVE #open, due_at",
                    ConditionExpression="#state IN (:accepting, :abandoned)",
                    ExpressionAttributeNames={"#state": "state", "#open": "open"},
                    ExpressionAttributeValues={
                        ":accepting": {"S": BatchState.ACCEPTING},
                        ":abandoned": {"S": BatchState.ABANDONED},
                    },
                )
        except ClientError as error:
            _standing(error)
            return False
        return True

    async def read_batch(self, batch_id: str) -> Batch | None:
        with explained():
            answer = await self._client.get_item(TableName=self._table, Key=_batch_key(batch_id), ConsistentRead=True)
        return _batch_from_item(answer["Item"]) if "Item" in answer else None

    async def start_batch(self, batch_id: str, at: float) -> None:
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression="SET #state = :processing, started_at = :at",
                    ConditionExpression="#state = :queued",
                    ExpressionAttributeNames={"#state": "state"},
                    ExpressionAttributeValues={
                        ":processing": {"S": BatchState.PROCESSING},
                        ":queued": {"S": BatchState.QUEUED},
                        ":at": _number(at),
                    },
                )
        except ClientError as error:
            _standing(error)

    async def end_batch(self, batch_id: str, ending: Ending, reason: str, *, settle_by: float) -> bool:
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression=(
                        "SET #state = :cancelling, ending = :ending, reason = :reason, due_at = :settle_by"
                    ),
                    ConditionExpression="#state IN (:queued, :processing)",
                    ExpressionAttributeNames={"#state": "state"},
                    ExpressionAttributeValues={
                        ":cancelling": {"S": BatchState.CANCELLING},
                        ":queued": {"S": BatchState.QUEUED},
                        ":processing": {"S": BatchState.PROCESSING},
                        ":ending": {"S": ending},
                        ":reason": {"S": reason},
                        ":settle_by": _number(settle_by),
                    },
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
        except ClientError as error:
            # A call that took effect though its answer was lost finds its own words.
            standing = _standing(error)
            return (_text(standing, "ending"), _text(standing, "reason")) == (ending, reason)
        return True

    async def read_traces(self, batch_id: str, chunk_id: str) -> Traces:
        item = await self._looks.ask((batch_id, chunk_id))
        record = await self._record_from_item(item) if "nonce" in item else None
        return Traces(record, _texts(item, "released"), _texts(item, "begun"))

    async def _read_chunk_items(self, chunks: Sequence[tuple[str, str]]) -> list[Item]:
        keys = {chunk: _chunk_key(*chunk) for chunk in chunks}  # one that is asked for twice is read once
        found = {_ids(item): item for item in await self._read_items(list(keys.values()))}
        return [found.get(chunk, {}) for chunk in chunks]

    async def note_release(self, batch: Batch, chunk_id: str, mark: str) -> None:
        await self._note(batch, chunk_id, "released", mark)

    async def note_start(self, batch: Batch, chunk_id: str, mark: str) -> ChunkRecord | None:
        item = await self._note(batch, chunk_id, "begun", mark)
        return await self._record_from_item(item) if "nonce" in item else None

    async def _note(self, batch: Batch, chunk_id: str, name: str, mark: str) -> Item:
        """Beside the chunk's record, whether it is there already or not; returns all that stands there now."""
        with explained():
            answer = await self._client.update_item(
                TableName=self._table,
                Key=_chunk_key(batch.id, chunk_id),
                UpdateExpression=f"ADD {name} :mark SET expires_at = :expires_at",
                ExpressionAttributeValues={
                    ":mark": {"SS": [mark]},
                    ":expires_at": _whole(batch.expires_at),
                },
                ReturnValues="ALL_NEW",
            )
        return answer["Attributes"]

    async def commit_chunk(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        # The nonce keeps the parts of two writers apart, and tells a writer whose answer was lost that it won.
        nonce = secrets.token_hex(8)
        encoded = encode_record(record)
        parts = _cut(encoded)
        item = {
            **_chunk_key(batch.id, record.chunk_id),
            "nonce": {"S": nonce},
            "expires_at": _whole(batch.expires_at),
        }
        if len(parts) == 1:
            item["record"] = {"B": encoded}
        else:
            # The record is written last: whoever sees it finds all of its parts.
            await self._put_parts(batch, record.chunk_id, nonce, parts)
            item["parts"] = {"N": str(len(parts))}
        try:
            with explained():
                await self._client.put_item(
                    TableName=self._table,
                    Item=item,
                    ConditionExpression="attribute_not_exists(nonce)",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
        except ClientError as error:
            return await self._record_from_item(_standing(error))
        return record

    async def count_chunk(self, batch: Batch, record: ChunkRecord) -> Group:
        """Chunks of a group that are ready while an update of it is under way are counted together in the next."""
        key = (batch.id, group_of(record.chunk_id))
        gatherer = self._counts.get(key)
        if gatherer is None:
            gatherer = self._counts[key] = Gatherer(self._count_call, up_to(CHUNKS_IN_COUNT))
        try:
            return await gatherer.ask((batch, record))
        finally:
            if gatherer.is_idle:
                self._counts.pop(key, None)

    async def _count_call(self, asked: Sequence[tuple[Batch, ChunkRecord]]) -> list[Group]:
        """All in one update; one by one where its condition fails, as when one of them is counted already."""
        batch = asked[0][0]
        records = {record.chunk_id: record for _, record in asked}
        try:
            group = await self._count(batch, list(records.values()))
        except ClientError as error:
            group = _group_from_item(_standing(error))
            if len(records) > 1:
                groups = {chunk_id: await self._count_call([(batch, one)]) for chunk_id, one in records.items()}
                return [groups[record.chunk_id][0] for _, record in asked]
        return [group] * len(asked)

    async def _count(self, batch: Batch, records: Sequence[ChunkRecord]) -> Group:
        """Raises the client's error when one of them is counted already, or the group closed."""
        conditions, values = _conditions_of_count(records)
        with explained():
            answer = await self._client.update_item(
                TableName=self._table,
                Key=_count_key(batch.id, group_of(records[0].chunk_id)),
                UpdateExpression=(
                    "ADD done :chunks, succeeded :succeeded, failed :failed, cancelled :cancelled, "
                    "expired :expired, deaths :deaths SET expires_at = :expires_at"
                ),
                ConditionExpression=" AND ".join(conditions),
                ExpressionAttributeValues={
                    ":chunks": {"SS": [record.chunk_id for record in records]},
                    ":deaths": {"N": str(sum(record.deaths for record in records))},
                    ":expires_at": _whole(batch.expires_at),
                    **_counts_to_values(sum_counts(record.counts for record in records)),
                    **values,
                },
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        return _group_from_item(answer["Attributes"])

    async def close_group(self, batch: Batch, group: int, seen: Counts, ending: Ending) -> bool:
        counted = "(succeeded = :succeeded AND failed = :failed AND cancelled = :cancelled AND expired = :expired)"
        if seen == Counts():
            counted = f"(attribute_not_exists(succeeded) OR {counted})"
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_count_key(batch.id, group),
                    UpdateExpression=f"SET closed = :ending, expires_at = :expires_at ADD {ending} :open",
                    ConditionExpression=f"attribute_not_exists(closed) AND {counted}",
                    ExpressionAttributeValues={
                        ":ending": {"S": ending},
                        ":open": {"N": str(batch.group_totals[group] - seen.completed)},
                        ":expires_at": _whole(batch.expires_at),
                        **_counts_to_values(seen),
                    },
                )
        except ClientError as error:
            _standing(error)
            return False
        return True

    async def finish_group(self, batch_id: str, group: int) -> frozenset[int]:
        try:
            with explained():
                answer = await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression="ADD finished_groups :group",
                    ConditionExpression="attribute_exists(pk)",
                    ExpressionAttributeValues={":group": {"NS": [str(group)]}},
                    # Not UPDATED_NEW: moto leaves out a set that had the member already, as when this is a repetition.
                    ReturnValues="ALL_NEW",
                )
        except ClientError as error:
            _standing(error)
            return frozenset()  # the table has forgotten the batch: there is nothing left to finish
        return _numbers(answer["Attributes"], "finished_groups")

    async def read_groups(self, batch_id: str, groups: Sequence[int]) -> dict[int, Group]:
        keys = [_count_key(batch_id, group) for group in groups]
        items = await self._read_items(keys, "pk, succeeded, failed, cancelled, expired, deaths, closed")
        found = {int(item["pk"]["S"].rpartition("#")[2]): _group_from_item(item) for item in items}
        return dict.fromkeys(groups, Group()) | found

    async def read_group(self, batch_id: str, group: int) -> Group:
        with explained():
            answer = await self._client.get_item(
                TableName=self._table, Key=_count_key(batch_id, group), ConsistentRead=True
            )
        return _group_from_item(answer.get("Item", {}))

    async def write_ids(self, batch: Batch, first_index: int, ids: Sequence[str]) -> None:
        packed = zstd.compress(to_json(list(ids)))
        if len(packed) > ITEM_BYTES:  # long ones, in a script of many letters
            middle = len(ids) // 2
            await self.write_ids(batch, first_index, ids[:middle])
            await self.write_ids(batch, first_index + middle, ids[middle:])
            return
        with explained():
            await self._client.put_item(
                TableName=self._table,
                Item={
                    "pk": {"S": _group_pk(batch.id, batch.group_at(first_index))},
                    "sk": {"S": f"ids#{first_index:0{_INDEX_DIGITS}}"},
                    "ids": {"B": packed},
                    "expires_at": _whole(batch.expires_at),
                },
            )

    async def read_ids(self, batch_id: str, group: int) -> list[str]:
        items = self._query(_group_pk(batch_id, group), "ids#", "ids$")
        return [operation_id async for item in items for operation_id in from_json(zstd.decompress(item["ids"]["B"]))]

    async def finish_batch(self, batch_id: str, state: BatchState, at: float, *, ending: Ending | None = None) -> bool:
        open_states = {f":open{number}": {"S": name} for number, name in enumerate(sorted(OPEN_STATES))}
        values: dict[str, Any] = {":final": {"S": state}, ":at": _number(at), **open_states}
        as_decided = "attribute_not_exists(ending)"
        if ending is not None:
            as_decided, values[":ending"] = "ending = :ending", {"S": ending}
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression="SET #state = :final, finished_at = :at REMOVE #open, due_at",
                    ConditionExpression=f"#state IN ({', '.join(open_states)}) AND {as_decided}",
                    ExpressionAttributeNames={"#state": "state", "#open": "open"},
                    ExpressionAttributeValues=values,
                )
        except ClientError as error:
            _standing(error)
            return False
        return True

    async def revise_batch(self, batch_id: str, before: BatchState, after: BatchState) -> None:
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression="SET #state = :after",
                    ConditionExpression="#state = :before",
                    ExpressionAttributeNames={"#state": "state"},
                    ExpressionAttributeValues={":before": {"S": before}, ":after": {"S": after}},
                )
        except ClientError as error:
            _standing(error)

    async def read_records(self, batch: Batch, group: int, first_chunk: int) -> AsyncIterator[list[ChunkRecord]]:
        family: list[Item] = []
        pk, first = _group_pk(batch.id, group), _chunk_sk(str(first_chunk))
        async for item in self._query(pk, first, "chunk$", first_items=FIRST_RECORDS):
            if "nonce" not in item:
                continue  # a note of a release
            if family and _planned(item) != _planned(family[0]):
                yield [await self._record_from_item(member) for member in family]
                family = []
            family.append(item)
        if family:
            yield [await self._record_from_item(member) for member in family]

    async def due_batches(self, now: float, limit: int) -> list[str]:
        with explained():
            answer = await self._client.query(
                TableName=self._table,
                IndexName=DUE_INDEX,
                KeyConditionExpression="#open = :open AND due_at < :now",
                ExpressionAttributeNames={"#open": "open"},
                ExpressionAttributeValues={":open": {"S": OPEN}, ":now": _number(now)},
                Limit=limit,
            )
        return [item["pk"]["S"].split("#")[1] for item in answer["Items"]]

    async def take_sweep(self, owner: str, now: float, until: float) -> bool:
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key={"pk": {"S": "sweep"}, "sk": {"S": "sweep"}},
                    UpdateExpression="SET #owner = :owner, #until = :until",
                    ConditionExpression="attribute_not_exists(#until) OR #until < :now OR #owner = :owner",
                    ExpressionAttributeNames={"#owner": "owner", "#until": "until"},
                    ExpressionAttributeValues={
                        ":owner": {"S": owner},
                        ":now": _number(now),
                        ":until": _number(until),
                    },
                )
        except ClientError as error:
            _standing(error)
            return False
        return True

    async def claim_key(self, claim: KeyClaim, now: float) -> KeyClaim:
        try:
            with explained():
                await self._client.put_item(
                    TableName=self._table,
                    Item=_key_to_item(claim),
                    # TTL deletes late; what it should have deleted is not there.
                    ConditionExpression="attribute_not_exists(pk) OR expires_at < :now",
                    ExpressionAttributeValues={":now": _whole(now)},
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
        except ClientError as error:
            return await self._key_from_item(claim.tenant, claim.key, _standing(error))
        return claim

    async def take_over_key(self, standing: KeyClaim, claim: KeyClaim, now: float) -> bool:
        try:
            with explained():
                await self._client.put_item(
                    TableName=self._table,
                    Item=_key_to_item(claim),
                    ConditionExpression="batch_id = :theirs AND NOT is_settled = :yes AND lease_until < :now",
                    ExpressionAttributeValues={
                        ":theirs": {"S": standing.batch_id},
                        ":yes": {"BOOL": True},
                        ":now": _number(now),
                    },
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
        except ClientError as error:
            return _text(_standing(error), "batch_id") == claim.batch_id
        return True

    async def settle_key(self, claim: KeyClaim, answer: bytes | None) -> None:
        parts = _cut(answer or b"")
        with explained():
            for number, part in enumerate(parts):
                await self._client.put_item(
                    TableName=self._table,
                    Item={
                        **_answer_key(claim, number),
                        "answer": {"B": part},
                        "expires_at": _whole(claim.expires_at),
                    },
                )
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_key_key(claim.tenant, claim.key),
                    UpdateExpression="SET is_settled = :yes, answer_parts = :parts",
                    ConditionExpression="batch_id = :ours",
                    ExpressionAttributeValues={
                        ":yes": {"BOOL": True},
                        ":ours": {"S": claim.batch_id},
                        ":parts": {"N": str(len(parts))},
                    },
                )
        except ClientError as error:
            _standing(error)

    async def release_key(self, claim: KeyClaim) -> None:
        await self.extend_key(claim, 0)

    async def extend_key(self, claim: KeyClaim, until: float) -> bool:
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_key_key(claim.tenant, claim.key),
                    UpdateExpression="SET lease_until = :until",
                    ConditionExpression="batch_id = :ours",
                    ExpressionAttributeValues={":until": _number(until), ":ours": {"S": claim.batch_id}},
                )
        except ClientError as error:
            _standing(error)
            return False
        return True

    async def read_handler_seconds(self, names: Sequence[str]) -> dict[str, float]:
        items = await self._read_items([_handler_key(name) for name in names])
        return {item["pk"]["S"].removeprefix("handler#"): float(item["seconds"]["N"]) for item in items}

    async def write_handler_seconds(self, seconds: Mapping[str, float], at: float) -> None:
        with explained():
            for name, taking in seconds.items():
                await self._client.put_item(
                    TableName=self._table,
                    Item={
                        **_handler_key(name),
                        "seconds": {"N": f"{taking:.9f}"},
                        "at": _number(at),
                        "expires_at": _whole(at + HANDLER_DAYS * DAY_SECONDS),
                    },
                )

    async def check(self) -> None:
        with explained():
            await self._client.get_item(TableName=self._table, Key=_batch_key("none"))

    async def _query(self, pk: str, first: str, last: str, *, first_items: int | None = None) -> AsyncIterator[Item]:
        """The items of a partition from one sort key up to another; `first_items` with the first call, where given."""
        start: dict[str, Any] = {} if first_items is None else {"Limit": first_items}
        while True:
            with explained():
                page = await self._client.query(
                    TableName=self._table,
                    KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
                    ExpressionAttributeValues={":pk": {"S": pk}, ":first": {"S": first}, ":last": {"S": last}},
                    ConsistentRead=True,
                    **start,
                )
            for item in page["Items"]:
                yield item
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    async def _read_items(self, keys: Sequence[Item], projection: str | None = None) -> list[Item]:
        """As far as they are there, in any order. DynamoDB refuses a key that is asked for twice."""
        parts = [keys[start : start + KEYS_IN_CALL] for start in range(0, len(keys), KEYS_IN_CALL)]
        calls = [self._read_items_call(part, projection) for part in parts]
        return [item for read in await asyncio.gather(*calls) for item in read]

    async def _read_items_call(self, keys: Sequence[Item], projection: str | None) -> list[Item]:
        request: Any = {self._table: {"Keys": keys, "ConsistentRead": True}}
        if projection is not None:
            request[self._table]["ProjectionExpression"] = projection
        found: list[Item] = []
        while request:
            with explained():
                answer = await self._client.batch_get_item(RequestItems=request)
            found += answer["Responses"].get(self._table, ())
            request = answer.get("UnprocessedKeys")
        return found

    async def _key_from_item(self, tenant: str, key: str, item: Item) -> KeyClaim:
        claim = _key_from_item(tenant, key, item)
        pieces = []
        for number in range(_count(item, "answer_parts")):
            with explained():
                answer = await self._client.get_item(
                    TableName=self._table, Key=_answer_key(claim, number), ConsistentRead=True
                )
            pieces.append(answer["Item"]["answer"]["B"])
        return replace(claim, answer=b"".join(pieces)) if pieces else claim

    async def _put_parts(self, batch: Batch, chunk_id: str, nonce: str, parts: Sequence[bytes]) -> None:
        with explained():
            for number, part in enumerate(parts):
                await self._client.put_item(
                    TableName=self._table,
                    Item={
                        **_part_key(batch.id, chunk_id, nonce, number),
                        "record": {"B": part},
                        "expires_at": _whole(batch.expires_at),
                    },
                )

    async def _record_from_item(self, item: Item) -> ChunkRecord:
        batch_id, chunk_id = _ids(item)
        if "parts" not in item:
            return decode_record(chunk_id, item["record"]["B"])
        pieces = []
        for number in range(int(item["parts"]["N"])):
            with explained():
                answer = await self._client.get_item(
                    TableName=self._table,
                    Key=_part_key(batch_id, chunk_id, item["nonce"]["S"], number),
                    ConsistentRead=True,
                )
            pieces.append(answer["Item"]["record"]["B"])
        return decode_record(chunk_id, b"".join(pieces))


def _standing(error: ClientError) -> Item:
    """What stands in the table instead, where a condition failed; any other error goes on."""
    if error_code(error) != _CONDITION_FAILED:
        raise error
    item: Item = error.response.get("Item", {})  # type: ignore[assignment]
    return item


def _cut(content: bytes) -> list[bytes]:
    """Pieces that fit into items; none of nothing."""
    return [content[start : start + ITEM_BYTES] for start in range(0, len(content), ITEM_BYTES)]


def _conditions_of_count(records: Sequence[ChunkRecord]) -> tuple[list[str], dict[str, Any]]:
    """That none of these chunks is counted, and the group is open; and the values that the words stand for.

    In a closed group a redriven chunk is counted too, if what it takes back is: otherwise that is not sure.
    """
    conditions: list[str] = []
    values: dict[str, Any] = {}
    for number, record in enumerate(records):
        corrected = redriven_from(record.chunk_id)
        conditions.append(f"NOT contains(done, :chunk{number})")
        values[f":chunk{number}"] = {"S": record.chunk_id}
        if corrected is None:
            conditions.append("attribute_not_exists(closed)")
        else:
            conditions.append(f"(attribute_not_exists(closed) OR contains(done, :corrected{number}))")
            values[f":corrected{number}"] = {"S": corrected}
    return list(dict.fromkeys(conditions)), values


def _counts_to_values(counts: Counts) -> dict[str, Any]:
    return {
        ":succeeded": {"N": str(counts.succeeded)},
        ":failed": {"N": str(counts.failed)},
        ":cancelled": {"N": str(counts.cancelled)},
        ":expired": {"N": str(counts.expired)},
    }


def _key_key(tenant: str, key: str) -> dict[str, Any]:
    return {"pk": {"S": _key_pk(tenant, key)}, "sk": {"S": "key"}}


def _key_pk(tenant: str, key: str) -> str:
    """Quoted, so that no tenant's name can reach into another's keys."""
    return f"key#{quote(tenant, safe='')}#{key}"


def _answer_key(claim: KeyClaim, number: int) -> dict[str, Any]:
    return {"pk": {"S": _key_pk(claim.tenant, claim.key)}, "sk": {"S": f"answer#{claim.batch_id}#{number}"}}


def _key_to_item(claim: KeyClaim) -> dict[str, Any]:
    return {
        **_key_key(claim.tenant, claim.key),
        "fingerprint": {"S": claim.fingerprint},
        "batch_id": {"S": claim.batch_id},
        "keys_from": {"S": claim.keys_from},
        "lease_until": _number(claim.lease_until),
        "expires_at": _whole(claim.expires_at),
        "is_settled": {"BOOL": False},
    }


def _key_from_item(tenant: str, key: str, item: Item) -> KeyClaim:
    return KeyClaim(
        tenant=tenant,
        key=key,
        fingerprint=item["fingerprint"]["S"],
        batch_id=item["batch_id"]["S"],
        keys_from=item["keys_from"]["S"],
        lease_until=float(item["lease_until"]["N"]),
        expires_at=float(item["expires_at"]["N"]),
        is_settled=item["is_settled"]["BOOL"],
    )


def _handler_key(name: str) -> dict[str, Any]:
    return {"pk": {"S": f"handler#{name}"}, "sk": {"S": "time"}}


def _batch_key(batch_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"batch#{batch_id}"}, "sk": {"S": "batch"}}


def _group_pk(batch_id: str, group: int) -> str:
    return f"batch#{batch_id}#{group}"


def _count_key(batch_id: str, group: int) -> dict[str, Any]:
    return {"pk": {"S": _group_pk(batch_id, group)}, "sk": {"S": "count"}}


def _chunk_key(batch_id: str, chunk_id: str) -> dict[str, Any]:
    return {"pk": {"S": _group_pk(batch_id, group_of(chunk_id))}, "sk": {"S": _chunk_sk(chunk_id)}}


def _part_key(batch_id: str, chunk_id: str, nonce: str, number: int) -> dict[str, Any]:
    return {
        "pk": {"S": _group_pk(batch_id, group_of(chunk_id))},
        "sk": {"S": f"part#{chunk_id}#{nonce}#{number}"},
    }


def _chunk_sk(chunk_id: str) -> str:
    """Padded, so that the table's order is the operations' order, and what follows from a chunk comes after it."""
    planned, dot, rest = chunk_id.partition(".")
    return f"chunk#{planned.zfill(_PLANNED_DIGITS)}{dot}{rest}"


def _ids(item: Item) -> tuple[str, str]:
    """A chunk record's batch id and chunk id, from its keys."""
    padded, dot, rest = item["sk"]["S"].removeprefix("chunk#").partition(".")
    return item["pk"]["S"].split("#")[1], f"{int(padded)}{dot}{rest}"


def _planned(item: Item) -> int:
    return planned_number(_ids(item)[1])


def _batch_to_item(batch: Batch) -> dict[str, Any]:
    return {
        **_batch_key(batch.id),
        "tenant": {"S": batch.tenant},
        "state": {"S": batch.state},
        "total": {"N": str(batch.total)},
        "chunk_count": {"N": str(batch.chunk_count)},
        "group_totals": {"L": [{"N": str(total)} for total in batch.group_totals]},
        "created_at": _number(batch.created_at),
        "accept_by": _number(batch.accept_by),
        "deadline_at": _number(batch.deadline_at),
        "expires_at": _whole(batch.expires_at),
        "priority": {"S": batch.priority},
        **({} if batch.not_before is None else {"not_before": _number(batch.not_before)}),
        **({} if batch.failure_limit is None else {"failure_limit": {"N": str(batch.failure_limit.count)}}),
        **({} if batch.keys_from is None else {"keys_from": {"S": batch.keys_from}}),
        **({"headers": {"M": {name: {"S": value} for name, value in batch.headers}}} if batch.headers else {}),
        "has_own_ids": {"BOOL": batch.has_own_ids},
        "open": {"S": OPEN},
        "due_at": _number(batch.accept_by),
    }


def _batch_from_item(item: Item) -> Batch:
    return Batch(
        id=item["pk"]["S"].split("#")[1],
        tenant=item["tenant"]["S"],
        state=BatchState(item["state"]["S"]),
        total=int(item["total"]["N"]),
        chunk_count=int(item["chunk_count"]["N"]),
        group_totals=tuple(int(total["N"]) for total in item["group_totals"]["L"]),
        created_at=float(item["created_at"]["N"]),
        accept_by=float(item["accept_by"]["N"]),
        deadline_at=float(item["deadline_at"]["N"]),
        expires_at=float(item["expires_at"]["N"]),
        priority=Priority(item["priority"]["S"]) if "priority" in item else Priority.NORMAL,
        not_before=_time(item, "not_before"),
        failure_limit=FailureLimit(int(item["failure_limit"]["N"])) if "failure_limit" in item else None,
        keys_from=_text(item, "keys_from"),
        headers=tuple((name, value["S"]) for name, value in sorted(item.get("headers", {"M": {}})["M"].items())),
        has_own_ids=item["has_own_ids"]["BOOL"],
        ending=Ending(item["ending"]["S"]) if "ending" in item else None,
        reason=_text(item, "reason"),
        accepted_at=_time(item, "accepted_at"),
        started_at=_time(item, "started_at"),
        finished_at=_time(item, "finished_at"),
        finished_groups=_numbers(item, "finished_groups"),
    )


def _numbers(item: Item, name: str) -> frozenset[int]:
    return frozenset(int(number) for number in item.get(name, {}).get("NS", ()))


def _texts(item: Item, name: str) -> frozenset[str]:
    return frozenset(item.get(name, {}).get("SS", ()))


def _group_from_item(item: Item) -> Group:
    return Group(
        counts=Counts(*(_count(item, name) for name in OutcomeState)),
        deaths=_count(item, "deaths"),
        closed=Ending(item["closed"]["S"]) if "closed" in item else None,
        done=_texts(item, "done"),
    )


def _count(item: Item, name: str) -> int:
    return int(item[name]["N"]) if name in item else 0


def _text(item: Item, name: str) -> str | None:
    text: str | None = item[name]["S"] if name in item else None
    return text


def _time(item: Item, name: str) -> float | None:
    return float(item[name]["N"]) if name in item else None


def _number(seconds: float) -> dict[str, str]:
    return {"N": f"{seconds:.3f}"}


def _whole(seconds: float) -> dict[str, str]:
    """TTL wants whole seconds."""
    return {"N": str(int(seconds))}
