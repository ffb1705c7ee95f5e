"""A file that is submitted: its content as requests send it, and the places in it that messages name.

It is read once, compressed, into a temporary file, so memory does not grow with it.
"""

import csv
import json
import re
import sys
from array import array
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from penstock.cli.operations_file import (
    FileFormat,
    FileOperation,
    Reading,
    Source,
    open_file,
    read_rows,
    read_source,
    rows_of,
)
from penstock.client import Outcome
from penstock.client.content import Content, query_of
from penstock.client.errors import BatchError, InvalidFile
from penstock.client.spool import PIECE_BYTES, Spool
from penstock.client.transport import CSV, NDJSON
from penstock.files.csv_lines import Row
from penstock.files.rejected import ADDED, own_columns, safe_cell

_POINTER = re.compile(r"/operations/(\d+)(/.*)?")
_INVALID = "422"  # the status of a row that was rejected before anything ran


@contextmanager
def _closing_on_error(spool: Spool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        spool.close()
        raise


class OperationsToSubmit:
    """Operations that were read one by one. They can be submitted in parts. Use it with `with`.

    Only their places are in memory: a few bytes for each operation.
    """

    def __init__(self, source: Source, envelope: Mapping[str, Any], operations: Iterable[FileOperation]) -> None:
        self.name = source.name
        self.noun = source.noun
        self.envelope = envelope
        self.has_own_ids = False
        self._spool = Spool()
        self._numbers = array("Q")
        self._expected: list[frozenset[int]] = []
        self._expected_of = array("H")
        with _closing_on_error(self._spool):
            for operation in operations:
                self._add(operation)
            self._spool.finish()
            if not self._numbers:
                source.reject("contains no operations.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._spool.close()

    def _add(self, operation: FileOperation) -> None:
        self._spool.write(operation.encoded + b"\n")
        self._numbers.append(operation.number)
        self.has_own_ids |= operation.has_own_id
        if operation.expected is not None:
            if operation.expected not in self._expected:
                self._expected.append(operation.expected)
            self._expected_of.append(self._expected.index(operation.expected))

    @property
    def total(self) -> int:
        return len(self._numbers)

    @property
    def is_atomic(self) -> bool:
        return self.envelope.get("atomic") is True

    @property
    def has_expectations(self) -> bool:
        return bool(self._expected_of)

    def expected(self, index: int) -> frozenset[int]:
        """Return the statuses that the file expects for an operation."""
        return self._expected[self._expected_of[index]]

    def content(self, span: range) -> Content:
        """Return some of the operations as the body of a request."""
        whole = len(span) == self.total
        body = self._spool.compressed if whole else lambda: self._part(span)
        return Content(NDJSON, body, query_of(self.envelope))

    async def _part(self, span: range) -> AsyncIterator[bytes]:
        with Spool() as part:
            for line in islice(self._spool.lines(), span.start, span.stop):
                part.write(line)
            part.finish()
            async for piece in part.compressed():
                yield piece

    def places(self, spans: Iterable[range]) -> str:
        """Return the places of these operations, such as "lines 2 to 1001, line 2002". The spans are in order."""
        joined: list[range] = []
        for span in spans:
            if joined and joined[-1].stop == span.start:
                joined[-1] = range(joined[-1].start, span.stop)
            else:
                joined.append(span)
        return ", ".join(map(self._place, joined))

    def _place(self, span: range) -> str:
        first, last = self._numbers[span.start], self._numbers[span.stop - 1]
        return f"{self.noun} {first}" if len(span) == 1 else f"{self.noun}s {first} to {last}"

    def place_of_error(self, span: range, error: BatchError) -> tuple[str, str]:
        """Return the place in the file, and the member. The pointer counts from the start of the batch."""
        found = _POINTER.fullmatch(error.pointer)
        if not found or int(found[1]) >= len(span):
            return error.pointer or "the batch", ""
        index = span[int(found[1])]
        return self.places([range(index, index + 1)]), (found[2] or "")[1:]

    def places_of_ids(self, ids: Collection[str]) -> dict[str, str]:
        """Return the places of operations by their ids."""
        if not self.has_own_ids:
            return {one: f"{self.noun} {one}" for one in ids}
        starts = {b'{"id":%b,' % json.dumps(one, ensure_ascii=False).encode(): one for one in ids}
        found = {}
        for number, line in zip(self._numbers, self._spool.lines(), strict=True):
            if line.startswith(tuple(starts)):
                found[starts[next(filter(line.startswith, starts))]] = f"{self.noun} {number}"
        return found


class RowsToSubmit:
    """The rows of a CSV file, which is submitted as it is. Use it with `with`."""

    noun = "line"
    total = None  # the server counts the rows
    is_atomic = False
    has_expectations = False

    def __init__(self, source: Source, reading: Reading) -> None:
        self.name = source.name
        self._source = source
        self._reading = reading
        self._invalid: dict[int, str] = {}  # what is wrong with the rows that are left out, by their first line
        self._left_out: list[range] = []  # their lines
        self._operations: OperationsToSubmit | None = None
        self._spool = Spool()
        with _closing_on_error(self._spool):
            while piece := source.stream.read(PIECE_BYTES):
                self._spool.write(piece)
            self._spool.finish()
            if next(self._rows(), None) is None:  # this reads the names of the columns, and checks them
                source.reject("contains no operations.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()
        if self._operations is not None:
            self._operations.close()

    @property
    def left_out(self) -> int:
        """Return how many rows are left out."""
        return len(self._left_out)

    @property
    def written_bytes(self) -> int:
        return self._spool.written_bytes

    def content(self) -> Content:
        """Return the file as the body of a request. Rows that are left out are empty lines, so that no line moves."""
        reading = self._reading
        query = {
            "method": reading.template.method,
            "path": reading.template.path,
            "delimiter": reading.delimiter,
            "charset": reading.charset,
        }
        body = self._without_left_out if self._left_out else self._spool.compressed
        return Content(CSV, body, {name: value for name, value in query.items() if value})

    async def _without_left_out(self) -> AsyncIterator[bytes]:
        left_out = iter(self._left_out)
        lines = next(left_out)
        with Spool() as rest:
            for number, line in enumerate(self._spool.lines(), 1):
                while number >= lines.stop:
                    lines = next(left_out, range(sys.maxsize, sys.maxsize))
                rest.write(b"\n" if number in lines else line)
            rest.finish()
            async for piece in rest.compressed():
                yield piece

    def operations(self) -> OperationsToSubmit:
        """Return the rows as operations, which can be submitted in parts. Raises InvalidFile."""
        rows = read_rows(self._spool.pieces(), self._source, self._reading)
        self._operations = OperationsToSubmit(self._source, {}, rows)
        return self._operations

    def place_of_error(self, error: BatchError) -> tuple[str, str]:
        """Return the place in the file, and the member."""
        found = _POINTER.fullmatch(error.pointer)
        member = (found[2] or "")[1:] if found else error.pointer[1:]
        return ("the file" if error.line is None else f"line {error.line}"), member

    def places_of_ids(self, ids: Collection[str]) -> dict[str, str]:
        """Return the places of operations by their ids, which are the numbers of their lines."""
        return {one: f"line {one}" for one in ids}

    async def write_rejected(self, file: Path, failed: AsyncIterator[Outcome] | None = None) -> int:
        """Write the rows that are left out or have failed to a CSV file, with columns that say why. Return how many.

        `failed` are the failed outcomes in the order of the rows.
        """
        count, outcome = 0, await _next(failed)
        with file.open("w", encoding="utf-8-sig", newline="") as opened:  # spreadsheets read UTF-8 only with the mark
            own, writer = own_columns(self._source.columns), csv.writer(opened, delimiter=self._source.delimiter)
            writer.writerow([*own, *ADDED])
            for row in self._rows():
                added = None
                if row.number in self._invalid:
                    # A row that cannot be split into cells is found by its line.
                    where = f"Line {row.number} of {self.name}: " if row.error else ""
                    added = _INVALID, "Invalid", where + self._invalid[row.number]
                elif outcome is not None and outcome.id == str(row.number):
                    added = str(outcome.status), outcome.title, outcome.detail
                    outcome = await _next(failed)
                if added is not None:
                    writer.writerow(safe_cell(cell) for cell in (*(row.cells.get(name, "") for name in own), *added))
                    count += 1
        return count

    def leave_out(self, errors: Collection[BatchError]) -> bool:
        """Leave out the rows that have errors. Return False if an error is not in a row, so that this cannot help."""
        if not self.has_rows(errors):
            return False
        self._invalid.update(_by_line(errors))
        starts = [row.number for row in self._rows()]
        self._left_out = [range(*lines) for lines in pairwise([*starts, sys.maxsize]) if lines[0] in self._invalid]
        return True

    def has_rows(self, errors: Collection[BatchError]) -> bool:
        """Return True if all these errors are in rows, not in the file as a whole."""
        try:
            return {error.line for error in errors} <= {row.number for row in self._rows()}
        except InvalidFile:
            return False

    def _rows(self) -> Iterator[Row]:
        return rows_of(self._spool.pieces(), self._source, self._reading)


async def _next(outcomes: AsyncIterator[Outcome] | None) -> Outcome | None:
    return None if outcomes is None else await anext(outcomes, None)


def _by_line(errors: Iterable[BatchError]) -> dict[int, str]:
    """Return what is wrong with each line, in one text."""
    found: dict[int, str] = {}
    for error in errors:
        if error.line is not None:
            pointer = _POINTER.fullmatch(error.pointer)
            member = ((pointer[2] or "") if pointer else "").removeprefix("/body").lstrip("/")
            sentence = f"{member}: {error.detail}" if member else error.detail
            found[error.line] = f"{found[error.line]} {sentence}" if error.line in found else sentence
    return found


ToSubmit = OperationsToSubmit | RowsToSubmit


def read_file(path: Path, reading: Reading, *, one_by_one: bool) -> ToSubmit:
    """Read the file. With `one_by_one`, the rows of a CSV file become operations here. Raises InvalidFile."""
    with open_file(path, reading) as source:
        if source.format is FileFormat.CSV and not one_by_one:
            return RowsToSubmit(source, reading)
        envelope, operations = read_source(source, reading)
        return OperationsToSubmit(source, envelope, operations)
