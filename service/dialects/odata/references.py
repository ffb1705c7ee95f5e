"""References: URLs that continue the URL of what an earlier request has created. Pure.

`$new/orders` is known only when the request `new` has run. So such an operation gets its path just before it starts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from msgspec.structs import replace as with_changes

from penstock.chunk import Operation
from penstock.outcome import Outcome, failed, result_value, size_of
from penstock.preparing import Done
from penstock.service.dialects.odata.request_object import GROUP_END
from penstock.service.dialects.odata.urls import ServiceRoot, read_url

_LINKS = ("@odata.id", "@odata.editLink", "@id", "@editLink")  # in a result, the URL of the entity itself
_KEYS = ("id", "Id", "ID")
MOST_READ_BYTES = 256 * 1024  # of a result. It is parsed in the event loop, and an entity with an id is much smaller


@dataclass(frozen=True, slots=True)
class Reference:
    """A path that continues the URL of what the operation `source` has created or returned."""

    source: int
    rest: str


class References:
    """The references of a batch, by the index of the operation that has one."""

    def __init__(self, root: ServiceRoot) -> None:
        self._root = root
        self._references: dict[int, Reference] = {}
        self._found: dict[int, tuple[Outcome, str | None]] = {}  # by the index of what was referred to

    def __bool__(self) -> bool:
        return bool(self._references)

    def __contains__(self, index: int) -> bool:
        return index in self._references

    def __iter__(self) -> Iterator[int]:
        return iter(self._references)

    def add(self, index: int, reference: Reference) -> None:
        self._references[index] = reference

    def prepare(self, operation: Operation, done: Mapping[int, Done]) -> Operation | Outcome:
        """Return the operation with its path, or its failure.

        `done` has what it depends on, and what comes before it in its own group.
        """
        reference = self._references.get(operation.index)
        if reference is None:
            return operation
        source = done[reference.source]
        url = self._known_url_of(source.operation, source.outcome)
        if url is None:
            name = source.operation.id.rpartition(GROUP_END)[2]
            why = "is too large to be read" if _is_too_large(source.outcome) else "names no URL and no id"
            detail = f"The result of the request {name!r} {why}, so nothing can refer to it."
            return failed(operation, 424, "Unresolved reference", detail, rejected=True)
        return with_changes(operation, path=url + reference.rest)

    def _known_url_of(self, source: Operation, outcome: Outcome) -> str | None:
        """Return the same as `_url_of`, and read each result once, however many requests refer to it."""
        found, url = self._found.get(source.index, (None, None))
        if found is not outcome:
            url = self._url_of(source, outcome)
            self._found[source.index] = outcome, url
        return url

    def _url_of(self, source: Operation, outcome: Outcome) -> str | None:
        """Return the path of what an operation has created or returned, or None if its result does not tell."""
        path = source.path.partition("?")[0]
        if source.method != "POST":
            return path
        if _is_too_large(outcome):
            return None
        result = result_value(outcome.result)
        if not isinstance(result, dict):
            return None
        for name in _LINKS:
            if isinstance(link := result.get(name), str):
                return self._path_of(link)
        key = next((result[name] for name in _KEYS if name in result), None)
        return f"{path}/{quote(str(key), safe='')}" if isinstance(key, str | int) and key != "" else None

    def _path_of(self, link: str) -> str | None:
        try:
            target = read_url(link, self._root)
        except ValueError:
            return None
        return target.path.partition("?")[0] if target.reference is None else None  # what continues it is a path


def _is_too_large(outcome: Outcome) -> bool:
    return size_of(outcome) > MOST_READ_BYTES
