"""Digests of the ids and the keys of a file: eight bytes each, so that those of millions can be compared. Pure.

A digest depends on a key that is random for each batch. So no client can construct ids with the same digest, and any
program that goes on with the batch computes the same. Those of a group are sorted, and divided into parts by their
first bits. So the same part of all groups can be compared without the others.
"""

import itertools
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

BYTES = 8
PART_BITS = 6
PARTS = 2**PART_BITS
_ENDS = [part << (8 * BYTES - PART_BITS) for part in range(1, PARTS)]


def digest_with(hash_key: str) -> Callable[[str, str], int]:
    """Return the function that computes the digest of a value of some kind: an `id` or a `key`."""
    seed = blake2b(key=hash_key.encode(), digest_size=BYTES)

    def digest(kind: str, value: str) -> int:
        hashing = seed.copy()
        hashing.update(f"{kind}:{value}".encode("utf-8", "surrogatepass"))
        return int.from_bytes(hashing.digest(), "big")

    return digest


def pack(digests: Iterable[int]) -> tuple[bytes, tuple[int, ...]]:
    """Return sorted digests as bytes, and how many are in each part."""
    ordered = sorted(digests)
    places = [0, *(bisect_left(ordered, end) for end in _ENDS), len(ordered)]
    sizes = tuple(end - start for start, end in itertools.pairwise(places))
    packed = array("Q", ordered)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes(), sizes


def unpack(content: bytes) -> "array[int]":
    digests = array("Q")
    digests.frombytes(content)
    if sys.byteorder == "big":
        digests.byteswap()
    return digests


def part_of(digest: int) -> int:
    return digest >> (8 * BYTES - PART_BITS)


def place_of_parts(sizes: Sequence[int], parts: range) -> tuple[int, int]:
    """Return the first byte of neighbouring parts in the packed digests, and the number of their bytes."""
    return BYTES * sum(sizes[: parts.start]), BYTES * sum(sizes[parts.start : parts.stop])
