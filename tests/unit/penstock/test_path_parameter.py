"""A path parameter without special characters is not decoded, with the same result."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.path_parameter import _decode, decode_segment

CHARACTERS = st.one_of(st.sampled_from("a1-._~@:+ %2F%00?#/\\\n\x7f\x85é😀"), st.characters(codec="utf-8"))


@given(st.text(CHARACTERS, min_size=1, max_size=8))
def test_plain_segments_need_no_decoding(text: str) -> None:
    assert result_of(text) == expected_of(text)


def result_of(text: str) -> str | None:
    try:
        return decode_segment(text)
    except ValueError:
        return None


def expected_of(text: str) -> str | None:
    try:
        decoded = _decode(text)
    except ValueError:
        return None
    return None if "/" in decoded else decoded
