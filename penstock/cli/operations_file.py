"""Reads a JSON, NDJSON or CSV file as operations, one after the other. Nothing here talks to a server."""

import json
import re
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from penstock.client.errors import InvalidFile
from penstock.errors import InvalidRequest
from penstock.files.charset import UTF_8, UnknownCharset
from penstock.files.csv_lines import CsvLines, Row
from penstock.files.rejected import without_added
from penstock.files.template import Template, no_column

STANDARD_INPUT = Path("-")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LARGEST_ROW = 2**31 - 1
_PIECE_BYTES = 256 * 1024
_MEMBERS = frozenset({"id", "key", "method", "path", "body", "dependsOn", "group", "references"})  # of an operation
_EXPECTED = re.compile(r"[1-5]\d\d(\|[1-5]\d\d)*")


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

    @property
    def has_expectations(self) -> bool:
        """Return True if the operations have expected statuses: with --expect all of them have, else none."""
        return bool(self.operations) and self.operations[0].expected is not None

    def place(self, index: int) -> str:
        """Return the place of an operation, such as "line 2"."""
        return f"{self.noun} {self.operations[index].number}"


@dataclass(frozen=True, slots=True)
class Reading:
    """The options of the command line about how a file is read."""

    format: FileFormat | None = None
    method: str | None = None
    path: str | None = None
    expect: str | None = None
    delimiter: str | None = None
    charset: str | None = None
    key: str | None = None
    skip_invalid: bool = False
    upload: bool = False

    @property
    def template(self) -> Template:
        """Return which operation a row of a file is. The column with expected statuses is not sent."""
        names = {} if self.expect is None else {self.expect: None}
        return Template((self.method or "").upper(), self.path or "", names, self.key)


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is open. It names the file, and what is counted in it, in error messages."""

    stream: BinaryIO
    name: str
    format: FileFormat
    noun: str
    columns: list[str] = field(default_factory=list)  # of a CSV file, as soon as they are known

    def reject(self, what: str, number: int | None = None) -> NoReturn:
        place = self.name if number is None else f"{self.name}, {self.noun} {number}"
        raise InvalidFile(f"{place}: {what}")


def read_operations(path: Path, reading: Reading) -> OperationsFile:
    """Return all operations of the file, or of standard input if the path is ``-``. Raise InvalidFile."""
    with open_file(path, reading) as source:
        envelope, operations = read_source(source, reading)
        file = OperationsFile(source.name, source.noun, tuple(operations), envelope)
    if not file.operations:
        source.reject("contains no operations.")
    return file


@contextmanager
def open_file(path: Path, reading: Reading) -> Iterator[Source]:
    """Open the file, or standard input if the path is ``-``. Raise InvalidFile if it cannot be read."""
    name = "standard input" if path == STANDARD_INPUT else str(path)
    file_format = reading.format or _format_of(path, name)
    _check_options(name, file_format, reading)
    noun = "operation" if file_format is FileFormat.JSON else "line"
    try:
        if path == STANDARD_INPUT:
            yield Source(sys.stdin.buffer, name, file_format, noun)
        else:
            with path.open("rb") as stream:
                yield Source(stream, name, file_format, noun)
    except OSError as error:
        raise InvalidFile(f"{name}: cannot be read ({error.strerror}).") from error


def _format_of(path: Path, name: str) -> FileFormat:
    if file_format := _FORMATS.get(path.suffix.lower()):
        return file_format
    raise InvalidFile(f"{name}: its name does not tell its format. Use --format json, ndjson or csv.")


def _check_options(name: str, file_format: FileFormat, reading: Reading) -> None:
    given = [option for option in (reading.method, reading.path) if option]
    if file_format is FileFormat.CSV:
        if len(given) < 2:
            raise InvalidFile(
                f"{name}: a CSV file needs --method and --path, for example --method PUT --path '/users/{{id}}'."
            )
        return
    if given and file_format is FileFormat.JSON:
        raise InvalidFile(
            f"{name}: --method and --path are for CSV and NDJSON files. In this file each operation names its own."
        )
    if len(given) == 1:
        raise InvalidFile(f"{name}: --method and --path are given together, or each line names its own.")
    only_csv = {
        "--delimiter": reading.delimiter,
        "--charset": reading.charset,
        "--key-column": reading.key and not given,
        "--skip-invalid": reading.skip_invalid,
        "--upload": reading.upload,
    }
    for option, is_given in only_csv.items():
        if is_given:
            raise InvalidFile(f"{name}: {option} is for CSV files.")


def read_source(source: Source, reading: Reading) -> tuple[Mapping[str, Any], Iterator[FileOperation]]:
    """Return the members of a JSON document except its operations, and the operations. A JSON document is in memory."""
    match source.format:
        case FileFormat.JSON:
            return _read_json(source, reading)
        case FileFormat.NDJSON:
            return {}, _read_ndjson(source, reading, _operation_of_line if reading.path else _operation)
        case FileFormat.CSV:
            return {}, read_rows(iter(lambda: source.stream.read(_PIECE_BYTES), b""), source, reading)


def _read_json(source: Source, reading: Reading) -> tuple[Mapping[str, Any], Iterator[FileOperation]]:
    document = _parse("".join(_text_lines(source)), source)
    envelope = document if isinstance(document, dict) else {"operations": document}
    operations = envelope.pop("operations", None)
    if not isinstance(operations, list):
        source.reject('should be {"operations": [...]}, or a bare list of operations.')
    return envelope, (_operation(entry, number, source, reading) for number, entry in enumerate(operations, 1))


def _read_ndjson(
    source: Source, reading: Reading, operation_of: Callable[[Any, int, Source, Reading], FileOperation]
) -> Iterator[FileOperation]:
    for number, line in enumerate(_text_lines(source), 1):
        if line.strip():
            yield operation_of(_parse(line, source, number), number, source, reading)


def _operation(entry: Any, number: int, source: Source, reading: Reading) -> FileOperation:
    """Read an operation from a member of a JSON list or a line of NDJSON."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("method", "path")):
        source.reject('should be an object like {"method": "POST", "path": "/users", "body": {...}}.', number)
    expected = None if reading.expect is None else _expected(entry.pop(reading.expect, ""), number, source, reading)
    return _encode(entry, number, expected, source)


