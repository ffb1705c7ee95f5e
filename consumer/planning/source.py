"""Reads an uploaded file from any place on."""

from collections.abc import AsyncIterator

from penstock.bucket import PIECE_BYTES, Bucket, StoredFile
from penstock.errors import UploadReplaced

READ_BYTES = 65_536  # other tasks of the program run between two of these


class FileSource:
    """A file in the bucket. The piece that was read last stays in memory, because the next group starts in it."""

    def __init__(self, bucket: Bucket, file: StoredFile) -> None:
        self.file = file
        self._bucket = bucket
        self._start = 0
        self._content = b""

    async def pieces(self, start: int) -> AsyncIterator[bytes]:
        """Yield the file from byte `start` on. Raises UploadReplaced if it is replaced or deleted."""
        while start < self.file.size:
            if not self._start <= start < self._start + len(self._content):
                await self._load(start)
            offset = start - self._start
            piece = self._content[offset : offset + READ_BYTES]
            start += len(piece)
            yield piece

    async def _load(self, start: int) -> None:
        self._content = await self._bucket.read(self.file, start, min(PIECE_BYTES, self.file.size - start))
        self._start = start
        if not self._content:
            raise UploadReplaced
