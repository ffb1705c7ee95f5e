"""The queues and the store of a program, opened from its settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.aws import Clients, explained, open_clients
from penstock.dynamodb import DynamoDbStore
from penstock.queue import Queue
from penstock.settings import Settings
from penstock.sqs import SqsQueue
from penstock.store import Store
from penstock.tracing import TracedQueue

if TYPE_CHECKING:
    from penstock.spans import Spans


@dataclass(frozen=True, slots=True)
class Backend:
    """`spans` are what the program traces by, if it does."""

    chunks: Queue
    dead_letters: Queue
    store: Store
    spans: "Spans | None" = None

    async def check(self) -> None:
        """Ask the queue and the table whether they answer. Raises Unavailable or Misconfigured."""
        await self.chunks.depth()
        await self.store.check()


@asynccontextmanager
async def open_backend(settings: Settings, spans: "Spans | None" = None) -> AsyncIterator[Backend]:
    """Raises Misconfigured when there is no region, no credentials, or a queue is not there."""
    async with open_clients(settings) as clients:
        yield Backend(
            chunks=await _open_queue(clients, settings.chunks_queue, settings, spans),
            dead_letters=await _open_queue(clients, settings.dead_letter_queue, settings, spans),
            store=DynamoDbStore(clients.dynamodb, settings.table),
            spans=spans,
        )


async def _open_queue(clients: Clients, name: str, settings: Settings, spans: "Spans | None") -> Queue:
    with explained():
        answer = await clients.sqs.get_queue_url(QueueName=name)
    queue = SqsQueue(clients.sqs, answer["QueueUrl"], polls=clients.polls, call_bytes=settings.message_bytes)
    return queue if spans is None else TracedQueue(queue, name, spans)
