"""Numbers with very many digits are found before JSON is parsed. Digits in strings do not count."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.reading.digits import LONG_DIGITS, MOST_DIGITS, MOST_LONG_DIGITS, check_digits

LONGEST = b"12" * (MOST_DIGITS // 2)


@pytest.mark.parametrize(
    "content",
    [
        LONGEST,
        b"[" + LONGEST + b"," + LONGEST + b"]",
        b"[1.5," + b"1," * 100_000 + b"1]",
        b"[" + b",".join([LONGEST] * (MOST_LONG_DIGITS // MOST_DIGITS - 1)) + b"]",
        b"[" + b",".join([b"7" * (LONG_DIGITS - 1)] * (2 * MOST_LONG_DIGITS // LONG_DIGITS)) + b"]",
        b'["' + b'","'.join([LONGEST] * (2 * MOST_LONG_DIGITS // MOST_DIGITS)) + b'"]',
        b'"' + 100 * LONGEST + b'"',
        b'["' + b'\\"' * 40_000 + 2 * LONGEST + b'"]',  # a slice ends behind an escaped quote,
        b'[ "' + b'\\"' * 40_000 + 2 * LONGEST + b'"]',  # or in the middle of one
        b'[ "' + b"\\\\" * 40_000 + b'","' + 2 * LONGEST + b'"]',
        b'{"a\\"' + 2 * LONGEST + b'":"\\\\",' + b'"b":[1,"' + 2 * LONGEST + b'"]}',
    ],
)
def test_numbers_with_fewer_digits_pass(content: bytes) -> None:
    check_digits(content)
    check_digits(bytearray(content))


@pytest.mark.parametrize("before", [b"", b"[1," * 30_000, b'["123","', b" " * 65_000, b" " * 64_536])
@pytest.mark.parametrize("after", [b"", b'",1]', b" " * 65_000])
def test_number_with_more_digits_is_found(before: bytes, after: bytes) -> None:
    in_string = before.endswith(b'"')
    content = before + (b'",' if in_string else b"") + LONGEST + b"3" + after
    with pytest.raises(ValueError, match="more than 1,000 digits"):
        check_digits(content)


DIGITS = [LONGEST, LONGEST + b"3", b"7" * LONG_DIGITS]
INSIDE = st.lists(st.sampled_from([b"\\\\", b'\\"', b"\\n", b",", b" " * 65_000, *DIGITS]), max_size=5)
STRINGS = INSIDE.map(lambda parts: b'"%b"' % b"".join(parts))
OUTSIDE = st.sampled_from([b",", b" ", b" " * 65_000, *DIGITS])


@given(st.lists(STRINGS | OUTSIDE, max_size=12), st.sampled_from([b"", b'"' + LONGEST * 2]))
def test_digits_in_strings_do_not_count(parts: list[bytes], end: bytes) -> None:
    content = b"".join(parts) + end
    outside = re.sub(rb'"(?:[^"\\]|\\.)*(?:"|$)', b",", content)
    is_wrong = any(len(digits) > MOST_DIGITS for digits in re.findall(rb"[0-9]+", outside))
    try:
        check_digits(content)
    except ValueError:
        assert is_wrong
    else:
        assert not is_wrong


def test_string_without_an_end_is_looked_at_once() -> None:
    """To look for its end behind each quote in it would take minutes."""
    content = b'["' + (LONGEST + b'3\\"') * 2_000
    started_at = time.process_time()
    check_digits(content)
    assert time.process_time() - started_at < 1


@pytest.mark.parametrize("number", [b"7" * LONG_DIGITS, LONGEST, b"-1." + b"7" * LONG_DIGITS])
def test_many_long_numbers_are_found(number: bytes) -> None:
    """To write 10 MB of them, each with 1,000 digits, would take half a second in a single turn."""
    count = MOST_LONG_DIGITS // (len(number) // LONG_DIGITS * LONG_DIGITS) + 100
    with pytest.raises(ValueError, match="numbers with 100 digits or more have more than 2,000,000 digits together"):
        check_digits(b"[" + b",".join([number] * count) + b"]")
