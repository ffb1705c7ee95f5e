"""Finds numbers with very many digits in JSON before it is parsed. Pure.

The time to read or write such a number grows with the square of its digits.
Written out, the largest float has 309 digits, so a long number is rare, but not wrong.
"""

import re

from penstock.reading.elements import STRING

MOST_DIGITS = 1_000
LONG_DIGITS = 100  # a number with as many is long
MOST_LONG_DIGITS = 2_000_000  # of all long numbers of a document

_STRING = re.compile(STRING + b"?", re.DOTALL)  # one may have no end: otherwise all quotes in it would be tried
_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_TOO_MANY = b"0" * (MOST_DIGITS + 1)
_LONG = b"0" * LONG_DIGITS
_SLICE_BYTES = 65_536  # a copy of a whole document would need as much memory again


def check_digits(content: bytes | bytearray) -> None:
    """Raise ValueError if a number or all long ones together have too many digits. Those in strings do not count."""
    if len(content) > MOST_DIGITS and _too_many(content) and (why := _too_many(_STRING.sub(b'""', content))):
        raise ValueError(why)


def _too_many(content: bytes | bytearray) -> str | None:
    """Return why a text has too many digits, or None if it has not."""
    count = 0
    for start in range(0, len(content), _SLICE_BYTES):
        zeros = content[start : start + _SLICE_BYTES + MOST_DIGITS].translate(_TO_ZEROS)
        if _TOO_MANY in zeros:
            return f"a number has more than {MOST_DIGITS:,} digits, so write it as a string"
        count += LONG_DIGITS * zeros.count(_LONG, 0, _SLICE_BYTES)
    if count > MOST_LONG_DIGITS:
        long = f"numbers with {LONG_DIGITS:,} digits or more"
        return f"{long} have more than {MOST_LONG_DIGITS:,} digits together, so write them as strings"
    return None
