"""Says which operation a row of a file is, and which row an operation was. Pure.

The method and the path are the same for every row. `{name}` in the path is replaced by the cell of this name. The other
cells are the members of the body. Cells of a CSV file are texts, and empty ones are left out. The id of an operation is
the number of its line.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote, unquote

from penstock.files.csv_lines import Row
from penstock.files.rejected import is_rejected_file, own_cells, own_columns, without_added

PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_NOT_IN_CELLS = re.compile(r"[^A-Za-z0-9%]")
WITHOUT_BODY = frozenset({"GET", "DELETE"})
_SHOWN_COLUMNS, _SHOWN_CHARACTERS = 20, 100  # in an error
_SAME_NAME = "Two columns get the same name in the operation. Give one of them another name, or leave it out."
_NO_OBJECT = "The line is not an object. Write the members of a body as {...}, or leave the method out."


@dataclass(frozen=True)
class Template:
    """What operation a row is. `names` are new names for cells. None leaves a cell out.

    `key` is the name of the cell that is the key of the operation, if it has one.
    """

    method: str
    path: str
    names: Mapping[str, str | None] = field(default_factory=dict)
    key: str | None = None

    @cached_property
    def in_path(self) -> Sequence[str]:
        """Return the names of the cells in the path."""
        return PLACEHOLDER.findall(self.path)

    @cached_property
    def is_ambiguous(self) -> bool:
        """Return True if an operation's path does not tell which part of it is from which cell.

        Between two cells, there must be a character that no encoded cell has.
        """
        return not all(map(_NOT_IN_CELLS.search, PLACEHOLDER.split(self.path)[2:-1:2]))

    def missing_column(self, columns: Collection[str]) -> str | None:
        """Return a name that this template has, and no column of a CSV file. Return None if there is none.

        A file of rejected rows lacks the columns that `names` leave out, and may lack others that were empty.
        """
        own = own_columns(columns)
        if not is_rejected_file(columns) and (missing := [name for name in self.names if name not in own]):
            return missing[0]
        known = {*own, *(self.names.get(name) for name in own)}
        needed = self.in_path if self.key is None else [*self.in_path, self.key]
        return next((name for name in needed if name not in known), None)

    def operation_of_row(self, row: Row) -> dict[str, Any] | str:
        """Return the operation of a row of a CSV file, or why it has none."""
        if row.error is not None:
            return row.error
        return self._operation(own_cells(row.cells), row.number, skips_empty=True)

    def operation_of_line(self, value: Any, number: int) -> dict[str, Any] | str:
        """Return the operation of a line of NDJSON, or why it has none."""
        if not isinstance(value, dict):
            return _NO_OBJECT
        return self._operation(without_added(value), number, skips_empty=False)

    def _operation(self, cells: Mapping[str, Any], number: int, *, skips_empty: bool) -> dict[str, Any] | str:
        named = self._named(cells) if self.names else cells
        if named is None:
            return _SAME_NAME
        for name in self.in_path:
            if (problem := _problem_of(named.get(name))) is not None:
                return f"The path {self.path} needs a value of {name}, {problem}"
        if self.key is not None and (problem := _problem_of(named.get(self.key))) is not None:
            return f"The key of the operation is its {self.key}, {problem}"
        members: Mapping[str, Any] = named
        path = self.path
        if self.in_path:
            members = {name: cell for name, cell in named.items() if name not in self.in_path}
            path = PLACEHOLDER.sub(lambda found: self._quoted(str(named[found[1]])), path)
        operation: dict[str, Any] = {"id": str(number), "method": self.method, "path": path}
        body = {name: cell for name, cell in members.items() if cell != ""} if skips_empty else members
        if body or (members and self.method not in WITHOUT_BODY):
            operation["body"] = body
        if self.key is not None:
            operation["key"] = str(named[self.key])
        return operation

    def _named(self, cells: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the cells by the names of the operation's members. Return None if two would have the same name."""
        kept = {old: name for old in cells if (name := self.names.get(old, old)) is not None}
        named = {name: cells[old] for old, name in kept.items()}
        return named if len(named) == len(kept) else None

    def row_of(self, path: str, body: Any, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the row of an operation, with these columns or with all that it has. Cells that are absent are empty.

        A cell that `names` leave out is not in the operation, so its column is left out.
        """
        found = self._pattern.fullmatch(path)
        in_path = zip(self.in_path, found.groups(), strict=True) if found else ()
        named = {name: unquote(cell) for name, cell in in_path} | (body if isinstance(body, dict) else {})
        if columns is None:
            old_names = {new: old for old, new in self.names.items()}
            return {old_names.get(name, name): cell for name, cell in named.items()}
        return {old: named.get(new, "") for old in columns if (new := self.names.get(old, old)) is not None}

    @cached_property
    def _between(self) -> frozenset[str]:
        """Return the punctuation between two cells in the path that `quote` would leave as it is."""
        return frozenset("_.~-").intersection("".join(PLACEHOLDER.split(self.path)[2:-1:2]))

    def _quoted(self, cell: str) -> str:
        """Encode a cell for the path, so that it can be told from the cell after it."""
        if not self._between:
            return quote(cell, safe="")
        return "".join(f"%{ord(one):02X}" if one in self._between else quote(one, safe="") for one in cell)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pieces = PLACEHOLDER.split(self.path)
        pieces[::2] = map(re.escape, pieces[::2])
        pieces[1::2] = ["(.*?)"] * len(self.in_path)
        return re.compile("".join(pieces), re.DOTALL)


def _problem_of(value: Any) -> str | None:
    """Return why a value cannot be a part of the path or the key. Return None if it can."""
    if value is None or value == "":
        return "and this row has none."
    if not isinstance(value, str | int) or isinstance(value, bool):
        return "and the one of this row is neither a text nor a whole number."
    return None


def no_column(name: str, columns: Sequence[str]) -> str:
    """Return the end of the sentence that a file "has ...", and what to do."""
    shown = ", ".join(_quoted_name(column) for column in columns[:_SHOWN_COLUMNS])
    more = f" and {len(columns) - _SHOWN_COLUMNS:,} more" if len(columns) > _SHOWN_COLUMNS else ""
    are = "Its only column is" if len(columns) == 1 else "Its columns are"
    hint = " If another character separates them, name it with delimiter=." if len(columns) == 1 else ""
    return f"no column {_quoted_name(name)}. {are} {shown}{more}.{hint}"


def _quoted_name(name: str) -> str:
    return repr(name[:_SHOWN_CHARACTERS])
