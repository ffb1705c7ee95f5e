"""Finds numbers with very many digits in JSON before it is parsed. Pure.

The time to read or write such a number grows with the square of its digits.
"""

import re

from penstock.reading.elements import STRING

MOST_DIGITS = 1_000

_STRING = re.compile(STRING, re.DOTALL)
_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_TOO_MANY = b"0" * (MOST_DIGITS + 1)
_SLICE_BYTES = 65_536  # a copy of a whole document would need as much memory again


def check_digits(content: bytes | bytearray) -> None:
    """Raise ValueError if a number has too many consecutive digits. Digits in strings do not count."""
    if len(content) > MOST_DIGITS and _has_many_digits(content) and _has_many_digits(_STRING.sub(b'""', content)):
        raise ValueError(f"a number has more than {MOST_DIGITS:,} digits, so write it as a string")


def _has_many_digits(content: bytes | bytearray) -> bool:
    starts = range(0, len(content) - MOST_DIGITS, _SLICE_BYTES)
    slices = (content[start : start + _SLICE_BYTES + MOST_DIGITS] for start in starts)
    return any(_TOO_MANY in one.translate(_TO_ZEROS) for one in slices)