def _operation_of_line(row: Any, number: int, source: Source, reading: Reading) -> FileOperation:
    """Read an operation from a line of NDJSON that is a row, as the server does."""
    if _is_whole_operation(row):
        source.reject("names its own method and path. Leave out --method and --path.", number)
    operation = reading.template.operation_of_line(row, number)
    if isinstance(operation, str):
        source.reject(operation, number)
    return _encode(operation, number, _expected_of(row, number, source, reading), source)


def _is_whole_operation(row: Any) -> bool:
    if not (isinstance(row, dict) and isinstance(row.get("method"), str) and isinstance(row.get("path"), str)):
        return False
    return without_added(row).keys() <= _MEMBERS


def _expected_of(cells: Mapping[str, Any], number: int, source: Source, reading: Reading) -> frozenset[int] | None:
    if reading.expect is None:
        return None
    return _expected(cells.get(reading.expect, ""), number, source, reading)


def read_rows(pieces: Iterable[bytes], source: Source, reading: Reading) -> Iterator[FileOperation]:
    """Read one operation from each row of a CSV file, as the server does. Raise InvalidFile."""
    template = reading.template
    for row in rows_of(pieces, source, reading):
        operation = template.operation_of_row(row)
        if isinstance(operation, str):
            source.reject(operation, row.number)
        yield _encode(operation, row.number, _expected_of(row.cells, row.number, source, reading), source)


