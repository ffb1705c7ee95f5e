"""The files of an export: outcomes as NDJSON or CSV, perhaps compressed, in parts of a limited size."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.bucket import Bucket
from penstock.export import ExportPart
from penstock.file_writer import FileWriter
from penstock.files.csv_table import CsvTable
from penstock.service.batches.csv_results import FIRST, PREFIX, row_of
from penstock.service.batches.families import WINDOW_BYTES, WINDOW_OUTCOMES, Window
from penstock.service.batches.results import Cursor
from penstock.service.content import CSV, NDJSON

PART_BYTES = 128_000_000  # of the rows in a file, before compression
TYPES = {"ndjson": NDJSON, "csv": CSV}
GZIP = "gzip"
_GZIP_BITS = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Lines:
    """Outcomes that follow each other, as lines of JSON, and the position after them."""

    lines: list[bytes]
    cursor: Cursor
    memory_bytes: int


async def lines_of(windows: AsyncIterator[tuple[int, Window]]) -> AsyncIterator[Lines]:
    """Join small windows: a window has outcomes of one planned chunk only, which may be few."""
    lines: list[bytes] = []
    size, joined = 0, None
    async for chunk, window in windows:
        lines += window.lines
        size += sum(map(len, window.lines))
        joined = Lines(lines, Cursor(chunk, window.indexes[-1]), window.memory_bytes + 2 * size)
        if len(lines) >= WINDOW_OUTCOMES or size >= WINDOW_BYTES:
            yield joined
            lines, size, joined = [], 0, None
    if joined is not None:
        yield joined


class Form(Protocol):
    """How outcomes are written."""

    def header(self) -> bytes: ...

    def rows(self, lines: Sequence[bytes]) -> bytes: ...


class NdjsonForm:
    def header(self) -> bytes:
        return b""

    def rows(self, lines: Sequence[bytes]) -> bytes:
        return b"\n".join([*lines, b""])


class CsvForm:
    def __init__(self, columns: Sequence[str], *, has_more: bool) -> None:
        self._table = CsvTable(FIRST, members=columns, has_more=has_more, prefix=PREFIX)

    def header(self) -> bytes:
        return self._table.start((), is_all=True).encode()

    def rows(self, lines: Sequence[bytes]) -> bytes:
        return "".join(self._table.lines(map(row_of, lines))).encode()


class PartWriter:
    """Writes one part. Its block ends with the file, or without it if it raises."""

    def __init__(self, bucket: Bucket, key: str, form: Form, kind: str, compression: str | None) -> None:
        self.rows = 0
        self._key = key
        self._form = form
        self._size = 0
        self._file = FileWriter(bucket, key, "application/gzip" if compression else kind)
        self._gzip = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_BITS) if compression else None

    async def start(self) -> None:
        await self._write(self._form.header())

    async def write(self, lines: Sequence[bytes]) -> bool:
        """Write rows. Return False, and write nothing, if they belong into the next part."""
        content = self._form.rows(lines)
        if self.rows and self._size + len(content) > PART_BYTES:
            return False
        self.rows += len(lines)
        await self._write(content)
        return True

    async def finish(self) -> ExportPart:
        if self._gzip is not None:
            await self._file.write(self._gzip.flush())
        await self._file.close()
        return ExportPart(self._key, self.rows, self._file.size, self._file.sha256)

    async def drop(self) -> None:
        await self._file.drop()

    async def _write(self, content: bytes) -> None:
        self._size += len(content)
        if self._gzip is not None:
            content = await asyncio.to_thread(self._gzip.compress, content)  # zlib leaves the event loop free
        await self._file.write(content)
