"""Finds ids and keys that several operations of a file have.

The digests of all groups are compared part by part, so that few of them are in memory. If a digest is there twice, the
groups that have it are read again, and the ids themselves are compared.
"""

import asyncio
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from penstock.batch import Batch
from penstock.bucket import Bucket, StoredFile
from penstock.consumer.planning.digest_files import Pause, add_digests, write_digests
from penstock.consumer.planning.digests import PARTS, Packing, digest_with, place_of_parts, unpack
from penstock.consumer.planning.source import FileSource
from penstock.consumer.planning.validation import Turn, digests_name, index_digests, reader_at
from penstock.documents.pointer import pointer
from penstock.errors import Flaw, UploadReplaced
from penstock.planning import Errors, GroupPlan, PlannedFile
from penstock.reading.flaws import MOST_FLAWS
from penstock.reading.forms import FileForm
from penstock.settings import Settings
from penstock.store import Store

MOST_COMPARED = 200_000  # digests at a time
COMPARED_IN_TURN = 10_000  # then other tasks of the program run
READS_AT_ONCE = 16  # of files with digests


@dataclass(slots=True)
class _Suspects:
    """Digests that are there twice, and the numbers of the groups that have one.

    `count` is how many operations have a digest of an earlier one, at least: a file has equal ones only twice.
    """

    count: int = 0
    digests: set[int] = field(default_factory=set)
    groups: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Packed:
    """Digests of a group, as a file in the bucket, and how many are in each part of it.

    They are those of the ids and keys that its operations have, or of the indexes of operations without ids.
    """

    plan: GroupPlan
    name: str
    sizes: Sequence[int]
    is_of_indexes: bool = False


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
        self._source = FileSource(bucket, file.stored)
        self._found: dict[str, StoredFile] = {}  # files with digests, by their names

    async def find(self, plans: Sequence[GroupPlan]) -> Errors:
        """Return an error for each operation with the id, or the key, of an earlier operation.

        With very many, the rest of the file is not read again.
        """
        if not any(plan.digests for plan in plans):
            return Errors()
        pause = partial(self._turn, self._file.stored.size, sum(plan.total for plan in plans))
        suspects = await self._suspects(await self._files(plans, pause), pause)
        if not suspects.digests:
            return Errors()
        flaws: list[tuple[int, Flaw]] = []
        async with aclosing(self._compare(plans, suspects, pause)) as found:
            async for flaw in found:
                flaws.append(flaw)
                if len(flaws) == MOST_FLAWS:
                    return Errors(max(suspects.count, len(flaws)), is_complete=False, flaws=flaws)
        return Errors(len(flaws), flaws=flaws) if flaws else Errors()

    async def _files(self, plans: Sequence[GroupPlan], pause: Pause) -> list[_Packed]:
        """Return the digests of all groups.

        If any operation has its own id, those of the groups without own ids are written, too: their ids are indexes.
        """
        files = [_Packed(plan, plan.digests, plan.parts) for plan in plans if plan.digests]
        if self._form.has_line_ids or not any(plan.has_own_ids for plan in plans):
            return files
        for plan in plans:
            if plan.total and not plan.has_own_ids:
                name = digests_name(self._batch, plan.number)
                sizes = await self._write(plan, name, pause, is_of_indexes=True)
                files.append(_Packed(plan, name, sizes, is_of_indexes=True))
        return files

    async def _write(self, plan: GroupPlan, name: str, pause: Pause, *, is_of_indexes: bool) -> tuple[int, ...]:
        """Write the digests of a group. Whoever does this for a plan writes the same."""
        packing = Packing()
        if is_of_indexes:
            indexes = range(plan.first_index, plan.first_index + plan.total)
            await add_digests(packing, index_digests(self._digest, indexes), pause)
        else:
            has_ids = plan.has_own_ids and not self._form.has_line_ids
            async with aclosing(self._values(plan, pause)) as values:
                async for _, _, kind, value in values:
                    if kind == "key" or has_ids:
                        packing.add(self._digest(kind, value))
        return await write_digests(self._bucket, name, packing, pause)

    async def _suspects(self, files: Sequence[_Packed], pause: Pause) -> _Suspects:
        suspects = _Suspects()
        for parts in _ranges(sum(sum(file.sizes) for file in files)):
            digests = await self._digests(files, parts, pause)
            seen, repeated, compared = set[int](), set[int](), 0
            for found in digests:
                for digest in found:
                    if digest in seen:
                        suspects.count += 1
                        if len(suspects.digests) + len(repeated) < MOST_FLAWS:
                            repeated.add(digest)
                    seen.add(digest)
                    compared += 1
                    if compared % COMPARED_IN_TURN == 0:
                        await pause()
            if repeated:
                suspects.digests |= repeated
                suspects.groups.update(
                    file.plan.number
                    for file, found in zip(files, digests, strict=True)
                    if not repeated.isdisjoint(found)
                )
        return suspects

    async def _digests(self, files: Sequence[_Packed], parts: range, pause: Pause) -> list["array[int]"]:
        """Return the digests of each file in these parts. Write a file again that was deleted."""
        digests: list[array[int]] = []
        for first in range(0, len(files), READS_AT_ONCE):
            some = files[first : first + READS_AT_ONCE]
            for file, read in zip(some, await asyncio.gather(*(self._read(one, parts) for one in some)), strict=True):
                found = read
                while found is None:
                    await self._write(file.plan, file.name, pause, is_of_indexes=file.is_of_indexes)
                    found = await self._read(file, parts)
                digests.append(found)
            await pause()
        return digests

    async def _read(self, file: _Packed, parts: range) -> "array[int] | None":
        """Return the digests of a file in these parts, or None if the bucket does not have the file any more."""
        start, size = place_of_parts(file.sizes, parts)
        if not size:
            return array("Q")
        stored = self._found.pop(file.name, None) or await self._bucket.find(file.name)
        if stored is None:
            return None
        try:
            content = await self._bucket.read(stored, start, size)
        except UploadReplaced:
            return None
        self._found[file.name] = stored
        return unpack(content)

    async def _compare(
        self, plans: Sequence[GroupPlan], suspects: _Suspects, pause: Pause
    ) -> AsyncGenerator[tuple[int, Flaw], None]:
        """Read the groups that have a suspect again, and compare the ids themselves."""
        first: dict[tuple[str, str], int] = {}
        for number in sorted(suspects.groups):
            async with aclosing(self._values(plans[number], pause)) as values:
                async for index, line, kind, value in values:
                    if self._digest(kind, value) in suspects.digests:
                        earlier = first.setdefault((kind, value), index)
                        if earlier != index:
                            yield index, self._flaw(index, line, kind, value, earlier)

    @staticmethod
    def _flaw(index: int, line: int, kind: str, value: str, earlier: int) -> Flaw:
        detail = f"Operation {earlier} has the same {kind} {value!r}. "
        detail += f"{kind.capitalize()}s must be unique within a batch."
        return Flaw(pointer("operations", index, kind), detail, line)

    async def _values(self, plan: GroupPlan, pause: Pause) -> AsyncGenerator[tuple[int, int, str, str], None]:
        """Yield the ids and the keys of a group: the index, the line, the kind and the value."""
        before: GroupPlan | None = None
        if plan.number:
            before = (await self._store.read_plans(self._batch.id, [plan.number - 1]))[plan.number - 1]
        reader = reader_at(self._form, self._settings, before)
        index, end = plan.first_index, plan.first_index + plan.total
        async for piece in self._source.pieces(reader.at[0]):
            for line, document in reader.feed(piece):
                for kind, value in _values_of(document, index):
                    yield index, line, kind, value
                index += 1
                if index == end:
                    return
            await pause()
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
