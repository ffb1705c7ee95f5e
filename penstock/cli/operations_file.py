"""A JSON, NDJSON or CSV file as operations. Reading only: nothing here knows a server.

The file is read whole before anything is posted, so that a mistake in its last line submits nothing. Each operation is
kept as the bytes to be sent, which take a fraction of the room of the Python objects they came from.
"""

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import quote

STANDARD_INPUT = Path("-")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_EXPECTED = re.compile(r"[1-5]\d\d(\|[1-5]\d\d)*")


class FileRefused(Exception):
    """The file cannot be read as operations: says which file, which line, and what would be right."""


class FileFormat(StrEnum):
    """What a file's suffix, or ``--format``, says it holds."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


_FORMATS = {
    ".json": FileFormat.JSON,
    ".ndjson": FileFormat.NDJSON,
    ".jsonl": FileFormat.NDJSON,
    ".csv": FileFormat.CSV,
}


@dataclass(frozen=True, slots=True)
class FileOperation:
    """One operation, and where it stands in its file."""

    number: int  # the line it starts on; in a JSON file its place in the list, from 1
    id: str
    encoded: bytes  # as it is sent
    expected: frozenset[int] | None  # the statuses it is meant to end with, if the file says so

    @property
    def has_own_id(self) -> bool:
        return self.id != str(self.number)


@dataclass(frozen=True, slots=True)
class OperationsFile:
    """What a file holds: its operations, and what a JSON file says beside them (``atomic``, for one)."""

    name: str
    noun: str  # what an operation's number counts: "line", or "operation" in a JSON file
    operations: Sequence[FileOperation]
    envelope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_atomic(self) -> bool:
        return self.envelope.get("atomic") is True

    def asking(self, options: Mapping[str, Any]) -> "OperationsFile":
        """With what the command line asks for, where it does: it goes before what the file says."""
        given = {name: value for name, value in options.items() if value is not None}
        return replace(self, envelope={**self.envelope, **given})

    @property
    def has_expectations(self) -> bool:
        """With --expect every operation has one, without it none."""
        return bool(self.operations) and self.operations[0].expected is not None

    def places(self, spans: Iterable[range]) -> str:
        """Where these operations stand, in words: "lines 2 to 1001, line 2002". Spans in order, neighbours joined."""
        joined: list[range] = []
        for span in spans:
            if joined and joined[-1].stop == span.start:
                joined[-1] = range(joined[-1].start, span.stop)
            else:
                joined.append(span)
        return ", ".join(map(self._place, joined))

    def _place(self, span: range) -> str:
        first, last = self.operations[span.start].number, self.operations[span.stop - 1].number
        return f"{self.noun} {first}" if len(span) == 1 else f"{self.noun}s {first} to {last}"


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is to be read: what the command line says about it."""

    format: FileFormat | None = None
    method: str | None = None
    path: str | None = None
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the operations come from, and so how a mistake in it is told."""

    name: str
    noun: str = "line"

    def refuse(self, what: str, number: int | None = None) -> NoReturn:
        place = self.name if number is None else f"{self.name}, {self.noun} {number}"
        raise FileRefused(f"{place}: {what}")


def read_operations(path: Path, reading: Reading) -> OperationsFile:
    """All operations of the file (``-``: of standard input), or FileRefused."""
    name = "standard input" if path == STANDARD_INPUT else str(path)
    file_format = reading.format or _format_of(path, name)
    _check_options(name, file_format, reading)
    try:
        if path == STANDARD_INPUT:
            file = _read(sys.stdin.buffer, name, file_format, reading)
        else:
            with path.open("rb") as stream:
                file = _read(stream, name, file_format, reading)
    except OSError as error:
        raise FileRefused(f"{name}: cannot be read ({error.strerror}).") from error
    if not file.operations:
        raise FileRefused(f"{name}: holds no operations; there is nothing to submit.")
    return file


def _format_of(path: Path, name: str) -> FileFormat:
    if file_format := _FORMATS.get(path.suffix.lower()):
        return file_format
    raise FileRefused(f"{name}: its name does not tell what it holds; say --format json, ndjson or csv.")


def _check_options(name: str, file_format: FileFormat, reading: Reading) -> None:
    given = [option for option in (reading.method, reading.path) if option]
    if file_format is FileFormat.CSV and len(given) < 2:
        raise FileRefused(
            f"{name}: a CSV file needs --method and --path, for example --method PUT --path '/users/{{id}}'."
        )
    if file_format is not FileFormat.CSV and given:
        raise FileRefused(f"{name}: --method and --path are for CSV files; here each operation names its own.")


def _read(stream: BinaryIO, name: str, file_format: FileFormat, reading: Reading) -> OperationsFile:
    if file_format is FileFormat.JSON:
        return _read_json(stream, _Source(name, "operation"), reading)
    source = _Source(name)
    read = _read_csv if file_format is FileFormat.CSV else _read_ndjson
    return OperationsFile(name, source.noun, tuple(read(stream, source, reading)))


def _read_json(stream: BinaryIO, source: _Source, reading: Reading) -> OperationsFile:
    lines = _Source(source.name)
    document = _parse("".join(_text_lines(stream, lines)), lines)
    envelope = document if isinstance(document, dict) else {"operations": document}
    operations = envelope.pop("operations", None)
    if not isinstance(operations, list):
        source.refuse('should be {"operations": [...]}, or a bare list of operations.')
    return OperationsFile(
        source.name,
        source.noun,
        tuple(_operation(entry, number, source, reading) for number, entry in enumerate(operations, 1)),
        envelope,
    )


def _read_ndjson(stream: BinaryIO, source: _Source, reading: Reading) -> Iterator[FileOperation]:
    for number, line in enumerate(_text_lines(stream, source), 1):
        if line.strip():
            yield _operation(_parse(line, source, number), number, source, reading)


def _operation(entry: Any, number: int, source: _Source, reading: Reading) -> FileOperation:
    """One member of a JSON list, or one line of NDJSON, as the operation it should be."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("method", "path")):
        source.refuse('should be an object like {"method": "POST", "path": "/users", "body": {...}}.', number)
    expected = _take_expected(entry, number, source, reading)
    return _encode(entry, number, expected, source)


