"""A body is decompressed in pieces of any size. Damage is reported, and a bomb needs no memory."""

import gzip
import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from penstock import zstd
from penstock.errors import MalformedRequest
from penstock.service import decompression
from penstock.service.decompression import BYTES_FOR_A_MEMBER, MEMBERS, MOST_MEMBERS, PIECE_BYTES, Decompressor

Compress = Callable[[bytes], bytes]
COMPRESS: dict[str, Compress] = {"gzip": gzip.compress, "zstd": zstd.compress}
MIB = 1024 * 1024

encodings = pytest.mark.parametrize(("encoding", "compress"), COMPRESS.items(), ids=COMPRESS.keys())


def pieces_of(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def decompress(encoding: str, compressed: bytes, size: int = PIECE_BYTES) -> bytes:
    decompressor = Decompressor(encoding)
    pieces = [piece for part in pieces_of(compressed, size) for piece in decompressor.decompress(part)]
    decompressor.end()
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@encodings
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
def test_body_comes_out_as_it_was(encoding: str, compress: Compress, content: bytes, size: int) -> None:
    assert decompress(encoding, compress(content), size) == content


@encodings
@pytest.mark.parametrize("size", [1, 40, 10_000_000])
def test_several_members_in_a_row_are_one_body(encoding: str, compress: Compress, size: int) -> None:
    parts = [b"first", b"", b"x" * 3 * PIECE_BYTES, b"last"]
    assert decompress(encoding, b"".join(map(compress, parts)), size) == b"".join(parts)


@encodings
def test_body_that_is_cut_short_anywhere_is_malformed(encoding: str, compress: Compress) -> None:
    compressed = compress(random.Random(2).randbytes(300))
    for end in range(len(compressed)):
        with pytest.raises(MalformedRequest, match="incomplete"):
            decompress(encoding, compressed[:end])


@encodings
def test_what_is_not_compressed_or_goes_on_as_something_else_is_malformed(encoding: str, compress: Compress) -> None:
    for content in (b"nothing of the kind", compress(b"compressed") + b"and more"):
        with pytest.raises(MalformedRequest, match="not valid"):
            decompress(encoding, content)


def test_damage_that_the_checksum_tells_is_malformed() -> None:
    compressed = gzip.compress(b"something to keep")
    with pytest.raises(MalformedRequest, match="not valid"):
        decompress("gzip", compressed[:-8] + b"\0\0\0\0" + compressed[-4:])


def test_window_larger_than_the_standard_allows_is_malformed() -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    with pytest.raises(MalformedRequest, match="memory"):
        decompress("zstd", compressor.compress(b"a" * 1000) + compressor.flush())


@encodings
def test_bomb_costs_no_memory(encoding: str, compress: Compress) -> None:
    bomb = compress(bytes(100 * MIB))
    decompressor = Decompressor(encoding)
    tracemalloc.start()
    try:
        total = sum(len(piece) for part in pieces_of(bomb, PIECE_BYTES) for piece in decompressor.decompress(part))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 100 * MIB
    assert peak < MIB


EMPTY_MEMBERS = {
    "gzip": ("gzip", gzip.compress(b"")),
    "zstd": ("zstd", zstd.compress(b"")),
    "zstd skippable frame": ("zstd", b"\x50\x2a\x4d\x18" + bytes(4)),
}


@pytest.mark.parametrize(("encoding", "empty"), EMPTY_MEMBERS.values(), ids=EMPTY_MEMBERS.keys())
def test_number_of_members_is_limited(encoding: str, empty: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = 0
    make = MEMBERS[encoding]

    def count() -> object:
        nonlocal begun
        begun += 1
        return make()

    monkeypatch.setitem(decompression.MEMBERS, encoding, count)
    assert decompress(encoding, empty * MOST_MEMBERS) == b""
    begun = 0
    many = empty * (8 * MOST_MEMBERS)
    with pytest.raises(MalformedRequest, match=r"too many members or frames\. Use fewer"):
        decompress(encoding, many)
    assert begun <= MOST_MEMBERS + len(many) // BYTES_FOR_A_MEMBER


@encodings
def test_many_members_with_content_are_one_body(encoding: str, compress: Compress) -> None:
    block = compress(b"x" * BYTES_FOR_A_MEMBER)
    assert decompress(encoding, block * (3 * MOST_MEMBERS)) == b"x" * (3 * MOST_MEMBERS * BYTES_FOR_A_MEMBER)
