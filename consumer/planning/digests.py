"""Digests of the ids and the keys of a file: eight bytes each, so that those of millions can be compared. Pure.

A digest depends on a key that is random for each batch. So no client can construct ids with the same digest, and any
program that goes on with the batch computes the same. Those of a group are sorted, and divided into parts by their
first bits. So the same part of all groups can be compared without the others.
"""

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b

BYTES = 8
PART_BITS = 6
PARTS = 2**PART_BITS
MOST_EQUAL = 2  # of equal digests in a file: two show that there are several


def digest_with(hash_key: str) -> Callable[[str, str], int]:
    """Return the function that computes the digest of a value of some kind: an `id` or a `key`."""
    seed = blake2b(key=hash_key.encode(), digest_size=BYTES)

    def digest(kind: str, value: str) -> int:
        hashing = seed.copy()
        hashing.update(f"{kind}:{value}".encode("utf-8", "surrogatepass"))
        return int.from_bytes(hashing.digest(), "big")

    return digest


class Packing:
    """Digests that become a file. Of those that are equal, the file has two, however many operations have one id."""

    def __init__(self) -> None:
        self._parts = [array("Q") for _ in range(PARTS)]

    def __bool__(self) -> bool:
        return any(self._parts)

    def add(self, digest: int) -> None:
        self._parts[part_of(digest)].append(digest)

    def packed(self) -> Iterator[bytes]:
        """Yield the parts of the file one after the other. Other tasks may run between two of them."""
        for part in self._parts:
            ordered = sorted(part)
            kept = (
                digest
                for place, digest in enumerate(ordered)
                if place < MOST_EQUAL or ordered[place - MOST_EQUAL] != digest
            )
            digests = array("Q", kept)
            if sys.byteorder == "big":
                digests.byteswap()
            yield digests.tobytes()


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
