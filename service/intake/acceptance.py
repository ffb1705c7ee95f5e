"""Accepts a batch for the background: all of it becomes durable, or nothing of it ever runs.

Nothing of a batch runs before it is accepted, and it is accepted only when every chunk is durable on the queue. A front
end that dies in between leaves a batch that is never accepted: its chunks are dropped unrun.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from penstock.backend import Backend
from penstock.batch import Batch, BatchState, Counts, Ending, FailureLimit, sum_counts
from penstock.chunk import Chunk
from penstock.clock import Clock
from penstock.errors import AcceptanceLost, AcceptanceUnknown, PenstockError, Unavailable
from penstock.message import encode_chunk, encode_dead_letter
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric
from penstock.outcome import ChunkRecord, dead_letters, delay_seconds, follow_up_chunks, record_attempt
from penstock.priority import Priority
from penstock.queue import LONGEST_DELAY_SECONDS, MESSAGES_IN_CALL, Message
from penstock.service.intake.draft import Draft
from penstock.service.intake.small_batch import Tried
from penstock.settings import Settings
from penstock.store import IDS_IN_CALL, KeyClaim
from penstock.telemetry import Event, get_log

ACCEPT_REPEATS = 5
ACCEPT_REPEAT_SECONDS = 0.2
CALLS_AT_ONCE = 8  # what they carry is in memory: a mebibyte each, and again in the AWS client

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid batch on its way."""

    draft: Draft
    key_prefix: str
    tenant: str
    priority: Priority = Priority.NORMAL
    not_before: float | None = None
    deadline_seconds: float | None = None
    failure_limit: FailureLimit | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # what forwarded operations take along
    claim: KeyClaim | None = None  # its Idempotency-Key: once that may be taken over, the batch must not be accepted


