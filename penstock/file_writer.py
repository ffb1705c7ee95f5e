"""Writes a file of any size to the bucket, with one part of it in memory."""

import hashlib
from contextlib import suppress
from types import TracebackType
from typing import Self

from penstock.bucket import Bucket
from penstock.errors import PenstockError

PART_BYTES = 8 * 1024 * 1024  # S3 accepts 10,000 parts, so a file may have 80 GB


class FileWriter:
    """Writes a file. It appears as a whole, when it is closed or when its block ends without an error.

    If the block raises, nothing appears. If the process dies, the bucket deletes the parts after a day. A file that is
    smaller than one part takes one call. `size` and `sha256` describe what was written so far.
    """

    def __init__(self, bucket: Bucket, key: str, content_type: str) -> None:
        self.size = 0
        self._bucket = bucket
        self._key = key
        self._content_type = content_type
        self._digest = hashlib.sha256()
        self._waiting = bytearray()
        self._parts_id: str | None = None
        self._etags: list[str] = []

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def __aenter__(self) -> Self:
        return self

    async def write(self, content: bytes) -> None:
        """Add to the file. It may wait until a part is written. Raises Unavailable if the bucket does not answer."""
        self.size += len(content)
        self._digest.update(content)
        self._waiting += content
        while len(self._waiting) > PART_BYTES:
            await self._write_part(PART_BYTES)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.drop()

    async def close(self) -> None:
        """Let the file appear. If that fails, nothing appears."""
        try:
            await self._finish()
        finally:
            await self.drop()

    async def drop(self) -> None:
        """Delete the parts that are not in a file. If that fails, the bucket deletes them after a day."""
        if self._parts_id is not None:
            with suppress(PenstockError):
                await self._bucket.drop_parts(self._key, self._parts_id)

    async def _finish(self) -> None:
        if self._parts_id is None:
            await self._bucket.write(self._key, bytes(self._waiting), self._content_type)
            return
        await self._write_part(len(self._waiting))
        await self._bucket.finish_parts(self._key, self._parts_id, self._etags)
        self._parts_id = None

    async def _write_part(self, count: int) -> None:
        if self._parts_id is None:
            self._parts_id = await self._bucket.begin_parts(self._key, self._content_type)
        with memoryview(self._waiting) as waiting:
            part = bytes(waiting[:count])
        del self._waiting[:count]
        self._etags.append(await self._bucket.write_part(self._key, self._parts_id, len(self._etags) + 1, part))
