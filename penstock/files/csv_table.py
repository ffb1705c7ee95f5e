"""Writes rows as CSV, whose columns are not all known before the first line. Pure.

A row has cells for the first and the last columns, which are always there, and members between them. The names of the
members in the first rows become columns. Members that come later go into the column `more`, as a JSON object.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec import DecodeError, Raw
from msgspec.json import Decoder
from pydantic_core import from_json, to_json

from penstock.files.rejected import safe_cell

MORE = "more"
MOST_COLUMNS = 1_000
_members_decoder = Decoder(dict[str, Raw])

Cell = str | bytes  # a text, or a JSON value


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of the table that is written."""

    first: Sequence[Cell]
    members: Mapping[str, Cell]
    last: Sequence[Cell] = ()


def members_of(value: bytes, name: str) -> dict[str, Cell]:
    """Return the members of a JSON object, or a value that is no object as the member `name`. null has none."""
    try:
        return {member: bytes(cell) for member, cell in _members_decoder.decode(value).items()}
    except DecodeError:
        return {} if value == b"null" else {name: value}


class CsvTable:
    """Call `start` with the first rows, then `lines` with all rows, in parts. `start` returns the header."""

    def __init__(
        self,
        first: Sequence[str],
        last: Sequence[str] = (),
        *,
        members: Sequence[str] | None = None,
        has_more: bool = False,
        prefix: str = "",
        delimiter: str = ",",
    ) -> None:
        """Create a table. `members` are the columns between the first and the last if they are known.

        With `has_more`, there is a column for other members.

        `prefix` is written before the name of a member that is also the name of another column.
        """
        self._first = first
        self._last = last
        self._members = members
        self._has_more = has_more
        self._prefix = prefix
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, delimiter=delimiter, lineterminator="\r\n")

    def start(self, rows: Iterable[TableRow], *, is_all: bool) -> str:
        """Return the header. If these rows are not all, there is a column for what comes later."""
        if self._members is None:
            names = dict.fromkeys(name for row in rows for name in row.members)
            self._members = list(names)[:MOST_COLUMNS]
            self._has_more = not is_all or len(names) > MOST_COLUMNS
        taken = [*self._first, *self._last]
        members = [f"{self._prefix}{name}" if name in taken else name for name in self._members]
        more = [f"{self._prefix}{MORE}" if MORE in members else MORE] if self._has_more else []
        return self._line([*self._first, *members, *more, *self._last])

    def lines(self, rows: Iterable[TableRow]) -> Iterator[str]:
        members = dict.fromkeys(self._members or ())
        for row in rows:
            cells: list[Cell] = [*row.first, *(row.members.get(name, "") for name in members)]
            if self._has_more:
                cells.append(_object({name: cell for name, cell in row.members.items() if name not in members}))
            yield self._line([*cells, *row.last])

    def _line(self, cells: Sequence[Cell]) -> str:
        self._writer.writerow(map(_to_text, cells))
        line = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return line


def _to_text(cell: Cell) -> str:
    """Return what is written for a cell. A text is not a formula. A number stays one."""
    if isinstance(cell, bytes) and cell[:1] != b'"':
        return "" if cell == b"null" else cell.decode()
    return safe_cell(cell if isinstance(cell, str) else from_json(cell))


def _object(members: Mapping[str, Cell]) -> str:
    if not members:
        return ""
    values = (cell if isinstance(cell, bytes) else to_json(cell) for cell in members.values())
    pairs = (b"%b:%b" % (to_json(name), value) for name, value in zip(members, values, strict=True))
    return (b"{%b}" % b",".join(pairs)).decode()
