"""The limit for the depth of bodies and results. Pure.

Our JSON parser reads at most 200 levels. A body or a result must still be readable inside a message, a chunk record and
a page of results, which put it into a few more.
"""

from typing import Any

MOST_LEVELS = 190  # of arrays and objects in a body or a result

_FEW_LEVELS = 20
_OTHER_BYTES = bytes(byte for byte in range(256) if byte not in b"[]{}")

CONTAINERS = (dict, list)  # a tuple: `dict | list` takes longer

TOO_DEEP = f"Use at most {MOST_LEVELS} levels of arrays and objects."


def is_too_deep(value: Any, content: bytes) -> bool:
    """Return True if a JSON value has too many levels. `content` is its text."""
    # A text without many brackets, which nearly all are, need not be walked through. If it has few strings, as a table
    # of numbers has, its brackets tell enough, at a lower cost.
    brackets = content.count(b"[") + content.count(b"{")
    if brackets <= MOST_LEVELS or (content.count(b'"') <= brackets and is_shallow(content)):
        return False
    return has_more_levels(value, MOST_LEVELS)


def has_more_levels(value: Any, most: int) -> bool:
    """Return True if a JSON value has more than this many levels of arrays and objects."""
    level = [value] if isinstance(value, CONTAINERS) else []
    for _ in range(most):
        if not level:
            return False
        level = next_level(level)
    return bool(level)


def next_level(level: list[Any]) -> list[Any]:
    """Return the arrays and objects that are directly in those of a level."""
    # In one expression, because a value can have very many parts.
    return [
        child
        for one in level
        if one
        for child in (one.values() if isinstance(one, dict) else one)
        if isinstance(child, CONTAINERS)
    ]


def is_shallow(content: bytes) -> bool:
    """Return True if a JSON text certainly has not too many levels. Nothing is built from it."""
    if content.count(b"[") + content.count(b"{") <= MOST_LEVELS:
        return True
    # Without escaped quotation marks, every second part between quotation marks is outside of strings.
    plain = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(plain.split(b'"')[::2]).translate(None, _OTHER_BYTES)
    for _ in range(_FEW_LEVELS):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets
