"""Accepts a batch that runs in the background. Either the whole batch becomes durable, or none of it ever runs.

Consumers do not run a batch before it is accepted, and it is accepted only after every chunk is durable on the queue.
If the front end dies before that, the batch is never accepted, and consumers drop its chunks without running them.

A batch whose messages go in one call is written after that call, and this write accepts it. Its messages say that they
were sent ahead of it. A consumer that finds no such batch waits for it. If it was not written in time, the consumer
takes its place in the table and abandons it, so that it never can be.

A larger batch is written first, in state accepting, and accepted by another write when everything is sent. So is any
batch for some seconds after the table was unavailable: nothing is sent for a batch that cannot be written.
"""

import asyncio
import random
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

from penstock.abandoning import was_accepted
from penstock.backend import Backend
from penstock.batch import Batch, BatchState, Counts, Ending, FailureLimit, sum_counts
from penstock.chunk import Chunk
from penstock.clock import Clock
from penstock.errors import (
    AcceptanceLost,
    AcceptanceUnknown,
    Misconfigured,
    PenstockError,
    RejectedCall,
    Unavailable,
)
from penstock.files.layout import Layout
from penstock.large_results import LargeResults, without_files
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric
from penstock.outcome import ChunkRecord, Verdict, delay_seconds, record_attempt
from penstock.priority import Priority
from penstock.queue import LONGEST_DELAY_SECONDS, MESSAGES_IN_CALL, Message, SentAhead
from penstock.sending import ChunkSender, in_calls, neighbouring_ids, tenant_on_queue
from penstock.service.intake.attempts import Tried
from penstock.service.intake.draft import Draft
from penstock.service.table_outage import TableOutage
from penstock.settings import Settings
from penstock.store import KeyClaim
from penstock.telemetry import Event, get_log
from penstock.waiting import raise_first, wait_for_all

ACCEPT_REPEATS = 5
ACCEPT_REPEAT_SECONDS = 0.2
CALLS_AT_ONCE = 8  # the messages of a call take a mebibyte of memory, and another one in the AWS client

