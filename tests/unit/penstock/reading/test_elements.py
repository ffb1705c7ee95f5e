"""The elements of a document are counted before it is parsed, without those in its strings."""

import json
from typing import Any

import pytest

from penstock.errors import LimitPassed
from penstock.reading.elements import check_elements

MOST = 5_000

FEW = {
    "an element": 1,
    "commas in a string": ",:[{" * 10_000,
    "quotes and commas in a string": '",\\' * 10_000,
    "a long string": "a" * 100_000,
    "strings": ["a,b"] * 4_000,
    "members": {str(number): "{}" for number in range(2_400)},
}
MANY = {
    "numbers": list(range(6_100)),
    "strings": ['a",\\'] * 6_100,
    "empty lists": [[]] * 3_100,
    "empty dicts": [{}] * 3_100,
    "members": {str(number): 1 for number in range(3_100)},
    "nested": [[[{"a": [1, 2]}]]] * 1_000,
}


@pytest.mark.parametrize("document", FEW.values(), ids=FEW.keys())
@pytest.mark.parametrize("indent", [None, 1])
def test_few_elements_pass(document: Any, indent: int | None) -> None:
    check_elements(json.dumps(document, indent=indent).encode(), MOST)


@pytest.mark.parametrize("document", MANY.values(), ids=MANY.keys())
@pytest.mark.parametrize("indent", [None, 1])
def test_many_elements_are_rejected(document: Any, indent: int | None) -> None:
    with pytest.raises(LimitPassed, match="more than 5,000 values and names") as rejected:
        check_elements(json.dumps(document, indent=indent).encode(), MOST)
    assert rejected.value.limit == {"maxElements": MOST}


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"[1," * 100_000])
def test_document_that_is_cut_off_is_rejected_too(content: bytes) -> None:
    with pytest.raises(LimitPassed):
        check_elements(content, MOST)


@pytest.mark.parametrize(
    "content", [b'"' + b"a," * 100_000, b'"a"' * 100_000 + b"," * 10_000, b'"' + b'\\",' * 100_000]
)
def test_what_the_parser_rejects_early_is_left_to_it(content: bytes) -> None:
    check_elements(content, MOST)
