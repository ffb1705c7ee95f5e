"""GET /batch/{id}/rejected: returns the rows of a file that failed, as they came and with what was wrong with them.

They can be corrected and sent again: POST /batch ignores the columns with the errors. For a batch of whole operations,
the rows are its operations.

The records of the groups with failures are read, one planned chunk with its follow-ups after the other. What they keep
of a failed operation, and the layout of the file, make the row. Operations that had not started when their batch was
stopped have no record, so they have no row.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from aiohttp import web
from msgspec import Struct
from msgspec.json import Decoder
from pydantic_core import from_json, to_json

from penstock.chunk import planned_number
from penstock.errors import LostItem, MalformedRequest, UnknownBatch
from penstock.files.csv_table import Cell, CsvTable, TableRow, members_of
from penstock.files.layout import Layout
from penstock.files.rejected import ADDED, ADDED_TO_OPERATIONS, OWN_PREFIX, name_next_to_added
from penstock.files.template import WITHOUT_BODY
from penstock.record import FailedOperation, decode_failures
from penstock.service.batches.csv_results import Part, written
from penstock.service.batches.results import read_format
from penstock.service.batches.status import Progress, find_progress
from penstock.service.batches.streaming import Blocks, in_blocks, stream, stream_csv
from penstock.service.content import CSV, NDJSON
from penstock.service.keys import BACKEND, TURNS
from penstock.service.turns import Turns
from penstock.settings import MIB
from penstock.store import Store

_FORMATS = {"ndjson": NDJSON, "csv": CSV}
PART_ROWS = 1_000
PART_BYTES = 4 * MIB
TURN_BYTES = MIB  # of records that are decoded in one turn, which takes a few milliseconds


class _Error(Struct):
    title: Any = None
    detail: Any = None


_error_decoder = Decoder(_Error | None)


async def rejected_rows(request: web.Request) -> web.StreamResponse:
    for name in request.query:
        if name != "format":
            raise MalformedRequest(f"The parameter {name!r} is unknown. Use format.")
    kind = read_format(request, _FORMATS)
    progress = await find_progress(request)
    store = request.app[BACKEND].store
    layout = await store.read_layout(progress.batch.id)
    parts = _in_parts(read_failures(store, progress, request.app[TURNS]))
    if kind == CSV:
        return await stream_csv(request, csv_blocks(parts, layout), needs_mark=layout is not None and layout.needs_mark)
    return await stream(request, NDJSON, in_blocks(_json_lines(parts, layout)))


async def read_failures(store: Store, progress: Progress, turns: Turns) -> AsyncIterator[FailedOperation]:
    """Yield the failed operations that are counted so far, in their order, with the failures that each depends on.

    All that is connected is in the same family, even if it failed at another time.

    Raises UnknownBatch if the retention of the batch ends while it is read.
    """
    try:
        for number, counter in progress.groups.items():
            if counter.counts.failed:
                async for failures, ids in _families(store, progress, number, turns):
                    for index in sorted(failures):
                        one = failures[index]
                        failed_needs = {need: failures[need].id for need in one.after if need in failures}
                        referred = {reference.source for reference in one.references}
                        sources = {index: ids[index] for index in referred if index in ids}
                        yield replace(one, failed_needs=failed_needs, sources=sources)
    except LostItem:
        raise UnknownBatch(progress.batch.id) from None


async def _families(
    store: Store, progress: Progress, number: int, turns: Turns
) -> AsyncIterator[tuple[dict[int, FailedOperation], dict[int, str]]]:
    """Yield the failures of each planned chunk with its follow-ups, and the ids of all that has ended, by index."""
    done = (await store.read_group(progress.batch.id, number)).done
    family: dict[int, FailedOperation] = {}
    ids: dict[int, str] = {}
    chunk, in_turn = None, 0
    async for record in store.read_records(progress.batch, number, 0):
        if record.chunk_id not in done:
            continue  # it may become void
        if planned_number(record.chunk_id) != chunk:
            yield family, ids
            family, ids, chunk = {}, {}, planned_number(record.chunk_id)
        ended, failed = decode_failures(record.content)
        ids |= ended
        for index in ended:
            family.pop(index, None)  # this record has a later outcome
        family.update((one.index, one) for one in failed)
        in_turn += len(record.content)
        if in_turn >= TURN_BYTES:
            in_turn = 0
            await turns.next()
    yield family, ids


async def _in_parts(failures: AsyncIterator[FailedOperation]) -> AsyncIterator[tuple[list[FailedOperation], int]]:
    """Yield the failures in parts, each with the memory that it takes."""
    part: list[FailedOperation] = []
    size = 0
    async for one in failures:
        part.append(one)
        size += one.memory_bytes
        if len(part) == PART_ROWS or size >= PART_BYTES:
            yield part, size
            part, size = [], 0
    if part:
        yield part, size


def csv_blocks(parts: AsyncIterator[tuple[list[FailedOperation], int]], layout: Layout | None) -> Blocks:
    delimiter = (layout and layout.delimiter) or ","
    if layout is None:
        table = CsvTable((), (*ADDED, *ADDED_TO_OPERATIONS), prefix=OWN_PREFIX)
    else:
        table = CsvTable((), ADDED, members=_columns(layout), prefix=OWN_PREFIX, delimiter=delimiter)
    return in_blocks(written(table, _table_rows(parts, layout)))


def _columns(layout: Layout) -> list[str] | None:
    if layout.columns is None:
        return None
    return list(layout.template.row_of("", None, layout.columns))


async def _table_rows(
    parts: AsyncIterator[tuple[list[FailedOperation], int]], layout: Layout | None
) -> AsyncIterator[Part]:
    async for part, size in parts:
        yield [_table_row(one, layout) for one in part], 3 * size


def _table_row(one: FailedOperation, layout: Layout | None) -> TableRow:
    added: list[Cell] = [b"%d" % one.status, *_title_and_detail(one)]
    if layout is None:
        return TableRow((), members_of(one.body, "body"), [*added, one.id, one.method, one.path])
    row = layout.template.row_of(one.path, members_of(one.body, "body"), layout.columns)
    return TableRow((), row, added)


def _title_and_detail(one: FailedOperation) -> tuple[str, str]:
    error = _error_decoder.decode(one.error) or _Error()
    return _text(error.title), _text(error.detail)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else to_json(value).decode()


async def _json_lines(
    parts: AsyncIterator[tuple[list[FailedOperation], int]], layout: Layout | None
) -> AsyncIterator[tuple[bytes, int]]:
    async for part, size in parts:
        for one in part:
            yield to_json(_json_row(one, layout)) + b"\n", 2 * size


def _json_row(one: FailedOperation, layout: Layout | None) -> dict[str, Any]:
    title, detail = _title_and_detail(one)
    added = dict(zip(ADDED, (one.status, title, detail), strict=True))
    body = from_json(one.body)
    if layout is None:
        operation = {"id": one.id, "key": one.key, "method": one.method, "path": one.path}
        given: dict[str, Any] = {name: value for name, value in operation.items() if value is not None}
        sources = {reference.source for reference in one.references}
        if depends_on := [name for index, name in one.failed_needs.items() if index not in sources]:
            given["dependsOn"] = depends_on
        if one.group is not None:
            given["group"] = one.group
        if sources:
            given["references"] = {
                # One that has succeeded is not in the file. Its own id is that of no other operation of the file.
                # None if it has not ended: intake refuses that.
                reference.name: {"operation": one.sources.get(reference.source), "member": list(reference.members)}
                for reference in one.references
            }
        # The record has null for no body, too. A handler may need a body, even if that is null.
        return (given if body is None and one.method in WITHOUT_BODY else given | {"body": body}) | added
    row = layout.template.row_of(one.path, body, layout.columns)
    return {name_next_to_added(name): value for name, value in row.items()} | added
