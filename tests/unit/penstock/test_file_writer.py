from typing import Any

import pytest

from penstock.errors import Unavailable
from penstock.file_writer import FileWriter
from penstock.testing import MemoryBucket

KEY = "files/one"


class CountingBucket(MemoryBucket):
    """Counts the parts, and fails at the part with the number `fails_at`."""

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__()
        self.parts: list[int] = []
        self._fails_at = fails_at

    async def write_part(self, key: str, parts_id: str, number: int, content: bytes) -> str:
        if number == self._fails_at:
            raise Unavailable("down")
        self.parts.append(len(content))
        return await super().write_part(key, parts_id, number, content)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.file_writer.PART_BYTES", 4)


async def write(bucket: Any, *pieces: bytes) -> FileWriter:
    async with FileWriter(bucket, KEY, "text/plain") as file:
        for piece in pieces:
            await file.write(piece)
    return file


@pytest.mark.parametrize(
    ("pieces", "parts"),
    [
        ([], []),
        ([b"abcd"], []),  # one part needs one call
        ([b"abcde"], [4, 1]),
        ([b"a", b"bcdefghijkl", b"m"], [4, 4, 4, 1]),
    ],
)
async def test_a_file_has_what_was_written(pieces: list[bytes], parts: list[int]) -> None:
    bucket = CountingBucket()
    file = await write(bucket, *pieces)
    assert bucket.contents == {KEY: b"".join(pieces)}
    assert (bucket.parts, file.size) == (parts, len(b"".join(pieces)))


async def test_a_file_has_a_digest_of_its_whole_content() -> None:
    file = await write(MemoryBucket(), b"ab", b"c")
    assert file.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


async def test_a_file_that_fails_does_not_appear_and_leaves_no_parts() -> None:
    bucket = CountingBucket(fails_at=2)
    with pytest.raises(Unavailable):
        await write(bucket, b"abcdefghijkl")
    assert bucket.contents == {}
    assert bucket._parts == {}


async def test_a_block_that_raises_writes_no_file() -> None:
    bucket = MemoryBucket()

    async def fail() -> None:
        async with FileWriter(bucket, KEY, "text/plain") as file:
            await file.write(b"abc")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert bucket.contents == {}
