"""Validates JSON with Pydantic. The errors of an invalid document never cost much more than the document itself.

Pydantic builds an error for every invalid element: a small compressed request can hold millions of them. So a large
document is validated by a copy of the schema that stops at the first error in each list and each dict. If a type
forbids unknown members, another copy counts them first: there is an error for each, and again in each part of a union.

A set is slow if its values have the same hash, and some types let a client choose the hash of its values. So the copy
of the schema also counts those that have the hash of another one.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, LiteralString

from pydantic import PydanticUserError, TypeAdapter, ValidationError
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
MOST_COLLISIONS = 500  # values of sets and keys of a large document that have the hash of another one
MOST_ELEMENTS_IN_TEXTS = 200_000  # of a large document
MOST_UNKNOWN_MEMBERS = 1_000  # of one object in a large document
MOST_SEPARATORS = 2_000  # a document with more is large: it may have as many errors as separators
MOST_BYTES = 65_536  # a larger document is large, too: a validator may split its strings

_DICTS = frozenset({"dict", "frozendict", "ordered-dict", "counter"})
_SETS = frozenset({"set", "frozenset"})
_COLLECTIONS = _DICTS | _SETS | {"list", "tuple", "deque"}
_OBJECTS = frozenset({"model-fields", "typed-dict"})
_FUNCTIONS = frozenset({"function-before", "function-wrap", "function-after"})
_NO_OBJECT = frozenset({"model_type", "dataclass_type"})  # Pydantic names the class, which clients do not know
_STRINGS = core_schema.str_schema()
_NO_SCHEMAS = frozenset({"default", "metadata", "serialization", "expected"})  # the values of these keys are data


_ANY_OBJECT = [TypeAdapter(dict[str, Any]).core_schema, TypeAdapter(Any).core_schema]  # any object is one of these


class JsonValidator:
    """Validates JSON with the type of an adapter."""

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self.adapter = adapter
        self._validate_small = adapter.validator.validate_json
        self._takes_any_object = adapter.core_schema in _ANY_OBJECT

    def validate(self, content: bytes) -> Any:
        """Validate with Pydantic's rules for JSON: they accept a string as a date or an enum even in a strict model.

        Raises ValidationError. If the document is large, it has only the first errors: see `is_large`.
        """
        if len(content) <= MOST_SEPARATORS or not is_large(content):
            return self._validate_small(content)
        try:
            if content.count(b":") > MOST_UNKNOWN_MEMBERS and self._counting is not None:
                _check_unknown_members(content, self._counting)
                self._hashes.forget()
                self._texts.forget()
            return (self._stopping or self.adapter.validator).validate_json(content)
        except _TooManyCollisions:
            detail = f"More than {MOST_COLLISIONS:,} values or names here have the same hash as another one"
            raise _single_error("too_many_collisions", detail) from None
        finally:
            self._hashes.forget()
            self._texts.forget()

    def check(self, content: bytes) -> None:
        """Raise what `validate` raises if JSON is invalid. An object is not parsed if the type takes any object."""
        if not (self._takes_any_object and content.startswith(b"{")):
            self.validate(content)

    def check_all(self, contents: Sequence[bytes]) -> None:
        """Do the same for several texts."""
        if self._takes_any_object:
            contents = [content for content in contents if not content.startswith(b"{")]
        for content in contents:
            self.validate(content)

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the type. It is empty if the type has none."""
        try:
            return self.adapter.json_schema()
        except PydanticUserError:
            return {}

    @cached_property
    def _hashes(self) -> "_Hashes":
        return _Hashes()

    @cached_property
    def _texts(self) -> "_Texts":
        return _Texts()

    @cached_property
    def _stopping(self) -> SchemaValidator | None:
        return _build(self._stopping_schema)

    @cached_property
    def _stopping_schema(self) -> Any:
        schema = _with_hashes(_stopping(self.adapter.core_schema), self._hashes.note)
        return _with_texts(schema, self._texts.check)

    @cached_property
    def _counting(self) -> "_Counting | None":
        counting = _Counting()
        counts = core_schema.no_info_plain_validator_function(counting.count)
        schema = _with_counts(self._stopping_schema, counts)
        counting.validator = _build(schema) if schema != self._stopping_schema else None
        return counting if counting.validator else None


def reject_infinity(adapter: TypeAdapter[Any]) -> None:
    """Let an adapter reject NaN and infinity, unless its type allows them.

    JSON has no such numbers, but Pydantic reads them from strings: "NaN", and "1e400", which is too large for a float.
    """
    schema = _finite(adapter.core_schema)
    if schema != adapter.core_schema and (validator := _build(schema)) is not None:
        adapter.core_schema, adapter.validator = schema, validator


def _finite(schema: Any, is_decided: bool = False) -> Any:
    """Return a copy of a core schema whose floats are finite, unless the application has decided about that."""
    kind = _kind(schema)
    is_decided |= kind is not None and "allow_inf_nan" in schema.get("config", ())
    copy = _copy(schema, lambda part: _finite(part, is_decided))
    return {"allow_inf_nan": False} | copy if kind == "float" and not is_decided else copy


class _TooManyCollisions(Exception):
    """No ValueError, so that it ends the validation."""


