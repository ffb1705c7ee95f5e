"""GET /dead-letters and POST /dead-letters/redrive: look at what finally failed, and put it back.

For operators: these see every tenant's. A dead letter is a chunk message, so putting it back is moving it to the queue
of chunks; SQS's own redrive, from its console, does the same.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from penstock.errors import InvalidRequest, UnreadableMessage
from penstock.message import decode_chunk, decode_dead_letter
from penstock.queue import Delivery, Message, Queue
from penstock.telemetry import Event, get_log
from service.flaws import errors_of, to_flaw
from service.json_answer import json_answer
from service.parts import BACKEND, CLOCK
from service.reading import read_json
from service.results import read_limit

SHOWN = 10
MOST_SHOWN = 100  # each may be as large as a message: memory is the bound
REDRIVE_SECONDS = 20.0
IN_RECEIVE = 10
HIDDEN_SECONDS = 60  # longer than one redrive: what it does not move must not come round again


class RedriveRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    batchId: str | None = None  # noqa: N815 - as it stands in the JSON


async def list_dead_letters(request: web.Request) -> web.Response:
    """About how many there are, and some of them: SQS can be looked into only by receiving, in no order."""
    queue = request.app[BACKEND].dead_letters
    deliveries = await _take(queue, min(read_limit(request) or SHOWN, MOST_SHOWN))
    await queue.extend(deliveries, 0)
    return json_answer(
        {"approximateCount": await queue.depth(), "deadLetters": [_describe(delivery) for delivery in deliveries]}
    )


async def redrive_dead_letters(request: web.Request) -> web.Response:
    """Put back all, or one batch's. Moves for up to 20 seconds; `isComplete` says whether it came to the end."""
    batch_id = await _read_batch_id(request)
    backend = request.app[BACKEND]
    redrive = Redrive(batch_id, before=request.app[CLOCK].now())
    moved, is_complete = await _redrive(backend.dead_letters, backend.chunks, redrive)
    get_log().info(Event.DEAD_LETTERS_REDRIVEN, batch_id=batch_id, chunks=moved)
    return json_answer({"redrivenChunks": moved, "isComplete": is_complete}, status=202)


async def _read_batch_id(request: web.Request) -> str | None:
    if not request.can_read_body:
        return None
    document = await read_json(request)
    try:
        return RedriveRequest.model_validate(document).batchId
    except ValidationError as error:
        raise InvalidRequest([to_flaw(one, document) for one in errors_of(error)]) from error


async def _take(queue: Queue, limit: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    while len(deliveries) < limit:
        received = await queue.receive(min(IN_RECEIVE, limit - len(deliveries)), 0)
        if not received:
            break
        deliveries += received
    return deliveries


@dataclass(frozen=True, slots=True)
class Redrive:
    """Which letters are put back: of one batch or of all, and none that came after it began: what fails again stays."""

    batch_id: str | None
    before: float

    def takes(self, delivery: Delivery) -> bool:
        if delivery.sent_at > self.before:
            return False
        try:
            chunk = decode_chunk(delivery.body)
        except UnreadableMessage:
            return False  # what is no chunk of ours stays where it is
        return self.batch_id in {None, chunk.batch_id}


async def _redrive(source: Queue, target: Queue, redrive: Redrive) -> tuple[int, bool]:
    """Move letter by letter: sent first, then deleted. A crash in between leaves one twice, and it runs once."""
    give_up_at = asyncio.get_running_loop().time() + REDRIVE_SECONDS
    moved = 0
    passed_over: list[Delivery] = []
    try:
        while asyncio.get_running_loop().time() < give_up_at:
            deliveries = await source.receive(IN_RECEIVE, 1)
            if not deliveries:
                return moved, True
            letters = [delivery for delivery in deliveries if redrive.takes(delivery)]
            others = [delivery for delivery in deliveries if delivery not in letters]
            await source.extend(others, HIDDEN_SECONDS)
            passed_over += others
            await target.send([Message(letter.body, tenant=letter.tenant, trace=letter.trace) for letter in letters])
            for letter in letters:
                await source.delete(letter)
            moved += len(letters)
        return moved, False
    finally:
        await source.extend(passed_over, 0)


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
                **failures.get(operation.index, {}),
            }
            for operation in chunk.operations
        ],
    }
