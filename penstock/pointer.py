"""Where in a JSON document something is, as a JSON pointer (RFC 6901). Pure."""

from collections.abc import Sequence
from typing import Any

from pydantic_core import ErrorDetails

_ABSENT = object()


def pointer(*parts: str | int) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def pointer_to(error: ErrorDetails, document: Any) -> str:
    """The pointer to what a Pydantic error is about.

    Pydantic also puts the names of union members and of validators into a location. What does not stand in the document
    is left out, all but the name of a member that is missing.
    """
    parts = list(error["loc"])
    missing = [parts.pop()] if error["type"] == "missing" and parts else []
    return pointer(*_standing(parts, document), *missing)


def _standing(parts: Sequence[str | int], document: Any) -> list[str | int]:
    standing: list[str | int] = []
    for part in parts:
        inside = _step(document, part)
        if inside is not _ABSENT:
            standing.append(part)
            document = inside
    return standing


def _step(place: Any, part: str | int) -> Any:
    if isinstance(place, dict):
        return place.get(part, _ABSENT)
    if isinstance(place, list) and isinstance(part, int) and 0 <= part < len(place):
        return place[part]
    return _ABSENT