class Acceptance:
    """Of one batch."""

    def __init__(
        self, submission: Submission, backend: Backend, settings: Settings, clock: Clock, meter: Meter
    ) -> None:
        self._submission = submission
        self._draft = submission.draft
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._meter = meter
        self._extend_at = clock.now() + settings.accept_seconds / 3

    async def accept(self, tried: Mapping[int, Tried]) -> Batch:
        """`tried` is what has been run already, by index, of a batch that outlived its time.

        Raises LimitPassed, Unavailable, AcceptanceLost: nothing of it will run. AcceptanceUnknown: it may.
        """
        await self._draft.finish_plan()
        batch = self._new_batch()
        await self._backend.store.create_batch(batch)
        await self._write_ids(batch)
        begun = sorted({self._draft.plan.chunk_at(index) for index in tried})
        counts = [await self._hand_over(batch, number, tried) for number in begun]
        await self._send_chunks(batch, begun)
        await self._mark_accepted(batch.id)
        await self._check_limit(batch, sum_counts(counts))
        return batch

    def _new_batch(self) -> Batch:
        now = self._clock.now()
        submission, draft = self._submission, self._draft
        deadline_seconds = submission.deadline_seconds or self._settings.deadline_seconds
        accept_by = now + self._settings.accept_seconds
        deadline_at = max(now, submission.not_before or now) + deadline_seconds
        return Batch(
            id=draft.batch_id,
            tenant=submission.tenant,
            state=BatchState.ACCEPTING,
            total=draft.total,
            chunk_count=draft.plan.chunk_count,
            group_totals=draft.plan.group_totals,
            created_at=now,
            accept_by=accept_by if submission.claim is None else min(accept_by, submission.claim.lease_until),
            deadline_at=deadline_at,
            expires_at=deadline_at + self._settings.retention_seconds,
            priority=submission.priority,
            not_before=submission.not_before,
            failure_limit=submission.failure_limit,
            headers=submission.headers,
            has_own_ids=draft.ids.has_own,
            keys_from=None if submission.key_prefix == draft.batch_id else submission.key_prefix,
        )

    async def _write_ids(self, batch: Batch) -> None:
        """So that every operation can be named, even one whose message is lost."""
        if not batch.has_own_ids:
            return

        async def write(piece: tuple[int, list[str]]) -> None:
            first_index, ids = piece
            await self._backend.store.write_ids(batch, first_index, ids)
            await self._keep_lease(batch)

        await _for_each(_pieces(self._draft.ids, batch.group_totals), write)

    async def _send_chunks(self, batch: Batch, begun: Sequence[int]) -> None:
        queue, tenant = self._backend.queues[batch.priority], self._group_id(batch.tenant)

        async def send(messages: list[bytes]) -> None:
            delay = delay_seconds(batch.not_before, self._clock.now(), LONGEST_DELAY_SECONDS)
            await queue.send([Message(message.decode(), delay, tenant) for message in messages])
            await self._keep_lease(batch)

        await _for_each(_calls(self._draft.plan.messages(without=begun), self._settings.message_bytes), send)

    async def _keep_lease(self, batch: Batch) -> None:
        """A large batch may take longer to send than its acceptance lease is. Raises AcceptanceLost when it is over."""
        now = self._clock.now()
        if now < self._extend_at:
            return
        self._extend_at = now + self._settings.accept_seconds / 3
        until = now + self._settings.accept_seconds
        claim = self._submission.claim
        if claim is not None and not await self._backend.store.extend_key(claim, until):
            raise AcceptanceLost(f"The Idempotency-Key of batch {batch.id} was taken over.")
        await self._backend.store.extend_acceptance(batch.id, now, until)

    async def _hand_over(self, batch: Batch, number: int, tried: Mapping[int, Tried]) -> Counts:
        """Record a chunk of which some has been run already: as a consumer does it, and in the same order."""
        run = self._draft.plan.run(number)
        chunk = Chunk(batch.id, str(number), 1, tuple(self._draft.operations[run.start : run.stop]))
        now = self._clock.now()
        record = record_attempt(
            chunk,
            {index: one.verdict for index, one in tried.items()},
            backoff=self._settings.backoff,
            draw=random.random(),  # noqa: S311 - spreads retries, keeps no secret
            now=now,
            attempts={index: one.attempt for index, one in tried.items()},
        )
        record = await self._backend.store.commit_chunk(batch, record)
        tenant = self._group_id(batch.tenant)
        await self._backend.queues[batch.priority].send(
            [
                Message(
                    encode_chunk(following), delay_seconds(following.not_before, now, LONGEST_DELAY_SECONDS), tenant
                )
                for following in follow_up_chunks(chunk, record)
            ]
        )
        group = await self._backend.store.count_chunk(batch, record)
        if group.counts.completed == batch.group_totals[chunk.group]:
            # No consumer will see this group become full. It is not the last: something of the batch is open.
            await self._backend.store.finish_group(batch.id, chunk.group)
        await self._send_dead_letters(batch, record)
        return record.counts

    async def _check_limit(self, batch: Batch, counts: Counts) -> None:
        """No consumer looks for it until something more of the batch fails."""
        limit = batch.failure_limit
        if limit is None or not limit.is_passed(counts):
            return
        settle_by = self._clock.now() + self._settings.settle_seconds
        try:
            await self._backend.store.end_batch(batch.id, Ending.CANCELLED, limit.reason, settle_by=settle_by)
        except PenstockError as error:
            # The batch is accepted, and that is what the client is to know.
            get_log().error(Event.AWS_UNAVAILABLE, batch_id=batch.id, error=str(error))

    async def _send_dead_letters(self, batch: Batch, record: ChunkRecord) -> None:
        letters = dead_letters(batch.id, record, rejections=self._settings.dead_letter_rejections)
        limit = self._settings.message_bytes
        messages = [encode_dead_letter(letter, record.outcomes, message_bytes=limit) for letter in letters]
        await self._backend.dead_letters.send([Message(text, tenant=self._group_id(batch.tenant)) for text in messages])
        self._meter.count(Metric.DEAD_LETTERS, len(messages))

    def _group_id(self, tenant: str) -> str | None:
        """Fair queues cost more than plain ones, so a message names its tenant only where there can be several."""
        return tenant if self._settings.tenant_header else None

    async def _mark_accepted(self, batch_id: str) -> None:
        """The point of no return, so a lost answer is worth asking again for; marking twice marks once."""
        at = self._clock.now()
        for repeat in range(ACCEPT_REPEATS):
            try:
                await self._backend.store.accept_batch(batch_id, at)
                return
            except Unavailable as error:
                if repeat == ACCEPT_REPEATS - 1:
                    raise AcceptanceUnknown(batch_id) from error
            await asyncio.sleep(ACCEPT_REPEAT_SECONDS * 2**repeat)


def _pieces(ids: Iterable[str], group_totals: Sequence[int]) -> Generator[tuple[int, list[str]]]:
    """Neighbouring ids of one group, and the index of the first."""
    left = iter(ids)
    first_index = 0
    for total in group_totals:
        for start in range(0, total, IDS_IN_CALL):
            yield first_index + start, list(itertools.islice(left, min(IDS_IN_CALL, total - start)))
        first_index += total


def _calls(messages: Iterable[bytes], call_bytes: int) -> Generator[list[bytes]]:
    """Neighbouring messages that go in one call."""
    call: list[bytes] = []
    size = 0
    for message in messages:
        if call and (len(call) == MESSAGES_IN_CALL or size + len(message) > call_bytes):
            yield call
            call, size = [], 0
        call.append(message)
        size += len(message)
    if call:
        yield call


async def _for_each(things: Generator[T], step: Callable[[T], Awaitable[None]]) -> None:
    """Some at once. After a failure nothing new begins, and what is under way runs to its end: none goes on later."""

    async def take_turns() -> None:
        try:
            for thing in things:
                await step(thing)
        except BaseException:
            things.close()
            raise

    results = await asyncio.gather(*(take_turns() for _ in range(CALLS_AT_ONCE)), return_exceptions=True)
    for result in results:
        if result is not None:
            raise result
