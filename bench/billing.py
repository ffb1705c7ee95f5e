"""Compute the units that AWS bills for a call, and their price. Pure.

SQS bills each 64 KB of payload as a request, on send and on receive, and any other call as one request. DynamoDB bills
a write for each KB of the item, and a read for each 4 KB. The size of an updated item is known if the call returns it
(ALL_NEW); otherwise it is estimated from the key and the values in the call. The writes of the index, four for each
batch, are not counted.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

SQS_UNIT_BYTES = 64 * 1024
WRITE_UNIT_BYTES = 1024
READ_UNIT_BYTES = 4096
MILLION = 1_000_000

Document = Mapping[str, Any]


class Units(NamedTuple):
    sqs: float = 0
    writes: float = 0
    reads: float = 0


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in USD for a million units. The defaults are those of us-east-1, on demand, in 2026."""

    sqs: float = 0.40
    writes: float = 0.625
    reads: float = 0.125

    def usd(self, units: Units) -> float:
        return (units.sqs * self.sqs + units.writes * self.writes + units.reads * self.reads) / MILLION


def units_of(call: str, request: Document, answer: Document) -> Units:
    if call in _UNITS:
        return _UNITS[call](request, answer)
    raise ValueError(f"The price of {call} is unknown. Add what AWS bills for it to bench/billing.py.")


def _sqs_units(bodies: Iterable[str]) -> int:
    return max(1, ceil(sum(len(body.encode()) for body in bodies) / SQS_UNIT_BYTES))


def _write_units(item: Document) -> int:
    return max(1, ceil(item_bytes(item) / WRITE_UNIT_BYTES))


def _updated(request: Document, answer: Document) -> Document:
    """Return the size of the item after an update. If the condition failed, AWS bills the existing item."""
    known: Document = answer.get("Attributes") or answer.get("Item") or {}
    return known or {**request["Key"], **request["ExpressionAttributeValues"]}


def _read_units(size: int, request: Document) -> float:
    return max(1, ceil(size / READ_UNIT_BYTES)) * (1 if request.get("ConsistentRead") else 0.5)


def _batch_read_units(keys: Document, answer: Document, table: str) -> float:
    """Count the read units of each key. A missing item costs as much as the smallest item."""
    found = answer.get("Responses", {}).get(table, ())
    absent = len(keys["Keys"]) - len(found)
    return sum(_read_units(item_bytes(item), keys) for item in found) + absent * _read_units(0, keys)


def item_bytes(item: Document) -> int:
    """Return the size of the names and values of an item, as DynamoDB counts it."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Document) -> int:
    [(kind, content)] = value.items()
    return _SIZES[kind](content) if kind in _SIZES else 1  # true, false, null


_SIZES: Mapping[str, Callable[[Any], int]] = {
    "S": lambda text: len(text.encode()),
    "B": len,
    "N": lambda number: len(number.lstrip("-")) // 2 + 1,
    "SS": lambda texts: sum(len(text.encode()) for text in texts),
    "NS": lambda numbers: sum(len(number.lstrip("-")) // 2 + 1 for number in numbers),
    "L": lambda values: 3 + sum(1 + _value_bytes(value) for value in values),
    "M": lambda values: 3 + len(values) + item_bytes(values),
}

_UNITS: Mapping[str, Callable[[Document, Document], Units]] = {
    "SendMessageBatch": lambda request, _: Units(sqs=_sqs_units(entry["MessageBody"] for entry in request["Entries"])),
    "ReceiveMessage": lambda _, answer: Units(sqs=_sqs_units(one["Body"] for one in answer.get("Messages", ()))),
    "DeleteMessageBatch": lambda *_: Units(sqs=1),
    "ChangeMessageVisibilityBatch": lambda *_: Units(sqs=1),
    "GetQueueUrl": lambda *_: Units(sqs=1),
    "GetQueueAttributes": lambda *_: Units(sqs=1),
    "PutItem": lambda request, _: Units(writes=_write_units(request["Item"])),
    "BatchWriteItem": lambda request, _: Units(
        writes=sum(_write_units(put["PutRequest"]["Item"]) for puts in request["RequestItems"].values() for put in puts)
    ),
    "UpdateItem": lambda request, answer: Units(writes=_write_units(_updated(request, answer))),
    "GetItem": lambda request, answer: Units(reads=_read_units(item_bytes(answer.get("Item", {})), request)),
    "BatchGetItem": lambda request, answer: Units(
        reads=sum(_batch_read_units(keys, answer, table) for table, keys in request["RequestItems"].items())
    ),
    "PutMetricData": lambda *_: Units(),  # not counted: one call a minute, independent of the load
    "Query": lambda request, answer: Units(
        reads=_read_units(sum(map(item_bytes, answer.get("Items", ()))), request),
    ),
}
