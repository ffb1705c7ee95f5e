"""Sends the chunks that a record lists, and its dead letters. The consumer, a hand-over and a retry all send them here.

Sending again sends the same chunk ids, so every call may be repeated: the first of equal chunks to be recorded counts.
"""

from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from math import ceil

from penstock.api_key import DEFAULT_TENANT
from penstock.backend import Backend
from penstock.batch import Batch
from penstock.chunk import Chunk
from penstock.clock import Clock
from penstock.message import encode_chunk, encode_dead_letter, encode_plan_request
from penstock.outcome import ChunkRecord, dead_letters, delay_seconds, follow_up_chunks
from penstock.queue import LONGEST_DELAY_SECONDS, MESSAGES_IN_CALL, Delivery, Message
from penstock.runs import in_runs
from penstock.settings import Settings
from penstock.store import IDS_IN_CALL

ID_CHARACTERS_IN_CALL = (
    400_000  # about what fits into one item. It bounds the memory of the calls that are made at once
)


class ChunkSender:
    """Sends chunks to the queue of their batch's priority, and dead letters to the dead letter queue.

    `tenant` is the tenant that the messages name, so that the queue can be fair to all tenants.
    """

    def __init__(self, backend: Backend, settings: Settings, clock: Clock) -> None:
        self._queues = backend.queues
        self._dead_letters = backend.dead_letters
        self._settings = settings
        self._clock = clock

    async def send(self, batch: Batch, chunks: Iterable[Chunk], tenant: str | None) -> None:
        """Send chunks of a batch. The queue holds each of them back until its time, or for 15 minutes at most."""
        now = self._clock.now()
        messages = [
            Message(
                encode_chunk(chunk),
                delay_seconds(chunk.not_before, now, LONGEST_DELAY_SECONDS),
                tenant,
                batch_id=batch.id,
            )
            for chunk in chunks
        ]
        if messages:
            await self._queues[batch.priority].send(messages)

    async def send_follow_ups(self, batch: Batch, chunk: Chunk, record: ChunkRecord, tenant: str | None) -> None:
        """Send the follow-up chunks that the record of a chunk lists."""
        await self.send(batch, follow_up_chunks(chunk, record), tenant)

    def dead_letters(self, batch: Batch, record: ChunkRecord, tenant: str | None) -> list[Message]:
        """Return the failed operations of a record as messages for the dead letter queue."""
        letters = dead_letters(batch.id, record, rejections=self._settings.dead_letter_rejections)
        message_bytes = self._settings.message_bytes
        texts = [encode_dead_letter(letter, record.outcomes, message_bytes=message_bytes) for letter in letters]
        return [Message(text, tenant=tenant, batch_id=batch.id) for text in texts]

    async def send_letters(self, letters: Sequence[Message]) -> None:
        """Send messages to the dead letter queue."""
        await self._dead_letters.send(letters)

    async def ask_to_plan(self, batch: Batch) -> None:
        """Ask a consumer to plan a batch that is an uploaded file. It may be repeated: one of them gets the lease."""
        tenant = tenant_on_queue(batch, self._settings)
        await self._queues[batch.priority].send(
            [Message(encode_plan_request(batch.id), tenant=tenant, batch_id=batch.id)]
        )

    async def send_unchanged(self, delivery: Delivery, reason: str) -> None:
        """Send a message that is not a chunk we can run to the dead letter queue, unchanged and with the reason."""
        message = Message(delivery.body, tenant=delivery.tenant, reason=reason, trace=delivery.trace)
        await self._dead_letters.send([message])


def tenant_on_queue(batch: Batch, settings: Settings) -> str | None:
    """Return the tenant that a batch's messages name, or None if this installation has only one tenant.

    A message that names a tenant costs more, because it uses SQS's fair queues.
    """
    return batch.tenant if settings.has_tenants or batch.tenant != DEFAULT_TENANT else None


def neighbouring_ids(ids: Iterable[str], group_totals: Sequence[int]) -> Generator[tuple[int, list[str]]]:
    """Yield neighbouring ids of the same group, as many as one call should write, with the index of the first."""
    left = iter(ids)
    first_index = 0
    for total in group_totals:
        for start in range(0, total, IDS_IN_CALL):
            piece = list(islice(left, min(IDS_IN_CALL, total - start)))
            calls = max(1, ceil(sum(map(len, piece)) / ID_CHARACTERS_IN_CALL))
            step = max(1, ceil(len(piece) / calls))
            for place in range(0, len(piece), step):
                yield first_index + start + place, piece[place : place + step]
        first_index += total


def in_calls(messages: Iterable[bytes], call_bytes: int) -> Generator[list[bytes]]:
    """Yield neighbouring messages, as many as fit into one call."""
    return in_runs(messages, len, call_bytes, MESSAGES_IN_CALL)
