"""What a handler returns becomes JSON: short results in a quicker way, and with the same result."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from pydantic_core import from_json, to_json

from penstock.outcome import FEW_BYTES, EncodedResult, result_value
from penstock.route import Policy, Route, build_route
from penstock.running.verdict import Unserializable, as_json


class Word(StrEnum):
    A = "a"


class Level(IntEnum):
    ONE = 1


async def handler() -> None:
    """Do nothing."""


ROUTE: Route = build_route(handler, "POST", "/it", Policy())


@pytest.mark.parametrize(
    "returned",
    [
        {},
        {"id": 7, "name": "Ada", "vip": True, "note": None, "price": 1.5, "zero": -0.0, "small": 5e-324},
        {"large": 2**53, "larger": 10**30, "float": 1e300, "negative": -(2**70)},
        {"text": 'with "quotes", \\ and \x00 and \n'},
        {"text": "Grüße \u2028", "größe": 1},
        {"kind": Word.A, Word.A: Level.ONE},
        {1: "a number as a name", None: 2},
        {"tuple": (1, 2), "list": [1, {"deep": None}], "bytes": b"abc"},
        {"text": "x" * 150},
        {"text": "x" * FEW_BYTES},
        {"n" * 130: "x" * 130},
        {f"member {number}": number for number in range(9)},
        {
            "nested": {"list": [1, 1.0, True, None, "größe"], "level": Level.ONE},
            "when": datetime(2026, 11, 29, tzinfo=UTC),
        },
        [{"id": 1}, {"id": 2}],
        [Word.A, Level.ONE, (1, 2), {3}, UUID(int=7), Decimal("1.50"), b"abc"],
        [[[[[]]]]],
        "a text",
        Word.A,
        "x" * FEW_BYTES,
        1e16,
        -0.0,
        2**64,
        10**400,
        True,
        None,
        (1, 2),
    ],
)
def test_result_becomes_what_its_encoding_is_parsed_to(returned: Any) -> None:
    result = result_value(as_json(ROUTE, returned))
    assert repr(result) == repr(from_json(to_json(returned)))  # 1 equals True and 1.0


def test_short_result_does_not_change_with_the_one_of_its_handler() -> None:
    counts = [1]
    returned = {"count": 1, "counts": counts}
    result = as_json(ROUTE, returned)
    returned["count"] = 2
    counts.append(2)
    assert result == {"count": 1, "counts": [1]}


class EqualsNothing(dict[str, int]):
    def __eq__(self, other: object) -> bool:
        raise TypeError

    __hash__ = None


def test_result_that_cannot_be_compared_is_kept() -> None:
    assert as_json(ROUTE, [EqualsNothing(a=1)]) == [{"a": 1}]


@pytest.mark.parametrize("long", [{"text": "x" * FEW_BYTES}, {"n" * 130: "x" * 130}])
def test_long_dict_is_kept_as_json(long: dict[str, str]) -> None:
    assert as_json(ROUTE, long) == EncodedResult(to_json(long))


@pytest.mark.parametrize(
    "returned",
    [
        {"number": float("nan")},
        {"number": float("inf")},
        {"number": -float("inf")},
        {"text": "\ud800"},
        {"\ud800": 1},
        {"object": object()},
        [float("nan")],
        {"nested": {"number": float("nan")}},
        float("inf"),
        ["\ud800"],
    ],
)
def test_result_that_json_cannot_represent_is_an_error(returned: Any) -> None:
    with pytest.raises(Unserializable):
        as_json(ROUTE, returned)
