"""Finds ids and keys that several operations of a file have.

The digests of all groups are compared part by part, so that few of them are in memory. If a digest is there twice, the
groups that have it are read again, and the ids themselves are compared.
"""

import itertools
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.batch import Batch
from penstock.bucket import Bucket, StoredFile
from penstock.consumer.planning.digests import PARTS, digest_with, pack, place_of_parts, unpack
from penstock.consumer.planning.source import FileSource
from penstock.consumer.planning.validation import Turn, digests_name, reader_at
from penstock.documents.pointer import pointer
from penstock.errors import Flaw, UploadReplaced
from penstock.planning import Errors, GroupPlan, PlannedFile
from penstock.reading.flaws import MOST_FLAWS
from penstock.reading.forms import FileForm
from penstock.settings import Settings
from penstock.store import Store

MOST_COMPARED = 200_000  # digests at a time


@dataclass(slots=True)
class _Suspects:
    """Digests that are there twice, and the numbers of the groups that have one."""

    count: int = 0
    digests: set[int] = field(default_factory=set)
    groups: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Packed:
    """The digests of a group, as a file in the bucket, and how many are in each part of it."""

    number: int
    file: StoredFile | None
    sizes: Sequence[int]


class Duplicates:
    def __init__(
        self, batch: Batch, file: PlannedFile, bucket: Bucket, store: Store, settings: Settings, *, turn: Turn
    ) -> None:
        self._batch = batch
        self._file = file
        self._form = FileForm.from_json(file.form)
        self._bucket = bucket
        self._store = store
        self._settings = settings
        self._turn = turn
        self._digest = digest_with(file.hash_key)

    async def find(self, plans: Sequence[GroupPlan]) -> Errors:
        """Return an error for each operation with the id, or the key, of an earlier operation."""
        if not any(plan.digests for plan in plans):
            return Errors()
        suspects = await self._suspects([await self._packed(plan, plans) for plan in plans])
        if not suspects.digests:
            return Errors()
        flaws = [flaw async for flaw in self._compare(plans, suspects)]
        return Errors(max(suspects.count, len(flaws)), flaws=flaws[:MOST_FLAWS]) if flaws else Errors()

    async def _packed(self, plan: GroupPlan, plans: Sequence[GroupPlan]) -> _Packed:
        """Return where the digests of a group are. If its ids are all indexes, write their digests first."""
        name, sizes = plan.digests, plan.parts
        if name is None and not self._form.has_line_ids and any(other.has_own_ids for other in plans):
            indexes = range(plan.first_index, plan.first_index + plan.total)
            content, sizes = pack(self._digest("id", str(index)) for index in indexes)
            name = digests_name(self._batch, plan.number)
            await self._bucket.write(name, content, "application/octet-stream")
        if name is None:
            return _Packed(plan.number, None, ())
        found = await self._bucket.find(name)
        if found is None:
            raise UploadReplaced
        await self._turn(self._file.stored.size, plan.first_index + plan.total)
        return _Packed(plan.number, found, sizes)

    async def _suspects(self, groups: Sequence[_Packed]) -> _Suspects:
        suspects, total = _Suspects(), sum(sum(group.sizes) for group in groups)
        for parts in _ranges(total):
            seen, repeated = set[int](), set[int]()
            digests = {group.number: await self._digests(group, parts) for group in groups}
            for digest in itertools.chain.from_iterable(digests.values()):
                if digest in seen:
                    suspects.count += 1
                    if len(suspects.digests) + len(repeated) < MOST_FLAWS:
                        repeated.add(digest)
                seen.add(digest)
            suspects.groups.update(number for number, found in digests.items() if not repeated.isdisjoint(found))
            suspects.digests |= repeated
            await self._turn(self._file.stored.size, total)
        return suspects

    async def _digests(self, group: _Packed, parts: range) -> "array[int]":
        """Return the digests of a group in these parts."""
        start, size = place_of_parts(group.sizes, parts)
        return unpack(b"" if group.file is None or not size else await self._bucket.read(group.file, start, size))

    async def _compare(self, plans: Sequence[GroupPlan], suspects: _Suspects) -> AsyncIterator[tuple[int, Flaw]]:
        """Read the groups that have a suspect again, and compare the ids themselves."""
        first: dict[tuple[str, str], int] = {}
        source = FileSource(self._bucket, self._file.stored)
        for number in sorted(suspects.groups):
            async for index, line, kind, value in self._values(source, plans[number]):
                if self._digest(kind, value) in suspects.digests:
                    earlier = first.setdefault((kind, value), index)
                    if earlier != index:
                        detail = f"Operation {earlier} has the same {kind} {value!r}. "
                        detail += f"{kind.capitalize()}s must be unique within a batch."
                        yield index, Flaw(pointer("operations", index, kind), detail, line)

    async def _values(self, source: FileSource, plan: GroupPlan) -> AsyncIterator[tuple[int, int, str, str]]:
        """Yield the ids and the keys of a group: the index, the line, the kind and the value."""
        before: GroupPlan | None = None
        if plan.number:
            before = (await self._store.read_plans(self._batch.id, [plan.number - 1]))[plan.number - 1]
        reader = reader_at(self._form, self._settings, before)
        index, end = plan.first_index, plan.first_index + plan.total
        async for piece in source.pieces(reader.at[0]):
            for line, document in reader.feed(piece):
                for kind, value in _values_of(document, index):
                    yield index, line, kind, value
                index += 1
                if index == end:
                    return
            await self._turn(self._file.stored.size, end)
        for line, document in reader.end():
            for kind, value in _values_of(document, index):
                yield index, line, kind, value
            index += 1


def _values_of(document: Any, index: int) -> list[tuple[str, str]]:
    values = [("id", document.get("id") or str(index))]
    return [*values, ("key", document["key"])] if document.get("key") is not None else values


def _ranges(total: int) -> list[range]:
    """Return which parts are compared together."""
    count = 1
    while count < PARTS and total / count > MOST_COMPARED:
        count *= 2
    size = PARTS // count
    return [range(start, start + size) for start in range(0, PARTS, size)]
