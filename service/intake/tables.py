"""Reads a batch from a file of rows: a CSV file, or NDJSON. The query says what operation each row is.

    method, path         of every operation. `{name}` in the path is replaced by the cell of the row with this name
    columns              a JSON object with new names for cells: `{"E-mail": "email"}`. null leaves the cell out.
                         A CSV file must have all of them
    key                  the name of the cell that is the key of the operation
    invalidRows          `fail`: a row that its handler's model rejects fails, and the others run
    delimiter, charset   of a CSV file. Without them, the delimiter is found, and the file is UTF-8

Without a method and a path, every line of NDJSON is a whole operation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from aiohttp import web
from multidict import MultiDict
from pydantic import TypeAdapter, ValidationError

from penstock.errors import MalformedRequest
from penstock.files.charset import UTF_8, codec_of
from penstock.files.csv_lines import CsvLines, Row, parse_delimiter
from penstock.files.layout import Layout
from penstock.files.template import Template
from penstock.operations import METHODS
from penstock.reading.elements import separators
from penstock.reading.flaws import Flaws
from penstock.reading.forms import FileForm, FormKind
from penstock.reading.line_source import Rows, operation_of_body
from penstock.reading.lines import Lines
from penstock.service.content import CSV, JSON, NDJSON, check_type, within
from penstock.service.intake.draft import Draft
from penstock.service.intake.reading import (
    STREAM_SECONDS,
    Read,
    add_operation,
    limits_of,
    read_batch,
    read_lines,
    read_options,
)
from penstock.service.intake.uploaded import UPLOAD, without_upload
from penstock.service.keys import SETTINGS
from penstock.service.paging import read_once
from penstock.service.schemas import BatchOptions
from penstock.settings import Settings

_OWN = frozenset({"method", "path", "columns", "key", "invalidRows", "delimiter", "charset"})
_INVALID_ROWS = ("reject", "fail")
_NAMES: TypeAdapter[dict[str, str | None]] = TypeAdapter(dict[str, str | None])


async def read_file(request: web.Request, draft: Draft) -> Read:
    """Read a batch of any kind into the draft, with its errors."""
    check_type(request, [NDJSON, CSV] if UPLOAD in request.query else [JSON, NDJSON, CSV])
    template = read_template(request)
    if template is None:
        return await read_batch(request, draft)
    async with within(STREAM_SECONDS):
        return await _read_rows(request, draft, template)


async def _read_rows(request: web.Request, draft: Draft, template: Template) -> Read:
    limits = limits_of(request.app[SETTINGS])
    options = read_file_options(request, read_form(request), draft.flaws)
    form = read_csv_form(request)
    if _read_invalid_rows(request) == "fail":
        draft.accept_invalid()
    kind = repr((template, form, draft.accepts_invalid))
    if request.content_type == NDJSON:
        read = await read_lines(request, draft, options, Lines(**limits), kind, add=partial(_add_bodies, template))
        return replace(read, layout=Layout(template))
    lines = CsvLines(**limits, delimiter=form.delimiter, charset=form.charset)
    read = await read_lines(request, draft, options, Rows(lines, template), kind, add=partial(_add_rows, template))
    return replace(read, layout=Layout(template, lines.columns or (), lines.delimiter, lines.needs_mark))


def _add_rows(template: Template, draft: Draft, rows: Sequence[tuple[int, Row]], settings: Settings) -> None:
    for number, row in rows:
        add_operation(draft, number, template.operation_of_row(row), settings, elements=len(row.cells))


def _add_bodies(template: Template, draft: Draft, lines: Sequence[tuple[int, bytes]], settings: Settings) -> None:
    for number, line in lines:
        operation = operation_of_body(template, number, line, settings.most_elements)
        add_operation(draft, number, operation, settings, elements=separators(line))


def read_template(request: web.Request) -> Template | None:
    """Return what operation each row is. Return None if the operations are whole. Raises MalformedRequest."""
    method, path = read_once(request, "method"), read_once(request, "path")
    if request.content_type == JSON or (method is None and path is None and request.content_type != CSV):
        return None
    if method not in METHODS or path is None or not path.startswith("/"):
        raise MalformedRequest(f"The query needs a method ({', '.join(METHODS)}) and a path that starts with a slash.")
    try:
        names = _NAMES.validate_json(read_once(request, "columns") or "{}")
    except ValidationError:
        raise MalformedRequest("The parameter columns is not a JSON object of names.") from None
    template = Template(method, path, names, read_once(request, "key"))
    if template.is_ambiguous:
        raise MalformedRequest("The path has two {names} with nothing between them to tell them apart. Write / or -.")
    return template


def _read_invalid_rows(request: web.Request) -> str:
    given = read_once(request, "invalidRows") or "reject"
    if given not in _INVALID_ROWS:
        raise MalformedRequest(f"Invalid invalidRows {given!r}. Use {' or '.join(_INVALID_ROWS)}.")
    return given


def read_form(request: web.Request) -> FileForm:
    """Return how the file of a request is written. Raises MalformedRequest."""
    template = read_template(request)
    if template is None:
        return FileForm(FormKind.OPERATIONS)
    form, accepts_invalid = read_csv_form(request), _read_invalid_rows(request) == "fail"
    kind = FormKind.BODIES if request.content_type == NDJSON else FormKind.CSV
    return FileForm(kind, template, form.delimiter, form.charset, accepts_invalid)


def read_file_options(request: web.Request, form: FileForm, flaws: Flaws) -> BatchOptions:
    """Return the options of the batch that is a file. Errors go to `flaws`."""
    own = frozenset[str]() if form.template is None else _OWN
    return read_options(
        MultiDict((name, value) for name, value in without_upload(request.query).items() if name not in own), flaws
    )


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How a CSV file is written. Without a delimiter, it is found."""

    delimiter: str | None
    charset: str


def read_csv_form(request: web.Request) -> CsvForm:
    """Return how the client says that its file is written. Raises MalformedRequest."""
    delimiter, charset = read_once(request, "delimiter"), read_once(request, "charset")
    if request.content_type != CSV and (delimiter or charset):
        raise MalformedRequest("The parameters delimiter and charset are for CSV files. NDJSON is always UTF-8.")
    form = CsvForm(delimiter or None, charset or request.charset or UTF_8)
    try:
        codec_of(form.charset)
        return replace(form, delimiter=parse_delimiter(delimiter)) if delimiter else form
    except ValueError as error:
        raise MalformedRequest(str(error)) from None
