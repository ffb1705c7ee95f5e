"""Unpacking: whatever the pieces, the body comes out as it was; damage is told; a bomb costs no memory."""

import gzip
import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from backports import zstd

from penstock.errors import MalformedRequest
from penstock.service.unpacking import PIECE_BYTES, Unpacker

Pack = Callable[[bytes], bytes]
PACKS: dict[str, Pack] = {"gzip": gzip.compress, "zstd": zstd.compress}
MIB = 1024 * 1024

packs = pytest.mark.parametrize(("encoding", "pack"), PACKS.items(), ids=PACKS.keys())


def pieces_of(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def unpack(encoding: str, packed: bytes, size: int = PIECE_BYTES) -> bytes:
    unpacker = Unpacker(encoding)
    unpacked = [piece for part in pieces_of(packed, size) for piece in unpacker.unpack(part)]
    unpacker.end()
    assert all(0 < len(piece) <= PIECE_BYTES for piece in unpacked)
    return b"".join(unpacked)


@packs
@pytest.mark.parametrize("size", [1, 7, 1000, 10_000_000])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a",
        b" " * PIECE_BYTES,
        b" " * (3 * PIECE_BYTES),
        b" " * (3 * PIECE_BYTES + 1),
        random.Random(1).randbytes(PIECE_BYTES + 3),
    ],
    ids=["nothing", "a byte", "a piece", "pieces", "pieces and a byte", "noise"],
)
def test_body_comes_out_as_it_was(encoding: str, pack: Pack, content: bytes, size: int) -> None:
    assert unpack(encoding, pack(content), size) == content


@packs
@pytest.mark.parametrize("size", [1, 40, 10_000_000])
def test_several_members_in_a_row_are_one_body(encoding: str, pack: Pack, size: int) -> None:
    parts = [b"first", b"", b"x" * 3 * PIECE_BYTES, b"last"]
    assert unpack(encoding, b"".join(map(pack, parts)), size) == b"".join(parts)


@packs
def test_body_that_is_cut_short_anywhere_is_malformed(encoding: str, pack: Pack) -> None:
    packed = pack(random.Random(2).randbytes(300))
    for end in range(len(packed)):
        with pytest.raises(MalformedRequest, match="ends before"):
            unpack(encoding, packed[:end])


@packs
def test_what_is_not_packed_or_goes_on_as_something_else_is_malformed(encoding: str, pack: Pack) -> None:
    for content in (b"nothing of the kind", pack(b"packed") + b"and more"):
        with pytest.raises(MalformedRequest, match="damaged"):
            unpack(encoding, content)


def test_damage_that_the_checksum_tells_is_malformed() -> None:
    packed = gzip.compress(b"something to keep")
    with pytest.raises(MalformedRequest, match="damaged"):
        unpack("gzip", packed[:-8] + b"\0\0\0\0" + packed[-4:])


def test_window_larger_than_the_standard_allows_is_malformed() -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    with pytest.raises(MalformedRequest, match="memory"):
        unpack("zstd", compressor.compress(b"a" * 1000) + compressor.flush())


@packs
def test_bomb_costs_no_memory(encoding: str, pack: Pack) -> None:
    bomb = pack(bytes(100 * MIB))
    unpacker = Unpacker(encoding)
    tracemalloc.start()
    try:
        total = sum(len(piece) for part in pieces_of(bomb, PIECE_BYTES) for piece in unpacker.unpack(part))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 100 * MIB
    assert peak < MIB
