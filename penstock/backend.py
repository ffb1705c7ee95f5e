"""The queues and the store of a program, opened from its settings."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.aws import Clients, explained, open_clients
from penstock.dynamodb import DynamoDbStore
from penstock.priority import Priority
from penstock.queue import Queue
from penstock.settings import Settings
from penstock.sqs import SqsQueue
from penstock.store import Store
from penstock.tracing import TracedQueue

if TYPE_CHECKING:
    from penstock.spans import Spans


@dataclass(frozen=True, slots=True)
class Backend:
    """A chunk is sent to the queue of its batch's priority. On any of them it is valid, wherever it is moved to.

    `spans` are what the program traces by, if it does.
    """

    queues: Mapping[Priority, Queue]
    dead_letters: Queue
    store: Store
    spans: "Spans | None" = None

    async def check(self) -> None:
        """Ask the queues and the table whether they answer. Raises Unavailable or Misconfigured."""
        await asyncio.gather(*(queue.depth() for queue in self.queues.values()), self.store.check())


@asynccontextmanager
async def open_backend(settings: Settings, spans: "Spans | None" = None) -> AsyncIterator[Backend]:
    """Raises Misconfigured when there is no region, no credentials, or a queue is not there."""
    async with open_clients(settings) as clients:
        yield Backend(
            queues={
                priority: await _open_queue(clients, name, settings, spans)
                for priority, name in settings.chunk_queues.items()
            },
            dead_letters=await _open_queue(clients, settings.dead_letter_queue, settings, spans),
            store=DynamoDbStore(clients.dynamodb, settings.table),
            spans=spans,
        )


async def _open_queue(clients: Clients, name: str, settings: Settings, spans: "Spans | None") -> Queue:
    with explained():
        answer = await clients.sqs.get_queue_url(QueueName=name)
    queue = SqsQueue(clients.sqs, answer["QueueUrl"], polls=clients.polls, call_bytes=settings.message_bytes)
    return queue if spans is None else TracedQueue(queue, name, spans)
