"""Validates JSON with Pydantic. The errors of an invalid document never cost much more than the document itself.

Pydantic builds an error for every invalid element: a small compressed request can hold millions of them. So a large
document is validated by a copy of the schema that stops at the first error in each list and each dict. If a model
forbids unknown members, another copy counts them first: there is an error for each, and again in each part of a union.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import islice
from typing import Any, LiteralString

from pydantic import TypeAdapter, ValidationError
from pydantic_core import (
    ErrorDetails,
    PydanticCustomError,
    PydanticKnownError,
    SchemaError,
    SchemaValidator,
    core_schema,
    from_json,
)

from penstock.documents.nesting import CONTAINERS, next_level

MOST_ERRORS = 10_000  # of one document. Each costs about a kilobyte once it is read from Pydantic
MOST_LONG_NUMBERS = 1_000  # of more than 20 digits, in a large document whose numbers are put into sets
MOST_UNKNOWN_MEMBERS = 1_000  # of one object in a large document
MOST_SEPARATORS = 2_000  # a document with more is large: it may have as many errors as separators
MOST_BYTES = 65_536  # a larger document is large, too: a validator may split its strings

_COLLECTIONS = frozenset({"list", "tuple", "set", "frozenset", "dict"})
_LONG_NUMBER = re.compile(rb"(?<![0-9_])[0-9_]{21,}+")  # a key such as "1_000" is a number, too
_SETS = frozenset({"set", "frozenset"})
_OBJECTS = frozenset({"model-fields", "typed-dict"})
_NO_SCHEMAS = frozenset({"default", "metadata", "serialization", "expected"})  # the values of these keys are data


class JsonValidator:
    """Validates JSON with the type of an adapter."""

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self._adapter = adapter

    def validate(self, content: bytes) -> Any:
        """Validate with Pydantic's rules for JSON: they accept a string as a date or an enum even in a strict model.

        Raises ValidationError. If the document is large, it has only the first errors: see `is_large`.
        """
        if not is_large(content):
            return self._adapter.validator.validate_json(content)
        if self._hashes_numbers:
            _check_long_numbers(content)
        if content.count(b":") > MOST_UNKNOWN_MEMBERS and self._counting is not None:
            _check_unknown_members(content, self._counting)
        return (self._stopping or self._adapter.validator).validate_json(content)

    @cached_property
    def _stopping(self) -> SchemaValidator | None:
        return _build(_stopping(self._adapter.core_schema))

    @cached_property
    def _hashes_numbers(self) -> bool:
        return _hashes_numbers(self._adapter.core_schema)

    @cached_property
    def _counting(self) -> "_Counting | None":
        counting = _Counting()
        counts = core_schema.no_info_plain_validator_function(counting.count)
        schema = _stopping(self._adapter.core_schema)
        counting_schema = _with_counts(schema, counts)
        counting.validator = _build(counting_schema) if counting_schema != schema else None
        return counting if counting.validator else None


def _check_long_numbers(content: bytes) -> None:
    """Raise ValidationError if the document has too many numbers that can all have the same hash.

    Python's hash of a number is its remainder. If the numbers of a set have one hash, the time to build it grows with
    the square of its size. Of the numbers with fewer digits, at most 43 have the same hash.
    """
    if any(islice(_LONG_NUMBER.finditer(content), MOST_LONG_NUMBERS, None)):
        raise _single_error(
            "too_many_long_numbers", f"There are more than {MOST_LONG_NUMBERS:,} very long numbers here"
        )


def _hashes_numbers(schema: Any) -> bool:
    """Return True if a set or the keys of a dict may be numbers. Strings have a hash that nobody can predict."""
    if isinstance(schema, Mapping):
        kind = _kind(schema)
        if kind in _SETS and _kind(schema.get("items_schema")) != "str":
            return True
        if kind == "dict" and _kind(schema.get("keys_schema")) not in {None, "any", "str"}:
            return True
        return any(_hashes_numbers(part) for key, part in schema.items() if not (kind and key in _NO_SCHEMAS))
    return isinstance(schema, list | tuple) and any(map(_hashes_numbers, schema))


def _single_error(kind: LiteralString, detail: LiteralString) -> ValidationError:
    return ValidationError.from_exception_data(
        "body", [{"type": PydanticCustomError(kind, detail), "loc": (), "input": None}]
    )


class _TooManyUnknownMembers(Exception):
    """No ValueError, so that it ends the validation."""


class _Counting:
    """A validator that rejects unknown members as Pydantic does, until they are too many."""

    validator: SchemaValidator | None = None

    def validate(self, content: bytes) -> None:
        """Raises _TooManyUnknownMembers."""
        self._count = 0
        assert self.validator is not None
        with suppress(ValidationError):  # the next validation finds these errors again
            self.validator.validate_json(content)

    def count(self, _member: Any) -> None:
        self._count += 1
        if self._count > MOST_UNKNOWN_MEMBERS:
            raise _TooManyUnknownMembers
        raise PydanticKnownError("extra_forbidden")


def _check_unknown_members(content: bytes, counting: _Counting) -> None:
    """Raise ValidationError if an object has too many unknown members.

    Valid objects can have unknown members, too: those of another part of a union. But each has only a few. So a
    document without very large objects, which is nearly every one, is not validated here.
    """
    if _largest_object(from_json(content)) <= MOST_UNKNOWN_MEMBERS:
        return
    try:
        counting.validate(content)
    except _TooManyUnknownMembers:
        detail = f"There are more than {MOST_UNKNOWN_MEMBERS:,} unknown members here"
        raise _single_error("too_many_unknown_members", detail) from None


def _largest_object(value: Any) -> int:
    """Return the number of members of the largest object in a JSON value."""
    largest, level = 0, [value] if isinstance(value, CONTAINERS) else []
    while level:
        largest = max(largest, *(len(one) for one in level if isinstance(one, dict)), 0)
        level = next_level(level)
    return largest


def _build(schema: Any) -> SchemaValidator | None:
    """Return None for a schema that was written by hand and cannot be built again."""
    try:
        # Without prebuilt validators: those of nested models are built from their own schema.
        return SchemaValidator(schema, _use_prebuilt=False)
    except SchemaError:
        return None


def is_large(content: bytes) -> bool:
    """Return True if the validation of this document stops at the first error in each list and each dict."""
    return (
        len(content) > MOST_BYTES or content.count(b",") + content.count(b"[") + content.count(b"{") > MOST_SEPARATORS
    )


def errors_of(error: ValidationError) -> list[ErrorDetails]:
    """Return the errors. If they are too many to be read, return one that tells their number."""
    count = error.error_count()
    if count > MOST_ERRORS:
        return [ErrorDetails(type="too_many_errors", loc=(), msg=f"There are {count:,} errors here", input=None)]
    return error.errors(include_url=False, include_context=False, include_input=False)


def _stopping(schema: Any) -> Any:
    """Return a copy of a core schema in which every collection stops at its first error."""
    copy = _copy(schema, _stopping)
    return copy | {"fail_fast": True} if _kind(copy) in _COLLECTIONS else copy


def _with_counts(schema: Any, counts: Any, forbids: bool = False) -> Any:
    """Return a copy of a core schema in which `counts` validates all unknown members that are forbidden."""
    kind = _kind(schema)
    if kind is not None and "config" in schema:  # it also holds for the schemas inside, up to another one
        forbids = schema["config"].get("extra_fields_behavior") == "forbid"
    copy = _copy(schema, lambda part: _with_counts(part, counts, forbids))
    if kind in _OBJECTS and schema.get("extra_behavior", "forbid" if forbids else "") == "forbid":
        return copy | {"extra_behavior": "allow", "extras_schema": counts}
    return copy


def _kind(schema: Any) -> str | None:
    """Return the type of a core schema. Return None for a part of one, such as fields or choices by their names."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return kind if isinstance(kind, str) else None


def _copy(schema: Any, step: Callable[[Any], Any]) -> Any:
    """Return a copy of a core schema with every part replaced by `step`."""
    if isinstance(schema, Mapping):
        data = _NO_SCHEMAS if _kind(schema) else frozenset[str]()
        return {key: value if key in data else step(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [step(part) for part in schema]
    if isinstance(schema, tuple):
        return tuple(step(part) for part in schema)
    return schema
