"""Validates JSON with Pydantic. The errors of an invalid document never cost much more than the document itself.

Pydantic builds an error for every invalid element: a small compressed request can hold millions of them. So a large
document is validated by a copy of the schema that stops at the first error in each list and each dict.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, SchemaError, SchemaValidator

MOST_ERRORS = 10_000  # of one document. Each costs about a kilobyte once it is read from Pydantic
MOST_SEPARATORS = 2_000  # a document with more is large: it may have as many errors as separators
MOST_BYTES = 65_536  # a larger document is large, too: a validator may split its strings

_COLLECTIONS = frozenset({"list", "tuple", "set", "frozenset", "dict"})
_NO_SCHEMAS = frozenset({"default", "metadata", "serialization", "expected"})  # the values of these keys are data


class JsonValidator:
    """Validates JSON with the type of an adapter."""

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self._adapter = adapter

    def validate(self, content: bytes) -> Any:
        """Validate with Pydantic's rules for JSON: they accept a string as a date or an enum even in a strict model.

        Raises ValidationError. If the document is large, it has only the first errors: see `is_large`.
        """
        validator = self._stopping if is_large(content) else self._adapter.validator
        return validator.validate_json(content)

    @cached_property
    def _stopping(self) -> Any:
        try:
            # Without prebuilt validators: those of nested models do not stop at the first error.
            return SchemaValidator(_stopping(self._adapter.core_schema), _use_prebuilt=False)
        except SchemaError:
            return self._adapter.validator  # a schema written by hand that cannot be built again


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
    if isinstance(schema, Mapping):
        kind = schema.get("type")
        is_schema = isinstance(kind, str)  # otherwise, the keys are the names of fields or of choices
        copy = {key: value if is_schema and key in _NO_SCHEMAS else _stopping(value) for key, value in schema.items()}
        return copy | {"fail_fast": True} if is_schema and kind in _COLLECTIONS else copy
    if isinstance(schema, list):
        return [_stopping(part) for part in schema]
    if isinstance(schema, tuple):
        return tuple(_stopping(part) for part in schema)
    return schema
