"""The limit for the depth of bodies and results. Pure.

Our JSON parser reads at most 200 levels. A body or a result must still be readable inside a message, a chunk record and
a page of results, which put it into a few more.
"""

from collections.abc import Iterable
from typing import Any

MOST_LEVELS = 190  # of arrays and objects in a body or a result

TOO_DEEP = f"Use at most {MOST_LEVELS} levels of arrays and objects."


def is_too_deep(value: Any, content: bytes) -> bool:
    """Return True if a JSON value has too many levels. `content` is its text."""
    # A text without many brackets, which nearly all are, need not be walked through.
    return content.count(b"[") + content.count(b"{") > MOST_LEVELS and _has_more_levels(value, MOST_LEVELS)


def _has_more_levels(value: Any, most: int) -> bool:
    level = _containers([value])
    for _ in range(most):
        if not level:
            return False
        level = _containers(child for one in level for child in (one.values() if isinstance(one, dict) else one))
    return bool(level)


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]
