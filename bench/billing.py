"""Compute the units that AWS bills for a call, from its request and its answer. Pure.

`penstock/cost.py` has the rules and the prices. The writes of the index, four for each batch, are not counted.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from penstock.aws.billing import body_bytes, item_bytes
from penstock.cost import Units, read_units, sqs_units, write_units

Document = Mapping[str, Any]


def units_of(call: str, request: Document, answer: Document) -> Units:
    if call in _UNITS:
        return _UNITS[call](request, answer)
    raise ValueError(f"The price of {call} is unknown. Add what AWS bills for it to bench/billing.py.")


def _sqs_units(bodies: Iterable[str]) -> int:
    return sqs_units(sum(map(body_bytes, bodies)))


def _write_units(item: Document) -> int:
    return write_units(item_bytes(item))


def _updated(request: Document, answer: Document) -> Document:
    """Return the size of the item after an update. If the condition failed, AWS bills the existing item."""
    known: Document = answer.get("Attributes") or answer.get("Item") or {}
    return known or {**request["Key"], **request["ExpressionAttributeValues"]}


def _read_units(size: int, request: Document) -> float:
    return read_units(size) * (1 if request.get("ConsistentRead") else 0.5)


def _batch_read_units(keys: Document, answer: Document, table: str) -> float:
    """Count the read units of each key. A missing item costs as much as the smallest item."""
    found = answer.get("Responses", {}).get(table, ())
    absent = len(keys["Keys"]) - len(found)
    return sum(_read_units(item_bytes(item), keys) for item in found) + absent * _read_units(0, keys)


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
