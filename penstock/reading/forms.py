"""How the operations of a file are written, so that any program can go on in the middle of the file. Pure.

operations   NDJSON: each line is an operation
bodies       NDJSON: each line is the body of an operation, and a template says the rest
csv          each row is an operation, as the template says
"""

from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from penstock.files.charset import UTF_8
from penstock.files.csv_lines import CsvLines, Row
from penstock.files.layout import Layout
from penstock.files.template import Template
from penstock.reading.json_line import parse_line
from penstock.reading.line_source import LineLimits, Rows, operation_of_body
from penstock.reading.lines import Lines

NO_LINKS = (
    "A file that is validated in the background has no dependencies, no references and no groups. Send these "
    "operations in the body of POST /batch."
)
NO_PLACE: Mapping[str, Any] = {"byte": 0, "line": 0, "header": None}


class FormKind(StrEnum):
    OPERATIONS = "operations"
    BODIES = "bodies"
    CSV = "csv"


class FormReader(Protocol):
    """Reads a file from some place on. `feed` it the pieces from there, then call `end`.

    Both yield the number of a line and its operation as a client would write it, or why the line has none. Both raise
    InvalidRequest if the file as a whole cannot be read, and LimitPassed.
    """

    def feed(self, piece: bytes) -> Iterator[tuple[int, dict[str, Any] | str | Any]]: ...

    def end(self) -> Iterator[tuple[int, dict[str, Any] | str | Any]]: ...

    @property
    def at(self) -> tuple[int, int]:
        """Return the byte after the operation that was yielded last, and the number of lines up to there."""

    @property
    def header(self) -> Any:
        """Return what the reader has learnt from the beginning of the file, as a JSON value."""

    @property
    def why_empty(self) -> str:
        """Return what to say if the file has no operation."""


class Unreadable(str):
    """Why a line has no operation. The line is counted as one."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class FileForm:
    """How a file is written, and what operation each line or row is."""

    kind: FormKind
    template: Template | None = None  # None: each line is a whole operation
    delimiter: str | None = None
    charset: str = UTF_8
    accepts_invalid: bool = False  # rows that their handler's model rejects fail, and the others run
    accepts_unknown: bool = False  # operations that no handler performs fail, and the others run

    @property
    def has_line_ids(self) -> bool:
        """Return True if the id of each operation is the number of its line, so that no two have the same."""
        return self.template is not None

    @property
    def can_go_on(self) -> bool:
        """Return True if a reader can go on in the middle of the file."""
        if self.kind is not FormKind.CSV:
            return True
        return CsvLines(most_bytes=1, most_lines=1, charset=self.charset).can_go_on

    def reader(self, limits: LineLimits, most_elements: int, place: Mapping[str, Any]) -> FormReader:
        """Return a reader that goes on at a place."""
        match self.kind:
            case FormKind.CSV:
                return _CsvReader(self, limits, place)
            case _:
                return _LineReader(self.template, limits, most_elements, place)

    def layout(self, place: Mapping[str, Any]) -> Layout | None:
        """Return what is kept of the file with its batch. `place` is any place after the header."""
        if self.template is None:
            return None
        if self.kind is not FormKind.CSV:
            return Layout(self.template)
        columns, _, _, delimiter, _, needs_mark = place["header"]
        return Layout(self.template, columns, delimiter, needs_mark)

    def to_json(self) -> dict[str, Any]:
        template = self.template
        return {
            "kind": self.kind,
            "template": template and [template.method, template.path, dict(template.names), template.key],
            "delimiter": self.delimiter,
            "charset": self.charset,
            "accepts_invalid": self.accepts_invalid,
            "accepts_unknown": self.accepts_unknown,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "FileForm":
        template = None if value["template"] is None else Template(*value["template"])
        accepts = value["accepts_invalid"], value["accepts_unknown"]
        return cls(FormKind(value["kind"]), template, value["delimiter"], value["charset"], *accepts)


class _LineReader:
    def __init__(
        self, template: Template | None, limits: LineLimits, most_elements: int, place: Mapping[str, Any]
    ) -> None:
        self._template = template
        self._most_elements = most_elements
        self._lines = Lines(**limits, first_line=place["line"], first_byte=place["byte"])

    def feed(self, piece: bytes) -> Iterator[tuple[int, Any]]:
        return self._operations(self._lines.feed(piece))

    def end(self) -> Iterator[tuple[int, Any]]:
        return self._operations(self._lines.end())

    @property
    def at(self) -> tuple[int, int]:
        return self._lines.read_bytes, self._lines.line_count

    @property
    def header(self) -> None:
        return None

    @property
    def why_empty(self) -> str:
        return self._lines.why_empty

    def _operations(self, lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, Any]]:
        for number, line in lines:
            if self._template is not None:
                operation = operation_of_body(self._template, number, line, self._most_elements)
                yield number, Unreadable(operation) if isinstance(operation, str) else operation
                continue
            content = line.removeprefix(BOM_UTF8)
            if content and not content.isspace():
                yield number, self._whole(content)

    def _whole(self, line: bytes) -> Any:
        try:
            return parse_line(line, self._most_elements)
        except ValueError as error:
            return Unreadable(error)


class _CsvReader:
    def __init__(self, form: FileForm, limits: LineLimits, place: Mapping[str, Any]) -> None:
        assert form.template is not None, "a row is an operation by its template only"
        self._template = form.template
        self._lines = CsvLines(**limits, delimiter=form.delimiter, charset=form.charset)
        if place["header"] is not None:
            self._lines.go_on(place["header"], place["line"], place["byte"])
        self._rows = Rows(self._lines, form.template)

    def feed(self, piece: bytes) -> Iterator[tuple[int, Any]]:
        return self._operations(self._rows.feed(piece))

    def end(self) -> Iterator[tuple[int, Any]]:
        return self._operations(self._rows.end())

    @property
    def at(self) -> tuple[int, int]:
        return self._lines.read_bytes, self._lines.line_count

    @property
    def header(self) -> list[Any]:
        return self._lines.header

    @property
    def why_empty(self) -> str:
        return self._rows.why_empty

    def _operations(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Any]]:
        for number, row in rows:
            operation = self._template.operation_of_row(row)
            yield number, Unreadable(operation) if isinstance(operation, str) else operation
