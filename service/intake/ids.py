"""Checks that the ids and the keys of a batch are unique, without keeping a million strings in memory."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from pydantic_core import from_json, to_json

from penstock.service.spool import Spool

PARTS = 64
IDS_IN_LINE = 1_000
MOST_UNDIVIDED = 50_000  # hashes. A set of more would take much memory
HASHES_IN_TURN = 10_000


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Operation `index` has the same id, or the same key, as operation `first`."""

    index: int
    id: str
    first: int


class Ids:
    """The ids of a batch. They are written to a spool, and only eight bytes of each stay in memory.

    The eight bytes are Python's hash. Its key is random in every process, so no client can construct ids with the same
    hash. If two hashes are equal, the ids themselves are compared. The hashes of a larger batch are divided into parts,
    which are checked one by one.
    """

    def __init__(self) -> None:
        self.has_own = False  # True if the client gave at least one id that is not the index of its operation
        self._written = 0  # ids
        self._undivided = array("q")  # those that are not in a part yet
        self._parts = [array("q") for _ in range(PARTS)]
        self._line: list[str] = []
        self._before: list[str] = []  # the last ones that were written
        self._spool = Spool()

    def add(self, operation_id: str) -> None:
        """Add the id of the next operation. An operation without one has its index as its id."""
        self.has_own = self.has_own or operation_id != str(self._written + len(self._line))
        self._line.append(operation_id)
        if len(self._line) >= IDS_IN_LINE:
            self._write_line()

    def extend(self, ids: Sequence[str]) -> None:
        """Add the ids of the next operations. This takes less time than to add them one by one."""
        if not self.has_own:
            first = self._written + len(self._line)
            self.has_own = list(ids) != list(map(str, range(first, first + len(ids))))
        self._line.extend(ids)
        if len(self._line) >= IDS_IN_LINE:
            self._write_line()

    def recent(self, most: int) -> list[str]:
        """Return the ids of the last operations, up to `most` of them, which is at most IDS_IN_LINE."""
        return [*self._before, *self._line][-most:]

    def __iter__(self) -> Iterator[str]:
        """Yield all ids in the order of the operations."""
        return chain.from_iterable(self._lines())

    async def duplicates(self, most: int) -> tuple[int, list[Duplicate]]:
        """Return how many operations have the id of an earlier operation, and up to `most` of these."""
        self._write_line()
        count, suspects = await self._suspects(most) if self.has_own else (0, set[int]())
        named: list[Duplicate] = []
        if suspects:
            async for one in self._find(suspects):
                named.append(one)
                if len(named) == most:
                    break
        return (count, named) if named else (0, [])

    def count_repeated(self) -> int:
        """Return how many operations have the id of an earlier operation. This takes no longer than a set of all."""
        self._write_line()
        return sum(map(_count_repeated, self._filled_parts)) if self.has_own else 0

    def close(self) -> None:
        self._spool.close()

    @property
    def _filled_parts(self) -> "list[array[int]]":
        return [self._undivided] if self._undivided else self._parts

    async def _suspects(self, most: int) -> tuple[int, set[int]]:
        """Count the digests that occur again, and return up to `most` of them."""
        count, suspects = 0, set[int]()
        for part in self._filled_parts:
            known = set[int]()
            for start in range(0, len(part), HASHES_IN_TURN):
                known.update(part[start : start + HASHES_IN_TURN])
                await asyncio.sleep(0)  # let other requests run
            repeated = len(part) - len(known)
            if repeated and len(suspects) < most:
                suspects |= _repeated(part, most - len(suspects))
            count += repeated
        return count, suspects

    async def _find(self, suspects: set[int]) -> AsyncIterator[Duplicate]:
        first: dict[str, int] = {}
        index = 0
        for line in self._lines():
            for operation_id in line:
                if hash(operation_id) in suspects and first.setdefault(operation_id, index) != index:
                    yield Duplicate(index, operation_id, first[operation_id])
                index += 1
            await asyncio.sleep(0)

    def _lines(self) -> Iterator[list[str]]:
        self._write_line()
        for line in self._spool:
            yield from_json(line)

    def _write_line(self) -> None:
        if not self._line:
            return
        self._written += len(self._line)
        self._undivided.extend(map(hash, self._line))
        if self.has_own and self._written > MOST_UNDIVIDED:
            self._divide()
        self._spool.write(to_json(self._line))
        self._before = self.recent(IDS_IN_LINE)
        self._line = []

    def _divide(self) -> None:
        for digest in self._undivided:
            self._parts[digest % PARTS].append(digest)
        del self._undivided[:]


class Keys:
    """The keys of a batch. Operations without a key take no memory."""

    def __init__(self) -> None:
        self._keys: Ids | None = None  # the key of each operation that has one
        self._indexes = array("I")  # of these operations

    def add(self, index: int, key: str) -> None:
        """Add the key of an operation."""
        if self._keys is None:
            self._keys = Ids()
        self._keys.add(key)
        self._indexes.append(index)

    async def duplicates(self, most: int) -> tuple[int, list[Duplicate]]:
        """Return how many operations have the key of an earlier operation, and up to `most` of these."""
        if self._keys is None:
            return 0, []
        count, found = await self._keys.duplicates(most)
        return count, [Duplicate(self._indexes[one.index], one.id, self._indexes[one.first]) for one in found]

    def count_repeated(self) -> int:
        """Return how many operations have the key of an earlier operation."""
        return 0 if self._keys is None else self._keys.count_repeated()

    def close(self) -> None:
        if self._keys is not None:
            self._keys.close()


def _count_repeated(part: "array[int]") -> int:
    return len(part) - len(set(part))


def _repeated(digests: Iterable[int], most: int) -> set[int]:
    seen, repeated = set[int](), set[int]()
    for digest in digests:
        if digest in seen:
            repeated.add(digest)
            if len(repeated) == most:
                break
        seen.add(digest)
    return repeated
