"""GET and POST /console/file, POST /console/file/look: a person sends a CSV or NDJSON file as a batch.

The browser sends the beginning of the file first, so that the page can show what it contains and ask what its columns
mean. Then it sends the whole file, which is read, validated and accepted like the body of POST /batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aiohttp import web
from pydantic_core import from_json, to_json
from ulid import ULID

from penstock.errors import Flaw, InvalidRequest
from penstock.files.csv_lines import CsvLines, Row
from penstock.files.rejected import own_cells, own_columns
from penstock.files.template import PLACEHOLDER
from penstock.operations import METHODS, Operations
from penstock.priority import Priority
from penstock.route import Route
from penstock.service.console.rendering import page
from penstock.service.content import CSV, NDJSON, check_type, read_content
from penstock.service.intake.submit import submit_batch
from penstock.service.intake.tables import read_csv_form
from penstock.service.keys import OPERATIONS, SETTINGS
from penstock.service.paging import read_once

MOST_LOOKED_AT_BYTES = 131_072
SHOWN_ROWS = 3
LONGEST_CELL = 60
LONGEST_OBJECT = 10_000  # that is shown as a whole
MOST_NAMES = 1_000  # of an object that are compared with those of operations. A CSV file has no more columns
CHARSETS = {
    "utf-8": "UTF-8",
    "windows-1252": "Windows-1252 (Western Europe)",
    "windows-1250": "Windows-1250 (Central Europe)",
    "windows-1251": "Windows-1251 (Cyrillic)",
    "utf-16": "UTF-16",
}
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the file, and the name that its cells get in the operation. Without a name they are left out."""

    name: str
    member: str
    is_in_path: bool
    examples: list[str]


@dataclass(frozen=True)
class Target:
    """The operation that each row becomes."""

    method: str
    path: str
    members: Sequence[str]
    required: Sequence[str]

    @cached_property
    def in_path(self) -> list[str]:
        return PLACEHOLDER.findall(self.path)

    @cached_property
    def known(self) -> frozenset[str]:
        return frozenset((*self.in_path, *self.members))

    @cached_property
    def by_plain_name(self) -> Mapping[str, str]:
        """Return what the operation knows by its plain name. If two are the same, the first one counts."""
        return {_plain(name): name for name in reversed((*self.in_path, *self.members))}


async def show(request: web.Request) -> web.Response:
    settings = request.app[SETTINGS]
    return page(
        request,
        "file.html",
        operations=_offered(request.app[OPERATIONS]),
        methods=METHODS,
        priorities=list(Priority),
        charsets=CHARSETS,
        most_rows=settings.max_stream_operations,
    )


async def submit_file(request: web.Request) -> web.Response:
    """Answer like POST /batch. The page then shows the batch, or the errors of the file."""
    check_type(request, [CSV, NDJSON])
    return await submit_batch(request)


async def look(request: web.Request) -> web.Response:
    """Answer with what the beginning of a file contains."""
    check_type(request, [CSV, NDJSON])
    content = bytes(await read_content(request, MOST_LOOKED_AT_BYTES))
    values: dict[str, Any] = {"key": str(ULID())}
    if request.content_type == CSV:
        lines, rows = _first_rows(content, read_csv_form(request).charset)
        names = own_columns(lines.columns or [])
        target = _target(request, names)
        columns = _columns(names, rows, target)
        values |= {"columns": columns, "separator": DELIMITERS.get(lines.delimiter or "", "another character")}
        values |= {"target": target, "missing": _missing(columns, target)}
        return page(request, "look_csv.html", rows=rows[:SHOWN_ROWS], **values)
    first = _first_object(content)
    is_whole = isinstance(first.get("method"), str) and isinstance(first.get("path"), str)
    target = _target(request, list(first)[:MOST_NAMES])
    return page(request, "look_ndjson.html", is_whole=is_whole, first=_readable(first), target=target, **values)


