"""DynamoDB's attribute values, such as `{"S": "text"}`, written and read. Pure."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from penstock.errors import known_member

E = TypeVar("E", bound=StrEnum)
Value = dict[str, Any]
Item = Mapping[str, Any]


def text(value: str) -> Value:
    return {"S": value}


def texts(values: Iterable[str]) -> Value:
    """Return a set of strings. DynamoDB rejects an empty set."""
    return {"SS": list(values)}


def number(value: int) -> Value:
    return {"N": str(value)}


def numbers(values: Iterable[int]) -> Value:
    """Return a set of numbers. DynamoDB rejects an empty set."""
    return {"NS": [str(value) for value in values]}


def number_list(values: Iterable[int]) -> Value:
    return {"L": [number(value) for value in values]}


def seconds(value: float) -> Value:
    """Return a time in seconds, exact to the millisecond."""
    return {"N": f"{value:.3f}"}


def whole_seconds(value: float) -> Value:
    """Return a time for `expires_at`: TTL ignores a time that is not a whole number."""
    return number(int(value))


def flag(value: bool) -> Value:
    return {"BOOL": value}


def binary(value: bytes) -> Value:
    return {"B": value}


def read_text(item: Item, name: str) -> str:
    value: str = item[name]["S"]
    return value


def read_enum(item: Item, name: str, kind: type[E]) -> E:
    """Return a member of an enumeration. Raises NewerVersion if it has no such member."""
    return known_member(kind, name, read_text(item, name))


def read_optional_text(item: Item, name: str) -> str | None:
    return read_text(item, name) if name in item else None


def read_texts(item: Item, name: str) -> frozenset[str]:
    """Return a set of strings, empty if the item has no such attribute."""
    return frozenset(item.get(name, {}).get("SS", ()))


def read_number(item: Item, name: str) -> int:
    return int(item[name]["N"])


def read_count(item: Item, name: str) -> int:
    """Return a number, 0 if the item has no such attribute."""
    return read_number(item, name) if name in item else 0


def read_numbers(item: Item, name: str) -> frozenset[int]:
    """Return a set of numbers, empty if the item has no such attribute."""
    return frozenset(int(value) for value in item.get(name, {}).get("NS", ()))


def read_number_list(item: Item, name: str) -> tuple[int, ...]:
    return tuple(int(value["N"]) for value in item[name]["L"])


def read_seconds(item: Item, name: str) -> float:
    return float(item[name]["N"])


def read_optional_seconds(item: Item, name: str) -> float | None:
    return read_seconds(item, name) if name in item else None


def read_flag(item: Item, name: str) -> bool:
    value: bool = item[name]["BOOL"]
    return value


def read_binary(item: Item, name: str) -> bytes:
    value: bytes = item[name]["B"]
    return value
