"""The files of an export: outcomes as NDJSON or CSV, perhaps compressed, in parts of a limited size."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.bucket import Bucket
from penstock.export import ExportPart
from penstock.file_writer import FileWriter
from penstock.files.csv_table import CsvTable
from penstock.service.batches.csv_results import FIRST, PREFIX, row_of
from penstock.service.batches.families import WINDOW_BYTES, WINDOW_OUTCOMES, Window, lines_in
from penstock.service.batches.results import Cursor
from penstock.service.content import CSV, NDJSON

PART_BYTES = 128_000_000  # of the rows in a file, before compression
BLOCK_BYTES = 256 * 1024  # rows are made, compressed and written in blocks of this size
TYPES = {"ndjson": NDJSON, "csv": CSV}
GZIP = "gzip"
_GZIP_BITS = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Lines:
    """Outcomes that follow each other, as lines of JSON, and the position after them.

    The texts are those of the windows. Each has one line or several, so that no line is in memory twice.
    """

    texts: Sequence[bytes]
    count: int
    cursor: Cursor

    @property
    def size(self) -> int:
        return sum(map(len, self.texts))

    def __iter__(self) -> Iterator[bytes]:
        return lines_in(self.texts)


async def lines_of(windows: AsyncIterator[tuple[int, Window]]) -> AsyncIterator[Lines]:
    """Join small windows: a window has outcomes of one planned chunk only, which may be few."""
    joined: Lines | None = None
    async for chunk, window in windows:
        lines = Lines(window.texts, len(window.indexes), Cursor(chunk, window.indexes[-1]))
        if joined is not None and (joined.size + lines.size > WINDOW_BYTES or joined.count >= WINDOW_OUTCOMES):
            yield joined
            joined = None
        if joined is not None:
            lines = Lines([*joined.texts, *lines.texts], joined.count + lines.count, lines.cursor)
        joined = lines
    if joined is not None:
        yield joined


class Form(Protocol):
    """How outcomes are written."""

    def header(self) -> bytes: ...

    def most_bytes(self, lines: Lines) -> int:
        """Return how many bytes the rows have at most."""

    def rows(self, lines: Lines) -> Iterable[bytes]: ...


class NdjsonForm:
    def header(self) -> bytes:
        return b""

    def most_bytes(self, lines: Lines) -> int:
        return lines.size + len(lines.texts)  # which have no line break at their ends

    def rows(self, lines: Lines) -> Iterable[bytes]:
        return (line + b"\n" for line in lines)


class CsvForm:
    def __init__(self, columns: Sequence[str], *, has_more: bool) -> None:
        self._columns = len(FIRST) + len(columns) + 1
        self._table = CsvTable(FIRST, members=columns, has_more=has_more, prefix=PREFIX)

    def header(self) -> bytes:
        return self._table.start((), is_all=True).encode()

    def most_bytes(self, lines: Lines) -> int:
        """Each cell may get quotes, a comma and what makes a formula a text. A quote in a cell is doubled."""
        return 2 * lines.size + 4 * self._columns * lines.count

    def rows(self, lines: Lines) -> Iterable[bytes]:
        return (row.encode() for row in self._table.lines(map(row_of, lines)))


def joined_to_blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    block: list[bytes] = []
    size = 0
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size >= BLOCK_BYTES:
            yield b"".join(block)
            block, size = [], 0
    if block:
        yield b"".join(block)


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

    async def write(self, lines: Lines) -> bool:
        """Write rows. Return False, and write nothing, if they may not fit, so that they belong into the next part."""
        if self.rows and self._size + self._form.most_bytes(lines) > PART_BYTES:
            return False
        self.rows += lines.count
        for block in joined_to_blocks(self._form.rows(lines)):
            await self._write(block)
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