def rows_of(pieces: Iterable[bytes], source: Source, reading: Reading) -> Iterator[Row]:
    """Yield each row of a CSV file. Raise InvalidFile if the file cannot be read, or lacks a column."""
    try:
        lines = CsvLines(
            most_bytes=_LARGEST_ROW,
            most_lines=sys.maxsize,
            delimiter=reading.delimiter,
            charset=reading.charset or UTF_8,
        )
        for row in _rows(lines, pieces):
            if not source.columns:
                source.columns.extend(lines.columns or ())
                _check_columns(source, reading)
            yield row
    except UnknownCharset as error:
        source.reject(str(error))
    except InvalidRequest as error:
        [flaw] = error.flaws
        source.reject(with_options(flaw.detail), flaw.line)


def _rows(lines: CsvLines, pieces: Iterable[bytes]) -> Iterator[Row]:
    for piece in pieces:
        yield from lines.feed(piece)
    yield from lines.end()


def _check_columns(source: Source, reading: Reading) -> None:
    missing = reading.template.missing_column(source.columns)
    if missing is not None:
        source.reject(f"has {with_options(no_column(missing, source.columns))}")


def with_options(detail: str) -> str:
    """Return what the server says to do with the names that the options have here."""
    return detail.replace("charset=", "--charset ").replace("delimiter=.", "--delimiter.")


def _expected(value: Any, number: int, source: Source, reading: Reading) -> frozenset[int]:
    """Return the expected statuses, which are not sent to the server."""
    if not _EXPECTED.fullmatch(str(value)):
        source.reject(f"{reading.expect!r} should be a status such as 201, or 201|409, not {str(value)!r}.", number)
    return _statuses(str(value))


@cache
def _statuses(text: str) -> frozenset[int]:
    """Return the statuses. They are cached, so that a million rows share a few sets."""
    return frozenset(map(int, text.split("|")))


def _encode(operation: dict[str, Any], number: int, expected: frozenset[int] | None, source: Source) -> FileOperation:
    """Encode an operation. Without an id it gets its number, so that ids are unique over several batches."""
    own_id = operation.pop("id", None)
    operation = {"id": str(number) if own_id is None else own_id, **operation}
    try:
        text = json.dumps(operation, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return FileOperation(number, str(operation["id"]), text.encode(), expected)
    except ValueError as error:  # 1e999, half a surrogate pair: Python reads them, but JSON in UTF-8 cannot hold them
        source.reject(f"contains a value that cannot be sent as JSON ({error}).", number)


def _parse(text: str, source: Source, number: int | None = None) -> Any:
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except json.JSONDecodeError as error:
        hint = ""
        if number is not None:
            hint = " NDJSON has one complete operation on each line."
        elif error.msg == "Extra data":
            hint = " If it has one operation on each line, use --format ndjson."
        _lines(source).reject(f"is not JSON ({error.msg.lower()}, column {error.colno}).{hint}", number or error.lineno)
    except (ValueError, RecursionError) as error:  # NaN, a number of 5,000 digits, 10,000 brackets
        _lines(source).reject(f"is JSON that cannot be sent ({error}).", number)


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _lines(source: Source) -> Source:
    """Return the same source for an error that is on a line of a JSON file."""
    return Source(source.stream, source.name, source.format, "line")


def _text_lines(source: Source) -> Iterator[str]:
    """Return the lines as text. They are decoded one by one, so that an invalid byte has a line number."""
    for number, line in enumerate(source.stream, 1):
        try:
            yield (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).decode()
        except UnicodeDecodeError:
            _lines(source).reject(f"is not UTF-8. Save the file as UTF-8.{_encoding_hint(line)}", number)


_OTHER_FORMATS = {
    b"\x1f\x8b": "It is compressed with gzip: decompress it first.",
    b"\x28\xb5\x2f\xfd": "It is compressed with zstd: decompress it first.",
    b"PK\x03\x04": "It is a workbook or a ZIP archive: save a workbook as CSV UTF-8 in Excel.",
}


def _encoding_hint(line: bytes) -> str:
    """Return what the file seems to be, and how to convert it."""
    for start, hint in _OTHER_FORMATS.items():
        if line.startswith(start):
            return f" {hint}"
    if line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return " It seems to be UTF-16: run `iconv -f UTF-16 -t UTF-8 OLD > NEW`."
    return ""
