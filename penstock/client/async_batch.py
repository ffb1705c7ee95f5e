"""A batch on the server, for asyncio programs."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import aiohttp
import msgspec

from penstock.client.download import opened
from penstock.client.errors import AnswerLost, ClientError, NotFound, TimedOut, seconds_to_wait
from penstock.client.events import END, Event, read_events
from penstock.client.export import Export, ExportFailed, made_folder, save_file
from penstock.client.options import UNCHANGED, Time, Unchanged, time_text
from penstock.client.outcome import Failures, Outcome
from penstock.client.progress import Progress, showing
from penstock.client.status import Status, read_status, status_of
from penstock.client.transport import CSV, EVENT_STREAM, NDJSON, Answer, Call, Transport

_PAGE_OUTCOMES = 1_000
_SMALL, _SMALL_SECONDS = 1_000, 0.2
_DOWNLOAD_TRIES = 4
_POLL_SECONDS = 1.0  # if an answer does not say when to ask again
# The server sends a sign of life every 15 seconds. If it does not arrive, something in between holds it back.
_STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=20)

State = Literal["succeeded", "failed", "cancelled", "expired"]
Format = Literal["ndjson", "csv"]
Compression = Literal["gzip"]


class _Page(msgspec.Struct, rename="camel"):
    results: list[Outcome]
    next_cursor: str | None = None


class _Retried(msgspec.Struct):
    retried: int


def _check_format(kind: str) -> None:
    if kind not in get_args(Format):
        raise ValueError(f"kind is {kind!r}. Use 'ndjson' or 'csv'.")


class AsyncBatch:
    """A batch. `AsyncClient.submit` and `AsyncClient.batch` return it.

    A batch that was answered immediately with its results exists only here: it has no id, it is final, and it cannot be
    changed or retried.
    """

    def __init__(self, transport: Transport, batch_id: str, answered: Sequence[Outcome] | None = None) -> None:
        self._transport = transport
        self._path = f"batch/{batch_id}"
        self._answered = answered
        self.id = batch_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id or 'answered immediately'}>"

    @property
    def url(self) -> str:
        """Return the URL of the status."""
        return self._transport.url_of(self._path)

    async def status(self) -> Status:
        """Read the status."""
        status, _ = await self._status()
        return status

    async def _status(self) -> tuple[Status, float]:
        """Return the status, and in how many seconds to ask again."""
        if self._answered is not None:
            return status_of(self._answered), 0.0
        answer = await self._ask(Call("GET", self._path))
        pause = seconds_to_wait(answer.headers.get("Retry-After", ""))
        return read_status(answer.document), _POLL_SECONDS if pause is None else pause

    async def wait(self, *, progress: Progress = False, timeout: float | None = None) -> Status:  # noqa: ASYNC109
        """Wait until the batch is final, and return its status.

        `progress` is True for a progress bar, or a function that gets each status. Raises TimedOut after `timeout`
        seconds: the batch goes on, and you can wait again.
        """
        with showing(progress) as show:
            try:
                async with asyncio.timeout(timeout), aclosing(self.statuses()) as statuses:
                    async for status in statuses:
                        show(status)
            except TimeoutError:
                raise too_late(self.id, timeout) from None
            return status

    async def statuses(self) -> AsyncGenerator[Status]:
        """Yield the status when it has changed, until it is final.

        It arrives in a stream of events. If that is not possible, the status is read as often as the server says.
        """
        can_stream = True
        for attempt in itertools.count():
            status, pause = await self._status()
            yield status
            if status.is_final:
                return
            if attempt == 0 and status.total <= _SMALL:
                pause = _SMALL_SECONDS  # it is often final then, and a stream has news once a second
            elif can_stream:
                can_stream = False
                async with aclosing(self._streamed()) as streamed:
                    async for status in streamed:
                        can_stream = True
                        yield status
                        if status.is_final:
                            return
                if can_stream:  # the stream worked and broke, so it is opened again soon
                    pause = min(pause, _POLL_SECONDS)
            await asyncio.sleep(pause)

    async def _streamed(self) -> AsyncGenerator[Status]:
        """Yield the statuses of one stream of events, and nothing if there is none. It may end early."""
        with suppress(ClientError):
            async with aclosing(self._stream()) as events:
                async for event in events:
                    yield read_status(event.data)

    async def events(self, *, outcomes: bool = False) -> AsyncGenerator[Event]:
        """Yield the events of the batch: `progress` when its status has changed, and `end` when it is final.

        With `outcomes=True` each outcome is an event, too, in the order of the operations. A connection that breaks is
        opened again, and no outcome is lost or comes twice.
        """
        retrying, last_id = self._transport.retrying(), None
        while True:
            try:
                async with aclosing(self._stream(last_id, outcomes=outcomes)) as events:
                    async for event in events:
                        retrying.reset()
                        last_id = event.id or last_id
                        yield event
                        if event.type == END:
                            return
                if last_id is not None and last_id.startswith(f"{END}."):
                    return
                raise AnswerLost("The stream of events ended before the batch was final.")
            except ClientError as error:
                await retrying.after(error)

    async def _stream(self, last_id: str | None = None, *, outcomes: bool = False) -> AsyncGenerator[Event]:
        self._check_exists()
        call = Call(
            "GET",
            f"{self._path}/events",
            {"outcomes": "1"} if outcomes else {},
            {"Accept": EVENT_STREAM, **({} if last_id is None else {"Last-Event-ID": last_id})},
            timeout=_STREAM_TIMEOUT,
        )
        async with (
            self._transport.open(call) as response,
            aclosing(read_events(response.content.iter_any())) as events,
        ):
            async for event in events:
                yield event

    async def results(self, *, status: State | None = None) -> AsyncGenerator[Outcome]:
        """Yield the outcomes that exist so far, in the order of the operations. Once the batch is final, that is all.

        They are read page by page. If a connection breaks, the page is read again: no outcome is lost or comes twice.
        """
        async with aclosing(self.result_pages(status)) as pages:
            async for page in pages:
                for outcome in page:
                    yield outcome

    async def result_pages(self, status: State | None = None) -> AsyncGenerator[Sequence[Outcome]]:
        """Yield the same outcomes as `results`, in lists."""
        if self._answered is not None:
            yield [one for one in self._answered if status in {None, "succeeded" if one.succeeded else "failed"}]
            return
        query = {"limit": str(_PAGE_OUTCOMES), **({} if status is None else {"status": status})}
        while True:
            page = (await self._ask(Call("GET", f"{self._path}/results", query))).read(_Page)
            yield page.results
            if page.next_cursor is None:
                return
            query["cursor"] = page.next_cursor

    async def failures(self) -> Failures:
        """Return the failures so far, grouped by their cause: the most frequent one first."""
        path = f"{self._path}/failures"
        found = (await self._ask(Call("GET", path))).read(Failures)
        while found.next_cursor is not None:
            found += (await self._ask(Call("GET", path, {"cursor": found.next_cursor}))).read(Failures)
        return found

    async def save_results(
        self, file: Path | str | BinaryIO, *, kind: Format = "ndjson", status: State | None = None
    ) -> None:
        """Write the outcomes that exist so far to a file: as NDJSON, or as CSV for a spreadsheet.

        A file that is named changes only once all of it has arrived. An opened file is written from where it is.
        """
        await self.save(self.results_call(kind, status), file)

    async def save_rejected(self, file: Path | str | BinaryIO, *, kind: Format = "csv") -> None:
        """Write the rows that failed to a file, as they were submitted, with columns that say what was wrong.

        Correct them there, and submit the file again: the added columns are ignored.
        """
        await self.save(self.rejected_call(kind), file)

    async def export(
        self,
        *,
        kind: Format = "ndjson",
        status: State | None = None,
        compression: Compression | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Export:
        """Let the server write all outcomes of a final batch to files in its bucket, and wait until they are there.

        `save_export` also downloads them. Raises Conflict if the batch is not final, ExportFailed, or TimedOut after
        `timeout` seconds: the export is continued if you call this again.
        """
        wanted = {"format": kind, "status": status, "compression": compression}
        query = {name: value for name, value in wanted.items() if value is not None}
        try:
            async with asyncio.timeout(timeout):
                answer = await self._ask(Call("POST", f"{self._path}/export", query))
                while (export := answer.read(Export)).is_running:
                    pause = seconds_to_wait(answer.headers.get("Retry-After", ""))
                    await asyncio.sleep(_POLL_SECONDS if pause is None else pause)
                    answer = await self._ask(Call("GET", f"{self._path}/exports/{export.export_id}"))
        except TimeoutError:
            raise TimedOut(f"The export of batch {self.id} is not there after {timeout:g} s.") from None
        if export.error is not None:
            raise ExportFailed(f"The export of batch {self.id} has failed: {export.error.get('detail', '')}")
        return export

    async def save_export(
        self,
        folder: Path | str,
        *,
        kind: Format = "ndjson",
        status: State | None = None,
        compression: Compression | None = None,
    ) -> list[Path]:
        """Export all outcomes of a final batch, and download the files into a folder. Return their paths.

        Each file is compared with its checksum. One that does not arrive is read again.
        """
        export = await self.export(kind=kind, status=status, compression=compression)
        target = made_folder(folder)
        return [await self._save_part(export, number, target) for number in range(len(export.parts))]

    async def _save_part(self, export: Export, number: int, folder: Path) -> Path:
        path = folder / Path(export.parts[number].name).name
        for tries_left in reversed(range(_DOWNLOAD_TRIES)):
            try:
                await save_file(export.parts[number], path)
                break
            except AnswerLost:
                if not tries_left:
                    raise
                await asyncio.sleep(_POLL_SECONDS)
                answer = await self._ask(Call("GET", f"{self._path}/exports/{export.export_id}"))
                export = answer.read(Export)  # its URLs are new
        return path

    def results_call(self, kind: Format, status: State | None) -> Call:
        _check_format(kind)
        query = {} if status is None else {"status": status}
        return Call("GET", f"{self._path}/results", query, {"Accept": CSV if kind == "csv" else NDJSON})

    def rejected_call(self, kind: Format) -> Call:
        _check_format(kind)
        return Call("GET", f"{self._path}/rejected", {"format": kind})

    async def save(self, call: Call, file: Path | str | BinaryIO) -> None:
        """Write an answer to a file. `save_results` and `save_rejected` are easier to use."""
        with opened(file) as written:
            async with aclosing(self.download(call, written.take_back)) as pieces:
                async for piece in pieces:
                    written.write(piece)

    def download(self, call: Call, take_back: Callable[[], bool]) -> AsyncGenerator[bytes]:
        """Yield an answer in pieces. If `take_back` has been called, they come again from the start."""
        self._check_exists()
        return self._transport.download(call, take_back)

    async def retry(
        self, *, status: Iterable[int] | None = None, ids: Iterable[str] | None = None, title: str | None = None
    ) -> int:
        """Run failed operations of a final batch again, and return how many. They run later: the batch stays final.

        Without arguments, all failed operations run again. Otherwise only those with one of these statuses, with one of
        these ids, or with this title of the error; what several arguments say must all be true.
        """
        wanted = {
            "status": None if status is None else sorted(status),
            "ids": None if ids is None else list(ids),
            "title": title,
        }
        chosen = {name: value for name, value in wanted.items() if value is not None}
        key = {"Idempotency-Key": f'"{uuid.uuid4()}"'}  # so that they run again once, even if the answer is lost
        call = Call("POST", f"{self._path}/retry", headers=key, json=chosen or None)
        return (await self._ask(call)).read(_Retried).retried

    async def cancel(self) -> None:
        """Cancel what has not started. Running operations finish. It may be called again."""
        await self._ask(Call("POST", f"{self._path}/cancel"))

    async def pause(self) -> Status:
        """Start no more operations until the batch is resumed. Running operations finish."""
        return await self.update(paused=True)

    async def resume(self) -> Status:
        """Go on with a paused batch."""
        return await self.update(paused=False)

    async def update(
        self,
        *,
        paused: bool | Unchanged = UNCHANGED,
        priority: str | Unchanged = UNCHANGED,
        concurrency: int | Unchanged | None = UNCHANGED,
        max_failures: int | Unchanged | None = UNCHANGED,
        max_failed_percent: float | Unchanged | None = UNCHANGED,
        deadline_at: Time | Unchanged = UNCHANGED,
    ) -> Status:
        """Change the batch while it runs, and return its status. All changes take effect together, or none does.

        `concurrency` is how many of its operations may run at the same time, in all consumers together. None removes a
        limit. Raises Conflict if the batch is final.
        """
        wanted: dict[str, Any] = {
            "paused": paused,
            "priority": priority,
            "concurrency": concurrency,
            "maxFailures": max_failures,
            "maxFailedPercent": max_failed_percent,
            "deadlineAt": deadline_at if deadline_at is UNCHANGED else time_text(deadline_at),
        }
        changes = {name: value for name, value in wanted.items() if value is not UNCHANGED}
        return read_status((await self._ask(Call("PATCH", self._path, json=changes))).document)

    async def _ask(self, call: Call) -> Answer:
        self._check_exists()
        return await self._transport.ask(call)

    def _check_exists(self) -> None:
        if self._answered is not None:
            detail = "It was answered immediately with its results, so the server has no batch."
            raise NotFound(404, {"title": "The batch does not exist", "detail": detail})


def too_late(batch_id: str, timeout: float | None) -> TimedOut:
    return TimedOut(f"The batch {batch_id} is not final after {timeout:g} s. It still runs.")
