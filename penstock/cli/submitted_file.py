"""A file that is submitted: its content as requests send it, and the places in it that messages name.

It is read once, compressed, into a temporary file, so memory does not grow with it.
"""

import json
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

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
from penstock.client.closing import Closing
from penstock.client.content import Content, query_of
from penstock.client.errors import BatchError
from penstock.client.spool import PIECE_BYTES, Spool
from penstock.client.transport import CSV, NDJSON
from penstock.files.csv_lines import Row

_POINTER = re.compile(r"/operations/(\d+)(/.*)?")


@contextmanager
def _closing_on_error(file: "ToSubmit") -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise


class OperationsToSubmit(Closing):
    """Operations that were read one by one. They can be submitted in parts. Use it with `with`.

    Only their places are in memory: a few bytes for each operation.
    """

    def __init__(self, source: Source, envelope: Mapping[str, Any], operations: Iterable[FileOperation]) -> None:
        self.name = source.name
        self.noun = source.noun
        self.envelope = envelope
        self.has_own_ids = False
        self._spool = Spool()
        self._part = Spool()  # the operations of the batch that is posted now
        self._lines: Iterator[bytes] = iter(())
        self._next = -1  # the index of the operation in the next of these lines
        self._numbers = array("Q")
        self._expected: list[frozenset[int]] = []
        self._expected_of = array("H")
        with _closing_on_error(self):
            for operation in operations:
                self._add(operation)
            self._spool.finish()
            if not self._numbers:
                source.reject("contains no operations.")

    def close(self) -> None:
        self._spool.close()
        self._part.close()

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
        """Return some of the operations as the body of a request. It can be sent until the next call."""
        spool = self._spool if len(span) == self.total else self._take(span)
        return Content(NDJSON, spool.compressed, query_of(self.envelope))

    def _take(self, span: range) -> Spool:
        """Copy some of the operations. Usually they follow those that were copied before."""
        self._part.close()
        self._part = Spool()
        if span.start != self._next:
            self._lines, self._next = islice(self._spool.lines(), span.start, None), span.start
        for line in islice(self._lines, len(span)):
            self._part.write(line)
        self._part.finish()
        self._next = span.stop
        return self._part

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


class RowsToSubmit(Closing):
    """The rows of a CSV file, which is submitted as it is. Use it with `with`."""

    noun = "line"
    total = None  # the server counts the rows
    is_atomic = False
    has_expectations = False

    def __init__(self, source: Source, reading: Reading) -> None:
        self.name = source.name
        self._source = source
        self._reading = reading
        self._operations: OperationsToSubmit | None = None
        self._spool = Spool()
        with _closing_on_error(self):
            while piece := source.stream.read(PIECE_BYTES):
                self._spool.write(piece)
            self._spool.finish()
            if next(self._rows(), None) is None:  # this reads the names of the columns, and checks them
                source.reject("contains no operations.")

    def close(self) -> None:
        self._spool.close()
        if self._operations is not None:
            self._operations.close()

    @property
    def written_bytes(self) -> int:
        return self._spool.written_bytes

    @property
    def skips_invalid(self) -> bool:
        """Return True if rows may fail that are invalid for their handler. Other errors still reject the file."""
        return self._reading.skip_invalid

    def content(self) -> Content:
        """Return the file as the body of a request."""
        reading = self._reading
        query = {
            "method": reading.template.method,
            "path": reading.template.path,
            "delimiter": reading.delimiter,
            "charset": reading.charset,
            "key": reading.key,
            "invalidRows": "fail" if reading.skip_invalid else None,
        }
        return Content(CSV, self._spool.compressed, {name: value for name, value in query.items() if value})

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

    def _rows(self) -> Iterator[Row]:
        return rows_of(self._spool.pieces(), self._source, self._reading)


ToSubmit = OperationsToSubmit | RowsToSubmit


def read_file(path: Path, reading: Reading, *, one_by_one: bool) -> ToSubmit:
    """Read the file. With `one_by_one`, the rows of a CSV file become operations here. Raises InvalidFile."""
    with open_file(path, reading) as source:
        if source.format is FileFormat.CSV and not one_by_one:
            return RowsToSubmit(source, reading)
        envelope, operations = read_source(source, reading)
        return OperationsToSubmit(source, envelope, operations)
