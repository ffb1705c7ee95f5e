"""The store port spoken to DynamoDB: one table, keys `pk` and `sk`, forgotten by TTL on `expires_at`.

item             pk                    sk
batch            batch#<id>            batch
group counter    batch#<id>#<group>    count
chunk record     batch#<id>#<group>    chunk#<chunk id>
part of a record batch#<id>#<group>    part#<chunk id>#<nonce>#<number>

A group has a partition of its own, so that no counter is hotter than 64 chunks can make it.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from penstock.aws import error_code, explained
from penstock.batch import OPEN_STATES, Batch, BatchState, Counts
from penstock.chunk import Chunk, group_of, planned_number
from penstock.errors import AcceptanceLost
from penstock.outcome import ChunkRecord
from penstock.record import decode_record, encode_record
from penstock.store import Traces

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

ITEM_BYTES = 380_000  # DynamoDB takes 400 KB an item, its names and keys included
KEYS_IN_CALL = 100
_CONDITION_FAILED = "ConditionalCheckFailedException"
_PLANNED_DIGITS = 8

Item = Mapping[str, Any]


class DynamoDbStore:
    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

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

    async def accept_batch(self, batch_id: str, at: float) -> None:
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression="SET #state = :queued, accepted_at = :at",
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
                    UpdateExpression="SET #state = :abandoned",
                    ConditionExpression="#state IN (:accepting, :abandoned)",
                    ExpressionAttributeNames={"#state": "state"},
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

    async def read_traces(self, batch_id: str, chunk_id: str) -> Traces:
        with explained():
            answer = await self._client.get_item(
                TableName=self._table, Key=_chunk_key(batch_id, chunk_id), ConsistentRead=True
            )
        item = answer.get("Item", {})
        record = await self._record_from_item(item) if "nonce" in item else None
        return Traces(record, _numbers(item, "released"), _numbers(item, "begun"))

    async def note_release(self, batch: Batch, chunk_id: str, receive_count: int) -> None:
        await self._note(batch, chunk_id, "released", receive_count)

    async def note_start(self, batch: Batch, chunk_id: str, receive_count: int) -> None:
        await self._note(batch, chunk_id, "begun", receive_count)

    async def _note(self, batch: Batch, chunk_id: str, name: str, receive_count: int) -> None:
        with explained():
            await self._client.update_item(
                TableName=self._table,
                Key=_chunk_key(batch.id, chunk_id),
                UpdateExpression=f"ADD {name} :count SET expires_at = :expires_at",
                ExpressionAttributeValues={
                    ":count": {"NS": [str(receive_count)]},
                    ":expires_at": _whole(batch.expires_at),
                },
            )

    async def commit_chunk(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        # The nonce keeps the parts of two writers apart, and tells a writer whose answer was lost that it won.
        nonce = secrets.token_hex(8)
        encoded = encode_record(record)
        parts = [encoded[start : start + ITEM_BYTES] for start in range(0, len(encoded), ITEM_BYTES)]
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

    async def count_chunk(self, batch: Batch, chunk: Chunk, counts: Counts) -> Counts:
        try:
            with explained():
                answer = await self._client.update_item(
                    TableName=self._table,
                    Key=_count_key(batch.id, chunk.group),
                    UpdateExpression=(
                        "ADD done :chunk, succeeded :succeeded, failed :failed, cancelled :cancelled, expired :expired "
                        "SET expires_at = :expires_at"
                    ),
                    ConditionExpression="NOT contains(done, :chunk_id)",
                    ExpressionAttributeValues={
                        ":chunk": {"SS": [chunk.id]},
                        ":chunk_id": {"S": chunk.id},
                        ":succeeded": {"N": str(counts.succeeded)},
                        ":failed": {"N": str(counts.failed)},
                        ":cancelled": {"N": str(counts.cancelled)},
                        ":expired": {"N": str(counts.expired)},
                        ":expires_at": _whole(batch.expires_at),
                    },
                    ReturnValues="ALL_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
        except ClientError as error:
            return _counts_from_item(_standing(error))
        return _counts_from_item(answer["Attributes"])

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

    async def read_counts(self, batch_id: str, groups: Sequence[int]) -> dict[int, Counts]:
        calls = [
            self._read_counts_call(batch_id, groups[start : start + KEYS_IN_CALL])
            for start in range(0, len(groups), KEYS_IN_CALL)
        ]
        counts = dict.fromkeys(groups, Counts())
        for read in await asyncio.gather(*calls):
            counts |= read
        return counts

    async def finish_batch(self, batch_id: str, state: BatchState, at: float) -> bool:
        open_states = {f":open{number}": {"S": name} for number, name in enumerate(sorted(OPEN_STATES))}
        try:
            with explained():
                await self._client.update_item(
                    TableName=self._table,
                    Key=_batch_key(batch_id),
                    UpdateExpression="SET #state = :final, finished_at = :at",
                    ConditionExpression=f"#state IN ({', '.join(open_states)})",
                    ExpressionAttributeNames={"#state": "state"},
                    ExpressionAttributeValues={":final": {"S": state}, ":at": _number(at), **open_states},
                )
        except ClientError as error:
            _standing(error)
            return False
        return True

    async def read_records(self, batch: Batch, first_chunk: int) -> AsyncIterator[list[ChunkRecord]]:
        for group in range(group_of(str(first_chunk)), len(batch.group_totals)):
            family: list[Item] = []
            async for item in self._read_group(batch.id, group, first_chunk):
                if family and _planned(item) != _planned(family[0]):
                    yield [await self._record_from_item(member) for member in family]
                    family = []
                family.append(item)
            if family:
                yield [await self._record_from_item(member) for member in family]

    async def check(self) -> None:
        with explained():
            await self._client.get_item(TableName=self._table, Key=_batch_key("none"))

    async def _read_group(self, batch_id: str, group: int, first_chunk: int) -> AsyncIterator[Item]:
        start: dict[str, Any] = {}
        while True:
            with explained():
                page = await self._client.query(
                    TableName=self._table,
                    KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
                    FilterExpression="attribute_exists(nonce)",
                    ExpressionAttributeValues={
                        ":pk": {"S": _group_pk(batch_id, group)},
                        ":first": {"S": _chunk_sk(str(first_chunk))},
                        ":last": {"S": "chunk$"},  # `$` comes right after `#`
                    },
                    ConsistentRead=True,
                    **start,
                )
            for item in page["Items"]:
                yield item
            if "LastEvaluatedKey" not in page:
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    async def _read_counts_call(self, batch_id: str, groups: Sequence[int]) -> dict[int, Counts]:
        request: Any = {
            self._table: {
                "Keys": [_count_key(batch_id, group) for group in groups],
                "ConsistentRead": True,
                "ProjectionExpression": "pk, succeeded, failed, cancelled, expired",
            }
        }
        counts: dict[int, Counts] = {}
        while request:
            with explained():
                answer = await self._client.batch_get_item(RequestItems=request)
            for item in answer["Responses"].get(self._table, ()):
                counts[int(item["pk"]["S"].rpartition("#")[2])] = _counts_from_item(item)
            request = answer.get("UnprocessedKeys")
        return counts

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
        "expires_at": _whole(batch.expires_at),
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
        expires_at=float(item["expires_at"]["N"]),
        accepted_at=_time(item, "accepted_at"),
        started_at=_time(item, "started_at"),
        finished_at=_time(item, "finished_at"),
        finished_groups=_numbers(item, "finished_groups"),
    )


def _numbers(item: Item, name: str) -> frozenset[int]:
    return frozenset(int(number) for number in item.get(name, {}).get("NS", ()))


def _counts_from_item(item: Item) -> Counts:
    return Counts(
        succeeded=int(item["succeeded"]["N"]),
        failed=int(item["failed"]["N"]),
        cancelled=int(item["cancelled"]["N"]),
        expired=int(item["expired"]["N"]),
    )


def _time(item: Item, name: str) -> float | None:
    return float(item[name]["N"]) if name in item else None


def _number(seconds: float) -> dict[str, str]:
    return {"N": f"{seconds:.3f}"}


def _whole(seconds: float) -> dict[str, str]:
    """TTL wants whole seconds."""
    return {"N": str(int(seconds))}
