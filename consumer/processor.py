"""Processes one delivery of a chunk, from its receipt until it is acknowledged or released.

First `_decide` finds the record of the chunk, and runs the operations if there is none. Then `_settle` acts on it. The
delivery guarantee depends on the order of the steps there: see `_complete`.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from penstock.abandoning import stand_in
from penstock.backend import Backend
from penstock.batch import EARLY_SECONDS, Batch
from penstock.chunk import Chunk, next_round_id, redriven_from
from penstock.clock import Clock
from penstock.consumer.attempt import Again, ChunkAttempt, Decision, Discard, MoveToDeadLetters, Release, SendAgain
from penstock.consumer.batches import FRESH_SECONDS, Batches, NotAdmitted
from penstock.consumer.count_box import CountBox
from penstock.consumer.finisher import Finisher, is_full
from penstock.consumer.journal import Journal
from penstock.consumer.lease import Leases
from penstock.consumer.letter_box import LetterBox
from penstock.consumer.limits import BatchLimits
from penstock.consumer.needed import Needed
from penstock.consumer.origin import has_same_operations, origin_error, out_of_bounds, record_error, redrive_error
from penstock.consumer.patience import patient, until_answered
from penstock.consumer.pauses import Pauses
from penstock.consumer.queue_switches import HIDDEN_SECONDS, QueueSwitches
from penstock.consumer.readers_first import ReadersFirst
from penstock.consumer.result_files import ResultFiles
from penstock.consumer.suspects import AlreadyRecorded, Notes, Poison, Ready, Suspects, TooLate
from penstock.errors import LostItem, RejectedCall
from penstock.large_results import may_be_large, without_files
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric
from penstock.operations import Operations
from penstock.outcome import (
    ChunkRecord,
    Ended,
    Verdict,
    delay_seconds,
    in_next_round,
    next_round,
    poison_verdicts,
    record_attempt,
    record_halves,
    record_too_early,
)
from penstock.pace import ChunkPace
from penstock.queue import LONGEST_DELAY_SECONDS, LONGEST_HIDDEN_SECONDS, Delivery
from penstock.running.runner import Runner
from penstock.running.source import Urgency
from penstock.running.stop import Stop
from penstock.sending import ChunkSender
from penstock.settings import Settings
from penstock.store import Group, Traces
from penstock.telemetry import Event, get_log
from penstock.tracing.hooks import processing
from penstock.waiting import wait_for_all

NO_TRACES = Traces(None, frozenset())
ACCEPTING_RELEASE_SECONDS = 5  # until a chunk is received again if its batch is not accepted yet
VALIDATING_RELEASE_SECONDS = 10  # the same, while a consumer sends the chunks of the batch
WORTH_DROPPING_BYTES = 65_536  # held by the results of a record. Dropping less would take longer than it is worth


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
        process: str | None = None,
        journal: Journal | None = None,
        count_box: CountBox | None = None,
        letter_box: LetterBox | None = None,
        readers_first: ReadersFirst | None = None,
        pauses: Pauses | None = None,
        switches: QueueSwitches | None = None,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Create a processor. `process` identifies this process in the notes that it leaves in the table.

        `on_event` is for the finisher.
        """
        self._backend = backend
        self._runner = runner
        self._leases = leases
        self._stop = stop
        self._settings = settings
        self._fit = settings.fit
        self._clock = clock
        self._meter = meter or Meter()
        self._process = process or secrets.token_hex(8)
        self._journal = journal or Journal()
        self._count_box = count_box or CountBox(clock)
        self._letter_box = letter_box or LetterBox()
        self._readers_first = readers_first or ReadersFirst(clock)
        self._pauses = pauses or Pauses(stop, clock)
        self._switches = switches or QueueSwitches(backend.store, clock)
        notes = Notes(backend.store, self._process)
        batches = Batches(backend.store, clock, on_read=notes.deny_death, switches=self._switches)
        # All calls of these are repeated as long as AWS is unavailable.
        self._store = patient(backend.store, clock)
        self._queues = {priority: patient(queue, clock) for priority, queue in backend.queues.items()}
        self._batches = patient(batches, clock)
        self._needed = patient(Needed(backend.store), clock)
        self._sender = patient(ChunkSender(backend, settings, clock), clock)
        limits = BatchLimits(backend.store, batches, settings, clock, is_stopping=stop.begun.is_set)
        self._limits = patient(limits, clock)
        self._suspects = Suspects(
            self._store,
            self._batches,
            self._limits,
            notes,
            operations,
            runner=runner,
            leases=leases,
            stop=stop,
            settings=settings,
            clock=clock,
        )
        self._result_files = ResultFiles(backend.bucket, clock)
        self._finisher = patient(Finisher(backend.store, clock, on_event), clock)

    async def process(self, delivery: Delivery, chunk: Chunk, ended: Callable[[int], None]) -> None:
        """Process a delivery until it is acknowledged or released.

        `ended` is called with the numbers of operations that have run.
        """
        received_at = self._clock.monotonic()
        self._backend.bills.add_units(chunk.batch_id, delivery.cost)
        with (
            structlog.contextvars.bound_contextvars(batch_id=chunk.batch_id, chunk_id=chunk.id, attempt=chunk.attempt),
            processing(self._backend.spans, self._settings.chunk_queues[delivery.priority], delivery, chunk),
            self._count_box.chunk_in_progress(delivery, chunk),
            self._letter_box.chunk_in_progress(),
        ):
            decision: Decision = Again()
            while isinstance(decision, Again):
                batch, traces = await self._read_batch_and_traces(delivery, chunk)
                if not isinstance(batch, Batch):
                    await self._turn_away(delivery, chunk, batch)
                    return
                attempt = ChunkAttempt(delivery, chunk, batch, ended)
                decision = await self._decide(attempt, traces)
            await self._settle(attempt, decision)
            self._meter.observe(Metric.CHUNK_SECONDS, self._clock.monotonic() - received_at)

    async def release(self, delivery: Delivery, chunk: Chunk, *, after_seconds: int = 0) -> None:
        """Release a delivery of which nothing has run, and note that no consumer died of it.

        This is not repeated if AWS is unavailable. Then the lease ends by itself, and the chunk looks like one that its
        consumer died of.
        """
        batch = await self._backend.store.read_batch(chunk.batch_id)
        if batch is None and delivery.sent_ahead is not None:  # it may still be written, and the note is for it
            batch = stand_in(chunk.batch_id, self._clock.now(), delivery.sent_ahead.expires_at)
        if batch is not None:
            await self._backend.store.note_release(batch, chunk.id, delivery.mark)
        await self._leases.release(delivery, after_seconds=after_seconds)
        get_log().info(Event.CHUNK_RELEASED, batch_id=chunk.batch_id, chunk_id=chunk.id)

    async def move_to_dead_letters(self, delivery: Delivery, reason: str) -> None:
        """Move a message that this fleet cannot run to the dead letter queue, unchanged and with the reason."""
        await self._sender.send_unchanged(delivery, reason)
        self._meter.count(Metric.DEAD_LETTERS)
        await self.acknowledge(delivery)
        get_log().warning(Event.MESSAGE_SET_ASIDE, message_id=delivery.message_id, reason=reason)

    async def _turn_away(self, delivery: Delivery, chunk: Chunk, why: NotAdmitted) -> None:
        match why:
            case NotAdmitted.ABANDONED:
                await self._discard(delivery)
            case NotAdmitted.UNKNOWN:
                reason = f"The table has no batch {chunk.batch_id}. Perhaps it is past its retention and was deleted."
                await self.move_to_dead_letters(delivery, reason)
            case NotAdmitted.VALIDATING:
                # Longer each time, so that the redrive policy of the queue does not move it away.
                seconds = min(VALIDATING_RELEASE_SECONDS * delivery.receive_count, LONGEST_DELAY_SECONDS)
                await self._release_patiently(delivery, chunk, seconds)
            case NotAdmitted.ACCEPTING:
                await self._release_patiently(delivery, chunk, ACCEPTING_RELEASE_SECONDS)

    async def _read_batch_and_traces(self, delivery: Delivery, chunk: Chunk) -> tuple[Batch | NotAdmitted, Traces]:
        """Read the batch until it is accepted, and at the same time what the table has of a chunk.

        That is read again if acceptance took long: in the meantime, a copy of the chunk may have been recorded. A part
        of the record may be deleted, past the retention of the batch. Then the batch is unknown.
        """
        batch_id, chunk_id = chunk.batch_id, redriven_from(chunk.id) or chunk.id
        read_at = self._clock.monotonic()
        admitting = asyncio.create_task(self._batches.admit(batch_id, delivery.sent_ahead))
        try:
            try:
                traces = await self._read_traces(batch_id, chunk_id)
            except LostItem:
                traces = None
            batch = await admitting
        finally:
            admitting.cancel()
            await asyncio.gather(admitting, return_exceptions=True)
            del admitting  # may have an error, which would keep the chunk in memory otherwise: see `penstock.waiting`
        if isinstance(batch, Batch) and (traces is None or self._clock.monotonic() - read_at > FRESH_SECONDS):
            traces = await self._read_traces(batch_id, chunk_id)
        return batch, traces or NO_TRACES

    # Decide: find the record of the chunk, or run its operations and commit one.

    async def _decide(self, attempt: ChunkAttempt, traces: Traces) -> Decision:
        """Decide what to do with a delivery. Operations run only if the chunk has no record yet.

        `traces` are those of the chunk. For a redrive, they are those of the chunk whose failures it runs again.

        The record is read on the first delivery, too. A chunk can be on the queue twice, because a send was repeated
        whose answer was lost, and no handler may run again once its outcome is recorded.
        """
        if (reason := origin_error(attempt.batch, attempt.chunk)) is not None:
            return MoveToDeadLetters(reason)
        if attempt.is_redrive:
            if (reason := redrive_error(attempt.chunk, traces.record)) is not None:
                return MoveToDeadLetters(reason)
            traces = await self._read_traces(attempt.batch.id, attempt.chunk.id)
        attempt = replace(attempt, traces=traces)
        now = self._clock.now()
        if attempt.batch.is_early(now):
            # A delayed follow-up, as for a retry, would cost a record every 15 minutes.
            return Release(delay_seconds(attempt.batch.not_before, now, LONGEST_HIDDEN_SECONDS))
        if attempt.traces.record is not None:
            return await self._continue_from(attempt, attempt.traces.record)
        attempt = await self._batches.refresh(attempt)
        if attempt.is_too_late:
            return Discard()
        if attempt.is_redrive:
            attempt = replace(attempt, chunk=await self._needed.check(attempt.batch, attempt.chunk))
        return await (self._wait_for_resume(attempt) if self._is_paused(attempt) else self._make_record(attempt))

    def _is_paused(self, attempt: ChunkAttempt) -> bool:
        """Return True if no operation of the chunk may start, because its batch or its queue is paused."""
        return attempt.batch.is_paused(self._clock.now()) or self._switches.is_paused(attempt.delivery.priority)

    async def _wait_for_resume(self, attempt: ChunkAttempt) -> Decision:
        if self._pauses.must_renew(attempt.delivery):
            return await self._commit(attempt, self._record(attempt, {}))
        if self._switches.is_paused(attempt.delivery.priority):
            return Release(HIDDEN_SECONDS)
        return await self._pauses.wait(attempt, self._batches)

    async def _read_traces(self, batch_id: str, chunk_id: str) -> Traces:
        """Read what the table has of a chunk. The results in its record are dropped, because they may be large."""
        return (await self._store.read_traces(batch_id, chunk_id)).without_results()

    async def _continue_from(self, attempt: ChunkAttempt, record: ChunkRecord) -> Decision:
        if next_round_id(attempt.chunk.id) is not None and not has_same_operations(attempt.chunk, record):
            return await self._send_to_next_round(attempt, record)
        if (reason := record_error(attempt.chunk, record)) is not None:
            return MoveToDeadLetters(reason)
        return await self._without_sent_follow_ups(attempt, record)

    async def _send_to_next_round(self, attempt: ChunkAttempt, record: ChunkRecord) -> SendAgain | Discard:
        """Let the operations of a round run in the first later round that other retries have not taken.

        `record` is that of the round. It has other operations, because two retries have chosen different failures. What
        both have chosen does not run again.
        """
        following = next_round(attempt.chunk, record)
        while following is not None:
            standing = (await self._read_traces(attempt.batch.id, following.id)).record
            if standing is None or has_same_operations(following, standing):
                return SendAgain(following)
            following = next_round(following, standing)
        return Discard()

    async def _without_sent_follow_ups(self, attempt: ChunkAttempt, record: ChunkRecord) -> ChunkRecord:
        """Return the record without its follow-ups if it is counted, since they were sent before that.

        They are not sent again either if the table notes that they were sent, or if the group is closed and they would
        never be counted. Otherwise each duplicate would cause duplicates of everything that followed from it. If
        deliveries were lost faster than these die out, the queue would grow without end.
        """
        if not record.follow_ups:
            return record
        if not attempt.traces.has_sent_follow_ups:
            group = await self._store.read_group(attempt.batch.id, attempt.chunk.group)
            if not group.is_through_with(attempt.chunk.id):
                return record
        return replace(record, follow_ups=())

    async def _make_record(self, attempt: ChunkAttempt) -> Decision:
        """Commit the record of a chunk that has none, after running its operations if they may run."""
        if attempt.lost_deliveries and not attempt.is_over_at(self._clock.now()):
            attempt = await self._suspects.note_loss(attempt)
        if attempt.batch.died and not attempt.is_over_at(self._clock.now()):
            await self._limits.await_verdict(attempt.batch)
            attempt = await self._batches.refresh(attempt)
        record = self._record_without_running(attempt)
        if record is not None:
            return await self._commit(attempt, record)
        if attempt.lost_deliveries or attempt.batch.is_suspect or attempt.is_suspect(self._process):
            return await self._run_with_care(attempt)
        return await self._run(attempt)

    def _record_without_running(self, attempt: ChunkAttempt) -> ChunkRecord | None:
        """Return the record of a chunk that must not run, or not as a whole. Return None if it can run."""
        chunk, now, lost = attempt.chunk, self._clock.now(), attempt.lost_deliveries
        if attempt.ending_at(now) is not None:
            return self._record(attempt, {})
        if chunk.unmet or chunk.pathless:  # what needs these fails, and the rest follows. Only this chunk knows them
            return self._record(attempt, {})
        if chunk.not_before is not None and chunk.not_before - now > EARLY_SECONDS:
            return record_too_early(chunk)
        if lost and not attempt.runs_alone:
            get_log().warning(Event.CHUNK_HALVED, deaths=lost)
            return record_halves(chunk)
        return self._record(attempt, {}) if self._is_paused(attempt) else None  # paused since it was decided

    async def _run_with_care(self, attempt: ChunkAttempt) -> Decision:
        """Run a chunk of a batch that has lost a delivery, if and when it may start."""
        async with self._suspects.start(attempt) as start:
            match start:
                case Ready(attempt) if self._is_paused(attempt):  # paused while it waited for its turn
                    return await self._commit(attempt, self._record(attempt, {}))
                case Ready(attempt, has_slot):
                    return await self._run(attempt, has_slot=has_slot)
                case AlreadyRecorded(attempt, record):
                    return await self._continue_from(attempt, record)
                case TooLate(attempt):
                    return await self._commit(attempt, self._record(attempt, {}))
                case Poison(attempt, route, deaths):
                    self._meter.failed(route.name, None)
                    return await self._commit(attempt, self._record(attempt, poison_verdicts(attempt.chunk, deaths)))
                case Release():
                    return start

    async def _run(self, attempt: ChunkAttempt, *, has_slot: bool = False) -> ChunkRecord | Discard:
        """Run the operations of the chunk and commit the record of their outcomes. Return it without large results."""
        pace = self._pace_of(attempt)
        postponed: dict[int, float] = {}
        with self._runner.result_memory.for_chunk() as results:
            urgency = Urgency(attempt.batch.priority)
            self._batches.note_running(attempt.batch)
            with self._limited(attempt, urgency) as stop:

                def took(count: int, seconds: float) -> None:
                    if pace.observe(count, seconds):
                        stop.spend()

                verdicts = await self._runner.run_chunk(
                    attempt.running,
                    attempt.source,
                    stop,
                    attempt.ended,
                    results=results,
                    may_begin=self._check_of_start(attempt.delivery),
                    took=took,
                    postponed=postponed.__setitem__,
                    has_slot=has_slot,
                    urgency=urgency,
                )
            attempt = await self._batches.refresh(attempt)
            record = self._record(attempt, verdicts, pace, postponed)
            if may_be_large(results.held):  # before the commit, so that a committed record refers to what exists
                stored = await self._result_files.store(
                    attempt.batch.tenant, attempt.batch.id, record, partial(self._is_over, attempt)
                )
                record = stored or self._record(attempt, without_files(verdicts), pace, postponed)
            committed = await self._commit(attempt, record)
            is_large = results.held > WORTH_DROPPING_BYTES
            return committed.without_results() if isinstance(committed, ChunkRecord) and is_large else committed

    def _pace_of(self, attempt: ChunkAttempt) -> ChunkPace:
        """Return what measures a chunk. Its target time is what a front end would plan with this measurement."""
        total, aim = attempt.batch.total, self._fit.aim
        return ChunkPace(len(attempt.running.operations), self._settings.concurrency, lambda each: aim(total * each))

    def _check_of_start(self, delivery: Delivery) -> Callable[[], bool]:
        """Return a function that says whether a further operation may start, and writes the first start to the journal.

        After the lease another consumer may record outcomes, and what it has recorded must not run again.
        """
        has_started = False

        def may_begin() -> bool:
            nonlocal has_started
            if not self._leases.is_kept(delivery):
                return False
            if not has_started:
                self._journal.start(delivery)
                has_started = True
            return True

        return may_begin

    async def _is_over(self, attempt: ChunkAttempt) -> bool:
        return (await self._batches.refresh(attempt)).is_over_at(self._clock.now())

    @contextmanager
    def _limited(self, attempt: ChunkAttempt, urgency: Urgency) -> Iterator[Stop]:
        """Yield a stop for this attempt: it follows the program's stop, the end of the batch and the time budget."""
        with self._stop.follower() as stop:
            budget = asyncio.get_running_loop().call_later(self._settings.chunk_budget_seconds, stop.spend)
            watching = asyncio.create_task(self._watch(attempt, stop, urgency))
            try:
                yield stop
            finally:
                budget.cancel()
                watching.cancel()

    async def _watch(self, attempt: ChunkAttempt, stop: Stop, urgency: Urgency) -> None:
        """Follow the priority and the concurrency of the batch. Start the stop as soon as nothing more may start."""
        limit = attempt.batch.failure_limit

        def follow(batch: Batch) -> bool:
            nonlocal limit
            if batch.failure_limit is not None and batch.failure_limit.is_stricter_than(limit):
                self._limits.check_soon(batch)
            limit = batch.failure_limit
            urgency.change(batch.priority)
            self._runner.limit_batch(batch.id, batch.concurrency)
            if attempt.batch.concurrency is None and batch.concurrency is not None:
                stop.spend()  # what has not started follows as another chunk, which keeps to the new limit
            read = replace(attempt, batch=batch)
            return read.is_over_at(self._clock.now()) or self._is_paused(read)

        await self._batches.wait_until(attempt.batch.id, follow)
        stop.begin()

    def _record(
        self,
        attempt: ChunkAttempt,
        verdicts: Mapping[int, Verdict],
        pace: ChunkPace | None = None,
        postponed: Mapping[int, float] | None = None,
    ) -> ChunkRecord:
        now = self._clock.now()
        ending = attempt.ending_at(now)
        return record_attempt(
            attempt.chunk,
            verdicts,
            backoff=self._settings.backoff,
            draw=random.random(),  # noqa: S311 - spreads retries, keeps no secret
            now=now,
            ended=None if ending is None else Ended(ending, attempt.batch.reason),
            pieces=pace.pieces if pace else None,
            postponed=postponed,
        )

    async def _commit(self, attempt: ChunkAttempt, record: ChunkRecord) -> ChunkRecord | Discard:
        """Commit the record. Return the record that the table has now: another delivery may have been faster.

        If that was the delivery of another retry, which had chosen other failures, commit the rest in the next round.
        """
        made: ChunkRecord | None = replace(record, redelivered=attempt.redelivered, recorded_at=self._clock.now())
        while made is not None:
            standing = await self._store.commit_chunk(attempt.batch, made)
            if next_round_id(made.chunk_id) is None or standing.indexes == made.indexes:
                return standing
            made = in_next_round(made, standing)
        return Discard()

    # Settle: act on the decision.

    async def _settle(self, attempt: ChunkAttempt, decision: Decision) -> None:
        match decision:
            case ChunkRecord():
                await self._complete(attempt.with_chunk_of(decision), decision)
            case Release(after_seconds):
                await self._release_patiently(attempt.delivery, attempt.chunk, after_seconds)
            case Discard():
                await self._discard(attempt.delivery)
            case SendAgain(chunk):
                await self._sender.send(self._batches.latest(attempt.batch), [chunk], attempt.delivery.tenant)
                await self._discard(attempt.delivery, followed_by=[chunk.id])
            case MoveToDeadLetters(reason):
                await self.move_to_dead_letters(attempt.delivery, reason)

    async def _complete(self, attempt: ChunkAttempt, record: ChunkRecord) -> None:
        """Carry out what follows from the committed record, and acknowledge the delivery.

        The order *commit, follow up, count, dead letters and finish, acknowledge* is the delivery guarantee: no
        operation is lost, each gets exactly one outcome, and each outcome is counted exactly once. Only handlers may
        run twice.

        A consumer can die at any time. Then the lease ends, and the next delivery of the chunk starts from the top.
        What it does depends on the last step that took effect:

            last step     what the next delivery does
            ------------  --------------------------------------------------------------------------------------
            none          It runs the handlers again, with the same keys. It splits a larger chunk in half before.
            commit        It runs no handler. It sends the follow-ups that the record lists, and continues.
            follow up     It sends them again, with the same ids: the first of two equal chunks to be recorded counts.
            count         It sends no follow-ups and counts nothing, since its group lists the chunk as counted.
            dead letters  It also sends the dead letters again, with the same ids, and finishes the group.
            finish        It also sends the dead letters, and it finishes nothing: a batch becomes final only once.
            acknowledge   There is no next delivery. If the queue holds the chunk twice, the other copy does the same.

        The reasons for this order:

        - *Commit* comes first. The table keeps the first record of a chunk and rejects all others, so from then on the
          record alone says what became of the chunk. Anything sent or counted before that could come from an attempt
          whose record is rejected.
        - *Follow up* comes before *count*. A counted chunk proves that its follow-ups are on the queue. In the other
          order, a crash between the two would lose the operations in them.
        - *Count* waits for other chunks of its group for a moment, in the count box. The record is committed, so a
          crash in that time loses nothing. A chunk with follow-ups does not wait: if another chunk kills consumers, its
          next deliveries would send them again and again. Nothing waits in a batch that has lost a delivery.
        - *Count* comes before *dead letters*. A redrive subtracts the failures that it runs again. If they were not
          counted yet, a counter would be too low for a while. If the sweep has closed the group, the chunk is not
          counted, and its operations have another outcome already: then no dead letters are sent.
        - *Dead letters* wait for those of other chunks, in the letter box. Since *acknowledge* comes after them, a
          crash in that time loses none. The failure limits of the batch are checked before them and do not wait.
        - *Finish* comes after *count*, because the counters decide whether the group and the batch are finished. It
          does not wait for *dead letters*: neither needs the other. If a batch of one group ends, it comes a moment
          later, and *acknowledge* with it. The status tells the end from *count* on, so the client reads it without
          competing with these calls.
        - *Acknowledge* comes last, because until then the message brings the chunk back after a crash. It decides
          nothing: after the lease has ended, SQS may report success and delete nothing, and the chunk comes again.
        """
        chunk, tenant = attempt.chunk, attempt.delivery.tenant
        batch = await self._start(attempt.batch, record)  # before the follow-ups: if it fails, they must not multiply
        await self._sender.send_follow_ups(self._batches.latest(batch), chunk, record, tenant)
        if not record.follow_ups:  # until it is counted, each delivery after a crash sends them once more
            await self._count_box.wait(attempt.delivery, self._batches.latest(batch), chunk.group)
        group = await self._count(batch, record)
        self._count_box.note(attempt.delivery, chunk)
        is_counted = chunk.id in group.done
        if not is_counted and not group.is_through_with(chunk.id):
            await self.move_to_dead_letters(attempt.delivery, out_of_bounds(batch, chunk))
            return
        if is_counted:
            self._meter.finished(batch.tenant, len(record.outcomes))
            self._meter.failures(batch.tenant, len(record.failed_operations))
            await self._limits.check(self._batches.latest(batch), record)
        steps = [self._finish(attempt, batch, group)]
        if is_counted:
            steps.append(self._send_dead_letters(attempt, record, group))
        await wait_for_all(steps)
        await self.acknowledge(attempt.delivery)
        counts = record.counts
        get_log().info(
            Event.CHUNK_DONE,
            succeeded=counts.succeeded,
            failed=counts.failed,
            followed_by=[follow_up.id for follow_up in record.follow_ups],
        )

    async def _start(self, batch: Batch, record: ChunkRecord) -> Batch:
        """Move a queued batch to processing. If this record completes it, leave that to the call that finishes it."""
        if record.counts.completed == batch.total:
            return self._batches.leave_out_start(batch)
        return await self._batches.start(batch)

    async def _count(self, batch: Batch, record: ChunkRecord) -> Group:
        """Count the record. If AWS rejects that for good, note that its follow-ups are sent.

        Then the next deliveries of the chunk do not send them again, and they do not multiply.
        """
        try:
            return await self._store.count_chunk(batch, record, self._clock.now())
        except RejectedCall:
            if record.follow_ups:
                await self._store.note_follow_ups(batch, record.chunk_id)
            raise

    async def _finish(self, attempt: ChunkAttempt, batch: Batch, group: Group) -> None:
        """Finish the group if it is full, and the batch if this was its last group.

        If this ends a batch of one group, its client may read the end before. The end of a redrive does not wait: if
        its batch is final already, the status tells what the table has.
        """
        number = attempt.chunk.group
        if len(batch.group_totals) == 1 and is_full(batch, number, group) and not attempt.is_redrive:
            await self._readers_first.wait(attempt.delivery, self._batches.latest(batch))
        await self._finisher.finish(batch, number, group)

    async def _send_dead_letters(self, attempt: ChunkAttempt, record: ChunkRecord, group: Group) -> None:
        """Send the dead letters of the record together with those of other chunks. Wait for these for a short time.

        If this chunk is the last one of its group, its letters are sent immediately, and so are those that wait in this
        process. Who is told that the batch is final finds them in a moment, and letters that wait in another consumer
        within a second.
        """
        batch, delivery = attempt.batch, attempt.delivery
        letters = self._sender.dead_letters(batch, record, delivery.tenant)
        is_last = is_full(batch, attempt.chunk.group, group) and not batch.is_final
        if is_last:
            self._letter_box.depart()
        elif letters:
            await self._letter_box.wait(delivery, letters)
        if letters:
            await self._sender.send_letters(letters)
            self._meter.count(Metric.DEAD_LETTERS, len(letters))

    async def _release_patiently(self, delivery: Delivery, chunk: Chunk, after_seconds: int) -> None:
        await until_answered(self._clock, self.release, delivery, chunk, after_seconds=after_seconds)

    async def _discard(self, delivery: Delivery, **log_fields: Any) -> None:
        """Acknowledge a chunk that must not run and cannot be counted."""
        await self.acknowledge(delivery)
        get_log().info(Event.CHUNK_DROPPED, **log_fields)

    async def acknowledge(self, delivery: Delivery) -> None:
        self._leases.settle(delivery)
        await self._queues[delivery.priority].delete(delivery)
