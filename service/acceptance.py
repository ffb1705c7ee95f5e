"""Accepts a batch for the background: all of it becomes durable, or nothing of it ever runs.

Nothing of a batch runs before it is accepted, and it is accepted only when every chunk is durable on the queue. A front
end that dies in between leaves a batch that is never accepted: its chunks are dropped unrun.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.backend import Backend
from penstock.batch import Batch, BatchState, Counts, Ending, FailureLimit, sum_counts
from penstock.chunk import Chunk, Operation, plan_chunks, plan_groups
from penstock.clock import Clock
from penstock.errors import AcceptanceUnknown, PenstockError, Unavailable
from penstock.message import (
    encode_chunk,
    encode_dead_letter,
    encode_operation,
    join_message,
    room_in_message,
    size_on_the_queue,
)
from penstock.outcome import ChunkRecord, dead_letters, delay_seconds, follow_up_chunks, record_attempt
from penstock.queue import LONGEST_DELAY_SECONDS, Message
from penstock.settings import Settings
from penstock.store import IDS_IN_CALL
from penstock.telemetry import Event, get_log
from service.small_batch import Tried

ACCEPT_REPEATS = 5
ACCEPT_REPEAT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid batch on its way."""

    batch_id: str
    key_prefix: str
    tenant: str
    operations: Sequence[Operation]
    deadline_seconds: float | None = None
    failure_limit: FailureLimit | None = None
    accept_by: float | None = None  # when its Idempotency-Key may be taken over: later it must not be accepted


class Acceptance:
    def __init__(self, backend: Backend, settings: Settings, clock: Clock) -> None:
        self._backend = backend
        self._settings = settings
        self._clock = clock

    async def accept(self, submission: Submission, tried: Mapping[int, Tried] | None = None) -> Batch:
        """`tried` is what has been run already, by index, of a batch that outlived its time.

        Raises LimitPassed, Unavailable, AcceptanceLost: nothing of it will run. AcceptanceUnknown: it may.
        """
        encoded = [encode_operation(operation) for operation in submission.operations]
        runs = plan_chunks(
            [size_on_the_queue(one) for one in encoded],
            max_operations=self._settings.chunk_operations,
            max_bytes=room_in_message(self._settings.message_bytes),
        )
        batch = self._new_batch(submission, runs)
        await self._backend.store.create_batch(batch)
        await self._write_ids(batch, submission.operations)
        fresh = [number for number, run in enumerate(runs) if not any(index in (tried or {}) for index in run)]
        counts = [
            await self._hand_over(batch, str(number), submission.operations[run.start : run.stop], tried or {})
            for number, run in enumerate(runs)
            if number not in fresh
        ]
        tenant = self._group_id(submission.tenant)
        await self._backend.chunks.send(
            [
                Message(join_message(batch.id, str(number), encoded[runs[number].start : runs[number].stop]), 0, tenant)
                for number in fresh
            ]
        )
        await self._mark_accepted(batch.id)
        await self._check_limit(batch, sum_counts(counts))
        return batch

    def _new_batch(self, submission: Submission, runs: Sequence[range]) -> Batch:
        now = self._clock.now()
        deadline_seconds = submission.deadline_seconds or self._settings.deadline_seconds
        accept_by = now + self._settings.accept_seconds
        return Batch(
            id=submission.batch_id,
            tenant=submission.tenant,
            state=BatchState.ACCEPTING,
            total=len(submission.operations),
            chunk_count=len(runs),
            group_totals=plan_groups(runs),
            created_at=now,
            accept_by=accept_by if submission.accept_by is None else min(accept_by, submission.accept_by),
            deadline_at=now + deadline_seconds,
            expires_at=now + deadline_seconds + self._settings.retention_seconds,
            failure_limit=submission.failure_limit,
            has_own_ids=any(operation.id != str(operation.index) for operation in submission.operations),
            keys_from=None if submission.key_prefix == submission.batch_id else submission.key_prefix,
        )

    async def _write_ids(self, batch: Batch, operations: Sequence[Operation]) -> None:
        """So that every operation can be named, even one whose message is lost."""
        if not batch.has_own_ids:
            return
        writes = []
        for group, total in enumerate(batch.group_totals):
            first = batch.first_index(group)
            for start in range(first, first + total, IDS_IN_CALL):
                ids = [operation.id for operation in operations[start : min(start + IDS_IN_CALL, first + total)]]
                writes.append(self._backend.store.write_ids(batch, start, ids))
        await asyncio.gather(*writes)

    async def _hand_over(
        self, batch: Batch, chunk_id: str, operations: Sequence[Operation], tried: Mapping[int, Tried]
    ) -> Counts:
        """Record a chunk of which some has been run already: as a consumer does it, and in the same order."""
        chunk = Chunk(batch.id, chunk_id, 1, tuple(operations))
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
        await self._backend.chunks.send(
            [
                Message(encode_chunk(following), delay_seconds(following, now, LONGEST_DELAY_SECONDS), tenant)
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
