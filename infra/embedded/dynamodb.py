"""Patches for moto's DynamoDB: the cost of a Query in a large table, and the cost of a response with many items.

For each Query moto sorts the whole table in Python and then selects one partition. In a response it spends most of the
time on checking types that an attribute does not have.
"""

import copy
import inspect
from functools import partial
from typing import Any

from moto.core.serialize import ResponseSerializer
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import Table

_moto_query = Table.query
_moto_serialize_member = ResponseSerializer._serialize_structure_member  # noqa: SLF001 - moto has no other hook here
_query_arguments = inspect.signature(Table.query)


def _query(table: Table, hash_key: DynamoType | None, *rest: Any, **named: Any) -> Any:
    """Let moto query a view of the table that contains only the items that it can select.

    moto sorts the items that it selects, so the order of the items in the view changes only the cost.
    """
    view: Any = copy.copy(table)
    if _query_arguments.bind(table, hash_key, *rest, **named).arguments.get("index_name"):
        view.all_items = partial(_all_items, table)
    else:
        view.all_items = partial(_partition, table, hash_key)
    return _moto_query(view, hash_key, *rest, **named)


def _partition(table: Any, hash_key: DynamoType | None) -> list[Item]:
    """Return the items of a partition in order, so that moto's sort, which compares in Python, has less to do."""
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
    """Skip the types that an attribute does not have. moto checks all ten types, each in up to seven spellings."""
    is_attribute = serializer.service_model.service_name == "dynamodb" and shape.parent.name == "AttributeValue"
    if not is_attribute or key in value:
        _moto_serialize_member(serializer, serialized, value, shape, key)


PATCHES: tuple[tuple[object, str, object], ...] = (
    (Table, "query", _query),
    (ResponseSerializer, "_serialize_structure_member", _serialize_member),
)
