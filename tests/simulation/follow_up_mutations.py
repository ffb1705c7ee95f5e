"""Faults that are put into Penstock on purpose, in what leads from one chunk to the next, and in the death limit."""

import asyncio
import itertools
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as with_changes

from penstock import record as record_module
from penstock.aws.store import DynamoDbStore
from penstock.backoff import Backoff
from penstock.batch import Batch
from penstock.chunk import Chunk
from penstock.consumer.attempt import ChunkAttempt
from penstock.consumer.letter_box import WAIT_SECONDS
from penstock.consumer.limits import BatchLimits
from penstock.consumer.processor import Processor
from penstock.message import encode_chunk, encode_dead_letter
from penstock.outcome import ChunkRecord, delay_seconds, record_attempt, record_halves, wait_seconds
from penstock.sending import ChunkSender
from penstock.store import Group

Patching = pytest.MonkeyPatch


def dead_letter_what_is_not_counted(patching: Patching) -> None:
    """Send dead letters before the count, and also if it does not count because the group is closed."""
    send = ChunkSender.send_follow_ups

    async def mutant(self: ChunkSender, batch: Batch, chunk: Chunk, record: ChunkRecord, tenant: str | None) -> None:
        await send(self, batch, chunk, record, tenant)
        if letters := self.dead_letters(batch, record, tenant):
            await self.send_letters(letters)

    patching.setattr(ChunkSender, "send_follow_ups", mutant)


def acknowledge_while_letters_wait(patching: Patching) -> None:
    """Delete the message of a chunk although its dead letters still wait for those of other chunks."""
    send = Processor._send_dead_letters
    sending = set()  # the event loop would not keep the tasks

    async def send_later(self: Processor, *arguments: Any) -> None:
        await asyncio.sleep(WAIT_SECONDS)
        await send(self, *arguments)

    async def mutant(self: Processor, *arguments: Any) -> None:
        task = asyncio.create_task(send_later(self, *arguments))
        sending.add(task)
        task.add_done_callback(sending.discard)

    patching.setattr(Processor, "_send_dead_letters", mutant)


def count_before_the_follow_ups(patching: Patching) -> None:
    commit = DynamoDbStore.commit_chunk

    async def mutant(self: DynamoDbStore, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        standing = await commit(self, batch, record)
        await self.count_chunk(batch, standing)
        return standing

    patching.setattr(DynamoDbStore, "commit_chunk", mutant)


def let_chunks_with_follow_ups_wait_to_be_counted(patching: Patching) -> None:
    """Forget that each delivery of the chunk sends its follow-ups once more, until it is counted."""
    complete, count = Processor._complete, Processor._count
    completing: ContextVar[ChunkAttempt] = ContextVar("completing")

    async def remembering(self: Processor, attempt: ChunkAttempt, record: ChunkRecord) -> None:
        completing.set(attempt)
        await complete(self, attempt, record)

    async def mutant(self: Processor, batch: Batch, record: ChunkRecord) -> Group:
        if record.follow_ups:
            attempt = completing.get()
            await self._count_box.wait(attempt.delivery, self._batches.latest(batch), attempt.chunk.group)
        return await count(self, batch, record)

    patching.setattr(Processor, "_complete", remembering)
    patching.setattr(Processor, "_count", mutant)


def split_what_was_released(patching: Patching) -> None:
    patching.setattr(ChunkAttempt, "lost_deliveries", property(lambda self: self.delivery.receive_count - 1))


def lose_attempts_when_splitting(patching: Patching) -> None:
    patching.setattr(
        "penstock.consumer.processor.record_halves",
        lambda chunk: record_halves(replace(chunk, attempt=1)),
    )


def lose_attempts_at_a_stop(patching: Patching) -> None:
    """Let the rest of a chunk follow as if it had never been tried."""
    record = Processor._record

    def mutant(self: Processor, attempt: ChunkAttempt, verdicts: Any) -> ChunkRecord:
        recorded = record(self, attempt, verdicts)
        follow_ups = [one if one.not_before else replace(one, attempt=1) for one in recorded.follow_ups]
        return replace(recorded, follow_ups=tuple(follow_ups))

    patching.setattr(Processor, "_record", mutant)


def lose_attempts_when_handing_over(patching: Patching) -> None:
    def mutant(chunk: Chunk, verdicts: Any, *, attempts: Any, **options: Any) -> ChunkRecord:
        return record_attempt(chunk, verdicts, **options)

    patching.setattr("penstock.service.intake.acceptance.record_attempt", mutant)


def cut_pieces_that_overlap(patching: Patching) -> None:
    def mutant(indexes: Sequence[int], count: int) -> list[Sequence[int]]:
        ends = [len(indexes) * number // count for number in range(count + 1)]
        return [indexes[start : end + 1] for start, end in itertools.pairwise(ends)]

    patching.setattr("penstock.outcome._cut", mutant)


def lose_an_operation_between_pieces(patching: Patching) -> None:
    def mutant(indexes: Sequence[int], count: int) -> list[Sequence[int]]:
        size = len(indexes) // count
        return [indexes[number * size : (number + 1) * size] for number in range(count)]

    patching.setattr("penstock.outcome._cut", mutant)


def wait_twice_as_long(patching: Patching) -> None:
    delay = Backoff.delay_seconds
    patching.setattr(Backoff, "delay_seconds", lambda self, attempt, draw: 2 * delay(self, attempt, draw))


def wait_half_as_long_as_asked(patching: Patching) -> None:
    def mutant(verdict: Any, *rest: Any) -> float:
        asked = getattr(verdict, "after_seconds", None)
        return wait_seconds(verdict, *rest) if asked is None else asked / 2

    patching.setattr("penstock.outcome.wait_seconds", mutant)


def hold_a_message_back_for_a_quarter_of_an_hour(patching: Patching) -> None:
    def mutant(not_before: float | None, now: float, longest: int) -> int:
        return longest if delay_seconds(not_before, now, longest) else 0

    patching.setattr("penstock.sending.delay_seconds", mutant)


def allow_one_death_more(patching: Patching) -> None:
    def mutant(self: BatchLimits, died: Collection[str]) -> bool:
        return len(died) > self._settings.max_deaths + 1

    patching.setattr(BatchLimits, "_is_past_limit", mutant)


def allow_one_death_less(patching: Patching) -> None:
    def mutant(self: BatchLimits, died: Collection[str]) -> bool:
        return len(died) >= self._settings.max_deaths

    patching.setattr(BatchLimits, "_is_past_limit", mutant)


def forget_the_keys_of_follow_ups(patching: Patching) -> None:
    patching.setattr("penstock.sending.encode_chunk", lambda chunk: encode_chunk(_without_keys(chunk)))


def forget_the_keys_of_dead_letters(patching: Patching) -> None:
    def mutant(letter: Chunk, *rest: Any, **options: Any) -> str:
        return encode_dead_letter(_without_keys(letter), *rest, **options)

    patching.setattr("penstock.sending.encode_dead_letter", mutant)


def forget_the_keys_in_records(patching: Patching) -> None:
    fields_of = record_module._fields_of
    patching.setattr(record_module, "_fields_of", lambda operation: fields_of(with_changes(operation, key=None)))


def _without_keys(chunk: Chunk) -> Chunk:
    return replace(chunk, operations=tuple(with_changes(operation, key=None) for operation in chunk.operations))
