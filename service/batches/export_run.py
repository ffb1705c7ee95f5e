"""Makes exports in the background of a front end: one at a time, part by part, each in limited memory.

An export is made while clients ask for it: each question starts it where nobody makes it. So an export whose front end
has died goes on with the next question, after the last part that was finished.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from itertools import chain
from secrets import token_hex

from aiohttp import web
from msgspec.structs import replace

from penstock.batch import Batch, Counts
from penstock.chunk import group_of
from penstock.errors import Overloaded, PenstockError, Unavailable
from penstock.export import LEASE_SECONDS, Export, ExportState
from penstock.files.csv_table import MOST_COLUMNS
from penstock.outcome import OutcomeState
from penstock.service.batches.csv_results import row_of
from penstock.service.batches.export_document import manifest_of
from penstock.service.batches.export_files import TYPES, CsvForm, Form, Lines, NdjsonForm, PartWriter, lines_of
from penstock.service.batches.results import Cursor, Reading, Wanted
from penstock.service.content import JSON
from penstock.service.json_answer import encode
from penstock.service.keys import BACKEND, CLOCK, MEMORY, TURNS
from penstock.settings import MIB
from penstock.store import Group
from penstock.telemetry import Event, get_log
from penstock.waiting import under_lease

BEAT_SECONDS = LEASE_SECONDS / 4  # two heartbeats in a row may fail, and the next one still comes in time
RUN_BYTES = 80 * MIB  # held records, windows as lines and as rows, a row of 5 MiB as CSV, and a part of a file


class LeaseLost(Exception):
    """Another front end makes the export now."""


class Exports:
    """The exports that this front end makes."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._is_busy = False
        self._is_closed = False
        self._run: ExportRun | None = None
        self._task: asyncio.Task[None] | None = None

    async def go_on(self, batch: Batch, export: Export, wait_seconds: float = 0) -> Export:
        """Make an export here, unless somebody makes it or this front end is busy. Return it as it is now.

        Wait for it for so many seconds: a small one is completed by then.
        """
        if self._is_closed or self._is_busy or not export.may_be_claimed(self._app[CLOCK].now()):
            return export
        self._is_busy, task = True, None
        try:
            claimed = await write(self._app, export.claimed(self._app[CLOCK].now()), export)
            if claimed is not None and claimed.state is ExportState.RUNNING:
                run = ExportRun(self._app, batch, claimed)
                if self._is_closed:  # meanwhile
                    await run.release()
                    return run.export
                self._run = run
                self._task = task = asyncio.create_task(self._make(run))
                if wait_seconds:
                    await asyncio.wait((task,), timeout=wait_seconds)
                return run.export
        finally:
            if task is None:  # otherwise the task frees the place, and another one may have it by now
                self._is_busy = False
        return claimed or export

    async def _make(self, run: "ExportRun") -> None:
        where = {"batch_id": run.export.batch_id, "export_id": run.export.id}
        try:
            with self._app[MEMORY].share() as share:
                share.grow_to(RUN_BYTES)
                await run.run()
            if run.export.state is ExportState.COMPLETED:
                get_log().info(Event.EXPORT_DONE, **where, rows=run.export.rows)
        except LeaseLost:
            pass
        except (Unavailable, Overloaded) as error:
            get_log().info(Event.EXPORT_INTERRUPTED, **where, reason=str(error))
            await run.release()
        except Exception as error:  # noqa: BLE001 - nobody waits for this task; the next try follows after the lease
            get_log().error(Event.EXPORT_INTERRUPTED, **where, exc_info=error)
        finally:
            self._task, self._run, self._is_busy = None, None, False

    async def close(self) -> None:
        """Leave the export to another front end, and start no more."""
        self._is_closed = True
        task, run = self._task, self._run
        if task is not None and run is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await run.release()


