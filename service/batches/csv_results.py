"""Results as CSV: id, status, title and detail, then the members of the results. See `penstock/files/csv_table.py`."""

from collections.abc import AsyncIterator

from msgspec import Raw, Struct
from msgspec.json import Decoder

from penstock.files.csv_table import Cell, CsvTable, TableRow, members_of
from penstock.service.batches.families import WINDOW_BYTES, WINDOW_OUTCOMES, Window
from penstock.service.batches.streaming import Blocks, in_blocks

FIRST = ("id", "status", "title", "detail")
PREFIX = "result."
WRITING = (
    9  # a row takes so many times its size while it is written: Python's csv has four bytes for a character, twice
)


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
    """Yield the lines of a table, each with the memory that the rows take.

    The header needs to know whether there is a second part. Then two parts are in memory, and later one.
    """
    first = await anext(parts, None)
    following = None if first is None else await anext(parts, None)
    rows, memory_bytes = first or ([], 0)
    memory_bytes += 0 if following is None else following[1]
    yield table.start(rows, is_all=following is None).encode(), memory_bytes
    for line in table.lines(rows):
        yield line.encode(), memory_bytes
    while following is not None:
        rows, memory_bytes = following
        for line in table.lines(rows):
            yield line.encode(), memory_bytes
        rows.clear()
        following = await anext(parts, None)


async def _rows(windows: AsyncIterator[tuple[int, Window]]) -> AsyncIterator[Part]:
    """Join windows to parts: a window has outcomes of one planned chunk only, which may be few."""
    rows: list[TableRow] = []
    size = longest = 0
    async for _, window in windows:
        for line in window.lines:
            if rows and (len(rows) == WINDOW_OUTCOMES or size + len(line) > WINDOW_BYTES):
                yield rows, window.memory_bytes + 2 * size + WRITING * longest
                rows, size, longest = [], 0, 0
            rows.append(row_of(line))
            size, longest = size + len(line), max(longest, len(line))
    if rows:
        yield rows, 2 * size + WRITING * longest


def row_of(line: bytes) -> TableRow:
    outcome = _line_decoder.decode(line)
    error = members_of(bytes(outcome.error), "error")
    title, detail = error.pop("title", ""), error.pop("detail", outcome.resultMissing)
    first: list[Cell] = [outcome.id, b"%d" % outcome.status, title, detail]
    return TableRow(first, error or members_of(bytes(outcome.result), "result"))
