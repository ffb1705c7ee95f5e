"""The DynamoDB table: the few calls that the store needs, and what each of them can return.

A conditional write returns `Done` or `Blocked`. Every other problem is raised as Unavailable or Misconfigured. Writes
and reads of single items are exact; only the index may lag behind the table.
"""

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from penstock.aws.attributes import Item, Value, text
from penstock.aws.billing import bill_reads, bill_write
from penstock.aws.clients import error_code, explained
from penstock.backoff import Backoff
from penstock.bills import Bills
from penstock.errors import LostItem, Unavailable

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient

KEYS_IN_CALL = 100  # BatchGetItem reads at most 100 items in a call
ITEMS_IN_INDEX_PAGE = 100
_UNPROCESSED = Backoff(base_seconds=0.05, max_seconds=2.0)
_CONDITION_FAILED = "ConditionalCheckFailedException"
_NAME = re.compile(r"#(\w+)")

Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Done:
    """The write took effect. `item` is the item after it, if the caller asked for it."""

    item: Item = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Blocked:
    """The condition was false, so nothing was written.

    `item` is the item that made it false, if the caller asked for it; empty if no such item exists.
    """

    item: Item = field(default_factory=dict)


class Table:
    """In expressions, `:name` stands for a value and `#name` for an attribute whose name DynamoDB reserves.

    What a call costs is added to `bills`, except for queries: only clients who read results pay for them.
    """

    def __init__(self, client: "DynamoDBClient", name: str, bills: Bills | None = None) -> None:
        self.client = client
        self.name = name
        self.bills = bills or Bills()

    async def get(self, key: Item) -> Item | None:
        answer = await self._call(self.client.get_item, Key=key, ConsistentRead=True)
        item: Item | None = answer.get("Item")
        if item is not None:
            _check_places([item], [key])
        bill_reads(self.bills, [key], [] if item is None else [item])
        return item

    async def get_existing(self, key: Item) -> Item:
        item = await self.get(key)
        if item is None:
            raise LostItem(f"The table {self.name} has lost the item {dict(key)}.")
        return item

    async def get_many(self, keys: Sequence[Item], projection: str | None = None) -> list[Item]:
        """Return the items that exist, in any order. DynamoDB rejects a call that names a key twice.

        `projection` names the attributes to return, in addition to the key.
        """
        pages = [keys[start : start + KEYS_IN_CALL] for start in range(0, len(keys), KEYS_IN_CALL)]
        found = await asyncio.gather(*(self._get_page(page, projection) for page in pages))
        return [item for page in found for item in page]

    async def query(self, pk: str, first: str, last: str, *, first_items: int | None = None) -> AsyncIterator[Item]:
        """Yield the items of a partition from sort key `first` to `last`; the first call reads up to `first_items`."""
        async for item in self._query(
            itertools.chain([first_items], itertools.repeat(None)),
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ConsistentRead=True,
            **_values({"pk": text(pk), "first": text(first), "last": text(last)}),
        ):
            yield item

    async def query_backwards(self, pk: str, first: str, last: str, limit: int) -> list[Item]:
        """Return the last `limit` items of a partition from sort key `first` to `last`. The last one comes first."""
        found = self._query(
            itertools.repeat(limit),
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ScanIndexForward=False,
            ConsistentRead=True,
            **_values({"pk": text(pk), "first": text(first), "last": text(last)}),
        )
        return await _first_of(found, limit)

    async def query_existing(
        self, pk: str, first: str, last: str, limit: int, *, now: Value, is_forward: bool
    ) -> list[Item]:
        """Return the first or the last `limit` items of a partition that have not expired.

        Items that have expired are read until the table deletes them. So each call that finds too few reads more.
        """
        found = self._query(
            itertools.chain((limit, 10 * limit), itertools.repeat(None)),
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            FilterExpression="expires_at > :now",
            ScanIndexForward=is_forward,
            ConsistentRead=True,
            **_values({"pk": text(pk), "first": text(first), "last": text(last), "now": now}),
        )
        return await _first_of(found, limit)

    async def query_index(self, index: str, condition: str, values: Values) -> AsyncIterator[Item]:
        """Yield the items of an index, page by page. An index may show an item as it was a moment ago."""
        async for item in self._query(
            itertools.repeat(ITEMS_IN_INDEX_PAGE),
            IndexName=index,
            KeyConditionExpression=condition,
            **_names(condition),
            **_values(values),
        ):
            yield item

    async def put(self, item: Item) -> None:
        await self._call(self.client.put_item, Item=item)
        bill_write(self.bills, item, item)

    async def put_if(
        self, condition: str, item: Item, values: Values | None = None, *, return_blocker: bool = False
    ) -> Done | Blocked:
        """Write the whole item if the condition holds for the one that is in its place."""
        return await self._call_if(
            self.client.put_item,
            item,
            Item=item,
            ConditionExpression=condition,
            **_names(condition),
            **_values(values),
            **({"ReturnValuesOnConditionCheckFailure": "ALL_OLD"} if return_blocker else {}),
        )

    async def update(self, key: Item, change: str, values: Values) -> Item:
        """Change an item, or create it; return the item after the change."""
        answer = await self._call(
            self.client.update_item,
            Key=key,
            UpdateExpression=change,
            ReturnValues="ALL_NEW",
            **_names(change),
            **_values(values),
        )
        item: Item = answer["Attributes"]
        bill_write(self.bills, key, item)
        return item

    async def update_if(
        self,
        condition: str,
        key: Item,
        change: str,
        values: Values,
        *,
        return_new: bool = False,
        return_blocker: bool = False,
    ) -> Done | Blocked:
        """Change an item if the condition holds for it."""
        return await self._call_if(
            self.client.update_item,
            {**key, **values},
            Key=key,
            UpdateExpression=change,
            ConditionExpression=condition,
            **_names(change, condition),
            **_values(values),
            # Not UPDATED_NEW: moto leaves out a set that already had the member, as when the call is a repetition.
            **({"ReturnValues": "ALL_NEW"} if return_new else {}),
            **({"ReturnValuesOnConditionCheckFailure": "ALL_OLD"} if return_blocker else {}),
        )

    async def check(self, key: Item) -> None:
        """Read any item, just to see if the table answers. The read is the cheapest there is."""
        await self._call(self.client.get_item, Key=key)

    async def _query(self, limits: Iterator[int | None], **request: Any) -> AsyncIterator[Item]:
        """Yield the items of all pages. `limits` has the most items of each page."""
        position: dict[str, Any] = {}
        while True:
            limit = next(limits)
            most = {} if limit is None else {"Limit": limit}
            page = await self._call(self.client.query, **request, **most, **position)
            for item in _part(page, "Items"):
                yield item
            if "LastEvaluatedKey" not in page:
                return
            position = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    async def _get_page(self, keys: Sequence[Item], projection: str | None) -> list[Item]:
        request: Any = {self.name: {"Keys": keys, "ConsistentRead": True}}
        if projection is not None:
            request[self.name]["ProjectionExpression"] = f"pk, sk, {projection}"
        found: list[Item] = []
        for attempt in itertools.count(1):
            with explained():
                answer = await self.client.batch_get_item(RequestItems=request)
            found += _part(answer, "Responses").get(self.name, ())
            request = answer.get("UnprocessedKeys")
            if not request:
                break
            # The table is throttled, or the answer was too large. Asking again without a pause would add to the load.
            await asyncio.sleep(_UNPROCESSED.delay_seconds(attempt, random.random()))  # noqa: S311
        _check_places(found, keys)
        bill_reads(self.bills, keys, found)
        return found

    async def _call_if(self, call: Callable[..., Awaitable[Any]], written: Item, **request: Any) -> Done | Blocked:
        """Make a conditional write. `written` has the key, and about what the item has if the call does not return it.

        A write that is blocked costs as much as one that takes effect.
        """
        try:
            answer = await self._call(call, **request)
        except ClientError as error:
            if error_code(error) != _CONDITION_FAILED:
                raise
            blocker: Any = error.response.get("Item", {})
            bill_write(self.bills, written, blocker or written)
            return Blocked(blocker)
        item = answer.get("Attributes", {})
        bill_write(self.bills, written, item or written)
        return Done(item)

    async def _call(self, call: Callable[..., Awaitable[Any]], **request: Any) -> Any:
        with explained():
            return await call(TableName=self.name, **request)


