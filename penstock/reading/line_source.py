"""Where the operations of a body or a file come from: its lines, or the rows of a CSV file. Pure."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypedDict, TypeVar

from penstock.errors import Flaw, InvalidRequest
from penstock.files.csv_lines import CsvLines, Row
from penstock.files.template import Template, no_column
from penstock.reading.json_line import parse_line

# A character of a message needs at most six in a line, as in \u00e4. So a longer line does not fit into a message.
LINE_BYTES_FOR_A_MESSAGE_BYTE = 6

L_co = TypeVar("L_co", covariant=True)


class LineSource(Protocol[L_co]):
    """Splits the pieces of a body into what it has an operation in: `Lines`, or the rows of a file."""

    def feed(self, piece: bytes) -> Iterator[tuple[int, L_co]]: ...

    def end(self) -> Iterator[tuple[int, L_co]]: ...

    @property
    def why_empty(self) -> str:
        """Return what to say if the body had no operation."""


class LineLimits(TypedDict):
    most_bytes: int
    most_lines: int


def limits_of_lines(message_bytes: int, most_operations: int) -> LineLimits:
    """Return the limits of the lines of a body that has at most this many operations."""
    return {"most_bytes": LINE_BYTES_FOR_A_MESSAGE_BYTE * message_bytes, "most_lines": 2 * most_operations}


class Rows:
    """Splits a CSV file into rows, each with the line on which it starts.

    `feed` and `end` raise InvalidRequest if the file has no column of a name that the query has.
    """

    def __init__(self, lines: CsvLines, template: Template) -> None:
        self._lines = lines
        self._template = template
        self._is_checked = False

    def feed(self, piece: bytes) -> Iterator[tuple[int, Row]]:
        return self._numbered(self._lines.feed(piece))

    def end(self) -> Iterator[tuple[int, Row]]:
        return self._numbered(self._lines.end())

    def _numbered(self, rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
        for row in rows:
            if not self._is_checked:
                self._check_columns(self._lines.columns or ())
            yield row.number, row

    def _check_columns(self, columns: Sequence[str]) -> None:
        missing = self._template.missing_column(columns)
        if missing is not None:
            raise InvalidRequest([Flaw("", f"The file has {no_column(missing, columns)}")])
        self._is_checked = True

    @property
    def why_empty(self) -> str:
        if self._lines.columns is None:
            return "The file is empty."
        return "The file has no rows after the row with the names of the columns."


def operation_of_body(template: Template, number: int, line: bytes, most_elements: int) -> dict[str, Any] | str:
    """Return the operation of a line that is a body, or the reason why it has none. Raises LimitPassed."""
    try:
        value = parse_line(line.removeprefix(BOM_UTF8), most_elements)
    except ValueError as error:
        return str(error)
    return template.operation_of_line(value, number)
