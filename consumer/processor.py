"""One attempt at one chunk, step by step. What a crash after each step means stands beside it.

The order *record, follow up, count, dead letters, finish, acknowledge* is the delivery guarantee:

- The record is the commit point. Before it nothing has happened but handlers that ran; they run again, with the same
  keys. From it on the record alone says what this chunk came to, and whoever is delivered the chunk carries that on.
- Each of the steps between is safe to repeat, so a crash between them costs a repetition. Dead letters are sent after
  their failures are counted: a redrive takes those back, and no counter may ever be below what it will be.
- Only then is the message deleted. Deleting decides nothing: with an old receipt it "succeeds" and deletes nothing.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from penstock.backend import Backend
from penstock.batch import EARLY_SECONDS, Batch, Ending, sum_counts
from penstock.chunk import Chunk, redriven_from
from penstock.clock import Clock
from penstock.consumer.batches import Batches, NotAdmitted
from penstock.consumer.finisher import Finisher
from penstock.consumer.lease import Leases
from penstock.errors import Misconfigured, PenstockError, Unavailable
from penstock.message import encode_chunk, encode_dead_letter
from penstock.metrics.meter import UNKNOWN_HANDLER, Meter
from penstock.metrics.names import Metric
from penstock.operations import Operations
from penstock.outcome import (
    ChunkRecord,
    Ended,
    Verdict,
    dead_letters,
    delay_seconds,
    follow_up_chunks,
    record_attempt,
    record_halves,
    record_poison,
    record_too_early,
)
from penstock.queue import LONGEST_DELAY_SECONDS, LONGEST_HIDDEN_SECONDS, Delivery, Message
from penstock.route import InvalidOperation
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from penstock.settings import Settings
from penstock.store import Traces
from penstock.telemetry import Event, get_log
from penstock.tracing.hooks import processing

T = TypeVar("T")

EARLY_RELEASE_SECONDS = 5  # a chunk of a batch not accepted yet comes back after this
WATCH_SECONDS = 1.0
FIRST_REPEAT_SECONDS = 0.2
LONGEST_REPEAT_SECONDS = 10.0


class Processor:
    def __init__(
        self,
        backend: Backend,
        operations: Operations[Any],
        *,
        runner: Runner,
        leases: Leases,
        stop: Stop,
        settings: Settings,
        clock: Clock,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter or Meter()
        self._queues = backend.queues
        self._dead_letters = backend.dead_letters
        self._store = backend.store
        self._spans = backend.spans
        self._operations = operations
        self._runner = runner
        self._leases = leases
        self._stop = stop
        self._settings = settings
        self._clock = clock
        self._quarantine = asyncio.Lock()
        self._batches = Batches(backend.store, clock)
        self._finisher = Finisher(backend.store, clock)

    async def process(self, delivery: Delivery, chunk: Chunk, ended: Callable[[], None]) -> None:
        """Carry a delivery to its end: acknowledged, or given back. `ended` is called after each operation run."""
        begun_at = self._clock.monotonic()
        with (
            structlog.contextvars.bound_contextvars(batch_id=chunk.batch_id, chunk_id=chunk.id, attempt=chunk.attempt),
            processing(self._spans, self._settings.chunk_queues[delivery.priority], delivery, chunk),
        ):
            batch = await self._persist(lambda: self._batches.admit(chunk.batch_id))
            if isinstance(batch, Batch):
                await self._process_admitted(delivery, chunk, batch, ended)
                self._meter.observe(Metric.CHUNK_SECONDS, self._clock.monotonic() - begun_at)
            else:
                await self._turn_away(delivery, chunk, batch)

    async def set_aside(self, delivery: Delivery, reason: str) -> None:
        """Put a message that is not ours to run into the dead letter queue as it is, with the reason."""
        aside = Message(delivery.body, tenant=delivery.tenant, reason=reason, trace=delivery.trace)
        await self._persist(lambda: self._dead_letters.send([aside]))
        self._meter.count(Metric.DEAD_LETTERS)
        await self._acknowledge(delivery)
        get_log().warning(Event.MESSAGE_SET_ASIDE, message_id=delivery.message_id, reason=reason)

    async def release(self, delivery: Delivery, chunk: Chunk, *, after_seconds: int = 0) -> None:
        """Give back a delivery of which nothing was begun, and leave word that no consumer died of it.

        Not repeated while AWS is in trouble: then the lease runs out, and the chunk is taken for one that was begun.
        """
        batch = await self._store.read_batch(chunk.batch_id)
        if batch is not None:
            await self._store.note_release(batch, chunk.id, delivery.mark)
        await self._leases.release(delivery, after_seconds=after_seconds)
        get_log().info(Event.CHUNK_RELEASED, batch_id=chunk.batch_id, chunk_id=chunk.id)

    async def _process_admitted(
        self, delivery: Delivery, chunk: Chunk, batch: Batch, ended: Callable[[], None]
    ) -> None:
        now = self._clock.now()
        if batch.is_early(now):
            # Not sent once more, as what is to be tried again is: that would be a record every 15 minutes.
            wait = delay_seconds(batch.not_before, now, LONGEST_HIDDEN_SECONDS)
            await self._persist(lambda: self.release(delivery, chunk, after_seconds=wait))
            return
        record = await self._look(batch, delivery, chunk, ended)
        if record is None:
            await self._drop(delivery)
            return
        await self._persist(lambda: self._follow_up(batch, chunk, record, delivery.tenant))
        group = await self._persist(lambda: self._store.count_chunk(batch, record))
        if chunk.id in group.done:
            await self._persist(lambda: self._send_dead_letters(batch, record, delivery.tenant))
            await self._persist(lambda: self._check_limits(batch, record))
        await self._persist(lambda: self._finisher.finish(batch, chunk.group, group))
        await self._acknowledge(delivery)
        get_log().info(
            Event.CHUNK_DONE,
            succeeded=record.counts.succeeded,
            failed=record.counts.failed,
            followed_by=[follow_up.id for follow_up in record.follow_ups],
        )

    async def _look(
        self, batch: Batch, delivery: Delivery, chunk: Chunk, ended: Callable[[], None]
    ) -> ChunkRecord | None:
        """The record that stands for this chunk: an earlier delivery's, or the one that this delivery commits.

        Every delivery looks, even a first one: the queue may hold a chunk twice, when a send was repeated because its
        answer was lost, and no handler may run again once its outcome is recorded. None: the batch is over, and
        nothing of this chunk will ever be counted.
        """
        traces = await self._persist(lambda: self._store.read_traces(chunk.batch_id, chunk.id))
        if traces.record is not None:
            return await self._what_is_left(chunk, traces.record)
        batch = await self._reread(batch)  # the look may have taken long
        if batch.is_final and redriven_from(chunk.id) is None:
            return None
        return await self._answer(batch, delivery, chunk, traces, ended)

    async def _what_is_left(self, chunk: Chunk, record: ChunkRecord) -> ChunkRecord:
        """An earlier delivery's record, without its follow-ups where it is counted: then they have been sent.

        Or a duplicate would bring duplicates of all that ever followed from it. Deliveries may be lost faster than
        such a family dies out, and then the queue would fill without end.
        """
        if not record.follow_ups:
            return record
        group = await self._persist(lambda: self._store.read_group(chunk.batch_id, chunk.group))
        return replace(record, follow_ups=()) if chunk.id in group.done else record

    async def _answer(
        self, batch: Batch, delivery: Delivery, chunk: Chunk, traces: Traces, ended: Callable[[], None]
    ) -> ChunkRecord:
        """Record what this chunk comes to, of which there was no record; return the record that stands."""
        deaths = delivery.receive_count - 1 - delivery.count_own(traces.released)
        record = self._decide_unrun(batch, chunk, deaths)
        if record is None and deaths > 0:
            return await self._run_suspect(batch, delivery, chunk, delivery.count_own(traces.begun), ended)
        if record is None:
            record = await self._run(batch, delivery, chunk, ended)
        return await self._commit(batch, record)

    def _decide_unrun(self, batch: Batch, chunk: Chunk, deaths: int) -> ChunkRecord | None:
        """What a chunk comes to that must not run, or not as it is; None: it is to run."""
        if self._ending(batch, chunk) is not None:
            return self._record(batch, chunk, {})
        if chunk.not_before is not None and chunk.not_before - self._clock.now() > EARLY_SECONDS:
            return record_too_early(chunk)
        if deaths > 0 and len(chunk.operations) > 1:
            get_log().warning(Event.CHUNK_HALVED, deaths=deaths)
            return record_halves(chunk, deaths)
        return None

    async def _run_suspect(
        self, batch: Batch, delivery: Delivery, chunk: Chunk, begun: int, ended: Callable[[], None]
    ) -> ChunkRecord:
        """Run a single operation again of which a consumer may have died: one such at a time, and with a note of it.

        Should this process die, it is the noted one that is blamed, not those that wait here; nor is a delivery taken
        for an attempt that never came to run it, its receive having lost its answer. The attempt whose death would be
        the verdict is made with nothing else running: then the process can die of nothing else. All this lasts until
        the record is committed, or else dying of the next one would look like dying of this one.
        """
        chunk = replace(chunk, attempt=chunk.attempt + begun)
        if begun and chunk.attempt > self._max_attempts(chunk):
            self._meter.failed(self._handler_name(chunk), None)
            return await self._commit(batch, record_poison(chunk, begun))
        is_last = chunk.attempt >= self._max_attempts(chunk)
        operation = chunk.operations[0]
        take = self._runner.all_slots if is_last else self._runner.slot
        async with self._quarantine, take(operation, _source(batch, delivery)):
            if self._stop.begun.is_set():
                return await self._commit(batch, self._record(batch, chunk, {}, begun))
            # The wait may have been long: another delivery may have been recorded meanwhile, and the batch have ended.
            standing = await self._persist(lambda: self._store.note_start(batch, chunk.id, delivery.mark))
            if standing is not None:
                return await self._what_is_left(chunk, standing)
            batch = await self._reread(batch)
            if self._is_over(batch, chunk):
                return await self._commit(batch, self._record(batch, chunk, {}, begun))
            self._log_suspect(chunk)
            record = await self._run(batch, delivery, chunk, ended, deaths=begun, has_slot=True)
            return await self._commit(batch, record)

    def _log_suspect(self, chunk: Chunk) -> None:
        operation = chunk.operations[0]
        get_log().warning(
            Event.OPERATION_SUSPECTED,
            operation_id=operation.id,
            method=operation.method,
            path=operation.path,
            max_attempts=self._max_attempts(chunk),
        )

    async def _commit(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        """The record that stands: this one, or that of whoever came first."""
        return await self._persist(lambda: self._store.commit_chunk(batch, record))

    async def _run(
        self,
        batch: Batch,
        delivery: Delivery,
        chunk: Chunk,
        ended: Callable[[], None],
        *,
        deaths: int = 0,
        has_slot: bool = False,
    ) -> ChunkRecord:
        source = _source(batch, delivery)
        with self._stop.follower() as stop:
            watching = asyncio.create_task(self._watch(batch, chunk, stop))
            try:
                verdicts = await self._runner.run_chunk(
                    chunk,
                    source,
                    stop,
                    ended,
                    # Once the lease is over another consumer may have recorded outcomes: no handler may run after that.
                    may_begin=lambda: self._leases.is_kept(delivery),
                    has_slot=has_slot,
                )
            finally:
                watching.cancel()
        return self._record(await self._reread(batch), chunk, verdicts, deaths)

    async def _reread(self, batch: Batch) -> Batch:
        """As it was a second ago at most."""
        latest = await self._persist(lambda: self._batches.read(batch.id))
        return latest or batch

    async def _watch(self, batch: Batch, chunk: Chunk, stop: Stop) -> None:
        """Let nothing more of a chunk begin once its batch is to end, or its time budget is spent."""
        loop = asyncio.get_running_loop()
        spent_at = loop.time() + self._settings.chunk_budget_seconds
        while True:
            left = spent_at - loop.time()
            await asyncio.sleep(min(WATCH_SECONDS, left) if left > 0 else WATCH_SECONDS)
            if loop.time() >= spent_at:
                stop.spend()
            try:
                latest = await self._batches.read(batch.id)
            except PenstockError:
                continue  # what to do about AWS is decided where something depends on it
            if latest is None or self._is_over(latest, chunk):
                break
        stop.begin()

    def _is_over(self, batch: Batch, chunk: Chunk) -> bool:
        """Whether nothing more of this chunk may begin."""
        return self._ending(batch, chunk) is not None or (batch.is_final and redriven_from(chunk.id) is None)

    def _ending(self, batch: Batch, chunk: Chunk) -> Ending | None:
        """Whether this chunk's operations may begin (None). Those of a redrive may: somebody has just asked for it."""
        return batch.ending_at(self._clock.now()) if redriven_from(chunk.id) is None else None

    def _record(self, batch: Batch, chunk: Chunk, verdicts: Mapping[int, Verdict], deaths: int = 0) -> ChunkRecord:
        ending = self._ending(batch, chunk)
        return record_attempt(
            chunk,
            verdicts,
            backoff=self._settings.backoff,
            draw=random.random(),  # noqa: S311 - spreads retries, keeps no secret
            now=self._clock.now(),
            ended=None if ending is None else Ended(ending, batch.reason),
            deaths=deaths,
        )

    def _max_attempts(self, chunk: Chunk) -> int:
        operation = chunk.operations[0]
        try:
            return self._operations.match(operation.method, operation.path).policy.max_attempts
        except InvalidOperation:
            return chunk.attempt  # nothing handles it any more: running it says so

    def _handler_name(self, chunk: Chunk) -> str:
        operation = chunk.operations[0]
        try:
            return self._operations.match(operation.method, operation.path).name
        except InvalidOperation:
            return UNKNOWN_HANDLER

    async def _acknowledge(self, delivery: Delivery) -> None:
        self._leases.settle(delivery)
        await self._persist(lambda: self._queues[delivery.priority].delete(delivery))

    async def _follow_up(self, batch: Batch, chunk: Chunk, record: ChunkRecord, tenant: str | None) -> None:
        """Send the chunks that a record lists; a repetition sends the same ids."""
        now = self._clock.now()
        following = [
            Message(encode_chunk(next_chunk), delay_seconds(next_chunk.not_before, now, LONGEST_DELAY_SECONDS), tenant)
            for next_chunk in follow_up_chunks(chunk, record)
        ]
        if following:
            await self._queues[batch.priority].send(following)

    async def _send_dead_letters(self, batch: Batch, record: ChunkRecord, tenant: str | None) -> None:
        letters = dead_letters(batch.id, record, rejections=self._settings.dead_letter_rejections)
        messages = [
            encode_dead_letter(letter, record.outcomes, message_bytes=self._settings.message_bytes)
            for letter in letters
        ]
        if messages:
            await self._dead_letters.send([Message(message, tenant=tenant) for message in messages])
            self._meter.count(Metric.DEAD_LETTERS, len(messages))

    async def _check_limits(self, batch: Batch, record: ChunkRecord) -> None:
        """End a batch of which too much has failed, or that has cost too many consumers their lives."""
        may_fail_too_much = batch.failure_limit is not None and record.counts.failed > 0
        if not (may_fail_too_much or record.deaths):
            return
        groups = (await self._store.read_groups(batch.id, range(len(batch.group_totals)))).values()
        deaths, most_deaths = sum(group.deaths for group in groups), self._settings.max_deaths
        if deaths > most_deaths:
            await self._end(batch, Ending.FAILED, f"It has cost more than {most_deaths} consumers their lives.")
        elif batch.failure_limit is not None and batch.failure_limit.is_passed(sum_counts(g.counts for g in groups)):
            await self._end(batch, Ending.CANCELLED, batch.failure_limit.reason)

    async def _end(self, batch: Batch, ending: Ending, reason: str) -> None:
        settle_by = self._clock.now() + self._settings.settle_seconds
        if await self._store.end_batch(batch.id, ending, reason, settle_by=settle_by):
            get_log().warning(Event.BATCH_ENDED, ending=ending, reason=reason)
        self._batches.forget(batch.id)

    async def _drop(self, delivery: Delivery) -> None:
        await self._acknowledge(delivery)
        get_log().info(Event.CHUNK_DROPPED)

    async def _turn_away(self, delivery: Delivery, chunk: Chunk, why: NotAdmitted) -> None:
        match why:
            case NotAdmitted.ABANDONED:
                await self._drop(delivery)
            case NotAdmitted.UNKNOWN:
                await self.set_aside(delivery, f"The table knows no batch {chunk.batch_id}; it may be forgotten.")
            case NotAdmitted.ACCEPTING:
                await self._persist(lambda: self.release(delivery, chunk, after_seconds=EARLY_RELEASE_SECONDS))

    async def _persist(self, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat a step while AWS is in trouble: the lease is kept meanwhile, and no attempt is used up."""
        wait = FIRST_REPEAT_SECONDS
        while True:
            try:
                return await step()
            except (Unavailable, Misconfigured) as error:
                get_log().warning(Event.STEP_REPEATED, error=str(error), wait_seconds=wait)
            await self._clock.sleep(wait)
            wait = min(2 * wait, LONGEST_REPEAT_SECONDS)


def _source(batch: Batch, delivery: Delivery) -> Source:
    """As urgent as the queue it came from: an operator may have moved it to another than its batch's own."""
    return Source(
        batch.id, batch.key_prefix, priority=delivery.priority, tenant=batch.tenant, headers=dict(batch.headers)
    )
