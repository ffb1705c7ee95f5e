"""Puts values from the results of operations into the paths of others. Pure.

`/customers/{new}/orders` is known only when the operation that `new` refers to has succeeded. It becomes
`/customers/7/orders` just before it starts, or when it follows in another chunk than that operation.
"""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic_core import from_json, to_json

from penstock.chunk import Operation, Reference, UrlRule, references_of, with_path

MOST_READ_BYTES = 256 * 1024  # of a result. It is parsed on the event loop, and one with a key is much smaller
MOST_VALUE_BYTES = 512  # that a value takes in a path. A message has room for it before the value is known
_SAFE = "/%:@!$&'()*+,;=~"  # in a path that is percent-encoded already
NONE: AbstractSet[int] = frozenset()
_NUMBER = re.compile(r"0|[1-9][0-9]*")
MISSING, TOO_LARGE = object(), object()
Place = tuple[tuple[str, ...], UrlRule | None]  # of a value in a result


class Unresolved(Exception):
    """A path cannot be made. The text is a sentence for the client."""


class Results:
    """The values that paths of some operations need from the results of others.

    A result is parsed once, when it is noted, however many paths refer to it. Only the values are kept.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._wanted: dict[int, set[Place]] = {}
        for operation in operations:
            for reference in references_of(operation):
                self._wanted.setdefault(reference.source, set()).add((reference.members, reference.url))
        self._found: dict[int, dict[Place, str | Unresolved]] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def are_wanted(self, index: int) -> bool:
        return index in self._wanted

    @property
    def unknown(self) -> AbstractSet[int]:
        """Return the operations that paths refer to, and whose results were not noted."""
        return self._wanted.keys() - self._found.keys()

    def note(self, index: int, content: bytes | None) -> None:
        """Note the result of an operation that has succeeded, as JSON. It is None if it is too large to be read."""
        is_too_large = content is None or len(content) > MOST_READ_BYTES
        result = TOO_LARGE if is_too_large else from_json(content or b"null")
        self._found[index] = {place: _read(result, *place) for place in self._wanted.get(index, ())}

    def resolve(self, operation: Operation, later: AbstractSet[int] = NONE) -> Operation:
        """Return the operation with its path, without the values of operations in `later`. Raise Unresolved."""
        references = references_of(operation)
        path = operation.path
        for reference in sorted(references, key=lambda one: path.find(one.place), reverse=True):
            before, place, rest = operation.path.partition(reference.place)
            if not place or reference.source in later:
                continue  # a URL has replaced its place, or it stays open
            found = self._find(reference)
            operation = with_path(operation, found + rest if found.startswith("/") else before + found + rest)
        return operation

    def _find(self, reference: Reference) -> str:
        """Return the value for a path, or what replaces its beginning: that starts with a slash."""
        if reference.source not in self._found:
            raise Unresolved(f"The path has {reference.place}, but the operation that it refers to has not succeeded.")
        found = self._found[reference.source][reference.members, reference.url]
        if isinstance(found, Unresolved):
            raise Unresolved(f"The path has {reference.place}, but {found}")
        return found


def _read(result: Any, members: tuple[str, ...], rule: UrlRule | None) -> str | Unresolved:
    """Return what a result has for a path, or why it has nothing."""
    try:
        return _value_of(result, members, rule)
    except Unresolved as error:
        return error.with_traceback(None)  # the results keep it: with a traceback, they would refer to themselves


def _value_of(result: Any, members: tuple[str, ...], rule: UrlRule | None) -> str:
    if result is TOO_LARGE:
        raise Unresolved("the result of that operation is too large to be read.")
    if rule is not None and isinstance(result, dict):
        for name in rule.members:
            if isinstance(url := result.get(name), str):
                return _path_of(name, url, rule)
    for member in members:
        if (value := _value_at(result, member)) is not MISSING:
            return _segment_of(member, value)
    names = [*(rule.members if rule else ()), *members]
    raise Unresolved(f"the result of that operation has no {' or '.join(names)}.")


def _value_at(result: Any, member: str) -> Any:
    """Return a member of a result by its name, or by a JSON pointer. Return MISSING if there is none."""
    if not member.startswith("/"):
        return result.get(member, MISSING) if isinstance(result, dict) else MISSING
    for token in member.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(result, dict) and name in result:
            result = result[name]
        elif isinstance(result, list) and _NUMBER.fullmatch(name) and int(name) < len(result):
            result = result[int(name)]
        else:
            return MISSING
    return result


def _segment_of(member: str, value: Any) -> str:
    """Return a value as it is in a path, percent-encoded."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value in {"", ".", ".."}:
        raise Unresolved(
            f"{member} in the result of that operation is {_in_words(value)}. A path needs a text or a whole number."
        )
    segment = quote(str(value), safe="")
    if len(segment) > MOST_VALUE_BYTES:
        raise Unresolved(f"{member} in the result of that operation is longer than {MOST_VALUE_BYTES} bytes.")
    return segment


def _in_words(value: Any) -> str:
    """Return what a value is, for a sentence: `empty`, `null`, `".."`, `7.5`, `an object`."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return "empty" if value == "" else to_json(value).decode()


def _path_of(member: str, url: str, rule: UrlRule) -> str:
    """Return the path of an operation to which a URL leads, without a slash at its end."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Unresolved(f"{member} in the result of that operation is no URL.") from error
    if parts.scheme.lower() not in {"", "http", "https"} or (parts.netloc and parts.netloc.lower() not in rule.hosts):
        raise Unresolved(f"{member} in the result of that operation leads to another service.")
    path = quote(parts.path, safe=_SAFE)
    if parts.netloc or path.startswith("/"):
        path = next((path.removeprefix(one) for one in rule.prefixes if path.startswith(f"{one}/")), path)
    path = f"/{path.strip('/')}"
    if len(path) > MOST_VALUE_BYTES:
        raise Unresolved(f"{member} in the result of that operation is longer than {MOST_VALUE_BYTES} bytes.")
    return path
