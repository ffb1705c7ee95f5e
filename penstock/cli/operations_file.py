"""Reads a JSON, NDJSON or CSV file as operations. Nothing here talks to a server.

The whole file is read before anything is posted, so if its last line is invalid, nothing is submitted. Each operation
is kept as the bytes that are sent: they take a fraction of the memory of Python objects.
"""

import csv
import itertools
import json
import re
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
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
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel writes and reads it as the first line
_QUOTED = re.compile(r'"[^"]*("|$)')
_DELIMITERS = ",;\t|"  # those that are found without being named; in doubt, the first one
_LARGEST_CELL = 2**31 - 1  # the csv module's own limit is 131,072 characters
_EXPECTED = re.compile(r"[1-5]\d\d(\|[1-5]\d\d)*")


class InvalidFile(Exception):
    """The file cannot be read as operations. The message names the file, the line and what is expected."""


class FileFormat(StrEnum):
    """The format of a file, as its suffix or ``--format`` tells."""

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
    """One operation and its place in the file."""

    number: int  # the line it starts on. In a JSON file, its position in the list, from 1.
    id: str
    encoded: bytes  # as it is sent
    expected: frozenset[int] | None  # the statuses that the file expects, if it names any

    @property
    def has_own_id(self) -> bool:
        return self.id != str(self.number)


@dataclass(frozen=True, slots=True)
class OperationsFile:
    """The content of a file: its operations, and the other members of a JSON document, such as ``atomic``."""

    name: str
    noun: str  # what `FileOperation.number` counts: "line", or "operation" in a JSON file
    operations: Sequence[FileOperation]
    envelope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_atomic(self) -> bool:
        return self.envelope.get("atomic") is True

    def with_options(self, options: Mapping[str, Any]) -> "OperationsFile":
        """Return the file with the options of the command line. They override what the file says."""
        given = {name: value for name, value in options.items() if value is not None}
        return replace(self, envelope={**self.envelope, **given})

    @property
    def has_expectations(self) -> bool:
        """Return True if the operations have expected statuses: with --expect all of them have, else none."""
        return bool(self.operations) and self.operations[0].expected is not None

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
        first, last = self.operations[span.start].number, self.operations[span.stop - 1].number
        return f"{self.noun} {first}" if len(span) == 1 else f"{self.noun}s {first} to {last}"


@dataclass(frozen=True, slots=True)
class Reading:
    """The options of the command line about how a file is read."""

    format: FileFormat | None = None
    method: str | None = None
    path: str | None = None
    expect: str | None = None
    delimiter: str | None = None


def parse_delimiter(text: str) -> str:
    """Return the character that separates cells, for the text of the option. Raise InvalidFile."""
    delimiter = "\t" if text.lower() in {"tab", "\\t"} else text
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise InvalidFile(f"{text!r} should be one character, such as ; or |, or the word tab.")
    return delimiter


@dataclass(frozen=True, slots=True)
class _Source:
    """Names the file, and what is counted in it, in error messages."""

    name: str
    noun: str = "line"

    def reject(self, what: str, number: int | None = None) -> NoReturn:
        place = self.name if number is None else f"{self.name}, {self.noun} {number}"
        raise InvalidFile(f"{place}: {what}")


def read_operations(path: Path, reading: Reading) -> OperationsFile:
    """Return all operations of the file, or of standard input if the path is ``-``. Raise InvalidFile."""
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
        raise InvalidFile(f"{name}: cannot be read ({error.strerror}).") from error
    if not file.operations:
        raise InvalidFile(f"{name}: contains no operations.")
    return file


def _format_of(path: Path, name: str) -> FileFormat:
    if file_format := _FORMATS.get(path.suffix.lower()):
        return file_format
    raise InvalidFile(f"{name}: its name does not tell its format. Use --format json, ndjson or csv.")