class _Hashes:
    """The hashes of all values that become members of a set, or keys of a dict, while a document is validated.

    Python computes the hash of a number as its remainder, and the time to build a set of numbers with one hash grows
    with the square of its size. The same holds for UUIDs, for tuples of numbers, and for other types.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._first: dict[int, Any] = {}
        self._others: dict[int, set[Any]] = {}
        self._collisions = 0

    def note(self, value: Any) -> Any:
        """Return the value. Raises _TooManyCollisions."""
        try:
            hash_ = hash(value)
        except TypeError:
            return value  # Pydantic reports that
        first = self._first.setdefault(hash_, value)
        if first is value or first == value:
            return value
        others = self._others.setdefault(hash_, set())
        if value not in others:
            others.add(value)
            self._collisions += 1
            if self._collisions > MOST_COLLISIONS:
                raise _TooManyCollisions
        return value


def _with_hashes(schema: Any, note: Callable[[Any], Any]) -> Any:
    """Return a copy of a core schema in which `note` gets all members of sets and all keys of dicts.

    Nobody can predict the hash of a string, so strings are left out.
    """
    copy = _copy(schema, lambda part: _with_hashes(part, note))
    kind = _kind(schema)
    if kind not in _SETS | _DICTS:
        return copy
    part, default = ("items_schema", core_schema.any_schema()) if kind in _SETS else ("keys_schema", _STRINGS)
    hashed = copy.get(part, default)
    if _kind(hashed) == "str":
        return copy
    return copy | {part: core_schema.no_info_after_validator_function(note, hashed)}


class _Texts:
    """The JSON texts in the strings of a document, for types such as `Json[list[int]]`.

    The elements of a document are counted before it is parsed, but not those in its strings.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._elements = 0

    def check(self, text: Any) -> Any:
        """Return the text. Raise PydanticCustomError if the document has too many elements in texts."""
        if isinstance(text, str):
            self._elements += sum(map(text.count, ",:[{"))
        if self._elements > MOST_ELEMENTS_IN_TEXTS:
            context = {"most": f"{MOST_ELEMENTS_IN_TEXTS:,}"}
            raise PydanticCustomError("too_many_elements", "JSON texts have more than {most} values and names", context)
        return text


def _with_texts(schema: Any, check: Callable[[Any], Any]) -> Any:
    """Return a copy of a core schema in which `check` gets each string before it is parsed as JSON."""
    copy = _copy(schema, lambda part: _with_texts(part, check))
    return core_schema.no_info_before_validator_function(check, copy) if _kind(schema) == "json" else copy


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
        try:
            self.validator.validate_json(content)
        except _TooManyUnknownMembers:
            raise
        except Exception:  # noqa: BLE001, S110 - the next validation finds the errors again
            pass

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


def sentence_of(error: ErrorDetails) -> str:
    """Return what a client reads about an error."""
    if error["type"] in _NO_OBJECT:
        return "Input should be an object."
    text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text if text.endswith(".") else text + "."


def _stopping(schema: Any) -> Any:
    """Return a copy of a core schema in which every collection stops at its first error."""
    copy = _copy(schema, _stopping)
    return copy | {"fail_fast": True} if _kind(copy) in _COLLECTIONS else copy


def _with_counts(schema: Any, counts: Any, forbids: bool = False) -> Any:
    """Return a copy of a core schema in which `counts` validates all unknown members that are forbidden.

    The schemas of a dataclass and of a named tuple cannot do that. So the copy reads their objects as typed dicts.
    """
    kind = _kind(schema)
    if kind is not None and "config" in schema:  # it also holds for the schemas inside, up to another one
        forbids = schema["config"].get("extra_fields_behavior") == "forbid"
    copy = _copy(schema, lambda part: _with_counts(part, counts, forbids))
    if kind == "dataclass-args" and forbids:
        return _typed_dict(copy, counts)
    if kind == "named-tuple":
        return _with_reference_of(copy, core_schema.union_schema([_typed_dict(copy, counts), _without_reference(copy)]))
    if kind in {"dataclass", "function-after"} and _is_closed_dataclass(schema):
        return _with_reference_of(copy, copy["schema"])  # there is no object of the class
    if kind in _OBJECTS and schema.get("extra_behavior", "forbid" if forbids else "") == "forbid":
        return copy | {"extra_behavior": "allow", "extras_schema": counts}
    return copy


def _is_closed_dataclass(schema: Any) -> bool:
    kind = _kind(schema)
    if kind == "dataclass":
        return bool(schema.get("config", {}).get("extra_fields_behavior") == "forbid")
    return kind in _FUNCTIONS and _is_closed_dataclass(schema["schema"])


def _typed_dict(schema: Any, counts: Any) -> Any:
    """Return the schema of a typed dict with the same fields, and with `counts` for unknown members."""
    fields = {
        field["name"]: core_schema.typed_dict_field(
            field["schema"], required=False, validation_alias=field.get("validation_alias")
        )
        for field in schema["fields"]
    }
    return core_schema.typed_dict_schema(fields, extra_behavior="allow", extras_schema=counts)


def _with_reference_of(schema: Any, other: Any) -> Any:
    return other | {"ref": schema["ref"]} if "ref" in schema else other


def _without_reference(schema: Any) -> Any:
    return {key: value for key, value in schema.items() if key != "ref"}


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