async def _first_of(items: AsyncIterator[Item], limit: int) -> list[Item]:
    """Return the first items. What follows is not read."""
    found: list[Item] = []
    async for item in items:
        found.append(item)
        if len(found) == limit:
            break
    return found


def _part(answer: Any, name: str) -> Any:
    """Return a part that every answer of DynamoDB has. Raise Unavailable if it is missing."""
    if name not in answer:
        raise Unavailable(f"DynamoDB's answer has no {name}, so it is damaged, or it is not from DynamoDB.")
    return answer[name]


def _check_places(found: Sequence[Item], keys: Sequence[Item]) -> None:
    """Raise Unavailable if an item was not asked for. Otherwise the one that was asked for would seem not to exist."""
    asked = set(map(_place, keys))
    if not asked.issuperset(map(_place, found)):
        raise Unavailable("DynamoDB's answer has another item, so it is damaged, or it is not from DynamoDB.")


def _place(item: Item) -> tuple[str, str]:
    """Return where an item is, in a form that a damaged item has, too."""
    return str(item.get("pk")), str(item.get("sk"))


def _names(*expressions: str) -> dict[str, Any]:
    names = {f"#{name}": name for expression in expressions for name in _NAME.findall(expression)}
    return {"ExpressionAttributeNames": names} if names else {}


def _values(values: Values | None) -> dict[str, Any]:
    return {"ExpressionAttributeValues": {f":{name}": value for name, value in values.items()}} if values else {}
