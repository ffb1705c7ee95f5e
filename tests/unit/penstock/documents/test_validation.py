"""An invalid document has few errors however large it is, and a valid one is read in the same way."""

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import to_json
from typing_extensions import TypedDict

from penstock.documents import validation
from penstock.documents.validation import (
    MOST_BYTES,
    MOST_COLLISIONS,
    MOST_ERRORS,
    MOST_SEPARATORS,
    JsonValidator,
    errors_of,
    is_large,
)

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


class NamedOnes(NamedTuple):
    closed: "Closed"


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scores: dict[str, int] = {}


class Left(BaseModel):
    model_config = ConfigDict(extra="forbid")

    left: int


class Right(BaseModel):
    model_config = ConfigDict(extra="forbid")

    right: int


@dataclass(config=ConfigDict(extra="forbid"))
class ClosedData:
    number: int = Field(0, alias="number")
    inner: "ClosedData | None" = None

    @model_validator(mode="after")
    def check(self) -> "ClosedData":
        assert self.number >= 0
        return self


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
        (deque[int], BAD_LIST, 1),
        (OrderedDict[str, int], BAD_DICT, 1),
        (Counter[str], BAD_DICT, 1),
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


@pytest.mark.parametrize(
    ("annotation", "document"),
    [
        (Closed, BAD_DICT),
        (Left | Right | Closed, BAD_DICT),
        (list[Left | Right], [BAD_DICT]),
        (dict[str, ClosedDict], {"a": BAD_DICT}),
        (ClosedData | Left, BAD_DICT),
        (ClosedData, {"inner": {"inner": BAD_DICT}}),
        (list[ClosedData | None], [{}, BAD_DICT]),
        (Named | Left, BAD_DICT),
        (NamedOnes, {"closed": BAD_DICT}),
        (NamedOnes, [BAD_DICT]),
    ],
)
def test_unknown_members_are_few_errors(annotation: Any, document: Any) -> None:
    assert errors(annotation, document) == 1


MODULUS = 2**61 - 1
INTEGERS = [MODULUS * number for number in range(50, 50 + MANY)]
DECIMALS = [f"{pow(10, -exponent, MODULUS)}e{exponent}" for exponent in range(MANY)]
UUIDS = [str(UUID(int=MODULUS * number)) for number in range(MANY)]
PAIRS = [[number, 0] for number in INTEGERS]


@pytest.mark.parametrize(
    ("annotation", "document"),
    [
        (set[int], INTEGERS),
        (frozenset[Any], INTEGERS),
        (list[set[int | str]], [INTEGERS]),
        (dict[int, int], {f"{number:_}": 1 for number in INTEGERS}),
        (set[Decimal], DECIMALS),
        (dict[Decimal, str], dict.fromkeys(DECIMALS, "a")),
        (set[UUID], UUIDS),
        (dict[UUID, int], dict.fromkeys(UUIDS, 1)),
        (set[tuple[int, int]], PAIRS),
        (Counter[int], {f"{number:_}": 1 for number in INTEGERS}),
        (ClosedData | dict[str, set[Decimal]], {"prices": DECIMALS, **{name: [] for name in BAD_DICT}}),
        (defaultdict[int, int], {f"{number:_}": 1 for number in INTEGERS}),
    ],
)
def test_very_many_values_with_one_hash_are_an_error(annotation: Any, document: Any) -> None:
    assert errors(annotation, document) == 1


@pytest.mark.parametrize(
    ("annotation", "document"),
    [
        (set[int], [2**64 - 1 - number for number in range(MANY)]),
        (list[int], [10**30 + number for number in range(MANY)]),
        (dict[str, int], {str(10**30 + number): number for number in range(MANY)}),
        (set[str], [str(10**30 + number) for number in range(MANY)]),
        (set[int], [10**30 + number for number in range(MANY)]),
        (set[UUID], [str(UUID(int=number)) for number in range(MANY)]),
        (set[int], INTEGERS[:MOST_COLLISIONS] + list(range(MANY))),
        (list[dict[int, int]], [{-1: 1, -2: 1}] * MANY),  # in Python, -1 and -2 have one hash
    ],
)
def test_other_values_of_sets_are_valid(annotation: Any, document: Any) -> None:
    assert len(JsonValidator(TypeAdapter(annotation)).validate(to_json(document))) == len(document)


@pytest.mark.parametrize("annotation", [list[Json[Any]], list[Json[list[int]] | int], set[Json[tuple[int, ...]]]])
def test_json_texts_have_few_elements(annotation: Any) -> None:
    adapter = TypeAdapter(annotation)
    validator = JsonValidator(adapter)
    document = [to_json([number] * 100_000).decode() for number in range(3)]
    with pytest.raises(ValidationError, match="more than 200,000 values and names"):
        validator.validate(to_json(document))
    assert validator.validate(to_json(document[:2])) == adapter.validate_python(document[:2])


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
        (list[Named | Right], [{"right": 1}] * MANY),
        (list[ClosedData | Right], [{"number": 1}, {"right": 1}] * MANY),
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
