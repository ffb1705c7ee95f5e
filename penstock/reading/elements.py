"""Counts the elements of a JSON document before it is parsed: parsed, two bytes can take eighty. Pure."""

import re

from penstock.errors import LimitPassed

_SEPARATORS = b",:[{"
_AT_ONCE = 1_000  # one match is for so many separators, because a match for each would be slow
STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'  # as a pattern, with DOTALL
_UP_TO_SEPARATOR = rb'[^",:\[{]*+(?:' + STRING + rb'[^",:\[{]*+)?+[,:\[{]'  # JSON has one between two strings
_MANY = re.compile(b"(?:" + _UP_TO_SEPARATOR + b"){%d}" % _AT_ONCE, re.DOTALL)


def check_elements(content: bytes | bytearray, most: int, found: int | None = None) -> None:
    """Raise LimitPassed if a document has more elements: its values and the names of its members.

    Every element but the first has a separator in front of it. The count is exact to a thousand. It ends where the
    document stops being JSON, and so does the parser. `found` is the number of separators, if the caller has it.
    """
    if len(content) <= most:
        return
    found = separators(content) if found is None else found
    if found > most and _has_more(content, most):
        raise LimitPassed(f"The JSON has more than {most:,} values and names.", limit={"maxElements": most})


def separators(content: bytes | bytearray) -> int:
    """Count all separators, including those in strings. This is much faster than to count the elements."""
    return len(content) - len(content.translate(None, _SEPARATORS))


def _has_more(content: bytes | bytearray, most: int) -> bool:
    count, place = 0, 0
    while count <= most and (match := _MANY.match(content, place)):
        count, place = count + _AT_ONCE, match.end()
    return count > most
