"""Floor (b): only the necessary AWS calls with chunks of 100 operations, without checks, conditions, leases or safety.

It sends chunks by SendMessageBatch with eight calls in flight, as Penstock does. It receives up to ten chunks, writes a
record, updates a counter, and deletes up to ten chunks. The AWS clients are those of Penstock. The first line of a
message names its run, and whether a record and a counter update cover one chunk or all chunks of a receive.
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from bench.commands import commands, run, say
from penstock.aws.clients import Clients, open_clients
from penstock.aws.sqs import CALLS_AT_ONCE
from penstock.priority import Priority
from penstock.queue import MESSAGES_IN_CALL
from penstock.settings import Settings, read_settings

CHUNK_OPERATIONS = 100
RECEIVES_AT_ONCE = 2  # the next receive is in flight while the chunks of the previous one are processed
RECORD = to_json([[index, str(index), "succeeded", 200, None] for index in range(CHUNK_OPERATIONS)])


async def send_loop() -> None:
    """Send the chunks of a file. The input is `RUN CHUNKS_PER_RECORD FILE`, and then any line to start."""
    settings = read_settings()
    async with open_clients(settings) as clients:
        url = await _queue_url(clients, settings)
        say(ready=True)
        telling = commands()
        async for number, per_record, file in telling:
            messages = list(_messages(Path(file), f"{number} {per_record}"))
            say(ready=True)
            await anext(telling)
            began_at, began = time.time(), time.perf_counter()
            await _send(clients, url, messages)
            say(began_at=began_at, first_seconds=time.perf_counter() - began)


async def consume_loop() -> None:
    """Receive and process chunks until the process is killed."""
    settings = read_settings()
    async with open_clients(settings) as clients:
        url = await _queue_url(clients, settings)
        say(ready=True)
        await asyncio.gather(*(_consume(clients, url, settings) for _ in range(RECEIVES_AT_ONCE)))


async def _queue_url(clients: Clients, settings: Settings) -> str:
    return (await clients.sqs.get_queue_url(QueueName=settings.chunk_queues[Priority.NORMAL]))["QueueUrl"]


def _messages(file: Path, head: str) -> Iterator[str]:
    with file.open("rb") as lines:
        while chunk := list(islice(lines, CHUNK_OPERATIONS)):
            yield f"{head} {len(chunk)}\n{b''.join(chunk).decode()}"


async def _send(clients: Clients, url: str, messages: Sequence[str]) -> None:
    calls = iter(range(0, len(messages), MESSAGES_IN_CALL))

    async def send_calls() -> None:
        for start in calls:
            bodies = messages[start : start + MESSAGES_IN_CALL]
            await clients.sqs.send_message_batch(
                QueueUrl=url, Entries=[{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
            )

    await asyncio.gather(*(send_calls() for _ in range(CALLS_AT_ONCE)))


async def _consume(clients: Clients, url: str, settings: Settings) -> None:
    while True:
        answer = await clients.polls.receive_message(
            QueueUrl=url, MaxNumberOfMessages=MESSAGES_IN_CALL, WaitTimeSeconds=settings.receive_wait_seconds
        )
        messages = answer.get("Messages")
        if not messages:
            continue
        run, per_record, _ = messages[0]["Body"].partition("\n")[0].split()
        parts = [messages[start : start + int(per_record)] for start in range(0, len(messages), int(per_record))]
        await asyncio.gather(*(_record(clients, settings.table, run, part) for part in parts))
        await clients.sqs.delete_message_batch(
            QueueUrl=url,
            Entries=[
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages)
            ],
        )


async def _record(clients: Clients, table: str, run: str, chunks: Sequence[Any]) -> None:
    operations = sum(int(chunk["Body"].partition("\n")[0].split()[2]) for chunk in chunks)
    await asyncio.gather(
        clients.dynamodb.put_item(
            TableName=table,
            Item={
                "pk": {"S": f"bare#{run}#{chunks[0]['MessageId']}"},
                "sk": {"S": "record"},
                "record": {"B": RECORD * len(chunks)},
            },
        ),
        clients.dynamodb.update_item(
            TableName=table,
            Key=count_key(run),
            UpdateExpression="ADD completed :operations SET last_at = :at",
            ExpressionAttributeValues={":operations": {"N": str(operations)}, ":at": {"N": f"{time.time():.6f}"}},
        ),
    )


def count_key(run: str) -> dict[str, Any]:
    return {"pk": {"S": f"bare#{run}"}, "sk": {"S": "count"}}


def main() -> None:
    run({"send": send_loop, "consume": consume_loop}[sys.argv.pop(1)]())
