"""A stream is split into the same lines for any pieces, and the memory is limited."""

import random

import pytest

from penstock.errors import LimitPassed
from penstock.reading.lines import Lines


def lines_of(content: bytes, size: int, most_bytes: int = 100, most_lines: int = 100) -> list[tuple[int, bytes]]:
    lines = Lines(most_bytes=most_bytes, most_lines=most_lines)
    found = [line for start in range(0, len(content), size) for line in lines.feed(content[start : start + size])]
    return [*found, *lines.end()]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"\n", []),
        (b"a", [(1, b"a")]),  # the last line needs no line break
        (b"a\n", [(1, b"a")]),
        (b"a\nbc\n", [(1, b"a"), (2, b"bc")]),
        (b"\n \t\r\na\n\n\nb\n\n", [(3, b"a"), (6, b"b")]),  # blank lines are counted, but not yielded
        (b"a\r\nb\r\n", [(1, b"a\r"), (2, b"b\r")]),  # JSON treats it as a space
    ],
)
def test_lines_are_numbered_and_blank_ones_left_out(content: bytes, found: list[tuple[int, bytes]], size: int) -> None:
    assert lines_of(content, size) == found


@pytest.mark.parametrize("seed", range(10))
def test_pieces_make_no_difference(seed: int) -> None:
    draw = random.Random(seed)
    content = bytes(draw.choices(b"ab \n", k=500))
    expected = [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    assert lines_of(content, draw.randint(1, 50), most_lines=1000) == expected


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_longest_line_is_taken_and_a_byte_more_is_refused(size: int) -> None:
    assert lines_of(b"a\n" + b"b" * 100 + b"\n", size) == [(1, b"a"), (2, b"b" * 100)]
    with pytest.raises(LimitPassed, match=r"Line 2 is longer than 100 bytes") as refused:
        lines_of(b"a\n" + b"b" * 101, size)
    assert refused.value.limit == {"maxLineBytes": 100}


def test_very_many_blank_lines_are_refused() -> None:
    assert lines_of(b"\n" * 98 + b"a\n", 7) == [(99, b"a")]
    with pytest.raises(LimitPassed, match="more than 100 lines"):
        lines_of(b"\n" * 200, 7)


@pytest.mark.parametrize("blank", [b"", b" ", b" \t\r"])
def test_blank_lines_are_counted_everywhere(blank: bytes) -> None:
    content = b"\n".join([blank] * 3 + [b"  a "] + [blank] * 2 + [b"b"] + [blank] * 4)
    for size in (1, 5, 1_000):
        assert lines_of(content, size) == [(4, b"  a "), (7, b"b")]
    with pytest.raises(LimitPassed, match="more than 9 lines"):
        lines_of(content, 3, most_lines=9)


def test_long_line_is_kept_in_pieces() -> None:
    lines = Lines(most_bytes=100_000, most_lines=10)
    for _ in range(50_000):
        assert list(lines.feed(b"a")) == []
    assert list(lines.end()) == [(1, b"a" * 50_000)]
