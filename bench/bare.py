"""The floor: the same job with the necessary AWS calls only, in chunks of 100 operations, and without any safety.

`serve` is its front end and `consume` its consumer. For up to ten received chunks it makes one BatchWriteItem, one
UpdateItem of a counter and one DeleteMessageBatch. It has no conditions, leases or retries, and one size of chunk.
"""

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from bench.application import HANDLERS, Order
from penstock import Reject
from penstock.process import loop
from penstock.process.signals import end_with_parent

READY = "The floor is ready."
CHUNK_OPERATIONS = 100
MESSAGES_IN_CALL = 10
SENDS_AT_ONCE = 4
RECEIVES_AT_ONCE = 2  # the next receive is in flight while the chunks of the previous one are processed
RECORDS_IN_READ = 50
CONCURRENCY = 10  # the default of a consumer


class Operation(BaseModel):
    method: str
    path: str
    body: dict[str, Any]


class Batch(BaseModel):
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class Clients:
    sqs: Any
    dynamodb: Any
    queue_url: str
    table: str


CLIENTS = web.AppKey("CLIENTS", Clients)
_BATCH = TypeAdapter(Batch)


@asynccontextmanager
async def open_clients() -> AsyncIterator[Clients]:
    """Open the clients. The queue and the table are named as those of an installation of Penstock."""
    session, name = get_session(), os.environ["PENSTOCK_NAME"]
    config = AioConfig(max_pool_connections=16, parameter_validation=False)
    async with (
        session.create_client("sqs", region_name=os.environ["AWS_REGION"], config=config) as sqs,
        session.create_client("dynamodb", region_name=os.environ["AWS_REGION"], config=config) as dynamodb,
    ):
        url = (await sqs.get_queue_url(QueueName=f"{name}-chunks-normal"))["QueueUrl"]
        yield Clients(sqs, dynamodb, url, name)


