"""Caches for a second the batches that this process works on, so that a thousand chunks of a batch cost few reads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from penstock.abandoning import was_accepted
from penstock.batch import Batch, BatchState
from penstock.clock import Clock
from penstock.consumer.attempt import ChunkAttempt
from penstock.consumer.queue_switches import QueueSwitches
from penstock.errors import NewerVersion, PenstockError
from penstock.latest import Latest
from penstock.queue import SentAhead
from penstock.store import Store
from penstock.telemetry import Event, get_log

FRESH_SECONDS = 1.0
WATCH_SECONDS = 1.0
FIRST_ACCEPT_POLL_SECONDS = 0.005  # doubled after each poll: a small batch is accepted a moment after its first chunk
ACCEPT_POLL_SECONDS = 0.05
ACCEPT_WAIT_SECONDS = 2.0
START_AFTER_SECONDS = 0.1  # until a batch of one chunk is started: most are final by then, see `leave_out_start`
KEPT = 1_000


class NotAdmitted(Enum):
    UNKNOWN = auto()  # the table has no such batch, perhaps because it is past its retention
    ABANDONED = auto()  # its front end died before it was accepted, so it must not run
    ACCEPTING = auto()  # not accepted yet, and we have waited long enough
    VALIDATING = auto()  # a consumer is still sending its chunks


@dataclass
class _Entry:
    batch: Batch | None = None
    asked_at: float = float("-inf")  # when the call that read it started
    read_at: float = float("-inf")  # when that call returned
    was_early: bool = False
    was_in_time: bool = False  # when the call started, the deadline had not passed
    poll_seconds: float = FIRST_ACCEPT_POLL_SECONDS  # how long it is fresh while the batch is being accepted
    ready_at: float | None = None  # the time when it was first seen queued, and its operations could start
    is_started: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    start_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Batches:
    def __init__(
        self,
        store: Store,
        clock: Clock,
        on_read: Callable[[Batch], Awaitable[None]] | None = None,
        *,
        switches: QueueSwitches | None = None,
    ) -> None:
        """Call `on_read` with each batch that was read from the table. Refresh `switches` together with it."""
        self._switches = switches
        self._store = store
        self._clock = clock
        self._on_read = on_read
        self._entries = Latest[str, _Entry](KEPT)
        self._starts: set[asyncio.Task[None]] = set()

    async def admit(self, batch_id: str, sent_ahead: SentAhead | None = None) -> Batch | NotAdmitted:
        """Return the batch if its operations may run. Wait for up to two seconds if it is still being accepted.

        A chunk that was `sent_ahead` may come before its batch is written.
        """
        give_up_at = self._clock.monotonic() + ACCEPT_WAIT_SECONDS
        while True:
            batch, now = await self.read(batch_id), self._clock.now()
            expected = sent_ahead if batch is None else batch
            if batch is not None and batch.state is BatchState.ABANDONED:
                return NotAdmitted.ABANDONED  # however old it is: it never had results
            if expected is None or expected.is_forgotten(now):
                return NotAdmitted.UNKNOWN
            if batch is not None and (decided := _decide(batch)) is not None:
                return decided
            if expected.is_overdue(now):
                # Our clock may be fast, or the front end slow. The table lets one of us win: read again which one.
                if not await was_accepted(self._store, batch_id, now, expected.expires_at):
                    get_log().warning(Event.BATCH_ABANDONED, batch_id=batch_id)
                self._entry(batch_id).asked_at = float("-inf")
                continue
            if self._clock.monotonic() >= give_up_at:
                return NotAdmitted.ACCEPTING
            entry = self._entry(batch_id)
            await self._clock.sleep(max(0.0, entry.asked_at + entry.poll_seconds - self._clock.monotonic()))

    def forget(self, batch_id: str) -> None:
        """Read the batch from the table next time, because this process has just changed it."""
        self._entries.pop(batch_id, None)

    async def read(self, batch_id: str) -> Batch | None:
        """Return the batch as it was at most a second ago. A batch that is being accepted is read at every poll.

        Only one task reads it at a time, and the others use its result.
        """
        entry = self._entry(batch_id)
        async with entry.lock:
            if not self._is_fresh(entry):
                read = await self._read(batch_id)
                if not self._is_recent(read):
                    read = await self._read(batch_id)  # `on_read` took long, and the batch may have ended meanwhile
                if _is_accepting(entry.batch) and entry.read_at > float("-inf"):
                    entry.poll_seconds = min(2 * entry.poll_seconds, ACCEPT_POLL_SECONDS)
                entry.batch, entry.asked_at, entry.read_at = read.batch, read.asked_at, read.read_at
                entry.was_early, entry.was_in_time = read.was_early, read.was_in_time
                if read.batch is not None and self._can_start(read.batch) and not read.was_early:
                    entry.ready_at = entry.ready_at or self._clock.now()
                    self._start_soon(read.batch)
            return entry.batch

    def _can_start(self, batch: Batch) -> bool:
        is_queue_paused = self._switches is not None and self._switches.is_paused(batch.priority)
        return batch.state is BatchState.QUEUED and not is_queue_paused and not batch.is_paused(self._clock.now())

    async def refresh(self, attempt: ChunkAttempt) -> ChunkAttempt:
        """Return the attempt with its batch as it was at most a second ago. Keep the batch if it can no longer be read.

        If a newer version has given the batch a state that is not known here, what has run must still be recorded.
        """
        try:
            return replace(attempt, batch=await self.read(attempt.batch.id) or attempt.batch)
        except NewerVersion:
            return attempt

    @asynccontextmanager
    async def _refreshed_switches(self) -> AsyncIterator[None]:
        """Read in the same call what is read inside the block, and which queues are paused if that is stale."""
        if self._switches is None or not self._switches.are_stale:
            yield
            return
        refreshing = asyncio.create_task(self._switches.refresh())
        await asyncio.sleep(0)  # lets the call begin to gather
        try:
            yield
        finally:
            await refreshing

    def latest(self, batch: Batch) -> Batch:
        """Return the batch as this process has read it last."""
        entry = self._entries.get(batch.id)
        return batch if entry is None or entry.batch is None else entry.batch

    async def _read(self, batch_id: str) -> _Entry:
        """Read the batch. Return it only after all calls have succeeded."""
        asked_at, began_at = self._clock.monotonic(), self._clock.now()
        async with self._refreshed_switches():
            batch, now, read_at = await self._store.read_batch(batch_id), self._clock.now(), self._clock.monotonic()
        if batch is not None and self._on_read is not None:
            await self._on_read(batch)
        if batch is None:
            return _Entry(None, asked_at, read_at)
        return _Entry(batch, asked_at, read_at, batch.is_early(now), began_at <= batch.deadline_at)

    async def start(self, batch: Batch) -> Batch:
        """Move the batch to processing if it was queued when it was read. Return when that has taken effect.

        Return the batch with the time of its start, as this process has seen it.
        """
        if batch.state is not BatchState.QUEUED:
            return batch
        entry = self._entry(batch.id)
        async with entry.start_lock:
            if entry.ready_at is None:
                entry.ready_at = self._clock.now()
            if not entry.is_started:
                await self._store.start_batch(batch.id, entry.ready_at)
                entry.is_started = True
        return replace(batch, started_at=entry.ready_at)

    def note_running(self, batch: Batch) -> None:
        """Start a queued batch of which a chunk runs although the queue of its priority is paused.

        A client has changed the priority of the batch, and the chunk is still in the queue of the old one.
        """
        entry = self._entry(batch.id)
        if batch.state is BatchState.QUEUED and entry.ready_at is None:
            entry.ready_at = self._clock.now()
            self._start_soon(batch)

    def leave_out_start(self, batch: Batch) -> Batch:
        """Return the batch, with the time of its start if it is queued, so that the call that finishes it writes it.

        This saves a call for a batch that is finished next.
        """
        if batch.state is not BatchState.QUEUED:
            return batch
        entry = self._entry(batch.id)
        entry.is_started = True
        return replace(batch, started_at=entry.ready_at or self._clock.now())

    def _start_soon(self, batch: Batch) -> None:
        """Start the batch while its first operations run, so that they need not wait for this call."""
        starting = asyncio.create_task(self._try_to_start(batch))
        self._starts.add(starting)
        starting.add_done_callback(self._starts.discard)

    async def _try_to_start(self, batch: Batch) -> None:
        if batch.chunk_count == 1:
            await asyncio.sleep(START_AFTER_SECONDS)
        with contextlib.suppress(PenstockError):  # the processor starts it again before it counts anything of it
            await self.start(batch)

    async def wait_until(self, batch_id: str, is_over: Callable[[Batch], bool]) -> None:
        """Read the batch once a second, and return once it is over or deleted."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                batch = await self.read(batch_id)
            except PenstockError:
                continue  # the steps that need AWS handle its errors themselves
            if batch is None or is_over(batch):
                return

    def _is_fresh(self, entry: _Entry) -> bool:
        if _is_accepting(entry.batch):
            # A little less than the time between two polls, so that each poll reads it although timers are not exact.
            # It includes the time of the call, so that a slow call is followed by the next one immediately.
            return self._clock.monotonic() - entry.asked_at < 0.9 * entry.poll_seconds
        return self._is_recent(entry)

    def _is_recent(self, entry: _Entry) -> bool:
        if entry.was_early and entry.batch is not None and not entry.batch.is_early(self._clock.now()):
            return False  # its time has come since it was read, so it must be started
        if entry.was_in_time and entry.batch is not None and self._clock.now() > entry.batch.deadline_at:
            return False  # a client may have moved its deadline since it was read, so it must not expire yet
        return self._clock.monotonic() - entry.read_at < FRESH_SECONDS

    def _entry(self, batch_id: str) -> _Entry:
        return self._entries.put(batch_id, self._entries.get(batch_id) or _Entry())


def _decide(batch: Batch) -> Batch | NotAdmitted | None:
    """Return the batch if its operations may run, or why they may not. Return None if it will soon be accepted."""
    if batch.was_never_accepted:
        return NotAdmitted.ABANDONED
    if batch.state is BatchState.VALIDATING and not _is_nearly_sent(batch):
        return NotAdmitted.VALIDATING
    return None if _is_accepting(batch) else batch


def _is_accepting(batch: Batch | None) -> bool:
    return batch is None or batch.state in {BatchState.ACCEPTING, BatchState.VALIDATING}


def _is_nearly_sent(batch: Batch) -> bool:
    planning = batch.planning
    return planning is not None and planning.is_valid and planning.sent_groups >= planning.groups - 1
