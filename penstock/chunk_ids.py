"""A compact set of chunk ids: a group has counted these chunks. Pure.

A chunk can be followed by thousands of others, and each of them is counted once. So the set keeps no list of ids, but
ranges: `17.0.1.203`, `17.0.2.203` and `17.0.3.203` are the range 1 to 3 of `17` and `203`. Nothing is forgotten.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any, Self

from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.chunk import Hop, hop_of

_Chain = tuple[str, int]  # the part of a follow-up's id before the number of hops, and the part after it
_Range = tuple[int, int]  # the first and the last number of hops


class ChunkIds(AbstractSet[str]):
    """An immutable set of chunk ids. It equals every set that has the same members."""

    __slots__ = ("_others", "_ranges")

    def __init__(self, ids: Iterable[str] = (), ranges: Mapping[_Chain, tuple[_Range, ...]] | None = None) -> None:
        others: set[str] = set()
        added: dict[_Chain, set[int]] = {}
        for chunk_id in ids:
            hop = hop_of(chunk_id)
            if hop is None:
                others.add(chunk_id)
            else:
                added.setdefault((hop.origin, hop.first_index), set()).add(hop.number)
        self._others = frozenset(others)
        self._ranges = dict(ranges or {})
        for name, numbers in added.items():
            self._ranges[name] = _joined([*self._ranges.get(name, ()), *((number, number) for number in numbers)])

    def __contains__(self, chunk_id: object) -> bool:
        if not isinstance(chunk_id, str):
            return False
        hop = hop_of(chunk_id)
        if hop is None:
            return chunk_id in self._others
        ranges = self._ranges.get((hop.origin, hop.first_index), ())
        return any(first <= hop.number <= last for first, last in ranges)

    def __iter__(self) -> Iterator[str]:
        yield from self._others
        for (origin, first_index), ranges in self._ranges.items():
            for number in chain.from_iterable(range(first, last + 1) for first, last in ranges):
                yield str(Hop(origin, number, first_index))

    def __len__(self) -> int:
        in_ranges = sum(last - first + 1 for ranges in self._ranges.values() for first, last in ranges)
        return len(self._others) + in_ranges

    def __repr__(self) -> str:
        return f"ChunkIds({sorted(self._others)}, {self._ranges})"

    def including(self, ids: Iterable[str]) -> Self:
        """Return the set that also has these ids."""
        return type(self)([*self._others, *ids], self._ranges)

    def encode(self) -> bytes:
        ranges = [
            [origin, first_index, *chain(*found)] for (origin, first_index), found in sorted(self._ranges.items())
        ]
        return zstd.compress(to_json({"ids": sorted(self._others), "ranges": ranges}))

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        content: dict[str, Any] = from_json(zstd.decompress(encoded))
        ranges = {
            (origin, first_index): tuple(zip(ends[::2], ends[1::2], strict=True))
            for origin, first_index, *ends in content["ranges"]
        }
        return cls(content["ids"], ranges)


def _joined(ranges: list[_Range]) -> tuple[_Range, ...]:
    """Join ranges that overlap or are next to each other."""
    joined: list[_Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((first, last))
    return tuple(joined)
