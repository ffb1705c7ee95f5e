"""A DynamoDB table as a server: every call takes effect atomically if its condition holds, or not at all.

It answers like DynamoDB, as far as Penstock needs it: pages end early, keys are left unprocessed, and reads are stale
unless they are consistent. An unknown parameter is an error, so that none is ignored.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from botocore.exceptions import ClientError

from tests.simulation.expressions import (
    Item,
    Names,
    TypesDiffer,
    Unsupported,
    Value,
    compile_condition,
    compile_projection,
    compile_update,
)

Key = tuple[str, str]
Watch = Callable[[Key, Item | None, Item | None], None]
Request = Mapping[str, Any]

LARGEST_ITEM_BYTES = 400 * 1024
LONGEST_SORT_KEY_BYTES = 1024
KEYS_IN_BATCH_GET = 100
INDEXES = {"due": ("open", "due_at")}  # their partition and sort keys; they hold keys only
_KEYS = ("pk", "sk")
_COMMON = {"TableName", "ExpressionAttributeNames", "ExpressionAttributeValues", "ReturnConsumedCapacity"}
_CONDITIONAL = {"ConditionExpression", "ReturnValuesOnConditionCheckFailure", "ReturnValues"}
_READING = {"ConsistentRead", "ProjectionExpression"}


class Table:
    """A table. `watch` is called after each write with the key, and with the item before and after the write."""

    def __init__(
        self, chance: random.Random, *, watch: Watch, stale_reads: float = 0.0, short_pages: bool = False
    ) -> None:
        self._partitions: defaultdict[str, dict[str, Item]] = defaultdict(dict)
        self._before: dict[Key, Item | None] = {}  # what an inconsistent read may still see
        self._chance = chance
        self._watch = watch
        self.stale_reads = stale_reads
        self.short_pages = short_pages

    def items(self) -> Iterable[tuple[Key, Item]]:
        for pk, partition in self._partitions.items():
            for sk, item in partition.items():
                yield (pk, sk), item

    def item(self, key: Key) -> Item | None:
        partition = self._partitions.get(key[0])
        return None if partition is None else partition.get(key[1])

    def get_item(self, request: Request) -> dict[str, Any]:
        _know(request, {"Key"} | _READING)
        item = self._read(_key(request["Key"]), consistent=request.get("ConsistentRead", False))
        return {} if item is None else {"Item": _projected(item, request)}

    def put_item(self, request: Request) -> dict[str, Any]:
        _know(request, {"Item"} | _CONDITIONAL)
        key = _key(request["Item"])
        self._check(key, request, "PutItem")
        self._write(key, dict(request["Item"]))
        return {}

    def update_item(self, request: Request) -> dict[str, Any]:
        _know(request, {"Key", "UpdateExpression"} | _CONDITIONAL)
        key = _key(request["Key"])
        self._check(key, request, "UpdateItem")
        old = self.item(key) or dict(request["Key"])
        new = dict(old)
        change = compile_update(request["UpdateExpression"], _names(request))
        try:
            change(old, new, request.get("ExpressionAttributeValues", {}))
        except TypesDiffer as error:
            raise refusal("ValidationException", "UpdateItem", f"Type mismatch: {error}") from error
        self._write(key, new)
        return _returned(request.get("ReturnValues", "NONE"), old, new)

    def delete_item(self, request: Request) -> dict[str, Any]:
        _know(request, {"Key"} | _CONDITIONAL)
        key = _key(request["Key"])
        self._check(key, request, "DeleteItem")
        if self.item(key) is not None:
            self._write(key, None)
        return {}

    def query(self, request: Request) -> dict[str, Any]:
        _know(
            request,
            {
                "KeyConditionExpression",
                "FilterExpression",
                "ExclusiveStartKey",
                "IndexName",
                "Limit",
                "ScanIndexForward",
            }
            | _READING,
        )
        if "IndexName" in request:
            return self._query_index(request)
        values, names = request.get("ExpressionAttributeValues", {}), _names(request)
        matches = compile_condition(request["KeyConditionExpression"], names)
        found = [item for _, item in self.items() if matches(item, values)]
        found.sort(key=lambda item: item["sk"]["S"], reverse=not request.get("ScanIndexForward", True))
        return self._page(request, _after(found, request.get("ExclusiveStartKey")))

    def _query_index(self, request: Request) -> dict[str, Any]:
        """Query an index. It is updated after the table, so it may show items as they were before."""
        hash_key, range_key = INDEXES[request["IndexName"]]
        matches = compile_condition(request["KeyConditionExpression"], _names(request))
        found = []
        for key, newest in self.items():
            item = self._seen(key, newest)
            if item is not None and hash_key in item and range_key in item:
                entry = {name: item[name] for name in (*_KEYS, hash_key, range_key)}
                if matches(entry, request.get("ExpressionAttributeValues", {})):
                    found.append(entry)
        found.sort(key=lambda entry: _place_in_index(entry, range_key))
        if (start := request.get("ExclusiveStartKey")) is not None:
            # The item that the last page ended with may have left the index in the meantime.
            found = [entry for entry in found if _place_in_index(entry, range_key) > _place_in_index(start, range_key)]
        return self._page(request, found, (*_KEYS, hash_key, range_key))

    def batch_get_item(self, request: Request) -> dict[str, Any]:
        """Read some keys and leave others unprocessed. They are read later: on AWS a batch is not atomic either.

        The last keys are read first, because AWS reads them in any order.
        """
        _know(request, {"RequestItems"})
        [(name, wanted)] = request["RequestItems"].items()
        _know(wanted, {"Keys"} | _READING)
        if not 1 <= len(wanted["Keys"]) <= KEYS_IN_BATCH_GET:
            raise refusal("ValidationException", "BatchGetItem", f"{len(wanted['Keys'])} keys")
        keys = list(wanted["Keys"])
        count = self._chance.randint(1, len(keys)) if self.short_pages else len(keys)
        read = [self._read(_key(key), consistent=wanted.get("ConsistentRead", False)) for key in keys[-count:]]
        answer = {name: [_projected(item, wanted) for item in read if item is not None]}
        left = {name: {**wanted, "Keys": keys[:-count]}} if count < len(keys) else {}
        return {"Responses": answer, "UnprocessedKeys": left}

    def _page(self, request: Request, found: list[Item], keys: tuple[str, ...] = _KEYS) -> dict[str, Any]:
        """Return one page. The filter comes after the limit, so a page may be empty without being the last."""
        size = min(request.get("Limit", len(found)), self._chance.randint(1, 6) if self.short_pages else len(found))
        page = found[:size]
        answer: dict[str, Any] = {}
        if size < len(found):
            answer["LastEvaluatedKey"] = {name: page[-1][name] for name in keys}
        if "FilterExpression" in request:
            keeps = compile_condition(request["FilterExpression"], _names(request))
            page = [item for item in page if keeps(item, request.get("ExpressionAttributeValues", {}))]
        answer["Items"] = [_projected(item, request) for item in page]
        return answer

    def _read(self, key: Key, *, consistent: bool) -> Item | None:
        newest = self.item(key)
        return newest if consistent else self._seen(key, newest)

    def _seen(self, key: Key, newest: Item | None) -> Item | None:
        """Return what an inconsistent read sees."""
        if key in self._before and self._chance.random() < self.stale_reads:
            return self._before[key]
        return newest

    def _check(self, key: Key, request: Request, action: str) -> None:
        if "ConditionExpression" not in request:
            return
        standing = self.item(key)
        holds = compile_condition(request["ConditionExpression"], _names(request))
        if holds(standing or {}, request.get("ExpressionAttributeValues", {})):
            return
        error = refusal("ConditionalCheckFailedException", action, "The conditional request failed")
        if standing is not None and request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD":
            error.response["Item"] = standing  # type: ignore[typeddict-unknown-key]
        raise error

    def _write(self, key: Key, item: Item | None) -> None:
        before = self.item(key)
        self._before[key] = before
        if item is None:
            del self._partitions[key[0]][key[1]]
        else:
            if _size(item) > LARGEST_ITEM_BYTES:
                raise refusal("ValidationException", "PutItem", "Item size has exceeded the maximum allowed size")
            self._partitions[key[0]][key[1]] = item
        self._watch(key, before, item)


def refusal(code: str, action: str, message: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        action,
    )


def _know(request: Request, known: set[str]) -> None:
    unknown = request.keys() - known - _COMMON
    if unknown:
        raise Unsupported(f"the parameters {sorted(unknown)}")


def _key(typed: Mapping[str, Value]) -> Key:
    pk, sk = typed["pk"]["S"], typed["sk"]["S"]
    if len(sk.encode()) > LONGEST_SORT_KEY_BYTES:
        raise refusal("ValidationException", "any call", f"The sort key has more than {LONGEST_SORT_KEY_BYTES} bytes")
    return pk, sk


def _names(request: Request) -> Names:
    return frozenset(request.get("ExpressionAttributeNames", {}).items())


def _projected(item: Item, request: Request) -> Item:
    if "ProjectionExpression" not in request:
        return dict(item)
    wanted = compile_projection(request["ProjectionExpression"], _names(request))
    return {name: item[name] for name in wanted if name in item}


def _returned(which: str, old: Item, new: Item) -> dict[str, Any]:
    match which:
        case "NONE":
            return {}
        case "ALL_NEW":
            return {"Attributes": dict(new)}
        case "UPDATED_NEW":
            return {"Attributes": {name: value for name, value in new.items() if old.get(name) is not value}}
        case "ALL_OLD":
            return {"Attributes": dict(old)}
    raise Unsupported(f"ReturnValues {which}")


def _place_in_index(entry: Mapping[str, Value], range_key: str) -> tuple[Decimal, Key]:
    return Decimal(entry[range_key]["N"]), _key(entry)


def _after(found: list[Item], start: Mapping[str, Value] | None) -> list[Item]:
    if start is None:
        return found
    keys = [_key(item) for item in found]
    last = _key(start)
    return found[keys.index(last) + 1 :] if last in keys else found


def _size(item: Item) -> int:
    return sum(len(name) + _value_size(value) for name, value in item.items())


def _value_size(value: Value) -> int:
    kind, content = next(iter(value.items()))
    if kind in {"S", "N", "B"}:
        return len(content)
    if kind == "M":
        return 3 + _size(content)
    if kind == "L":
        return 3 + sum(1 + _value_size(member) for member in content)
    return sum(map(len, content)) if kind in {"SS", "NS", "BS"} else 1