def _readable(first: dict[str, Any]) -> str:
    """Return an object as JSON for a person. With spaces, one with many levels would be hundreds of times as long."""
    text = to_json(first)
    if len(text) <= LONGEST_OBJECT:
        return to_json(first, indent=2).decode()
    return f"{text[:LONGEST_OBJECT].decode(errors='ignore')} …"


def _first_rows(content: bytes, charset: str) -> tuple[CsvLines, list[Row]]:
    """Return the rows at the beginning of a file. Raises InvalidRequest if the file cannot be read."""
    lines = CsvLines(most_bytes=MOST_LOOKED_AT_BYTES, most_lines=MOST_LOOKED_AT_BYTES, charset=charset)
    rows = list(lines.feed(content))
    if not rows:
        rows += lines.end()
    if lines.columns is None:
        raise InvalidRequest([Flaw("", "The file is empty. Its first row must have the names of the columns.", 1)])
    return lines, rows


def _first_object(content: bytes) -> dict[str, Any]:
    line = next((line for line in content.split(b"\n") if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")
    try:
        value = from_json(line)
    except ValueError as error:
        raise InvalidRequest([Flaw("", f"The line is not valid JSON: {error}.", 1)]) from error
    if not isinstance(value, dict):
        raise InvalidRequest([Flaw("", "The line is not an object such as {...}.", 1)])
    return value


def _offered(operations: Operations[Any]) -> list[tuple[str, str]]:
    """Return the method and the path of everything that the application does, as they are written in a form."""
    return [(route.method, _path_of(route)) for route in operations.routes]


def _path_of(route: Route) -> str:
    return route.path.replace(":path}", "}")


def _target(request: web.Request, columns: Sequence[str]) -> Target:
    """Return the operation that the person chose, or the one that fits the columns best."""
    routes = request.app[OPERATIONS].routes
    method, path = read_once(request, "method"), read_once(request, "path")
    if method is None or path is None:
        plain = {column: _plain(column) for column in columns}
        return max(map(_target_of, routes), key=lambda target: _fit(plain, target), default=Target("POST", "/", (), ()))
    known = (target for target in map(_target_of, routes) if (target.method, target.path) == (method, path))
    return next(known, Target(method, path, (), ()))


def _target_of(route: Route) -> Target:
    schema = _body_schema(route)
    members, required = schema.get("properties", ()), schema.get("required", ())
    return Target(route.method, _path_of(route), list(members), list(required))


def _fit(columns: Mapping[str, str], target: Target) -> int:
    """Return how many columns an operation uses. What it needs and no column has counts much more.

    With each column comes its plain name.
    """
    members = {_member(column, plain, target) for column, plain in columns.items()} & target.known
    return len(members) - 10 * len({*target.in_path, *target.required} - members)


def _body_schema(route: Route) -> Mapping[str, Any]:
    """Return the JSON schema of a body, as far as the page can use it: of an object with named members."""
    if route.signature.body_validator is None:
        return {}
    schema = route.signature.body_validator.json_schema()
    return schema if schema.get("type") == "object" else {}


def _columns(names: Sequence[str], rows: Sequence[Row], target: Target) -> list[Column]:
    found = []
    shown = [own_cells(row.cells) for row in rows[:SHOWN_ROWS] if row.error is None]
    for name in names:
        member = _member(name, _plain(name), target)
        examples = [cells[name][:LONGEST_CELL] for cells in shown]
        found.append(Column(name, member, member in target.in_path, examples))
    return found


def _member(column: str, plain: str, target: Target) -> str:
    """Return the name that a column most likely means. It is empty if the operation has no such member."""
    if column in target.known or not target.members:
        return column
    return target.by_plain_name.get(plain, "")


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _missing(columns: Sequence[Column], target: Target) -> list[str]:
    """Return what every row needs and no column has."""
    members = {column.member for column in columns}
    return [name for name in (*target.in_path, *target.required) if name not in members]
