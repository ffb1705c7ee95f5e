"""Adds what a call to AWS has cost to the bills of its batches. Pure.

The size of an updated item is known if the call returns it. Otherwise it is estimated from the key and the values in
the call.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.aws.attributes import Item
from penstock.bills import Bills
from penstock.cost import read_units, sqs_units, write_units
from penstock.queue import Delivery, Message

_BATCH = "batch#"
_LIMIT = "limit#"  # a batch with a concurrency of its own has a limit, whose name is like the key of its item


def batch_of(item: Item) -> str | None:
    """Return the id of the batch that an item belongs to, from the item or its key. None for items of no batch."""
    pk: str = item["pk"]["S"].removeprefix(_LIMIT)
    if pk.startswith(_BATCH):
        return pk.split("#", 2)[1]
    sk: str = item["sk"]["S"]
    if sk.startswith(_BATCH):  # an entry in a list of batches
        return sk.rpartition("#")[2]
    return item["batch_id"]["S"] if "batch_id" in item else None  # the claim of an Idempotency-Key


def bill_write(bills: Bills, key: Item, item: Item) -> None:
    if (batch_id := batch_of(key)) is not None:
        bills.add(batch_id, writes=write_units(item_bytes(item)), requests=1)


def bill_reads(bills: Bills, keys: Sequence[Item], found: Sequence[Item]) -> None:
    """Bill each item of a call to its own batch. A key without an item costs as much as the smallest item."""
    share = 1 / len(keys)
    for key in keys:
        if (batch_id := batch_of(key)) is not None:
            bills.add(batch_id, reads=1, requests=share)
    for item in found:
        if (batch_id := batch_of(item)) is not None:
            bills.add(batch_id, reads=read_units(item_bytes(item)) - 1)


def bill_send(bills: Bills, messages: Sequence[Message]) -> None:
    """Split a call among its messages."""
    units = sqs_units(sum(body_bytes(message.body) for message in messages))
    for message in messages:
        if message.batch_id is not None:
            bills.add(message.batch_id, sqs=units / len(messages), requests=1 / len(messages))


def bill_delete(bills: Bills, deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        if delivery.batch_id is not None:
            bills.add(delivery.batch_id, sqs=1 / len(deliveries), requests=1 / len(deliveries))


def body_bytes(body: str) -> int:
    return len(body) if body.isascii() else len(body.encode())


def item_bytes(item: Item) -> int:
    """Return the size of the names and values of an item, as DynamoDB counts it."""
    return sum(len(name) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: Mapping[str, Any]) -> int:
    [(kind, content)] = value.items()
    return _SIZES[kind](content) if kind in _SIZES else 1  # true, false, null


_SIZES: Mapping[str, Callable[[Any], int]] = {
    "S": body_bytes,
    "B": len,
    "N": lambda number: len(number.lstrip("-")) // 2 + 1,
    "SS": lambda texts: sum(map(body_bytes, texts)),
    "NS": lambda numbers: sum(len(number.lstrip("-")) // 2 + 1 for number in numbers),
    "L": lambda values: 3 + sum(1 + _value_bytes(value) for value in values),
    "M": lambda values: 3 + len(values) + item_bytes(values),
}
