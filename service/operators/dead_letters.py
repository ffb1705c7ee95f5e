"""GET /dead-letters and POST /dead-letters/redrive: shows dead letters, and moves them back to the queue.

These endpoints are for operators: they cover the dead letters of every tenant. A dead letter is the message of a chunk,
so it can be moved back as it is. It goes to the queue of its batch's priority. (The redrive in the console of SQS moves
all dead letters to a single queue.)
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from penstock.backend import Backend
from penstock.errors import MalformedRequest, NewerVersion, UnreadableMessage
from penstock.message import decode_chunk, decode_dead_letter
from penstock.priority import Priority
from penstock.queue import Delivery, Message, Queue
from penstock.service.audit import Action, auditing
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK
from penstock.service.models import check_no_query, read_model
from penstock.service.paging import read_limit
from penstock.store import Store
from penstock.telemetry import Event, get_log

SHOWN = 10
MOST_SHOWN = 100  # all are in memory, and each can be as large as a message
REDRIVE_SECONDS = 20.0
IN_RECEIVE = 10
HIDDEN_SECONDS = 60  # longer than a redrive: it must not receive a letter again that it does not move


class RedriveRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    batchId: str | None = None  # noqa: N815 - the name in the JSON


async def list_dead_letters(request: web.Request) -> web.Response:
    for name in request.query:
        if name != "limit":
            raise MalformedRequest(f"The parameter {name!r} is unknown. Use limit.")
    return json_answer(await read_dead_letters(request.app, read_limit(request) or SHOWN))


async def read_dead_letters(app: web.Application, limit: int) -> dict[str, Any]:
    """Return about how many dead letters there are, and some. SQS can only be read by receiving, in no order."""
    queue = app[BACKEND].dead_letters
    deliveries = await _receive(queue, min(limit, MOST_SHOWN))
    await queue.extend(deliveries, 0)
    return {"approximateCount": await queue.depth(), "deadLetters": [_describe(delivery) for delivery in deliveries]}


async def redrive_dead_letters(request: web.Request) -> web.Response:
    """Move all dead letters, or those of one batch. Stop after 20 seconds: then `isComplete` in the answer is false."""
    moved, is_complete = await redrive(request, await _read_batch_id(request))
    return json_answer({"redrivenChunks": moved, "isComplete": is_complete}, status=202)


async def redrive(request: web.Request, batch_id: str | None) -> tuple[int, bool]:
    """Move the dead letters of a batch, or of all. Return how many were moved, and whether all of them were."""
    backend = request.app[BACKEND]
    moving = Redrive(batch_id, before=request.app[CLOCK].now(), store=backend.store)
    with auditing(request, Action.REDRIVE, batch_id=batch_id) as line:
        moved, is_complete = await _redrive(backend, moving)
        line["chunks"] = moved
    get_log().info(Event.DEAD_LETTERS_REDRIVEN, batch_id=batch_id, chunks=moved)
    return moved, is_complete


async def _read_batch_id(request: web.Request) -> str | None:
    check_no_query(request)  # a batchId there, ignored, would redrive the letters of all batches
    return (await read_model(request, RedriveRequest)).batchId if request.can_read_body else None


async def _receive(queue: Queue, limit: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    while len(deliveries) < limit:
        received = await queue.receive(min(IN_RECEIVE, limit - len(deliveries)), 0)
        if not received:
            break
        deliveries += received
    return deliveries


@dataclass(frozen=True, slots=True)
class Redrive:
    """Decides which letters are moved: those of one batch or of all batches, if they were sent before the redrive.

    An operation that fails again during the redrive sends a new letter, and that one stays.
    """

    batch_id: str | None
    before: float
    store: Store
    priorities: dict[str, Priority] = field(default_factory=dict)  # of the batches that were read so far

    async def sort(self, deliveries: list[Delivery]) -> tuple[dict[Priority, list[Delivery]], list[Delivery]]:
        """Return the letters that are moved, by the priority of their batch, and those that stay."""
        letters: dict[Priority, list[Delivery]] = defaultdict(list)
        others: list[Delivery] = []
        for delivery in deliveries:
            priority = await self._priority_of(delivery)
            (others if priority is None else letters[priority]).append(delivery)
        return letters, others

    async def _priority_of(self, delivery: Delivery) -> Priority | None:
        """Return the priority of the letter's batch, or None if the letter stays in the dead letter queue."""
        if delivery.sent_at > self.before:
            return None
        try:
            chunk = decode_chunk(delivery.body)
        except UnreadableMessage:
            return None
        if self.batch_id not in {None, chunk.batch_id}:
            return None
        if chunk.batch_id not in self.priorities:
            try:
                batch = await self.store.read_batch(chunk.batch_id)
            except NewerVersion:
                return None  # a front end of that version can move it
            self.priorities[chunk.batch_id] = Priority.NORMAL if batch is None else batch.priority
        return self.priorities[chunk.batch_id]


async def _redrive(backend: Backend, redrive: Redrive) -> tuple[int, bool]:
    """Move the letters. Return how many were moved, and whether the whole queue was read."""
    source = backend.dead_letters
    give_up_at = asyncio.get_running_loop().time() + REDRIVE_SECONDS
    moved = 0
    passed_over: list[Delivery] = []
    try:
        while asyncio.get_running_loop().time() < give_up_at:
            deliveries = await source.receive(IN_RECEIVE, 1)
            if not deliveries:
                return moved, True
            letters, others = await redrive.sort(deliveries)
            await source.extend(others, HIDDEN_SECONDS)
            passed_over += others
            for priority, of_priority in letters.items():
                await _move(of_priority, source, backend.queues[priority])
                moved += len(of_priority)
        return moved, False
    finally:
        await source.extend(passed_over, 0)


async def _move(letters: list[Delivery], source: Queue, target: Queue) -> None:
    """Send the letters first and then delete them. A crash in between leaves copies, but a chunk is counted once."""
    await target.send([Message(letter.body, tenant=letter.tenant, trace=letter.trace) for letter in letters])
    for letter in letters:
        await source.delete(letter)


def _describe(delivery: Delivery) -> dict[str, Any]:
    try:
        chunk, failures = decode_dead_letter(delivery.body)
    except UnreadableMessage as error:
        return {"messageId": delivery.message_id, "unreadable": str(error)}
    return {
        "messageId": delivery.message_id,
        "batchId": chunk.batch_id,
        "chunkId": chunk.id,
        "operations": [
            {
                "id": operation.id,
                "method": operation.method,
                "path": operation.path,
                "body": operation.body,
                **({} if operation.key is None else {"key": operation.key}),
                **failures.get(operation.index, {}),
            }
            for operation in chunk.operations
        ],
    }
