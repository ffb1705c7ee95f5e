"""Writes the digests of a group to the bucket, with pauses in which other tasks of the program run.

A group may have hundreds of thousands of operations. Without the pauses, the heartbeats of other chunks would be late.
The longest time without one is 0.1 s: a part is sorted that has all digests, because 640,000 operations have one id.
"""

from collections.abc import Awaitable, Callable, Iterable

from penstock.bucket import Bucket
from penstock.consumer.planning.digests import BYTES, Packing

DIGESTS_IN_TURN = 1_000  # then other tasks of the program run

Pause = Callable[[], Awaitable[None]]


async def add_digests(packing: Packing, digests: Iterable[int], pause: Pause) -> None:
    """Add digests, which are computed one after the other."""
    for number, digest in enumerate(digests, 1):
        packing.add(digest)
        if number % DIGESTS_IN_TURN == 0:
            await pause()


async def write_digests(bucket: Bucket, name: str, packing: Packing, pause: Pause) -> tuple[int, ...]:
    """Write a file of digests. Return how many are in each part of it."""
    parts: list[bytes] = []
    for part in packing.packed():
        parts.append(part)
        await pause()
    await bucket.write(name, b"".join(parts), "application/octet-stream")
    return tuple(len(part) // BYTES for part in parts)
