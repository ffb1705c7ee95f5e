"""Reads a batch from a file of rows: a CSV file, or NDJSON. The query says what operation each row is.

    method, path    of every operation. `{name}` in the path is replaced by the cell of the row with this name
    columns         a JSON object with new names for cells: `{"E-mail": "email"}`. null leaves the cell out

The other cells are the members of the body. Empty cells of a CSV file are left out. Without a method, every line of
NDJSON is a whole operation.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote

from aiohttp import web
from multidict import MultiDict
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from penstock.errors import MalformedRequest
from penstock.operations import METHODS
from penstock.service.content import NDJSON, check_type
from penstock.service.intake.csv_lines import CsvLines, Row
from penstock.service.intake.draft import Draft
from penstock.service.intake.lines import Lines
from penstock.service.intake.reading import LineSource, Read, limits_of, parse_line, read_lines, read_options
from penstock.service.keys import SETTINGS
from penstock.service.paging import read_once
from penstock.settings import Settings

CSV = "text/csv"
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_OWN = frozenset({"method", "path", "columns"})
_NO_OBJECT = "The line is not an object. Write the members of a body as {...}, or leave the method out."
_NAMES: TypeAdapter[dict[str, str | None]] = TypeAdapter(dict[str, str | None])


R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class _RowSource(Protocol[R_co]):
    """Splits a body into rows: `CsvLines` or `Lines`."""

    def feed(self, piece: bytes) -> Iterator[R_co]: ...

    def end(self) -> Iterator[R_co]: ...


@dataclass(frozen=True, slots=True)
class Template:
    """What operation a row is."""

    method: str
    path: str
    names: Mapping[str, str | None]

    def operation(self, cells: Mapping[str, Any], number: int, *, skips_empty: bool) -> dict[str, Any] | str:
        """Return the operation of a row, or why it has none. Its id is the number of its line."""
        named = {name: cell for old, cell in cells.items() if (name := self.names.get(old, old)) is not None}
        in_path = PLACEHOLDER.findall(self.path)
        for name in in_path:
            if not _fills_path(named.get(name)):
                return f"The path {self.path} needs a value of {name}, and this row has none."
        members = {name: cell for name, cell in named.items() if name not in in_path}
        path = PLACEHOLDER.sub(lambda found: quote(str(named[found[1]]), safe=""), self.path)
        operation = {"id": str(number), "method": self.method, "path": path}
        if not members:
            return operation
        return operation | {"body": {name: cell for name, cell in members.items() if not skips_empty or cell != ""}}


def _fills_path(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


async def read_table(request: web.Request, draft: Draft) -> Read:
    """Read the rows in the body of a request into the draft, with their errors."""
    check_type(request, [CSV, NDJSON])
    template = read_template(request)
    query = MultiDict((name, value) for name, value in request.query.items() if name not in _OWN)
    options = read_options(query, draft.flaws)
    return await read_lines(request, draft, options, _line_source(request, draft, template), repr(template))


def _line_source(request: web.Request, draft: Draft, template: Template | None) -> LineSource:
    settings = request.app[SETTINGS]
    if template is None:
        return Lines(**limits_of(settings))
    if request.content_type == CSV:
        return _Operations(draft, CsvLines(**limits_of(settings)), partial(_operation_of_row, template))
    return _Operations(draft, Lines(**limits_of(settings)), partial(_operation_of_line, template, settings))


class _Operations(Generic[R]):
    """Turns the rows of a file into lines of NDJSON with an operation each. Rows that cannot be read become errors."""

    def __init__(self, draft: Draft, rows: _RowSource[R], operation_of: Callable[[R], tuple[int, Any]]) -> None:
        self._draft = draft
        self._rows = rows
        self._operation_of = operation_of

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes]]:
        return self._lines(self._rows.feed(piece))

    def end(self) -> Iterator[tuple[int, bytes]]:
        return self._lines(self._rows.end())

    def _lines(self, rows: Iterator[R]) -> Iterator[tuple[int, bytes]]:
        for row in rows:
            number, operation = self._operation_of(row)
            if isinstance(operation, str):
                self._draft.add_unreadable(operation, number, str(number))
            else:
                yield number, to_json(operation)


def _operation_of_row(template: Template, row: Row) -> tuple[int, dict[str, Any] | str]:
    """Return the line of a row, and its operation or why it has none."""
    if row.error is not None:
        return row.number, row.error
    return row.number, template.operation(row.cells, row.number, skips_empty=True)


def _operation_of_line(template: Template, settings: Settings, row: tuple[int, bytes]) -> tuple[int, Any]:
    number, line = row
    try:
        members = parse_line(line.removeprefix(BOM_UTF8), settings)
    except ValueError as error:
        return number, str(error)
    if not isinstance(members, dict):
        return number, _NO_OBJECT
    return number, template.operation(members, number, skips_empty=False)


def read_template(request: web.Request) -> Template | None:
    """Return what operation each row is. Return None if every row is a whole operation. Raises MalformedRequest."""
    method, path = read_once(request, "method"), read_once(request, "path")
    if method is None and path is None and request.content_type != CSV:
        return None
    if method not in METHODS or path is None or not path.startswith("/"):
        raise MalformedRequest(f"The query needs a method ({', '.join(METHODS)}) and a path that starts with a slash.")
    try:
        names = _NAMES.validate_json(read_once(request, "columns") or "{}")
    except ValidationError:
        raise MalformedRequest("The parameter columns is not a JSON object of names.") from None
    return Template(method, path, names)
