"""The files with the outputs and the errors of a batch. They are rendered from its records, while it runs, too.

The file with the errors has the requests that failed, then those that expired, then those that were cancelled, each in
the order of the input. A deleted file is only marked: the results stay with the batch, as long as the table keeps it.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from penstock.batch import Batch, Counts
from penstock.catalog import CatalogEntry
from penstock.outcome import OutcomeState
from penstock.service.audit import Action, auditing
from penstock.service.batches.results import Cursor, Reading, Wanted
from penstock.service.batches.streaming import in_blocks, stream
from penstock.service.dialects.openai.batch_entry import PREFIX, BatchEntry
from penstock.service.dialects.openai.batch_object import ERRORS, OUTPUT, Running, output_id
from penstock.service.dialects.openai.batches import find_entry, find_running
from penstock.service.dialects.openai.errors import OpenAIError, unknown_file
from penstock.service.dialects.openai.input_file import file_body
from penstock.service.dialects.openai.output_lines import lines_of
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SHARE, TURNS

PURPOSE = "batch_output"
DELETED = "openai-deleted"  # the kind of the marks of deleted files
SIZES = "openai-size"  # and of the sizes of files
CONTENT_TYPE = "application/octet-stream"
_ID = re.compile(rf"file-([0-9A-HJKMNP-TV-Z]{{26}})-({OUTPUT}|{ERRORS})")
_STATES = {
    OUTPUT: (OutcomeState.SUCCEEDED,),
    ERRORS: (OutcomeState.FAILED, OutcomeState.EXPIRED, OutcomeState.CANCELLED),
}
_NAMES = {OUTPUT: "output", ERRORS: "error"}


@dataclass(frozen=True, slots=True)
class Output:
    """A file with the outputs or the errors of a batch, as far as it is."""

    id: str
    kind: str
    entry: BatchEntry
    running: Running

    @property
    def created_at(self) -> float:
        batch = self.running.batch
        return batch.finished_at or batch.accepted_at or batch.created_at

    @property
    def expires_at(self) -> float:
        return expiry_of(self.entry, self.running.batch)

    @property
    def filename(self) -> str:
        return f"{self.entry.id}_{_NAMES[self.kind]}.jsonl"

    @property
    def line_count(self) -> int:
        counts = self.running.counts
        return counts.succeeded if self.kind == OUTPUT else counts.completed - counts.succeeded

    @property
    def revision(self) -> list[float | None]:
        """Return what is different if the lines of the file are: a batch that is final may be retried."""
        counts = self.running.counts
        return [
            self.running.batch.finished_at,
            counts.succeeded,
            counts.failed,
            counts.expired,
            counts.cancelled,
            self.running.counted_at,
        ]

    def body(self, size: int) -> dict[str, Any]:
        return file_body(
            self.id,
            self.filename,
            PURPOSE,
            size=size,
            created_at=self.created_at,
            expires_at=self.expires_at,
        )


def is_output(file_id: str) -> bool:
    return _ID.fullmatch(file_id) is not None


def id_and_kind(file_id: str) -> tuple[str, str]:
    """Return the id of the batch of a file, and the kind of the file."""
    match = _ID.fullmatch(file_id)
    assert match is not None
    return f"{PREFIX}{match[1]}", match[2]


def output_of(entry: BatchEntry, running: Running, kind: str) -> Output:
    return Output(output_id(entry.id, kind), kind, entry, running)


def expiry_of(entry: BatchEntry, batch: Batch) -> float:
    """Return when the files of a batch expire."""
    if entry.output_seconds is None or batch.finished_at is None:
        return batch.expires_at
    return min(batch.expires_at, batch.finished_at + entry.output_seconds)


async def show_output(request: web.Request) -> web.Response:
    output = await _find_output(request)
    kept = await request.app[BACKEND].store.read_entry(SIZES, output.entry.tenant, output.id)
    size = kept_size(output, kept)
    return json_answer(output.body(await count_bytes(request, output) if size is None else size))


def kept_size(output: Output, kept: CatalogEntry | None) -> int | None:
    """Return the size of a file that is kept, unless the batch was retried since."""
    return int(kept.content["size"]) if kept is not None and kept.content["of"] == output.revision else None


async def count_bytes(request: web.Request, output: Output, taken_bytes: int = 0) -> int:
    """Render a file to know its size, and keep it if the batch is final.

    `taken_bytes` is the memory that the request takes besides.
    """
    size = 0
    async with aclosing(_blocks(request, output)) as blocks:
        async for block, memory_bytes in blocks:
            request[SHARE].grow_to(taken_bytes + memory_bytes)
            size += len(block)
            await request.app[TURNS].next()
    if output.running.batch.is_final:
        content = {"size": size, "of": output.revision}
        entry = CatalogEntry(SIZES, output.entry.tenant, output.id, output.entry.expires_at, content)
        await request.app[BACKEND].store.write_entry(entry)
    return size


async def output_content(request: web.Request) -> web.StreamResponse:
    async with aclosing(_blocks(request, await _find_output(request))) as blocks:
        return await stream(request, CONTENT_TYPE, blocks)


async def delete_output(request: web.Request) -> web.Response:
    output = await _find_output(request)
    mark = CatalogEntry(DELETED, output.entry.tenant, output.id, output.entry.expires_at)
    with auditing(request, Action.DELETE_UPLOAD, upload_id=output.id, batch_id=output.entry.id):
        await request.app[BACKEND].store.write_entry(mark)
    return json_answer({"id": output.id, "object": "file", "deleted": True})


async def _find_output(request: web.Request) -> Output:
    """Return the file that the path names. Raises an error if it has no line yet, has expired, or was deleted."""
    file_id = request.match_info["file_id"]
    batch_id, kind = id_and_kind(file_id)
    try:
        entry = await find_entry(request, batch_id)
        output = output_of(entry, await find_running(request, entry), kind)
    except OpenAIError:
        raise unknown_file(file_id) from None
    exists = output.line_count > 0 and output.expires_at > request.app[CLOCK].now()
    if not exists or await request.app[BACKEND].store.read_entry(DELETED, output.entry.tenant, file_id):
        raise unknown_file(file_id)
    return output


async def _blocks(request: web.Request, output: Output) -> AsyncGenerator[tuple[bytes, int]]:
    """Yield a file in blocks, each with the memory that is in use.

    Whoever does not need all of them closes the generator, so that no further records are read.
    """
    async with aclosing(_lines(request, output)) as lines:
        async for block in in_blocks(lines):
            yield block


async def _lines(request: web.Request, output: Output) -> AsyncGenerator[tuple[bytes, int]]:
    """Yield the lines of a file, each with the memory that is in use."""
    name = output.entry.id.removeprefix(PREFIX)
    for state in _STATES[output.kind]:
        if not _count(output.running.counts, state):
            continue
        backend = request.app[BACKEND]
        batch, groups = await backend.store.read_progress(output.entry.id, [0], with_done=True)
        if batch is None:
            return
        reading = Reading(request.app, batch, Wanted(Cursor(), state), reads_all=True)
        async with aclosing(reading.windows(groups[0])) as windows:
            async for _, window in windows:
                for line in lines_of(state, name, window.indexes, window.lines):
                    yield line, window.memory_bytes


def _count(counts: Counts, state: OutcomeState) -> int:
    count: int = getattr(counts, state)
    return count