class ExportRun:
    """The work on an export under one lease."""

    def __init__(self, app: web.Application, batch: Batch, export: Export) -> None:
        self.export = export
        self._app = app
        self._batch = batch
        self._bucket = app[BACKEND].require_bucket()
        self._saving = asyncio.Lock()

    async def run(self) -> None:
        """Write all parts that are missing, and the manifest. Keep the lease for as long as this takes.

        Raises LeaseLost, and what the table or S3 raises.
        """
        await under_lease(self._write_files(), self._keep_lease())

    async def _keep_lease(self) -> None:
        """Extend the lease until cancelled. A scan for a few failures finds no row for minutes, and is still work."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(PenstockError):  # the next heartbeat tries again
                await self._save(lambda export: export.extended(self._app[CLOCK].now()))

    async def _write_files(self) -> None:
        async with aclosing(self._lines()) as lines:
            await self._write_lines(lines)

    async def _write_lines(self, lines: AsyncIterator[Lines]) -> None:
        waiting = await anext(lines, None)
        if waiting is not None and self.export.format == "csv" and self.export.columns is None:
            following = await anext(lines, None)
            await self._choose_columns(waiting, is_all=following is None)
            lines = _resumed(following, lines)
        while waiting is not None:
            if self.export.is_full:
                await self._save(Export.too_large)
                return
            waiting = await self._write_part(waiting, lines)
            if await self._is_outdated():
                break
        if await self._is_outdated():
            await self._save(Export.outdated)
            return
        await self._bucket.write(self.export.manifest_key, encode(manifest_of(self.export)), JSON)
        await self._save(Export.completed)

    async def _is_outdated(self) -> bool:
        """Return True if a retry has changed the outcomes since the export was asked for."""
        groups = range(len(self._batch.group_totals))
        counters = await self._app[BACKEND].store.read_groups(self._batch.id, groups)
        return self.export.wish.id_for(counted(counters)) != self.export.id

    async def _lines(self) -> AsyncGenerator[Lines]:
        cursor = Cursor.parse(self.export.cursor) if self.export.cursor else None
        state = None if self.export.status is None else OutcomeState(self.export.status)
        wanted = Wanted(cursor or Cursor(), state)
        group = await self._app[BACKEND].store.read_group(self._batch.id, group_of(str(wanted.cursor.chunk)))
        async with aclosing(Reading(self._app, self._batch, wanted, reads_all=True).windows(group)) as windows:
            async for lines in lines_of(windows):
                yield lines

    async def _choose_columns(self, first: Lines, *, is_all: bool) -> None:
        """Take the members of the first results as columns, for all parts."""
        names = dict.fromkeys(chain.from_iterable(row_of(line).members for line in first))
        has_more = not is_all or len(names) > MOST_COLUMNS
        columns = tuple(names)[:MOST_COLUMNS]
        await self._save(lambda export: replace(export, columns=columns, has_more=has_more))

    async def _write_part(self, waiting: Lines, lines: AsyncIterator[Lines]) -> Lines | None:
        """Write the next part from these lines on. Return those that belong into the part after it."""
        following: Lines | None = waiting
        kind, compression = TYPES[self.export.format], self.export.compression
        part = PartWriter(self._bucket, self.export.next_key(), self._form(), kind, compression)
        cursor = waiting.cursor
        try:
            await part.start()
            while following is not None and await part.write(following):
                cursor = following.cursor
                await self._app[TURNS].next()
                following = await anext(lines, None)
            written = await part.finish()
        except BaseException:
            await part.drop()
            raise
        await self._save(lambda export: export.with_part(written, str(cursor), self._app[CLOCK].now()))
        return following

    def _form(self) -> Form:
        if self.export.format == "csv":
            return CsvForm(self.export.columns or (), has_more=self.export.has_more)
        return NdjsonForm()

    async def _save(self, change: Callable[[Export], Export]) -> None:
        """Write the export with a change. The heartbeat and the work write one after the other."""
        async with self._saving:
            written = await write(self._app, change(self.export), self.export)
            if written is None:
                raise LeaseLost
            self.export = written

    async def release(self) -> None:
        """Let another front end go on immediately. If AWS does not answer, the lease ends by itself."""
        with suppress(PenstockError, LeaseLost):
            await self._save(lambda export: export.released(self._app[CLOCK].now()))


def counted(groups: Mapping[int, Group]) -> list[tuple[Counts, float | None]]:
    """Return what changes with each retry of a batch that is counted."""
    return [(groups[number].counts, groups[number].counted_at) for number in sorted(groups)]


async def write(app: web.Application, export: Export, seen: Export | None) -> Export | None:
    return await app[BACKEND].store.write_export(export, seen, token_hex(8))


async def _resumed(first: Lines | None, rest: AsyncIterator[Lines]) -> AsyncIterator[Lines]:
    if first is not None:
        yield first
    async for lines in rest:
        yield lines


EXPORTING = web.AppKey("exporting", Exports)
