"""What AWS bills for a call."""

from typing import Any

import pytest

from bench.billing import units_of
from penstock.aws.billing import item_bytes
from penstock.cost import Prices, Units

KB = 1024


def entries(*sizes: int) -> dict[str, Any]:
    return {"Entries": [{"Id": str(number), "MessageBody": "x" * size} for number, size in enumerate(sizes)]}


def messages(*sizes: int) -> dict[str, Any]:
    return {"Messages": [{"Body": "x" * size} for size in sizes]}


def item(size: int) -> dict[str, Any]:
    """Of exactly that size."""
    return {"b": {"B": b"x" * (size - 1)}}


@pytest.mark.parametrize(
    ("call", "request_", "answer", "units"),
    [
        ("SendMessageBatch", entries(10), {}, Units(sqs=1)),
        ("SendMessageBatch", entries(40 * KB, 24 * KB), {}, Units(sqs=1)),  # a call's payload counts as one
        ("SendMessageBatch", entries(40 * KB, 24 * KB + 1), {}, Units(sqs=2)),
        ("ReceiveMessage", {}, messages(200 * KB), Units(sqs=4)),
        ("ReceiveMessage", {}, {}, Units(sqs=1)),  # nothing came, and it costs all the same
        ("DeleteMessageBatch", {}, {}, Units(sqs=1)),
        ("ChangeMessageVisibilityBatch", {}, {}, Units(sqs=1)),
        ("PutItem", {"Item": item(KB)}, {}, Units(writes=1)),
        ("PutItem", {"Item": item(KB + 1)}, {}, Units(writes=2)),
        ("UpdateItem", {}, {"Attributes": item(3 * KB)}, Units(writes=3)),
        ("UpdateItem", {}, {"Item": item(2 * KB)}, Units(writes=2)),  # its condition failed
        ("UpdateItem", {"Key": item(10), "ExpressionAttributeValues": {":v": {"N": "1"}}}, {}, Units(writes=1)),
        ("GetItem", {"ConsistentRead": True}, {"Item": item(4 * KB + 1)}, Units(reads=2)),
        ("GetItem", {}, {"Item": item(100)}, Units(reads=0.5)),
        ("GetItem", {"ConsistentRead": True}, {}, Units(reads=1)),  # it is not there
        ("Query", {"ConsistentRead": True}, {"Items": [item(3 * KB), item(3 * KB)]}, Units(reads=2)),
    ],
)
def test_units(call: str, request_: dict[str, Any], answer: dict[str, Any], units: Units) -> None:
    assert units_of(call, request_, answer) == units


def test_batch_get_bills_every_key_by_itself() -> None:
    request = {"RequestItems": {"table": {"Keys": [{}, {}, {}], "ConsistentRead": True}}}
    answer = {"Responses": {"table": [item(100), item(5 * KB)]}}
    assert units_of("BatchGetItem", request, answer) == Units(reads=1 + 2 + 1)


def test_unknown_call_is_not_billed_silently() -> None:
    with pytest.raises(ValueError, match="TransactWriteItems"):
        units_of("TransactWriteItems", {}, {})


def test_item_bytes_counts_names_and_values() -> None:
    counted = {"name": {"S": "Käthe"}, "n": {"N": "-1234"}, "set": {"SS": ["1", "22"]}, "on": {"BOOL": True}}
    assert item_bytes(counted) == (4 + 6) + (1 + 3) + (3 + 3) + (2 + 1)
    assert item_bytes({"list": {"L": [{"N": "12"}, {"M": {"a": {"S": "b"}}}]}}) == 4 + 3 + (1 + 2) + (1 + 3 + 1 + 2)


def test_usd_is_for_a_million_of_each_unit() -> None:
    assert Prices().usd(Units(1e6, 1e6, 1e6)) == pytest.approx(0.40 + 0.625 + 0.125)
    assert Prices(sqs=1, writes=0, reads=0).usd(Units(sqs=500, writes=7)) == pytest.approx(0.0005)