Call: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid batch that has not been run or accepted yet, with what its request asked for."""

    draft: Draft
    key_prefix: str
    tenant: str
    priority: Priority = Priority.NORMAL
    not_before: float | None = None
    deadline_seconds: float | None = None
    failure_limit: FailureLimit | None = None
    max_failures: int | None = None
    max_failed_percent: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    callback_url: str | None = field(default=None, repr=False)
    has_webhooks: bool = False
    completes_anyway: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # headers to send with forwarded operations
    layout: Layout | None = None  # of the file that it was
    claim: KeyClaim | None = None  # of its Idempotency-Key; if its lease is over, the batch must not be accepted


class Acceptance:
    """Accepts one submission."""

    def __init__(
        self,
        submission: Submission,
        backend: Backend,
        settings: Settings,
        clock: Clock,
        meter: Meter,
        *,
        outage: TableOutage,
    ) -> None:
        self._submission = submission
        self._draft = submission.draft
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._outage = outage
        self._sender = ChunkSender(backend, settings, clock)
        self._extend_at = clock.now() + settings.accept_seconds / 3

    async def accept(self, tried: Mapping[int, Tried]) -> Batch:
        """Make the batch durable and let it run. `tried` holds, by index, the operations that have already run.

        If it raises LimitPassed, Unavailable or AcceptanceLost, none of the remaining operations will run. If it raises
        AcceptanceUnknown, all of them may run. After any other error none of them runs.
        """
        await self._draft.finish_plan()
        batch = self._new_batch(await self._accept_by())
        try:
            is_sent_ahead = self._fits_in_a_call(batch, tried) and not self._outage.has_failed_lately
            counts = await (self._store_ahead(batch) if is_sent_ahead else self._store(batch, tried))
        except (AcceptanceLost, AcceptanceUnknown, Misconfigured, Unavailable):
            raise  # consumers abandon the batch when its acceptance lease ends, if it was not accepted
        except Exception:
            await self._abandon(batch)
            raise
        self._meter.failures(batch.tenant, counts.failed)
        await self._check_limit(batch, counts)
        return batch

    def _fits_in_a_call(self, batch: Batch, tried: Mapping[int, Tried]) -> bool:
        """Return True if nothing of the batch has run, and one call can send all of it."""
        is_short = not tried and batch.chunk_count <= MESSAGES_IN_CALL
        return is_short and sum(self._draft.plan.message_bytes) <= self._settings.message_bytes

    async def _store_ahead(self, batch: Batch) -> Counts:
        """Send the chunks of a batch of which nothing has run. Then write the batch, which accepts it."""
        await _make_all(self._calls_ahead(batch))
        at = self._clock.now()
        if at > batch.accept_by:
            raise AcceptanceLost(f"The chunks of batch {batch.id} were not sent before its acceptance lease ended.")
        await self._mark_accepted(batch.id, partial(self._outage.watch, self._backend.store.accept_new, batch, at))
        return Counts()

    def _calls_ahead(self, batch: Batch) -> Generator[Call]:
        """Yield the calls that must succeed before the batch is written. None of them has to wait for another."""
        store, ahead = self._backend.store, SentAhead(batch.accept_by, batch.expires_at)
        yield partial(self._send, batch, list(self._draft.plan.messages(without=())), ahead)
        yield partial(self._outage.watch, store.list_batch, batch, self._submission.metadata)
        if (layout := self._submission.layout) is not None:
            yield partial(self._outage.watch, store.write_layout, batch, layout)
        for piece in self._ids(batch):
            yield partial(self._outage.watch, store.write_ids, batch, *piece)

    async def _store(self, batch: Batch, tried: Mapping[int, Tried]) -> Counts:
        """Write the batch, send its chunks and accept it. Return the counts of what has already run.

        Its entry in the list of its tenant is written before that, so that no accepted batch is missing there.
        """
        started = sorted({self._draft.plan.chunk_at(index) for index in tried})
        pieces = self._ids(batch)
        store = self._backend.store
        writes = [store.list_batch(batch, self._submission.metadata)]
        writes += (store.write_ids(batch, *piece) for piece in islice(pieces, 1))
        if (layout := self._submission.layout) is not None:
            writes.append(store.write_layout(batch, layout))
        async with _at_the_same_time(writes):
            await self._outage.watch(store.create_batch, batch)
            await _make_all(self._calls(batch, started, pieces))
        counts = [await self._hand_over(batch, number, tried) for number in started]
        await self._mark_accepted(batch.id, partial(store.accept_batch, batch.id, self._clock.now()))
        return sum_counts(counts)

    def _ids(self, batch: Batch) -> Iterator[tuple[int, Sequence[str]]]:
        """Yield the ids that the client gave, as many as fit into one call, with the index of the first."""
        return neighbouring_ids(self._draft.ids, batch.group_totals) if batch.has_own_ids else iter(())

    async def _abandon(self, batch: Batch) -> None:
        """Abandon a batch that cannot be stored. If AWS is unavailable, its acceptance lease does that later."""
        try:
            await was_accepted(self._backend.store, batch.id, self._clock.now(), batch.expires_at)
        except PenstockError as error:
            get_log().error(Event.AWS_UNAVAILABLE, batch_id=batch.id, error=str(error))

    async def _accept_by(self) -> float:
        """Return until when the batch may be accepted. The lease of its key must not end before that."""
        until = self._clock.now() + self._settings.accept_seconds
        claim = self._submission.claim
        if claim is not None and claim.lease_until < until:
            await self._extend_key(claim, until)
        return until

    async def _extend_key(self, claim: KeyClaim, until: float) -> None:
        if not await self._backend.store.extend_key(claim, until):
            raise AcceptanceLost(f"A later request took over the Idempotency-Key of batch {claim.batch_id}.")

    def _new_batch(self, accept_by: float) -> Batch:
        now = self._clock.now()
        submission, draft = self._submission, self._draft
        deadline_seconds = submission.deadline_seconds or self._settings.deadline_seconds
        deadline_at = max(now, submission.not_before or now) + deadline_seconds
        return Batch(
            id=draft.batch_id,
            tenant=submission.tenant,
            state=BatchState.ACCEPTING,
            total=draft.total,
            chunk_count=draft.plan.chunk_count,
            group_totals=draft.plan.group_totals,
            created_at=now,
            accept_by=accept_by,
            deadline_at=deadline_at,
            expires_at=deadline_at + self._settings.retention_seconds,
            priority=submission.priority,
            not_before=submission.not_before,
            failure_limit=submission.failure_limit,
            max_failures=submission.max_failures,
            max_failed_percent=submission.max_failed_percent,
            headers=submission.headers,
            has_own_ids=draft.ids.has_own,
            has_metadata=bool(submission.metadata),
            callback_url=submission.callback_url,
            has_webhooks=submission.has_webhooks,
            completes_anyway=submission.completes_anyway,
            keys_from=None if submission.key_prefix == draft.batch_id else submission.key_prefix,
        )

    def _calls(
        self, batch: Batch, started: Sequence[int], pieces: Iterable[tuple[int, Sequence[str]]]
    ) -> Generator[Call]:
        """Yield the calls that must succeed before the batch is accepted. None of them has to wait for another.

        They write the client's other ids, so that results can name an operation even if its message is lost. And they
        send every planned chunk except those of which an operation has already run.
        """
        for first_index, ids in pieces:
            yield partial(self._write_ids, batch, first_index, ids)
        messages = self._draft.plan.messages(without=started)
        for sent_together in in_calls(messages, self._settings.message_bytes):
            yield partial(self._send_and_keep_lease, batch, sent_together)

    async def _write_ids(self, batch: Batch, first_index: int, ids: Sequence[str]) -> None:
        await self._backend.store.write_ids(batch, first_index, ids)
        await self._keep_lease(batch)

    async def _send_and_keep_lease(self, batch: Batch, messages: Sequence[bytes]) -> None:
        await self._send(batch, messages)
        await self._keep_lease(batch)

    async def _send(self, batch: Batch, messages: Sequence[bytes], ahead: SentAhead | None = None) -> None:
        delay = delay_seconds(batch.not_before, self._clock.now(), LONGEST_DELAY_SECONDS)
        tenant = tenant_on_queue(batch, self._settings)
        await self._backend.queues[batch.priority].send(
            [Message(one.decode(), delay, tenant, sent_ahead=ahead, batch_id=batch.id) for one in messages]
        )

    async def _keep_lease(self, batch: Batch) -> None:
        """Extend the acceptance lease: a large batch may take longer to send. Raise AcceptanceLost if it is over."""
        now = self._clock.now()
        if now < self._extend_at:
            return
        self._extend_at = now + self._settings.accept_seconds / 3
        until = now + self._settings.accept_seconds
        if self._submission.claim is not None:
            await self._extend_key(self._submission.claim, until)
        await self._backend.store.extend_acceptance(batch.id, now, until)

    async def _hand_over(self, batch: Batch, number: int, tried: Mapping[int, Tried]) -> Counts:
        """Record a chunk of which some operations have already run. Return what it adds to the batch's counts.

        A consumer does the same, and `consumer/processor.py` explains the order of these steps.
        """
        run, tenant = self._draft.plan.indexes(number), tenant_on_queue(batch, self._settings)
        chunk = Chunk(batch.id, str(number), 1, tuple(self._draft.operations[run.start : run.stop]))
        record = await self._backend.store.commit_chunk(batch, await self._stored(batch, chunk, tried))
        await self._sender.send_follow_ups(batch, chunk, record, tenant)
        group = await self._backend.store.count_chunk(batch, record, self._clock.now())
        if chunk.id in group.done:
            await self._send_dead_letters(batch, record, tenant)
        if group.counts.completed == batch.group_totals[chunk.group]:
            # No consumer receives anything of this group any more, so finish it here. The batch itself is not finished:
            # it is only handed over because some of its operations remain.
            await self._backend.store.finish_group(batch.id, chunk.group)
        return record.counts

    async def _stored(self, batch: Batch, chunk: Chunk, tried: Mapping[int, Tried]) -> ChunkRecord:
        """Write the large results of a chunk to the bucket, and return its record.

        The operations have run. So if the bucket does not work, they are recorded with what fits into the table.
        """
        verdicts = {index: one.verdict for index, one in tried.items()}
        made = self._record(chunk, tried, verdicts)
        # Only a file that was written extends the lease, so the wait for the next one must end well before the lease.
        patience, loop = self._settings.accept_seconds / 3, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(patience) as wait:

                async def after_file() -> None:
                    await self._keep_lease(batch)
                    wait.reschedule(loop.time() + patience)

                return await LargeResults(self._backend.bucket).store(batch.tenant, batch.id, made, after_file)
        except (TimeoutError, Unavailable, Misconfigured, RejectedCall) as error:
            reason = str(error) or "The bucket did not answer in time."
            get_log().error(Event.RESULTS_NOT_STORED, batch_id=batch.id, error=reason)
            return self._record(chunk, tried, without_files(verdicts))

    async def _send_dead_letters(self, batch: Batch, record: ChunkRecord, tenant: str | None) -> None:
        if letters := self._sender.dead_letters(batch, record, tenant):
            await self._sender.send_letters(letters)
            self._meter.count(Metric.DEAD_LETTERS, len(letters))

    def _record(self, chunk: Chunk, tried: Mapping[int, Tried], verdicts: Mapping[int, Verdict]) -> ChunkRecord:
        record = record_attempt(
            chunk,
            verdicts,
            backoff=self._settings.backoff,
            draw=random.random(),  # noqa: S311 - spreads retries, keeps no secret
            now=self._clock.now(),
            attempts={index: one.attempt for index, one in tried.items()},
        )
        return replace(record, recorded_at=self._clock.now())

    async def _check_limit(self, batch: Batch, counts: Counts) -> None:
        """Cancel the rest if too much has failed already. A consumer checks only when another operation fails."""
        limit = batch.failure_limit
        if limit is None or not limit.is_passed(counts):
            return
        settle_by = self._clock.now() + self._settings.settle_seconds
        try:
            await self._backend.store.end_batch(batch.id, Ending.CANCELLED, limit.reason, settle_by=settle_by)
        except PenstockError as error:
            # The batch is accepted, so the client must get its 202 and not an error.
            get_log().error(Event.AWS_UNAVAILABLE, batch_id=batch.id, error=str(error))

    async def _mark_accepted(self, batch_id: str, accept: Call) -> None:
        """Accept the batch. This is the point of no return, so repeat the call if its answer is lost."""
        for repeat in range(ACCEPT_REPEATS):
            try:
                await accept()
                return
            except (Unavailable, Misconfigured, RejectedCall) as error:
                if not repeat and not isinstance(error, Unavailable):
                    raise  # AWS rejected the only call, so it certainly had no effect
                if repeat == ACCEPT_REPEATS - 1:
                    raise AcceptanceUnknown(batch_id) from error
            await asyncio.sleep(ACCEPT_REPEAT_SECONDS * 2**repeat)


@asynccontextmanager
async def _at_the_same_time(calls: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Make these calls while the block runs. Wait for them at its end, and raise their errors then."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        yield
    finally:
        results = await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()
    raise_first(results)


async def _make_all(calls: Generator[Call]) -> None:
    """Make all calls, several at a time. After a failure no further call starts.

    The error is raised only when the running calls have finished, so that none continues after the client is answered.
    """

    async def take_turns() -> None:
        try:
            for call in calls:
                await call()
        except BaseException:
            calls.close()
            raise

    await wait_for_all(take_turns() for _ in range(CALLS_AT_ONCE))
