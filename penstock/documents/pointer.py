"""Build JSON pointers (RFC 6901), which name a place in a JSON document. Pure."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import ErrorDetails

LONGEST_NAME = 1_000  # a name can be as long as a document. Then the pointer ends at the object that has it

_ABSENT = object()


def pointer(*parts: str | int) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def pointer_to(error: ErrorDetails, document: Any) -> str:
    """Return the pointer to the place that a Pydantic error is about.

    Pydantic also puts the names of union members and of validators into a location. Parts that do not exist in the
    document are left out, except for the name of a missing member.
    """
    parts = list(error["loc"])
    missing = [parts.pop()] if error["type"] == "missing" and parts else []
    return pointer(*_existing(parts, document), *missing)


def _existing(parts: Sequence[str | int], document: Any) -> list[str | int]:
    existing: list[str | int] = []
    for part in parts:
        inside = _step(document, part)
        if inside is not _ABSENT:
            existing.append(part)
            document = inside
    return existing


def _step(place: Any, part: str | int) -> Any:
    if isinstance(place, dict):
        is_long = isinstance(part, str) and len(part) > LONGEST_NAME
        return _ABSENT if is_long else place.get(part, _ABSENT)
    if isinstance(place, list) and isinstance(part, int) and 0 <= part < len(place):
        return place[part]
    return _ABSENT
