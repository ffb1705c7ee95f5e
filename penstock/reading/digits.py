"""Finds numbers with very many digits in JSON before it is parsed. Pure.

The time to read or write such a number grows with the square of its digits.
Written out, the largest float has 309 digits, so a long number is rare, but not wrong.
"""

from collections.abc import Iterator

MOST_DIGITS = 1_000
LONG_DIGITS = 100  # a number with as many is long
MOST_LONG_DIGITS = 2_000_000  # of all long numbers of a document

_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * LONG_DIGITS
_SLICE_BYTES = 65_536  # a copy of a whole document would need as much memory again
_BACKSLASH = 0x5C


def check_digits(content: bytes | bytearray) -> None:
    """Raise ValueError if a number or all long ones together have too many digits. Those in strings do not count."""
    if len(content) <= MOST_DIGITS:
        return
    total = 0
    for count in _long_numbers(content):
        if count > MOST_DIGITS:
            raise ValueError(f"a number has more than {MOST_DIGITS:,} digits, so write it as a string")
        total += count
        if total > MOST_LONG_DIGITS:
            long = f"numbers with {LONG_DIGITS:,} digits or more"
            raise ValueError(f"{long} have more than {MOST_LONG_DIGITS:,} digits together, so write them as strings")


def _long_numbers(content: bytes | bytearray) -> Iterator[int]:
    """Yield how many digits each long number has, and `MOST_DIGITS + 1` for more."""
    is_in_string, end = False, 0  # of the last one, or of the last digits in a string
    for start, length in _long_digits(content):
        is_in_string ^= _has_odd_quotes(content, end, start)
        end = start + length
        if not is_in_string:
            yield length


def _long_digits(content: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield where many consecutive digits start, and how many they are: the first `MOST_DIGITS + 1` of more."""
    end = 0
    for offset in range(0, len(content), _SLICE_BYTES):
        zeros = content[offset : offset + _SLICE_BYTES + MOST_DIGITS].translate(_TO_ZEROS)
        place = zeros.find(_LONG, max(0, end - offset))
        while 0 <= place < _SLICE_BYTES:
            digits = zeros[place : place + MOST_DIGITS + 1]
            length = len(digits) - len(digits.lstrip(b"0"))
            end = offset + place + length
            yield offset + place, length
            place = zeros.find(_LONG, place + length)


def _has_odd_quotes(content: bytes | bytearray, start: int, end: int) -> bool:
    """Return True if a string starts or ends between two places that are not behind a backslash."""
    if content.find(_BACKSLASH, start, end) < 0:
        return content.count(b'"', start, end) % 2 == 1
    quotes = 0
    while start < end:
        part = content[start : min(start + _SLICE_BYTES, end)]
        if (len(part) - len(part.rstrip(b"\\"))) % 2 == 1 and len(part) > 1:
            part = part[:-1]  # what this backslash escapes is in the next part
        start += len(part)
        quotes += part.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"')
    return quotes % 2 == 1