def _check_options(name: str, file_format: FileFormat, reading: Reading) -> None:
    given = [option for option in (reading.method, reading.path) if option]
    if file_format is FileFormat.CSV and len(given) < 2:
        raise InvalidFile(
            f"{name}: a CSV file needs --method and --path, for example --method PUT --path '/users/{{id}}'."
        )
    if file_format is not FileFormat.CSV and reading.delimiter:
        raise InvalidFile(f"{name}: --delimiter is for CSV files.")
    if file_format is not FileFormat.CSV and given:
        raise InvalidFile(f"{name}: --method and --path are for CSV files. In this file each operation names its own.")


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
        source.reject('should be {"operations": [...]}, or a bare list of operations.')
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
    """Read an operation from a member of a JSON list or a line of NDJSON."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("method", "path")):
        source.reject('should be an object like {"method": "POST", "path": "/users", "body": {...}}.', number)
    expected = _take_expected(entry, number, source, reading)
    return _encode(entry, number, expected, source)


def _read_csv(stream: BinaryIO, source: _Source, reading: Reading) -> Iterator[FileOperation]:
    """Read one operation from each row. The columns that the path names fill it. The others make the body."""
    rows = _csv_rows(_text_lines(stream, source), source, reading.delimiter)
    method, path = (reading.method or "").upper(), reading.path or ""
    in_path = _PLACEHOLDER.findall(path)
    header_line, header = next(rows, (1, []))
    columns = _without_empty_end(header)
    _check_header(columns, header_line, in_path, source, reading)
    for number, row in rows:
        if any(row[len(columns) : len(header)]):
            source.reject(f"{_BAD_HEADER} A column at its end has no name.", header_line)
        if len(row) < len(columns) or any(row[len(columns) :]):
            hint = _DELIMITER_HINT if len(row) == 1 and not reading.delimiter else ""
            source.reject(f"has {_cells(len(row))} where the header has {len(columns)}.{hint}", number)
        cells = dict(zip(columns, row, strict=False))  # spreadsheets end each row with the same number of commas
        operation: dict[str, Any] = {"method": method, "path": _fill_path(path, cells, number, source)}
        expected = _take_expected(cells, number, source, reading)
        body = {column: cell for column, cell in cells.items() if cell and column not in in_path}
        if body or method not in {"GET", "DELETE"}:
            operation["body"] = body
        yield _encode(operation, number, expected, source)


def _csv_rows(lines: Iterator[str], source: _Source, delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    """Return each row with the line it starts on: a quoted cell may contain line breaks.

    Rows without any content, such as `,,,` or `, ,`, are skipped.
    """
    csv.field_size_limit(_LARGEST_CELL)
    lines, found = _find_delimiter(lines, source)
    reader = csv.reader(lines, strict=True, delimiter=delimiter or found)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            source.reject(_csv_mistake(error), number)
        if row is None:
            return
        if any(map(str.strip, row)):
            yield number, row


def _find_delimiter(lines: Iterator[str], source: _Source) -> tuple[Iterator[str], str]:
    """Return the same number of lines, and the delimiter that the file names or that its header has most often."""
    first = next(lines, "")
    if "\0" in first:
        source.reject("contains a NUL character. If the file is UTF-16, save it as UTF-8.", 1)
    if named := _SEPARATOR_LINE.fullmatch(first):
        return itertools.chain(["\n"], lines), named[1]
    skipped = [first]
    while not skipped[-1].strip(_DELIMITERS + "\r\n") and (line := next(lines, None)) is not None:
        skipped.append(line)
    header = _QUOTED.sub("", skipped[-1])
    return itertools.chain(skipped, lines), max(_DELIMITERS, key=header.count)


def _csv_mistake(error: csv.Error) -> str:
    if "new-line character" in str(error):
        return "contains a CR without an LF, as old Mac programs end lines. Save the file with LF or CRLF line breaks."
    return f"is not a valid CSV row ({error})."


def _without_empty_end(row: list[str]) -> list[str]:
    """Return the row without the empty cells at its end."""
    count = max((place for place, cell in enumerate(row, 1) if cell.strip()), default=0)
    return row[:count]


_DELIMITER_HINT = " If another character separates them, name it with --delimiter."
_BAD_HEADER = "should be a header in which every column has a different name."


def _check_header(columns: list[str], number: int, in_path: Iterable[str], source: _Source, reading: Reading) -> None:
    if not columns:
        return  # the file is empty, and is rejected for that
    for place, column in enumerate(columns, 1):
        if not column.strip():
            source.reject(f"{_BAD_HEADER} Column {place} has no name.", number)
        if column in columns[: place - 1]:
            source.reject(f"{_BAD_HEADER} Two columns have the name {column[:100]!r}.", number)
    for needed in [*in_path, *([reading.expect] if reading.expect else [])]:
        if needed not in columns:
            hint = _DELIMITER_HINT if len(columns) == 1 else ""
            source.reject(f"has no column {needed!r}. Its columns are {', '.join(map(repr, columns))}.{hint}", number)


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"


def _fill_path(path: str, cells: dict[str, str], number: int, source: _Source) -> str:
    def fill(placeholder: re.Match[str]) -> str:
        if not (cell := cells[placeholder[1]]):
            source.reject(f"column {placeholder[1]!r} is empty, and the path {path} needs it.", number)
        return quote(cell, safe="")

    return _PLACEHOLDER.sub(fill, path)


def _take_expected(entry: dict[str, Any], number: int, source: _Source, reading: Reading) -> frozenset[int] | None:
    """Remove the expected statuses from the operation and return them: they are not sent to the server."""
    if reading.expect is None:
        return None
    value = str(entry.pop(reading.expect, ""))
    if not _EXPECTED.fullmatch(value):
        source.reject(f"{reading.expect!r} should be a status such as 201, or 201|409, not {value!r}.", number)
    return _statuses(value)


@cache
def _statuses(text: str) -> frozenset[int]:
    """Return the statuses. They are cached, so that a million rows share a few sets."""
    return frozenset(map(int, text.split("|")))


def _encode(operation: dict[str, Any], number: int, expected: frozenset[int] | None, source: _Source) -> FileOperation:
    """Encode an operation. Without an id it gets its number, so that ids are unique over several batches."""
    own_id = operation.pop("id", None)
    operation = {"id": str(number) if own_id is None else own_id, **operation}
    try:
        text = json.dumps(operation, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return FileOperation(number, str(operation["id"]), text.encode(), expected)
    except ValueError as error:  # 1e999, half a surrogate pair: Python reads them, but JSON in UTF-8 cannot hold them
        source.reject(f"contains a value that cannot be sent as JSON ({error}).", number)


def _parse(text: str, source: _Source, number: int | None = None) -> Any:
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except json.JSONDecodeError as error:
        hint = ""
        if number is not None:
            hint = " NDJSON has one complete operation on each line."
        elif error.msg == "Extra data":
            hint = " If it has one operation on each line, use --format ndjson."
        source.reject(f"is not JSON ({error.msg.lower()}, column {error.colno}).{hint}", number or error.lineno)
    except (ValueError, RecursionError) as error:  # NaN, a number of 5,000 digits, 10,000 brackets
        source.reject(f"is JSON that cannot be sent ({error}).", number)


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _text_lines(stream: BinaryIO, source: _Source) -> Iterator[str]:
    """Return the lines as text. They are decoded one by one, so that an invalid byte has a line number."""
    for number, line in enumerate(stream, 1):
        try:
            yield (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).decode()
        except UnicodeDecodeError:
            source.reject(f"is not UTF-8. Save the file as UTF-8.{_encoding_hint(line)}", number)


_OTHER_FORMATS = {
    b"\x1f\x8b": "It is compressed with gzip: decompress it first.",
    b"\x28\xb5\x2f\xfd": "It is compressed with zstd: decompress it first.",
    b"PK\x03\x04": "It is a workbook or a ZIP archive: save a workbook as CSV UTF-8 in Excel.",
}


def _encoding_hint(line: bytes) -> str:
    """Return what the encoding seems to be, and how to convert it."""
    for start, hint in _OTHER_FORMATS.items():
        if line.startswith(start):
            return f" {hint}"
    if line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        name, encoding = "UTF-16", "UTF-16"
    else:
        try:
            line.decode("cp1252")
        except UnicodeDecodeError:
            return ""
        name, encoding = "Windows-1252", "CP1252"
    return f" It seems to be {name}: save it as CSV UTF-8 in Excel, or run `iconv -f {encoding} -t UTF-8 OLD > NEW`."
