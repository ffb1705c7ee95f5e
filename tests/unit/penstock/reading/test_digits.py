"""Numbers with very many digits are found before JSON is parsed. Digits in strings do not count."""

import pytest

from penstock.reading.digits import MOST_DIGITS, check_digits

LONGEST = b"12" * (MOST_DIGITS // 2)


@pytest.mark.parametrize(
    "content",
    [
        LONGEST,
        b"[" + LONGEST + b"," + LONGEST + b"]",
        b"[1.5," + b"1," * 100_000 + b"1]",
        b'"' + 100 * LONGEST + b'"',
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
