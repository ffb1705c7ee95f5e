"""Reads what operations depend on: finds the ids that they name, and says which operations must stay together.

A batch of a million operations is planned while it is read. So an operation can only depend on those that are near,
and only their ids are kept. Pure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from types import MappingProxyType

from penstock.chunk import Links, Reference, UrlRule
from penstock.documents.pointer import pointer
from penstock.errors import Flaw
from penstock.reading.operation_request import ReferenceRequest

NO_REFERENCES: Mapping[str, ReferenceRequest] = MappingProxyType({})


class LinkReader:
    """The links of a batch. Operations without links take no memory, and no time until the first one has some."""

    def __init__(self, recent_ids: Callable[[int], list[str]], most_apart: int) -> None:
        """Create a reader. `recent_ids` returns the ids of the last operations, as many as it is asked for.

        `most_apart` is the number of neighbours that can be linked.
        """
        self.is_used = False
        self.url_rule: UrlRule | None = None  # of all references
        self._recent_ids = recent_ids
        self._most_apart = most_apart
        self._index_of: dict[str, int] = {}  # of recent ids
        self._group: str | None = None  # the name of the last one
        self._first_of_group = self._last_of_group = -1
        self._reach: dict[int, int] = {}  # the first operation that each linked one is linked with, until it is planned

    def note(self, index: int, operation_id: str) -> None:
        """Note the id of the next operation, once `is_used`."""
        self._index_of[operation_id] = index
        if len(self._index_of) > 3 * self._most_apart:
            self._learn_ids(index + 1)

    def begins_group(self, index: int) -> bool:
        return index == self._first_of_group

    def note_group(self, index: int, name: str) -> bool:
        """Note that an operation is in a group. Return True if the group begins with it."""
        goes_on = self._group is not None and (name, index - 1) == (self._group, self._last_of_group)
        if not goes_on:
            self._group, self._first_of_group = name, index
        self._last_of_group = index
        return not goes_on

    def read(
        self,
        index: int,
        depends_on: Sequence[str],
        references: Mapping[str, ReferenceRequest] = NO_REFERENCES,
        *,
        is_in_group: bool = False,
    ) -> Links | list[Flaw]:
        """Return the links of the operation that was counted last, or its errors.

        It depends on others, or refers to them, or is in the group that was noted last.
        """
        if not self.is_used:
            self.is_used = True
            self._learn_ids(index + 1)
        flaws: list[Flaw] = []
        after: dict[int, None] = {}
        for position, name in enumerate(depends_on):
            found = self._index_of.get(name, -1)
            if (problem := self._problem(index, name, found, after)) is not None:
                flaws.append(Flaw(f"/dependsOn/{position}", problem))
            after[found] = None
        resolved: list[Reference] = []
        for name, one in references.items():
            found = self._index_of.get(one.operation, -1)
            if (problem := self._problem(index, one.operation, found, {})) is not None:
                flaws.append(Flaw(pointer("references", name, "operation"), problem))
            after[found] = None
            resolved.append(Reference(found, name, one.members, self.url_rule))
        if flaws:
            return flaws
        group = self._first_of_group if is_in_group else None
        self._reach[index] = min([*after, index if group is None else group])
        return Links(tuple(after), group, tuple(resolved))

    def runs(self, first: int, end: int) -> Iterator[range]:
        """Yield the operations from `first` up to `end`, those that must stay together as one range.

        Operations between two that are linked stay with them, so that a chunk has neighbours only.
        """
        starts: list[int] = []
        reach = end
        for index in range(end - 1, first - 1, -1):
            reach = min(reach, self._reach.get(index, index))
            if reach >= index or index == first:
                starts.append(index)
        starts.reverse()
        for start, following in pairwise([*starts, end]):
            yield range(start, following)

    def linked_before(self, first: int, end: int) -> range | None:
        """Return the operations from one before `first` to one of these that is linked with it, or None."""
        for index in range(first, end):
            if (reach := self._reach.get(index, index)) < first:
                return range(reach, index + 1)
        return None

    def forget_before(self, index: int) -> None:
        """Forget the links of all operations before this one: they need not be planned any more."""
        for one in list(takewhile(lambda linked: linked < index, self._reach)):
            del self._reach[one]

    def _problem(self, index: int, name: str, found: int, named: dict[int, None]) -> str | None:
        if found == index:
            return "An operation cannot depend on itself."
        if index == 0:
            return "The first operation cannot depend on another one: there is none before it."
        if found < 0 or found <= index - self._most_apart:
            nearest = min(self._most_apart - 1, index)
            return f"No operation with the id {name!r} is among the {nearest:,} before this one."
        return f"The id {name!r} is named twice." if found in named else None

    def _learn_ids(self, end: int) -> None:
        recent = self._recent_ids(self._most_apart)
        self._index_of = {one: index for index, one in enumerate(recent, start=end - len(recent))}