def _read_csv(stream: BinaryIO, source: _Source, reading: Reading) -> Iterator[FileOperation]:
    """One operation a row: the path takes the columns it names, the body the other cells that are not empty."""
    rows = _csv_rows(_text_lines(stream, source), source)
    method, path = (reading.method or "").upper(), reading.path or ""
    in_path = _PLACEHOLDER.findall(path)
    header_line, columns = next(rows, (1, []))
    _check_header(columns, header_line, in_path, source, reading)
    for number, row in rows:
        if len(row) != len(columns):
            source.refuse(f"has {_cells(len(row))} where the header has {len(columns)}.", number)
        cells = dict(zip(columns, row, strict=True))
        operation: dict[str, Any] = {"method": method, "path": _fill_path(path, cells, number, source)}
        expected = _take_expected(cells, number, source, reading)
        body = {column: cell for column, cell in cells.items() if cell and column not in in_path}
        if body or method not in {"GET", "DELETE"}:
            operation["body"] = body
        yield _encode(operation, number, expected, source)


def _csv_rows(lines: Iterable[str], source: _Source) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line it starts on: a quoted cell may run over several. Empty lines are no rows."""
    reader = csv.reader(lines, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            source.refuse(f"is not a row of CSV ({error}).", number)
        if row is None:
            return
        if row:
            yield number, row


def _check_header(columns: list[str], number: int, in_path: Iterable[str], source: _Source, reading: Reading) -> None:
    if not columns:
        return  # an empty file, refused as one
    if not all(columns) or len(set(columns)) < len(columns):
        source.refuse("should be a header, every column with a name of its own.", number)
    for needed in [*in_path, *([reading.expect] if reading.expect else [])]:
        if needed not in columns:
            source.refuse(f"has no column {needed!r}; its columns are {', '.join(map(repr, columns))}.", number)


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"


def _fill_path(path: str, cells: dict[str, str], number: int, source: _Source) -> str:
    def fill(placeholder: re.Match[str]) -> str:
        if not (cell := cells[placeholder[1]]):
            source.refuse(f"column {placeholder[1]!r} is empty, and the path {path} needs it.", number)
        return quote(cell, safe="")

    return _PLACEHOLDER.sub(fill, path)


def _take_expected(entry: dict[str, Any], number: int, source: _Source, reading: Reading) -> frozenset[int] | None:
    """The expected statuses, taken out of the operation: they are for us, not for the server."""
    if reading.expect is None:
        return None
    value = str(entry.pop(reading.expect, ""))
    if not _EXPECTED.fullmatch(value):
        source.refuse(f"{reading.expect!r} should be a status such as 201, or 201|409, not {value!r}.", number)
    return _statuses(value)


@cache
def _statuses(text: str) -> frozenset[int]:
    """Cached, so that a million rows share a few sets."""
    return frozenset(map(int, text.split("|")))


def _encode(operation: dict[str, Any], number: int, expected: frozenset[int] | None, source: _Source) -> FileOperation:
    """An operation without an id gets its number: answers of several batches can then be told apart."""
    own_id = operation.pop("id", None)
    operation = {"id": str(number) if own_id is None else own_id, **operation}
    try:
        text = json.dumps(operation, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return FileOperation(number, str(operation["id"]), text.encode(), expected)
    except ValueError as error:  # 1e999, half a surrogate pair: Python reads them, JSON in UTF-8 cannot say them
        source.refuse(f"holds a value that cannot be sent as JSON ({error}).", number)


def _parse(text: str, source: _Source, number: int | None = None) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        hint = ""
        if number is not None:
            hint = " NDJSON has one whole operation on each line."
        elif error.msg == "Extra data":
            hint = " If it has one operation a line, say --format ndjson."
        source.refuse(f"is not JSON ({error.msg.lower()}, column {error.colno}).{hint}", number or error.lineno)
    except (ValueError, RecursionError) as error:  # NaN, a number of 5,000 digits, 10,000 brackets
        source.refuse(f"is not JSON that can be sent on ({error}).", number)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _text_lines(stream: BinaryIO, source: _Source) -> Iterator[str]:
    """The lines as text, decoded one by one so that a wrong byte has a line number."""
    for number, line in enumerate(stream, 1):
        try:
            yield (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).decode()
        except UnicodeDecodeError:
            source.refuse("is not UTF-8; save the file as UTF-8.", number)
