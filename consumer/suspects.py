"""Decides how a chunk may start after deliveries of its batch were lost, since a consumer may have died of it.

From the first loss on, each delivery of the batch notes its start. An operation that has run in processes that died is
a suspect. Suspects run one at a time, so that a further death is blamed on the right one. An operation is poison, and
does not run any more, if consumers died of all its attempts.

Nothing runs and nothing is recorded here: `Suspects.start` yields what the processor must do.
"""

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from penstock.batch import Batch
from penstock.clock import Clock
from penstock.consumer.attempt import ChunkAttempt, Evidence, Release, StartNote
from penstock.consumer.batches import Batches
from penstock.consumer.lease import Leases
from penstock.consumer.limits import DENIAL_POLL_SECONDS, BatchLimits
from penstock.consumer.quarantine import Quarantine, may_be_released, release_seconds
from penstock.operations import Operations
from penstock.outcome import ChunkRecord
from penstock.route import InvalidOperation, Route
from penstock.running.limit_line import PostponedChunk
from penstock.running.runner import Runner
from penstock.running.stop import Stop
from penstock.settings import Settings
from penstock.store import Store
from penstock.telemetry import Event, get_log


@dataclass(frozen=True, slots=True)
class Ready:
    """The chunk may run now. Its start is noted."""

    attempt: ChunkAttempt
    has_slot: bool = False


@dataclass(frozen=True, slots=True)
class AlreadyRecorded:
    """The chunk must not run: another delivery has recorded it."""

    attempt: ChunkAttempt
    record: ChunkRecord


@dataclass(frozen=True, slots=True)
class TooLate:
    """The chunk must not run: its batch is over, or this process is stopping. Record that nothing of it has run."""

    attempt: ChunkAttempt


@dataclass(frozen=True, slots=True)
class Poison:
    """The only operation of the chunk must not run: consumers died of all its attempts."""

    attempt: ChunkAttempt
    route: Route
    deaths: int


Start = Ready | AlreadyRecorded | TooLate | Poison | Release


class Notes:
    """The notes of the deliveries that this process runs. It uses them to deny its death."""

    def __init__(self, store: Store, process: str) -> None:
        """Create an empty set of notes. `process` identifies this process in the notes that it leaves in the table."""
        self._store = store
        self.process = process
        self._running: dict[str, ChunkAttempt] = {}  # by the mark of the delivery

    @contextmanager
    def kept(self, attempt: ChunkAttempt) -> Iterator[None]:
        """Remember inside the block that this attempt has noted its start, or is about to."""
        self._running[attempt.delivery.mark] = attempt
        try:
            yield
        finally:
            self._running.pop(attempt.delivery.mark, None)

    async def deny_death(self, batch: Batch) -> None:
        """If this process seems to have died, say that it is alive. Its deliveries are no sign of a crash then."""
        if self.process not in batch.died:
            return
        for attempt in list(self._running.values()):
            if attempt.batch.id == batch.id:
                await self._store.note_release(batch, attempt.chunk.id, attempt.delivery.mark)
        await self._store.deny_death(batch.id, self.process)
        get_log().warning(Event.DEATH_DENIED, batch_id=batch.id)


