"""Opens a program's queues and store on AWS, as its settings name them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from penstock.aws.clients import Clients, explained, open_clients
from penstock.aws.s3 import S3Bucket
from penstock.aws.sqs import SqsQueue
from penstock.aws.store import DynamoDbStore
from penstock.backend import Backend
from penstock.bills import Bills
from penstock.queue import Queue
from penstock.settings import Settings
from penstock.tracing.hooks import TracedQueue

if TYPE_CHECKING:
    from penstock.tracing.spans import Spans


@asynccontextmanager
async def open_backend(settings: Settings, spans: "Spans | None" = None) -> AsyncIterator[Backend]:
    """Open the AWS clients and find the queues.

    Raises Misconfigured if the region or the credentials are missing, or if a queue does not exist; and Unavailable if
    AWS does not answer. The table is not checked: see `Backend.check`.
    """
    bills = Bills()
    async with open_clients(settings) as clients:
        yield Backend(
            queues={
                priority: await _open_queue(clients, name, settings, spans, bills)
                for priority, name in settings.chunk_queues.items()
            },
            dead_letters=await _open_queue(clients, settings.dead_letter_queue, settings, spans, bills),
            store=DynamoDbStore(clients.dynamodb, settings.table, bills),
            spans=spans,
            bills=bills,
            bucket=_bucket(clients, settings),
        )


def _bucket(clients: Clients, settings: Settings) -> S3Bucket | None:
    if clients.s3 is None or settings.bucket is None:
        return None
    return S3Bucket(clients.s3, settings.bucket)


async def _open_queue(clients: Clients, name: str, settings: Settings, spans: "Spans | None", bills: Bills) -> Queue:
    with explained():
        answer = await clients.sqs.get_queue_url(QueueName=name)
    size = settings.message_bytes
    queue = SqsQueue(clients.sqs, answer["QueueUrl"], polls=clients.polls, call_bytes=size, bills=bills)
    return queue if spans is None else TracedQueue(queue, name, spans)
