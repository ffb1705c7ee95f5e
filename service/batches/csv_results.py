"""Results as CSV: id, status, title and detail, then the members of the results. See `penstock/files/csv_table.py`."""

from collections.abc import AsyncIterator

from msgspec import Raw, Struct
from msgspec.json import Decoder

from penstock.files.csv_table import Cell, CsvTable, TableRow, members_of
from penstock.service.batches.families import WINDOW_BYTES, WINDOW_OUTCOMES, Window
from penstock.service.batches.streaming import Blocks, in_blocks

FIRST = ("id", "status", "title", "detail")
PREFIX = "result."


class _Line(Struct):
    id: str
    status: int
    result: Raw = Raw(b"null")
    error: Raw = Raw(b"null")
    resultMissing: str = ""  # noqa: N815 - its name in the API


_line_decoder = Decoder(_Line)


def csv_blocks(windows: AsyncIterator[tuple[int, Window]], *, delimiter: str = ",") -> Blocks:
    table = CsvTable(FIRST, prefix=PREFIX, delimiter=delimiter)
    return in_blocks(written(table, _rows(windows)))


Part = tuple[list[TableRow], int]  # rows, with the memory that they take


async def written(table: CsvTable, parts: AsyncIterator[Part]) -> AsyncIterator[tuple[bytes, int]]:
    """Yield the lines of a table, each with the memory that the rows take. Two parts of the rows are in memory."""
    is_first = True
    async for (rows, memory_bytes), is_last in _looking_ahead(parts):
        if is_first:
            yield table.start(rows, is_all=is_last).encode(), memory_bytes
            is_first = False
        for line in table.lines(rows):
            yield line.encode(), 2 * memory_bytes


async def _looking_ahead(parts: AsyncIterator[Part]) -> AsyncIterator[tuple[Part, bool]]:
    """Yield each part, and whether it is the last one. Without any part, yield an empty one."""
    part: Part | None = None
    async for following in parts:
        if part is not None:
            yield part, False
        part = following
    yield part or ([], 0), True


async def _rows(windows: AsyncIterator[tuple[int, Window]]) -> AsyncIterator[Part]:
    """Join windows to parts: a window has outcomes of one planned chunk only, which may be few."""
    rows: list[TableRow] = []
    size = 0
    async for _, window in windows:
        for line in window.lines:
            rows.append(row_of(line))
            size += len(line)
            if len(rows) == WINDOW_OUTCOMES or size >= WINDOW_BYTES:
                yield rows, window.memory_bytes + 2 * size
                rows, size = [], 0
    if rows:
        yield rows, 2 * size


def row_of(line: bytes) -> TableRow:
    outcome = _line_decoder.decode(line)
    error = members_of(bytes(outcome.error), "error")
    title, detail = error.pop("title", ""), error.pop("detail", outcome.resultMissing)
    first: list[Cell] = [outcome.id, b"%d" % outcome.status, title, detail]
    return TableRow(first, error or members_of(bytes(outcome.result), "result"))
