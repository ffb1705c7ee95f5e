"""What is mended in moto's DynamoDB: the cost of a Query in a large table, and that of answering with many items.

For every Query moto sorts the whole table, in Python, and then picks one partition of it. Most of the time of an answer
goes into looking for what an attribute is not.
"""

import copy
import inspect
from functools import partial
from typing import Any

from moto.core.serialize import ResponseSerializer
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import Table

_moto_query = Table.query
_moto_serialize_member = ResponseSerializer._serialize_structure_member  # noqa: SLF001 - a step moto offers no other way into
_query_arguments = inspect.signature(Table.query)


def _query(table: Table, hash_key: DynamoType | None, *rest: Any, **named: Any) -> Any:
    """Let moto query a view of the table that offers no more than it can pick from.

    moto sorts what it has picked, so the order in which it is offered changes the cost and nothing else.
    """
    view: Any = copy.copy(table)
    if _query_arguments.bind(table, hash_key, *rest, **named).arguments.get("index_name"):
        view.all_items = partial(_all_items, table)
    else:
        view.all_items = partial(_partition, table, hash_key)
    return _moto_query(view, hash_key, *rest, **named)


def _partition(table: Any, hash_key: DynamoType | None) -> list[Item]:
    """In order already: moto's sort compares in Python, and has less to do."""
    found = table.items.get(hash_key)
    if found is None:
        return []
    return sorted(found.values(), key=_range_value) if table.has_range_key else [found]


def _range_value(item: Any) -> Any:
    return item.range_key.cast_value


def _all_items(table: Any) -> list[Item]:
    if not table.has_range_key:
        return list(table.items.values())
    return [item for partition in table.items.values() for item in partition.values()]


def _serialize_member(serializer: ResponseSerializer, serialized: Any, value: Any, shape: Any, key: str) -> None:
    """An attribute has one of ten types. moto looks for each of them, under up to seven spellings."""
    is_attribute = serializer.service_model.service_name == "dynamodb" and shape.parent.name == "AttributeValue"
    if not is_attribute or key in value:
        _moto_serialize_member(serializer, serialized, value, shape, key)


MENDS: tuple[tuple[object, str, object], ...] = (
    (Table, "query", _query),
    (ResponseSerializer, "_serialize_structure_member", _serialize_member),
)
