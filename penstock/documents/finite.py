"""Find numbers that are infinite or NaN, since JSON cannot express them. Pure.

JSON allows `1e400`, but a parser reads it as infinity. Python also writes and reads `Infinity` and `NaN`.
"""

import math
from typing import Any

from pydantic_core import from_json

from penstock.documents.pointer import pointer

_N, _I = b"NI"
TOO_LARGE = "This number is too large. The largest is about 1.8e308."


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
