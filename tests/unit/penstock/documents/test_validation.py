"""An invalid document has few errors however large it is, and a valid one is read in the same way."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict

from penstock.documents import validation
from penstock.documents.validation import MOST_BYTES, MOST_ERRORS, MOST_SEPARATORS, JsonValidator, errors_of, is_large

MANY = 5_000


class Inner(BaseModel):
    numbers: list[int] = []
    default: dict[str, int] = {}  # named like a key of the schema


class Outer(BaseModel):
    model_config = ConfigDict(strict=True)

    inner: Inner = Inner()
    inners: list[Inner] = []
    day: date | None = None
    options: Any = {"type": "list"}  # a default that looks like a schema


class Tree(BaseModel):
    children: list["Tree"] = []
    numbers: list[int] = []


@dataclass
class Data:
    numbers: tuple[int, ...]


class Typed(TypedDict):
    numbers: frozenset[int]


class Named(NamedTuple):
    numbers: list[int]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scores: dict[str, int] = {}


class Left(BaseModel):
    model_config = ConfigDict(extra="forbid")

    left: int


class Right(BaseModel):
    model_config = ConfigDict(extra="forbid")

    right: int


class ClosedDict(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    numbers: list[int]


class Open(BaseModel):
    """It contains a closed model, and accepts any members itself."""

    model_config = ConfigDict(extra="allow")

    closed: Closed | None = None


Positive = Annotated[list[Annotated[int, Field(gt=0)]], AfterValidator(lambda numbers: numbers)]

BAD_LIST = ["a"] * MANY
GOOD_DICT = {str(number): number for number in range(MANY)}
BAD_DICT = {str(number): "a" for number in range(MANY)}


def errors(annotation: Any, document: Any) -> int:
    with pytest.raises(ValidationError) as invalid:
        JsonValidator(TypeAdapter(annotation)).validate(to_json(document))
    return invalid.value.error_count()


@pytest.mark.parametrize(
    ("annotation", "document", "most"),
    [
        (list[int], BAD_LIST, 1),
        (list[int | bool | float], BAD_LIST, 3),
        (list[list[int]], [BAD_LIST] * 3, 1),
        (tuple[int, ...], BAD_LIST, 1),
        (set[int], BAD_LIST, 1),
        (Mapping[str, int], BAD_DICT, 1),
        (dict[int, int], {f"a{name}": "a" for name in BAD_DICT}, 2),
        (Positive, [-1] * MANY, 1),
        (Inner, {"numbers": BAD_LIST, "default": BAD_DICT}, 2),
        (Outer, {"inner": {"numbers": BAD_LIST}, "inners": [{"default": BAD_DICT}] * 3}, 2),
        (Tree, {"children": [{"numbers": BAD_LIST}] * 3}, 1),
        (Data, {"numbers": BAD_LIST}, 1),
        (Typed, {"numbers": BAD_LIST}, 1),
        (Named, [BAD_LIST], 1),
        (Json[list[int]], to_json(BAD_LIST).decode(), 1),
        (list[int] | dict[str, int], BAD_LIST, 2),
    ],
)
def test_large_document_has_few_errors(annotation: Any, document: Any, most: int) -> None:
    assert 1 <= errors(annotation, document) <= most


@pytest.mark.parametrize("annotation", [Closed, Left | Right | Closed, list[Left | Right], dict[str, ClosedDict]])
def test_unknown_members_are_few_errors(annotation: Any) -> None:
    document: Any = BAD_DICT
    if annotation == list[Left | Right]:
        document = [document]
    elif annotation == dict[str, ClosedDict]:
        document = {"a": document}
    assert errors(annotation, document) == 1


@pytest.mark.parametrize("annotation", [set[int], frozenset[Any], dict[int, int], list[set[int | str]]])
def test_very_many_numbers_with_one_hash_are_an_error(annotation: Any) -> None:
    numbers = [(2**61 - 1) * number for number in range(50, 50 + MANY)]
    assert len({hash(number) for number in numbers}) == 1
    document: Any = numbers
    if annotation == dict[int, int]:
        document = {f"{number:_}": 1 for number in numbers}
    elif annotation == list[set[int | str]]:
        document = [numbers]
    assert errors(annotation, document) == 1


@pytest.mark.parametrize(
    ("annotation", "document"),
    [
        (set[int], [2**64 - 1 - number for number in range(MANY)]),
        (list[int], [10**30 + number for number in range(MANY)]),
        (dict[str, int], {str(10**30 + number): number for number in range(MANY)}),
        (set[str], [str(10**30 + number) for number in range(MANY)]),
        (set[int], [10**30 + number for number in range(900)]),
    ],
)
def test_other_long_numbers_are_valid(annotation: Any, document: Any) -> None:
    assert len(JsonValidator(TypeAdapter(annotation)).validate(to_json(document))) == len(document)


def test_few_unknown_members_are_errors_as_usual() -> None:
    assert errors(Closed, {"scores": GOOD_DICT, "unknown": 1}) == 1
    assert errors(Closed, {"scores": BAD_DICT, "unknown": 1}) == 2


@pytest.mark.parametrize(
    ("annotation", "document"),
    [
        (Closed, {"scores": GOOD_DICT}),
        (list[Left | Right], [{"right": 1}] * MANY),  # each has a member that `Left` does not know
        (dict[str, ClosedDict], {str(number): {"numbers": [1]} for number in range(MANY)}),
        (Open, GOOD_DICT),
    ],
)
def test_large_valid_documents_with_closed_models_are_valid(annotation: Any, document: Any) -> None:
    adapter = TypeAdapter(annotation)
    assert JsonValidator(adapter).validate(to_json(document)) == adapter.validate_json(to_json(document))


def test_every_error_of_a_small_document_is_found() -> None:
    assert errors(list[int], ["a"] * 1_000) == 1_000


@pytest.mark.parametrize("day", ["2026-12-24", None])
def test_large_document_is_read_like_a_small_one(day: str | None) -> None:
    document = {"inner": {"numbers": list(range(MANY))}, "inners": [{"default": {"a": 1}}], "day": day}
    content = to_json(document)
    assert is_large(content)
    read = JsonValidator(TypeAdapter(Outer)).validate(content)
    assert read == Outer.model_validate_json(content)
    assert read.options == {"type": "list"}


def test_schema_is_not_changed() -> None:
    adapter = TypeAdapter(list[int])
    JsonValidator(adapter).validate(to_json(list(range(MANY))))
    with pytest.raises(ValidationError) as invalid:
        adapter.validate_python(["a", "b"])
    assert invalid.value.error_count() == 2


def test_documents_are_large_by_their_elements_or_by_their_bytes() -> None:
    assert not is_large(b"," * MOST_SEPARATORS)
    assert is_large(b",[{" * MOST_SEPARATORS)
    assert not is_large(b"a" * MOST_BYTES)
    assert is_large(b"a" * (MOST_BYTES + 1))


def test_errors_that_are_too_many_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MOST_ERRORS", 2)
    with pytest.raises(ValidationError) as invalid:
        TypeAdapter(list[int]).validate_python(["a", "b", "c"])
    [error] = errors_of(invalid.value)
    assert (error["loc"], error["msg"]) == ((), "There are 3 errors here")
    assert MOST_ERRORS > 1_000
