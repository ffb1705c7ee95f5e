"""A batch on the server, for scripts and notebooks."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from penstock.client.async_batch import AsyncBatch, Compression, Format, State, too_late
from penstock.client.background_loop import BackgroundLoop
from penstock.client.download import opened
from penstock.client.events import Event
from penstock.client.export import Export
from penstock.client.options import UNCHANGED, Time, Unchanged
from penstock.client.outcome import Failures, Outcome
from penstock.client.progress import Progress, showing
from penstock.client.status import Status
from penstock.client.transport import Call


class Batch:
    """A batch. `Client.submit` and `Client.batch` return it. Its methods are those of `AsyncBatch`, and they block."""

    def __init__(self, batch: AsyncBatch, loop: BackgroundLoop) -> None:
        self._batch = batch
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self._batch).replace("AsyncBatch", "Batch")

    @property
    def id(self) -> str:
        """Return the id, or "" if the batch was answered immediately with its results."""
        return self._batch.id

    @property
    def url(self) -> str:
        """Return the URL of the status."""
        return self._batch.url

    def status(self) -> Status:
        """Read the status."""
        return self._loop.run(self._batch.status())

    def statuses(self) -> Iterator[Status]:
        """Yield the status when it has changed, until it is final."""
        return self._loop.iterate(self._batch.statuses())

    def wait(self, *, progress: Progress = False, timeout: float | None = None) -> Status:
        """Wait until the batch is final, and return its status.

        `progress` is True for a progress bar, or a function that gets each status. Raises TimedOut after `timeout`
        seconds: the batch goes on, and you can wait again.
        """
        with showing(progress) as show:
            try:
                for status in self._loop.iterate(self._batch.statuses(), timeout=timeout):
                    show(status)
            except TimeoutError:
                raise too_late(self.id, timeout) from None
            return status

    def events(self, *, outcomes: bool = False) -> Iterator[Event]:
        """Yield the events of the batch: `progress` when its status has changed, and `end` when it is final.

        With `outcomes=True` each outcome is an event, too, in the order of the operations. A connection that breaks is
        opened again, and no outcome is lost or comes twice.
        """
        return self._loop.iterate(self._batch.events(outcomes=outcomes))

    def results(self, *, status: State | None = None) -> Iterator[Outcome]:
        """Yield the outcomes that exist so far, in the order of the operations. Once the batch is final, that is all.

        They are read page by page. If a connection breaks, the page is read again: no outcome is lost or comes twice.
        """
        for page in self._loop.iterate(self._batch.result_pages(status)):
            yield from page

    def failures(self) -> Failures:
        """Return the failures so far, grouped by their cause: the most frequent one first."""
        return self._loop.run(self._batch.failures())

    def save_results(
        self, file: Path | str | BinaryIO, *, kind: Format = "ndjson", status: State | None = None
    ) -> None:
        """Write the outcomes that exist so far to a file: as NDJSON, or as CSV for a spreadsheet.

        A file that is named changes only once all of it has arrived. An opened file is written from where it is.
        """
        self._save(self._batch.results_call(kind, status), file)

    def save_rejected(self, file: Path | str | BinaryIO, *, kind: Format = "csv") -> None:
        """Write the rows that failed to a file, as they were submitted, with columns that say what was wrong.

        Correct them there, and submit the file again: the added columns are ignored.
        """
        self._save(self._batch.rejected_call(kind), file)

    def export(
        self,
        *,
        kind: Format = "ndjson",
        status: State | None = None,
        compression: Compression | None = None,
        timeout: float | None = None,
    ) -> Export:
        """Let the server write all outcomes of a final batch to files in its bucket, and wait until they are there.

        `save_export` also downloads them. Raises Conflict if the batch is not final, ExportFailed, or TimedOut after
        `timeout` seconds: the export is continued if you call this again.
        """
        return self._loop.run(self._batch.export(kind=kind, status=status, compression=compression, timeout=timeout))

    def save_export(
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
        return self._loop.run(self._batch.save_export(folder, kind=kind, status=status, compression=compression))

    def _save(self, call: Call, file: Path | str | BinaryIO) -> None:
        # The file is written here and not on the loop, because writing to a pipe may block.
        with (
            opened(file) as written,
            closing(self._loop.iterate(self._batch.download(call, written.take_back))) as pieces,
        ):
            for piece in pieces:
                written.write(piece)

    def retry(
        self, *, status: Iterable[int] | None = None, ids: Iterable[str] | None = None, title: str | None = None
    ) -> int:
        """Run failed operations of a final batch again, and return how many. They run later: the batch stays final.

        Without arguments, all failed operations run again. Otherwise only those with one of these statuses, with one of
        these ids, or with this title of the error; what several arguments say must all be true.
        """
        return self._loop.run(self._batch.retry(status=status, ids=ids, title=title))

    def cancel(self) -> None:
        """Cancel what has not started. Running operations finish. It may be called again."""
        self._loop.run(self._batch.cancel())

    def pause(self) -> Status:
        """Start no more operations until the batch is resumed. Running operations finish."""
        return self._loop.run(self._batch.pause())

    def resume(self) -> Status:
        """Go on with a paused batch."""
        return self._loop.run(self._batch.resume())

    def update(
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
        return self._loop.run(
            self._batch.update(
                paused=paused,
                priority=priority,
                concurrency=concurrency,
                max_failures=max_failures,
                max_failed_percent=max_failed_percent,
                deadline_at=deadline_at,
            )
        )