async def serve(port: int) -> None:
    async with open_clients() as clients:
        app = web.Application(client_max_size=2**30)
        app[CLIENTS] = clients
        app.add_routes(
            [
                web.post("/batch", submit),
                web.get("/batch/{batch_id}/status", read_status),
                web.get("/batch/{batch_id}/results", read_results),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        _say_ready()
        await asyncio.Event().wait()


async def submit(request: web.Request) -> web.Response:
    clients, batch_id = request.app[CLIENTS], uuid4().hex
    operations = _BATCH.validate_json(await request.read()).operations
    counts = {name: {"N": "0"} for name in ("completed", "failed")} | {"total": {"N": str(len(operations))}}
    await clients.dynamodb.put_item(TableName=clients.table, Item=_count_key(batch_id) | counts)
    await _send(clients, [_message(batch_id, start, operations) for start in _starts(len(operations))])
    answer = {"batchId": batch_id, "statusUrl": f"/batch/{batch_id}/status", "resultsUrl": f"/batch/{batch_id}/results"}
    return web.json_response(answer, status=202)


def _starts(operations: int) -> range:
    return range(0, operations, CHUNK_OPERATIONS)


def _message(batch_id: str, start: int, operations: Sequence[Operation]) -> str:
    chunk = operations[start : start + CHUNK_OPERATIONS]
    rows = [[str(start + place), operation.path, operation.body] for place, operation in enumerate(chunk)]
    return to_json({"batch": batch_id, "start": start, "operations": rows}).decode()


async def _send(clients: Clients, messages: Sequence[str]) -> None:
    calls = iter(range(0, len(messages), MESSAGES_IN_CALL))

    async def send_calls() -> None:
        for start in calls:
            bodies = messages[start : start + MESSAGES_IN_CALL]
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
            await clients.sqs.send_message_batch(QueueUrl=clients.queue_url, Entries=entries)

    await asyncio.gather(*(send_calls() for _ in range(SENDS_AT_ONCE)))


async def read_status(request: web.Request) -> web.Response:
    counts = await _read_counts(request)
    status = "completed" if counts["completed"] >= counts["total"] else "running"
    return web.json_response({**counts, "status": status})


async def _read_counts(request: web.Request) -> dict[str, int]:
    clients, key = request.app[CLIENTS], _count_key(request.match_info["batch_id"])
    item = (await clients.dynamodb.get_item(TableName=clients.table, Key=key, ConsistentRead=True))["Item"]
    return {name: int(item[name]["N"]) for name in ("total", "completed", "failed")}


async def read_results(request: web.Request) -> web.StreamResponse:
    total, response = (await _read_counts(request))["total"], web.StreamResponse()
    await response.prepare(request)
    keys = [_record_key(request.match_info["batch_id"], start) for start in _starts(total)]
    for first in range(0, len(keys), RECORDS_IN_READ):
        await _write_records(request.app[CLIENTS], keys[first : first + RECORDS_IN_READ], response)
    await response.write_eof()
    return response


async def _write_records(clients: Clients, keys: Sequence[Any], response: web.StreamResponse) -> None:
    while keys:
        answer = await clients.dynamodb.batch_get_item(RequestItems={clients.table: {"Keys": keys}})
        for item in answer["Responses"][clients.table]:
            await response.write(item["lines"]["B"])
        keys = answer.get("UnprocessedKeys", {}).get(clients.table, {}).get("Keys", ())


async def consume() -> None:
    """Receive and process chunks until the process is killed."""
    slots = asyncio.Semaphore(CONCURRENCY)
    async with open_clients() as clients:
        _say_ready()
        await asyncio.gather(*(_consume(clients, slots) for _ in range(RECEIVES_AT_ONCE)))


async def _consume(clients: Clients, slots: asyncio.Semaphore) -> None:
    while True:
        answer = await clients.sqs.receive_message(
            QueueUrl=clients.queue_url, MaxNumberOfMessages=MESSAGES_IN_CALL, WaitTimeSeconds=20
        )
        if messages := answer.get("Messages"):
            await _process(clients, slots, messages)


async def _process(clients: Clients, slots: asyncio.Semaphore, messages: Sequence[Any]) -> None:
    counts: dict[str, Counter[str]] = {}
    puts = []
    for message in messages:
        chunk = from_json(message["Body"])
        lines, failed = await _run_chunk(slots, chunk["operations"])
        record = _record_key(chunk["batch"], chunk["start"]) | {"lines": {"B": lines}}
        puts.append({"PutRequest": {"Item": record}})
        counts.setdefault(chunk["batch"], Counter()).update(completed=len(chunk["operations"]), failed=failed)
    await _put(clients, puts)
    await asyncio.gather(*(_count(clients, batch_id, count) for batch_id, count in counts.items()))
    entries = [{"Id": str(number), "ReceiptHandle": one["ReceiptHandle"]} for number, one in enumerate(messages)]
    await clients.sqs.delete_message_batch(QueueUrl=clients.queue_url, Entries=entries)


async def _run_chunk(slots: asyncio.Semaphore, operations: Sequence[Any]) -> tuple[bytes, int]:
    lines: list[bytes] = []
    failed = 0
    left = iter(operations)

    async def run_some() -> None:
        nonlocal failed
        for number, path, body in left:
            async with slots:
                try:
                    result = await HANDLERS[path](Order.model_validate(body))
                    lines.append(to_json({"id": number, "status": 200, "result": result}))
                except (ValidationError, Reject) as error:
                    failed += 1
                    lines.append(to_json({"id": number, "status": 422, "error": str(error)}))

    await asyncio.gather(*(run_some() for _ in range(min(CONCURRENCY, len(operations)))))
    return b"\n".join(lines) + b"\n", failed


async def _put(clients: Clients, puts: Sequence[Any]) -> None:
    while puts:
        answer = await clients.dynamodb.batch_write_item(RequestItems={clients.table: puts})
        puts = answer.get("UnprocessedItems", {}).get(clients.table, ())


async def _count(clients: Clients, batch_id: str, count: Counter[str]) -> None:
    await clients.dynamodb.update_item(
        TableName=clients.table,
        Key=_count_key(batch_id),
        UpdateExpression="ADD completed :completed, failed :failed",
        ExpressionAttributeValues={f":{name}": {"N": str(number)} for name, number in count.items()},
    )


def _count_key(batch_id: str) -> dict[str, Any]:
    return {"pk": {"S": batch_id}, "sk": {"S": "count"}}


def _record_key(batch_id: str, start: int) -> dict[str, Any]:
    return {"pk": {"S": batch_id}, "sk": {"S": f"{start:09}"}}


def _say_ready() -> None:
    sys.stderr.write(f"{READY}\n")
    sys.stderr.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=["serve", "consume"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--exit-with-parent", type=int, required=True, metavar="PID")
    options = parser.parse_args()
    end_with_parent(options.exit_with_parent)
    loop.run(serve(options.port) if options.program == "serve" else consume())
