"""Unpacks a body piece by piece, so that a little that unpacks to very much never lies in memory as a whole."""

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from backports import zstd

from penstock.errors import MalformedRequest

PIECE_BYTES = 65_536
_GZIP = 16 + zlib.MAX_WBITS
_LARGEST_WINDOW = 23  # 8 MiB, more than which no sender of Content-Encoding: zstd may ask for (RFC 9659)


class _Member(Protocol):
    """One gzip member or zstd frame; a body may be several in a row. What it has not unpacked yet it keeps."""

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


def _zstd_frame() -> _Member:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW})


MEMBERS: dict[str, Callable[[], _Member]] = {"gzip": _GzipMember, "zstd": _zstd_frame}


class Unpacker:
    """`unpack` takes the packed body in pieces; `end` says whether that was all. Both raise MalformedRequest."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._member = MEMBERS[encoding]()

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        """Pieces of at most 64 KiB, each unpacked when it is asked for."""
        while packed:
            if self._member.eof:
                self._member = MEMBERS[self._encoding]()
            yield from self._unpack_member(packed)
            packed = self._member.unused_data

    def end(self) -> None:
        if not self._member.eof:
            raise MalformedRequest(f"The body ends before its {self._encoding} does.")

    def _unpack_member(self, packed: bytes) -> Iterator[bytes]:
        piece = self._decompress(packed)
        while len(piece) == PIECE_BYTES:  # there may be more in it
            yield piece
            piece = self._decompress(b"")
        if piece:
            yield piece

    def _decompress(self, packed: bytes) -> bytes:
        if self._member.eof:  # it ended just where the piece did
            return b""
        try:
            return self._member.decompress(packed, PIECE_BYTES)
        except (zlib.error, zstd.ZstdError) as error:
            raise MalformedRequest(f"The body is not {self._encoding}, or damaged: {error}.") from error
