"""Reads the status of a batch once a second for all who watch it.

The first who watches a batch starts the reads, and the last one who leaves stops them. Each status becomes JSON, and an
event, once for all who have reached this program by the same URL.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from penstock.batch import Batch
from penstock.clock import Clock
from penstock.errors import PenstockError, Refused
from penstock.service.base_url import BASE
from penstock.service.batches.status import check_may_see, read_progress, status_of
from penstock.service.callers import Caller
from penstock.service.events.framing import end_id, frame, version_of
from penstock.service.json_answer import encode
from penstock.service.keys import CLOCK
from penstock.service.schemas import results_url
from penstock.telemetry import Event, get_log

READ_SECONDS = 1
WOKEN_TOGETHER = 50  # their writes take about a millisecond, after which the event loop does everything else

Status = dict[str, Any]
Read = Callable[[str], Awaitable[tuple[Batch, Status]]]


@dataclass(frozen=True, slots=True)
class Frames:
    """The events that tell a status."""

    progress: bytes
    progress_without_id: bytes
    end: bytes

    @classmethod
    def of(cls, status: Status, version: str) -> Self:
        content = encode(status)
        return cls(
            frame("progress", content, version),
            frame("progress", content),
            frame("end", content, end_id(version)),
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """A status as it was read for all who watch. Its URL is only a path."""

    batch: Batch
    status: Status
    version: str
    _frames: dict[str, Frames] = field(default_factory=dict)  # by the URL in the status

    @classmethod
    def of(cls, batch: Batch, status: Status) -> Self:
        return cls(batch, status, version_of(status))

    def frames(self) -> Frames:
        """Return the events for the client that is being answered, with the URL that this client can use."""
        url = results_url(self.batch.id)
        if url not in self._frames:
            self._frames[url] = Frames.of({**self.status, "resultsUrl": url}, self.version)
        return self._frames[url]

    @property
    def is_final(self) -> bool:
        return self.batch.is_final


class Watch:
    """The reads of one batch. `wakes` has an event for each who watches, which is set when there is something new."""

    def __init__(self, batch_id: str, read: Read, clock: Clock) -> None:
        self.wakes: set[asyncio.Event] = set()
        self._batch_id = batch_id
        self._read = read
        self._clock = clock
        self._newest: Seen | None = None
        self._error: BaseException | None = None
        self._is_failing = False

    @property
    def newest(self) -> Seen:
        """Return the newest status. Raises the error that has ended the reads."""
        if self._error is not None:
            raise self._error
        assert self._newest is not None, "`until_read` comes first"
        return self._newest

    async def until_read(self, wake: asyncio.Event) -> None:
        """Wait for the first status. Raises the error of the first read."""
        while self._newest is None:
            if self._error is not None:
                raise self._error
            wake.clear()
            await wake.wait()

    async def read_until_final(self) -> None:
        """Read the status each second, until it is final or until the batch is past its retention."""
        try:
            while not await self._read_once():
                await self._clock.sleep(READ_SECONDS)
        except Exception as error:  # noqa: BLE001 - any error: all who watch get it
            self._error = error
            await self._wake_all()

    async def _read_once(self) -> bool:
        """Read the status, and return True if it is final."""
        try:
            seen = Seen.of(*await self._read(self._batch_id))
        except PenstockError as error:
            # A client that is sent away while AWS is away does not come again: browsers give up after a 503.
            if self._newest is None or isinstance(error, Refused):
                raise
            self._note(error)
            return False
        self._is_failing = False
        if self._newest is None or self._newest.version != seen.version:
            self._newest = seen
            await self._wake_all()
        return seen.is_final

    def _note(self, error: PenstockError) -> None:
        if not self._is_failing:
            get_log().warning(Event.AWS_UNAVAILABLE, batch_id=self._batch_id, error=str(error))
        self._is_failing = True

    async def _wake_all(self) -> None:
        wakes = list(self.wakes)
        for start in range(0, len(wakes), WOKEN_TOGETHER):
            for wake in wakes[start : start + WOKEN_TOGETHER]:
                wake.set()
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Watching:
    """One who watches a batch. `wake` is set when there is something new."""

    watch: Watch
    wake: asyncio.Event

    @property
    def newest(self) -> Seen:
        """Return the newest status. Raises the error that has ended the reads."""
        return self.watch.newest


class Watcher:
    """The batches that are watched at the moment."""

    def __init__(self, read: Read, clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._watches: dict[str, tuple[Watch, asyncio.Task[None]]] = {}

    @asynccontextmanager
    async def watching(self, batch_id: str) -> AsyncIterator[Watching]:
        """Watch a batch. Raises UnknownBatch if there is none, whoever asks: the caller checks the tenant."""
        watch, reading = self._watches.get(batch_id) or self._start(batch_id)
        wake = asyncio.Event()
        watch.wakes.add(wake)
        try:
            await watch.until_read(wake)
            yield Watching(watch, wake)
        finally:
            watch.wakes.discard(wake)
            if not watch.wakes:
                reading.cancel()
                self._forget(batch_id, watch)

    def _start(self, batch_id: str) -> tuple[Watch, "asyncio.Task[None]"]:
        watch = Watch(batch_id, self._read, self._clock)
        reading = asyncio.create_task(watch.read_until_final(), name=f"watch {batch_id}")
        # A batch that is final may still change by a retry. So who comes later starts another watch.
        reading.add_done_callback(lambda _: self._forget(batch_id, watch))
        self._watches[batch_id] = watch, reading
        return watch, reading

    def _forget(self, batch_id: str, watch: Watch) -> None:
        if batch_id in self._watches and self._watches[batch_id][0] is watch:
            del self._watches[batch_id]


WATCHER = web.AppKey("watcher", Watcher)


def create_watcher(app: web.Application) -> Watcher:
    """Return a watcher that reads what GET /batch/{id} reads."""

    async def read(batch_id: str) -> tuple[Batch, Status]:
        BASE.set("")  # this task has the context of the first who watches, but the others may use another URL
        progress = await read_progress(app, batch_id)
        return progress.batch, await status_of(app, progress)

    return Watcher(read, app[CLOCK])


@asynccontextmanager
async def watching(app: web.Application, batch_id: str, caller: Caller) -> AsyncIterator[Watching]:
    """Watch a batch for a caller. Raises UnknownBatch if it does not exist for this caller."""
    async with app[WATCHER].watching(batch_id) as watch:
        check_may_see(caller, watch.newest.batch)
        yield watch
