"""Puts values from the results of operations into the paths of others. Pure.

`/customers/{new}/orders` is known only when the operation that `new` refers to has succeeded. It becomes
`/customers/7/orders` just before it starts, or when it follows in another chunk than that operation.
"""

import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic_core import from_json

from penstock.chunk import Operation, Reference, UrlRule, references_of, with_path

MOST_READ_BYTES = 256 * 1024  # of a result. It is parsed on the event loop, and one with a key is much smaller
MOST_VALUE_BYTES = 512  # that a value takes in a path. A message has room for it before the value is known
_SAFE = "/%:@!$&'()*+,;=~"  # in a path that is percent-encoded already
_NONE: AbstractSet[int] = frozenset()
_NUMBER = re.compile(r"0|[1-9][0-9]*")
_MISSING = object()


class Unresolved(Exception):
    """A path cannot be made. The text is a sentence for the client."""


class Results:
    """The results that paths of some operations refer to, as JSON. Each is parsed once, however many paths need it."""

    def __init__(self, operations: Iterable[Operation], known: Iterable[tuple[int, bytes | None]] = ()) -> None:
        self._sources = {reference.source for operation in operations for reference in references_of(operation)}
        self._contents = dict(known)
        self._found: dict[tuple[int, tuple[str, ...], UrlRule | None], str | Unresolved] = {}

    def __bool__(self) -> bool:
        return bool(self._sources)

    def are_wanted(self, index: int) -> bool:
        return index in self._sources

    def note(self, index: int, content: bytes | None) -> None:
        """Note the result of an operation that has succeeded. It is None if it is too large to be read."""
        self._contents[index] = content

    def has_all_of(self, operations: Sequence[Operation]) -> bool:
        """Return True if all results are known that operations refer to, without those of their own."""
        own = {operation.index for operation in operations}
        sources = {reference.source for operation in operations for reference in references_of(operation)}
        return sources <= own | self._contents.keys()

    def fill(self, operation: Operation) -> Operation:
        """Return the operation with the values that are known in its path."""
        try:
            return self.resolve(operation, self._sources - self._contents.keys())
        except Unresolved:
            return operation

    def resolve(self, operation: Operation, later: AbstractSet[int] = _NONE) -> Operation:
        """Return the operation with its path, without the values of operations in `later`. Raise Unresolved."""
        if not (references := references_of(operation)):
            return operation
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
        key = reference.source, reference.members, reference.url
        if key not in self._found:
            try:
                self._found[key] = self._read(reference)
            except Unresolved as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, Unresolved):
            raise Unresolved(f"The path has {reference.place}, but {found}")
        return found

    def _read(self, reference: Reference) -> str:
        if reference.source not in self._contents:
            raise Unresolved("the operation that it refers to has not succeeded.")
        content = self._contents[reference.source]
        if content is None or len(content) > MOST_READ_BYTES:
            raise Unresolved("the result of that operation is too large to be read.")
        result = from_json(content)
        rule = reference.url
        if rule is not None and isinstance(result, dict):
            for name in rule.members:
                if isinstance(url := result.get(name), str):
                    return _path_of(name, url, rule)
        for member in reference.members:
            if (value := _value_at(result, member)) is not _MISSING:
                return _segment_of(member, value)
        names = [*(rule.members if rule else ()), *reference.members]
        raise Unresolved(f"the result of that operation has no {' or '.join(names)}.")


def _value_at(result: Any, member: str) -> Any:
    """Return a member of a result by its name, or by a JSON pointer. Return _MISSING if there is none."""
    if not member.startswith("/"):
        return result.get(member, _MISSING) if isinstance(result, dict) else _MISSING
    for token in member.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(result, dict) and name in result:
            result = result[name]
        elif isinstance(result, list) and _NUMBER.fullmatch(name) and int(name) < len(result):
            result = result[int(name)]
        else:
            return _MISSING
    return result


def _segment_of(member: str, value: Any) -> str:
    """Return a value as it is in a path, percent-encoded."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value in {"", ".", ".."}:
        raise Unresolved(f"{member} in the result of that operation is no text and no whole number for a path.")
    segment = quote(str(value), safe="")
    if len(segment) > MOST_VALUE_BYTES:
        raise Unresolved(f"{member} in the result of that operation is longer than {MOST_VALUE_BYTES} bytes.")
    return segment


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
