"""Keeps the operations of a batch until the server has them: compressed, in a temporary file if they are many.

So an iterable is read once, a request can be sent again, and memory stays bounded. The whole input is read before
anything is sent: an error in its last line submits nothing, and a slow input does not keep a request waiting.
"""

import zlib
from collections.abc import AsyncIterator, Iterator
from tempfile import SpooledTemporaryFile

from penstock.client.closing import Closing

_IN_MEMORY_BYTES = 1024 * 1024
PIECE_BYTES = 256 * 1024
GZIP = 31  # what zlib calls a gzip header with the largest window


class Spool(Closing):
    """Bytes, compressed with gzip. Write them, then read them as often as needed. Use it with `with`."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - `close` closes it
        self._compress = zlib.compressobj(1, wbits=GZIP)
        self.written_bytes = 0

    def close(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self.written_bytes += len(data)
        self._file.write(self._compress.compress(data))

    def finish(self) -> None:
        """End the writing."""
        self._file.write(self._compress.flush())

    async def compressed(self) -> AsyncIterator[bytes]:
        """Yield everything from the start, compressed."""
        for piece in self._pieces():
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        offset = 0  # several readers may be active, so each knows where it is
        while True:
            self._file.seek(offset)
            piece = self._file.read(PIECE_BYTES)
            if not piece:
                return
            offset += len(piece)
            yield piece

    def pieces(self) -> Iterator[bytes]:
        """Yield everything from the start."""
        decompress = zlib.decompressobj(wbits=GZIP)
        for compressed in self._pieces():
            rest = compressed
            while rest:
                yield decompress.decompress(rest, PIECE_BYTES)
                rest = decompress.unconsumed_tail
        yield decompress.flush()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines from the start, with their line ends."""
        rest = b""
        for piece in self.pieces():
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            for line in lines:
                yield line + b"\n"
        if rest:
            yield rest
