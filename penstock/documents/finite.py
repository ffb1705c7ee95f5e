"""Find numbers that are infinite or NaN, since JSON cannot express them. Pure.

JSON allows `1e400`, but a parser reads it as infinity. Python also writes and reads `Infinity` and `NaN`.
"""

import math
from typing import Any

from pydantic_core import from_json

from penstock.documents.pointer import pointer

_N, _I = b"NI"
_MANY_DIGITS = 200  # a float with fewer digits and an exponent of at most two digits is finite: it is below 1e298
_SLICE_BYTES = 65_536
_FEW_EXPONENTS, _BYTES_FOR_AN_EXPONENT = 5, 64  # a text with more of what may be exponents is not looked at further
_ZEROS = b"0" * _MANY_DIGITS
_QUOTE = 0x22
_EXPONENT = b"0e000"  # with its last digit in front of it, as `_CLASSES` writes it
_CLASSES_OF_BYTES = {b"0123456789+": b"0", b"eE": b"e", b".": b".", b"-": b"-", b":,[ \t\r\n": b":"}
TOO_LARGE = "This number is too large. The largest is about 1.8e308."


def _classes() -> bytes:
    table = bytearray(b"x" * 256)
    for members, [class_] in _CLASSES_OF_BYTES.items():
        for byte in members:
            table[byte] = class_
    return bytes(table)


_CLASSES = _classes()


def pointer_to_not_finite(value: Any, encoded: bytes) -> str | None:
    """Return the pointer to the first infinite number or NaN in a JSON value, or None if all numbers are finite.

    `encoded` is the same value as JSON: a search in it is much faster than a walk through the value.
    """
    # The values of bytes, not bytes objects: Python finds these in an eighth of the time.
    if _N not in encoded and _I not in encoded:
        return None
    if b"Infinity" not in encoded and b"NaN" not in encoded:
        return None
    try:
        from_json(encoded, allow_inf_nan=False)  # the word may be part of a text
    except ValueError:
        return _find(value)
    return None


def _find(value: Any) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else ""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        if (found := _find(member)) is not None:
            return pointer(name) + found
    return None


def may_be_infinite(content: bytes | bytearray) -> bool:
    """Return True if a number in a JSON text may be too large for a float, without parsing it.

    Such a number has an exponent of at least three digits, or very many digits. So may a word in a text, which seldom
    follows one of the characters that a number follows.
    """
    start, size = 0, len(content)
    while size - start > _SLICE_BYTES:
        end = content.find(_QUOTE, start + _SLICE_BYTES)  # no number goes on behind a quotation mark
        end = size if end < 0 else end
        if _has_large_number(content[start:end]):
            return True
        start = end
    return _has_large_number(content[start:])


def _has_large_number(content: bytes | bytearray) -> bool:
    classes = content.translate(_CLASSES)
    if len(classes) > _MANY_DIGITS and classes.find(_ZEROS) >= 0:
        return True
    exponents = classes.count(_EXPONENT)
    if exponents == 0:
        return False
    if exponents > _FEW_EXPONENTS + len(classes) // _BYTES_FOR_AN_EXPONENT:
        return True
    *before, _ = (b":" + classes).split(_EXPONENT)
    return any(one.endswith(b":") for one in (part.rstrip(b"0.-") for part in before))
