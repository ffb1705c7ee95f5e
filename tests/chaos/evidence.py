"""Collects the evidence after a scenario: answers of the front end, the table, the queues, the journal, the logs."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from penstock.aws.store import DynamoDbStore
from penstock.batch import BatchState
from penstock.errors import UnreadableMessage
from penstock.message import decode_chunk
from penstock.priority import Priority
from penstock.record import decode_record
from tests.chaos.journal import Run, read_journal
from tests.chaos.logs import Logs
from tests.support.api import Api, Outcome, Status
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb import DynamoDBClient
    from types_aiobotocore_sqs import SQSClient

QUEUE_UNITS = 30
LOOK_SECONDS = 0.005
UNREADABLE = "a message that is not a chunk"
FAULTS = (
    "chunk failed unexpectedly",
    "request failed unexpectedly",
    "never retrieved",
    "never awaited",
    "was destroyed but",
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence, by operation id. `recorded_at` is the latest time by which an outcome was in the table."""

    statuses: Mapping[str, Status]
    results: Mapping[str, Sequence[Outcome]]
    runs: Mapping[str, Sequence[Run]]
    recorded_at: Mapping[str, float]
    dead_letters: Sequence[str]
    messages_left: int
    abandoned: int  # batches whose front end was ended while it accepted them
    dropped: int  # chunks of those batches, which did not run
    faults: Sequence[str]


@dataclass
class Detective:
    """Reads what happened since `begin`. `name` is the name of the table and the prefix of the queues."""

    name: str
    journal: str
    api: Api
    sqs: "SQSClient"
    dynamodb: "DynamoDBClient"
    logs: Logs
    _began_at: float = 0.0

    def begin(self) -> None:
        self._began_at = time.time()

    async def until_accepting(self, is_over: Callable[[], bool]) -> None:
        """Wait until the table shows a batch that is being accepted, or until it is too late to see one."""

        async def is_seen() -> bool:
            return bool(await self._batches(BatchState.ACCEPTING)) or is_over()

        await eventually(is_seen, poll_seconds=LOOK_SECONDS)

    async def gather(self, batches: Sequence[str], prefix: str) -> Evidence:
        """Collect the evidence about the operations whose ids begin with `prefix`."""
        left = await self._messages_left()
        runs = await read_journal(self.dynamodb, self.journal)
        return Evidence(
            statuses={batch_id: await self.api.status(batch_id) for batch_id in batches},
            results={batch_id: await self.api.results(batch_id) for batch_id in batches},
            runs={id_: found for id_, found in runs.items() if id_.startswith(prefix)},
            recorded_at=await self._recorded_at(batches),
            dead_letters=await self._take_dead_letters(),
            messages_left=left,
            abandoned=len(await self._batches(BatchState.ABANDONED)),
            dropped=sum(text.count('"chunk dropped"') for _, text in self.logs.read_all("*-consumer.log")),
            faults=self._faults(),
        )

    async def _batches(self, state: BatchState) -> list[str]:
        """Return the batches in this state that were created since `begin`."""
        found: list[str] = []
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.name,
            ConsistentRead=True,
            FilterExpression="#state = :state AND created_at >= :began",
            ExpressionAttributeNames={"#state": "state"},
            ExpressionAttributeValues={":state": {"S": state}, ":began": {"N": f"{self._began_at:.3f}"}},
        )
        async for page in pages:
            found += [item["pk"]["S"] for item in page["Items"]]
        return found

    async def _messages_left(self) -> int:
        """Return how many messages stay on the queues of chunks: waiting, delayed or delivered."""
        urls = [await self._url(f"chunks-{priority}") for priority in Priority]

        async def count() -> int:
            return sum([await self._depth(url) for url in urls])

        async def is_empty() -> bool:
            return await count() == 0

        try:
            await eventually(is_empty, QUEUE_UNITS, poll_seconds=0.2)
        except AssertionError:
            return await count()
        return 0

    async def _depth(self, url: str) -> int:
        answer = await self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        attributes = {str(name): value for name, value in answer["Attributes"].items()}
        return sum(int(attributes[f"ApproximateNumberOfMessages{which}"]) for which in ("", "NotVisible", "Delayed"))

    async def _take_dead_letters(self) -> list[str]:
        """Delete all dead letters and return the ids of their operations."""
        url = await self._url("dead-letters")
        found: list[str] = []
        while messages := (await self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)).get("Messages"):
            for message in messages:
                found += _operations_in(message["Body"])
                await self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found

    async def _url(self, queue: str) -> str:
        return (await self.sqs.get_queue_url(QueueName=f"{self.name}-{queue}"))["QueueUrl"]

    async def _recorded_at(self, batches: Sequence[str]) -> dict[str, float]:
        """Read the times from the consumers' logs, which log a chunk just after its record was committed."""
        done = dict(_chunks_done(text for _, text in self.logs.read_all("*-consumer.log")))
        store = DynamoDbStore(self.dynamodb, self.name)
        found: dict[str, float] = {}
        for batch_id in batches:
            batch = await store.read_batch(batch_id)
            assert batch is not None, batch_id
            for group in range(len(batch.group_totals)):
                async for record in store.read_records(batch, group, 0):
                    at = done.get((batch_id, record.chunk_id), float("inf"))
                    outcomes = decode_record(record.chunk_id, record.content).outcomes
                    found.update({outcome.id: at for outcome in outcomes})
        return found

    def _faults(self) -> list[str]:
        return [f"{log.name} says {fault!r}" for log, text in self.logs.read_all() for fault in FAULTS if fault in text]


def _operations_in(body: str) -> list[str]:
    try:
        return [operation.id for operation in decode_chunk(body).operations]
    except UnreadableMessage:
        return [UNREADABLE]


def _chunks_done(logs: Iterable[str]) -> Iterable[tuple[tuple[str, str], float]]:
    lines = (line for log in logs for line in log.splitlines() if '"chunk done"' in line)
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue  # the process was killed while it wrote the line
    timed = [(datetime.fromisoformat(event["timestamp"]).timestamp(), event) for event in events]
    # The earliest time comes last, so that a dict keeps it.
    for at, event in sorted(timed, key=lambda one: one[0], reverse=True):
        yield (event["batch_id"], event["chunk_id"]), at
