import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.documents.finite import may_be_infinite

DIGITS = st.integers(0, 400).flatmap(lambda count: st.text("0123456789", min_size=count, max_size=count))


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """Numbers as JSON, most of them with many digits or an exponent."""
    whole = draw(st.sampled_from("123456789")) + draw(DIGITS)
    fraction = draw(st.sampled_from(["", ".5", ".0", "." + "9" * 250]))
    exponent = draw(st.sampled_from(["", "e", "E", "e+", "E+", "e-"]))
    if exponent:
        exponent += draw(st.sampled_from(["0", "5", "45", "99", "098", "108", "309", "0400"]))
    return draw(st.sampled_from(["", "-"])) + whole + fraction + exponent


@given(numbers(), st.sampled_from(["%s", "[%s]", '{"a":%s}', '{"a": %s }', "[1,%s]", "[\n%s,2]"]))
def test_no_infinite_number_is_missed(number: str, document: str) -> None:
    if math.isinf(float(number)):
        assert may_be_infinite((document % number).encode())


@pytest.mark.parametrize("number", ["1" + "0" * 250 + "e99", "9" * 290 + "e45", "1e400", "-1.5E+309", "9" * 999])
def test_infinite_numbers_are_found_anywhere(number: str) -> None:
    for before in ("", '"a",' * 30_000):
        assert may_be_infinite(f"[{before}{number}]".encode())


@pytest.mark.parametrize(
    "text", ["1e99", "1e-400", "9" * 199, "12345678901234567890", '"1e400 in a text"', '"deadbeef12e456"', '"x1e400"']
)
def test_usual_values_are_not_suspected(text: str) -> None:
    assert not may_be_infinite(f"[{text}]".encode())


def test_a_text_of_many_exponents_takes_memory_for_a_few_copies_only() -> None:
    content = b'["' + b"e000" * 500_000 + b'"]'
    tracemalloc.start()
    try:
        assert may_be_infinite(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(content)