class Suspects:
    def __init__(
        self,
        store: Store,
        batches: Batches,
        limits: BatchLimits,
        notes: Notes,
        operations: Operations[Any],
        *,
        runner: Runner,
        leases: Leases,
        stop: Stop,
        settings: Settings,
        clock: Clock,
    ) -> None:
        """`store`, `batches` and `limits` must repeat their calls while AWS is unavailable."""
        self._store = store
        self._batches = batches
        self._limits = limits
        self._notes = notes
        self._operations = operations
        self._runner = runner
        self._leases = leases
        self._stop = stop
        self._settings = settings
        self._clock = clock
        self._quarantine = Quarantine()

    async def note_loss(self, attempt: ChunkAttempt) -> ChunkAttempt:
        """Note that the batch has lost a delivery, and which processes seem to have died of it.

        Until the first loss no delivery notes its start, because the note costs a write. After it, all of them do.
        """
        if not attempt.batch.is_suspect:
            await self._store.suspect_batch(attempt.batch.id)
            self._batches.forget(attempt.batch.id)
        await self._limits.note_deaths(attempt.batch, attempt.dead_processes(self._notes.process))
        return await self._batches.refresh(attempt)

    def start(self, attempt: ChunkAttempt) -> AbstractAsyncContextManager[Start]:
        """Note the start of a chunk whose batch has lost a delivery, when it may start. Yield what must happen to it.

        Run it and commit its record inside the block. A single operation keeps its slot until then, and a suspect keeps
        its turn: otherwise a crash caused by the next operation would be blamed on this one.
        """
        if attempt.is_suspect(self._notes.process):
            return self._start_suspect(attempt)
        if attempt.runs_alone:
            return self._start_among_others(attempt)
        return self._start_chunk(attempt)

    @asynccontextmanager
    async def _start_chunk(self, attempt: ChunkAttempt) -> AsyncIterator[Start]:
        start = await self._note_start(attempt, Evidence.NONE)
        if not isinstance(start, Ready):
            yield start
            return
        async with self._being_noted(start.attempt):
            yield start

    @asynccontextmanager
    async def _start_among_others(self, attempt: ChunkAttempt) -> AsyncIterator[Start]:
        """Start a single operation like any other. It notes its start when it has its slot.

        If this process dies, the operations that only waited for a slot have no note, and are no suspects.
        """
        async with self._token(attempt) as token:
            if isinstance(token, Release):
                yield token
                return
            async with self._being_noted(attempt), self._runner.slot(attempt.running.operations[0], attempt.source):
                yield await self._note_start_in_slot(attempt, Evidence.RUNNING)

    @asynccontextmanager
    async def _start_suspect(self, attempt: ChunkAttempt) -> AsyncIterator[Start]:
        """Start a single operation that has run in processes that died, unless it has used up its attempts."""
        route = self._route(attempt)
        # An operation that has no handler any more is not poison: it runs, and its outcome says so.
        if route is not None and self._has_used_up(attempt, route):
            if not attempt.are_deaths_certain(self._notes.process):
                attempt = await self._wait_for_denial(attempt)
            if (verdict := self._verdict(attempt, route)) is not None:
                yield verdict
                return
        async with self._token(attempt) as token:
            if isinstance(token, Release):
                yield token
                return
            async with self._start_alone(attempt.with_noted_deaths(self._notes.process), route) as start:
                if isinstance(start, Release):
                    token()
                yield start

    @asynccontextmanager
    async def _start_alone(self, attempt: ChunkAttempt, route: Route | None) -> AsyncIterator[Start]:
        """Start a suspect. Only one of these runs at a time.

        If this process dies, too, the operation is blamed, and no other suspect is. On its last attempt nothing else
        runs in this process, so that the process can die of nothing else.
        """
        max_attempts = route.policy.max_attempts if route else attempt.number
        take = self._runner.all_slots if attempt.number >= max_attempts else self._runner.slot
        async with self._quarantine.turn(attempt.delivery) as has_turn:
            if not has_turn:
                yield Release(release_seconds(attempt.delivery))
                return
            async with self._being_noted(attempt), take(attempt.running.operations[0], attempt.source):
                start = await self._note_start_in_slot(attempt, Evidence.ALONE)
                if isinstance(start, Ready):
                    _log_suspect(start.attempt, max_attempts)
                yield start

    @asynccontextmanager
    async def _token(self, attempt: ChunkAttempt) -> AsyncIterator[Callable[[], None] | Release]:
        """Hold a token for a single operation, if it has a limit. Yield a function that gives the token back.

        If no token comes soon, yield a Release instead. Other operations follow as another chunk then, but that one
        would have none of the notes, and this operation would be no suspect any more.
        """
        async with AsyncExitStack() as stack:
            try:
                token: Callable[[], None] | Release = await stack.enter_async_context(
                    self._runner.token(
                        attempt.running.operations[0],
                        attempt.source,
                        may_be_postponed=may_be_released(attempt.delivery),
                    )
                )
            except PostponedChunk as postponed:
                token = Release(max(math.ceil(postponed.seconds), release_seconds(attempt.delivery)))
            yield token

    def _verdict(self, attempt: ChunkAttempt, route: Route) -> Start | None:
        """Return what must happen to a suspect that may have used up its attempts, or None if it can run."""
        if attempt.traces.record is not None:
            return AlreadyRecorded(attempt, attempt.traces.record)
        if not self._has_used_up(attempt, route):
            return None
        if self._stop.begun.is_set():
            return Release(0)
        return Poison(attempt, route, attempt.with_noted_deaths(self._notes.process).deaths)

    def _has_used_up(self, attempt: ChunkAttempt, route: Route) -> bool:
        """Return True if consumers seem to have died of all attempts that the operation has."""
        noted = attempt.with_noted_deaths(self._notes.process)
        return noted.deaths > 0 and noted.number > route.policy.max_attempts

    async def _wait_for_denial(self, attempt: ChunkAttempt) -> ChunkAttempt:
        """Wait for one lease before the verdict, and return the attempt with what is in the table by then.

        A process that was cut off from AWS seems to have died, too. When it is back, it records the operation, or it
        denies its death.
        """
        until = self._clock.monotonic() + self._settings.visibility_seconds
        while self._clock.monotonic() < until and not self._stop.begun.is_set():
            await self._clock.sleep(DENIAL_POLL_SECONDS)
            traces = await self._store.read_traces(attempt.batch.id, attempt.chunk.id)
            attempt = replace(attempt, traces=traces.without_results())
            if attempt.traces.record is not None or not attempt.lost_starts(self._notes.process):
                break
        return attempt

    async def _note_start_in_slot(self, attempt: ChunkAttempt, evidence: Evidence) -> Start:
        """Note the start of a single operation that has its slot, if it may still start."""
        if self._stop.begun.is_set():
            return TooLate(attempt)
        # Read the batch before the note, so that it need not be read after it. If a consumer died between the note and
        # the handler, an operation would be blamed that never started.
        attempt = await self._batches.refresh(attempt)
        # The batch may have killed too many processes while the operation waited for its slot.
        await self._limits.await_verdict(attempt.batch)
        return await self._note_start(attempt, evidence, has_slot=True)

    async def _note_start(self, attempt: ChunkAttempt, evidence: Evidence, *, has_slot: bool = False) -> Start:
        """Note the start of a chunk, unless another delivery has recorded it."""
        note = StartNote(attempt.delivery.mark, self._notes.process, evidence)
        record = await self._store.note_start(attempt.batch, attempt.chunk.id, str(note))
        if record is not None:
            return AlreadyRecorded(attempt, record)
        attempt = await self._batches.refresh(attempt)  # the note may have taken long
        return TooLate(attempt) if attempt.is_over_at(self._clock.now()) else Ready(attempt, has_slot)

    @asynccontextmanager
    async def _being_noted(self, attempt: ChunkAttempt) -> AsyncIterator[None]:
        """Keep the note of this attempt inside the block.

        While it runs, the batch is read once a second. After a lost lease it is read once more, because another
        process may have noted just now that this one seems to have died.
        """
        with self._notes.kept(attempt):
            yield
        if not self._leases.is_kept(attempt.delivery):
            self._batches.forget(attempt.batch.id)
            await self._batches.read(attempt.batch.id)

    def _route(self, attempt: ChunkAttempt) -> Route | None:
        operation = attempt.running.operations[0]
        try:
            return self._operations.match(operation.method, operation.path)
        except InvalidOperation:
            return None


def _log_suspect(attempt: ChunkAttempt, max_attempts: int) -> None:
    operation = attempt.running.operations[0]
    get_log().warning(
        Event.OPERATION_SUSPECTED,
        operation_id=operation.id,
        method=operation.method,
        path=operation.path,
        max_attempts=max_attempts,
    )
