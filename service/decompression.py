"""Decompresses a body piece by piece, so that a small body never fills the memory with what it decompresses to."""

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from penstock import zstd
from penstock.errors import MalformedRequest

PIECE_BYTES = 65_536
MOST_MEMBERS = 1_000  # of a small body. A member costs time even if it is empty, and an empty one takes 8 bytes
BYTES_FOR_A_MEMBER = 1_024  # a large body may have one more member for each of these bytes, in or out
_GZIP = 16 + zlib.MAX_WBITS


class _Member(Protocol):
    """A gzip member or a zstd frame. It keeps the input that it has not decompressed yet."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(_GZIP)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


MEMORY_BYTES = {"gzip": 65_536, "zstd": zstd.LARGEST_WINDOW_BYTES + 2**20}  # the most that a decompressor needs
MEMBERS: dict[str, Callable[[], _Member]] = {"gzip": _GzipMember, "zstd": zstd.content_decompressor}


class Decompressor:
    """Decompresses one body, which may consist of several members. Both methods raise MalformedRequest."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._member = MEMBERS[encoding]()
        self._members = 1
        self._bytes = 0  # before and after decompression

    def decompress(self, compressed: bytes) -> Iterator[bytes]:
        """Yield pieces of at most 64 KiB. Each piece is decompressed when it is asked for."""
        self._bytes += len(compressed)
        while compressed:
            if self._member.eof:
                self._begin_member()
            yield from self._decompress_member(compressed)
            compressed = self._member.unused_data

    def end(self) -> None:
        """Check that the body was complete."""
        if not self._member.eof:
            raise MalformedRequest(f"The {self._encoding} body is incomplete.")

    def _begin_member(self) -> None:
        if self._members >= MOST_MEMBERS + self._bytes // BYTES_FOR_A_MEMBER:
            raise MalformedRequest(f"The {self._encoding} body has too many members or frames. Use fewer, larger ones.")
        self._members += 1
        self._member = MEMBERS[self._encoding]()

    def _decompress_member(self, compressed: bytes) -> Iterator[bytes]:
        piece = self._next_piece(compressed)
        while len(piece) == PIECE_BYTES:  # there may be more in the input
            yield piece
            piece = self._next_piece(b"")
        if piece:
            yield piece

    def _next_piece(self, compressed: bytes) -> bytes:
        if self._member.eof:  # the member ended exactly at the end of the last piece
            return b""
        try:
            piece = self._member.decompress(compressed, PIECE_BYTES)
        except (zlib.error, zstd.ZstdError) as error:
            raise MalformedRequest(f"The body is not valid {self._encoding}: {error}.") from error
        self._bytes += len(piece)
        return piece
