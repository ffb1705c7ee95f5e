"""POST /batch: read, validate; run a small batch at once; plan the chunks of a large one, send them, accept it."""

import asyncio
from collections.abc import Sequence

from aiohttp import web
from ulid import ULID

from penstock.batch import Batch, BatchState
from penstock.chunk import Operation, plan_chunks, plan_groups
from penstock.errors import AcceptanceUnknown, Flaw, LimitPassed, Unavailable
from penstock.message import encode_operation, join_message, room_in_message, size_on_the_queue
from penstock.queue import Message
from penstock.telemetry import Event, get_log
from service.json_answer import json_answer
from service.parts import BACKEND, CLOCK, OPERATIONS, RUNNER, SETTINGS, tenant_of
from service.reading import read_envelope, read_json, read_operations
from service.schemas import accepted_body, answered_body, status_url
from service.small_batch import SmallBatch, SmallBatchRunner

FIRST_POLL_SECONDS = 1  # a hint for when asking for the status makes sense
ACCEPT_REPEATS = 5
ACCEPT_REPEAT_SECONDS = 0.2


async def submit_batch(request: web.Request) -> web.Response:
    settings, registry = request.app[SETTINGS], request.app[OPERATIONS]
    flaws: list[Flaw] = []
    envelope = read_envelope(await read_json(request), settings, flaws)
    if envelope.atomic:
        _check_atomic(len(envelope.operations), request, flaws)
    operations = read_operations(envelope.operations, registry, flaws)
    if len(operations) <= settings.sync_max_operations:
        return await _answer_now(request, operations, atomic=envelope.atomic)
    return await _accept(request, operations)


def _check_atomic(count: int, request: web.Request, flaws: list[Flaw]) -> None:
    limit = request.app[SETTINGS].sync_max_operations
    if request.app[OPERATIONS].transaction is None:
        flaws.append(Flaw("/atomic", "This application has no transaction, so nothing can be rolled back."))
    elif count > limit:
        detail = f"The atomic batch has {count:,} operations; at most {limit:,} go into one."
        raise LimitPassed(detail, limit={"maxAtomicOperations": limit})


async def _answer_now(request: web.Request, operations: Sequence[Operation], *, atomic: bool) -> web.Response:
    settings = request.app[SETTINGS]
    runner = SmallBatchRunner(request.app[OPERATIONS], request.app[RUNNER], settings.backoff)
    batch = SmallBatch(str(ULID()), operations, settings.sync_seconds, atomic)
    body = answered_body(await runner.run(batch))
    get_log().info(Event.BATCH_ANSWERED, batch_id=batch.id, **body["summary"])
    return json_answer(body)


async def _accept(request: web.Request, operations: Sequence[Operation]) -> web.Response:
    """Nothing of a batch runs before it is accepted, and it is accepted only when every chunk is durable on the queue.

    A front end that dies in between leaves a batch that is never accepted: its chunks are dropped unrun.
    """
    settings, backend, clock = request.app[SETTINGS], request.app[BACKEND], request.app[CLOCK]
    tenant = tenant_of(request)
    encoded = [encode_operation(operation) for operation in operations]
    runs = plan_chunks(
        [size_on_the_queue(one) for one in encoded],
        max_operations=settings.chunk_operations,
        max_bytes=room_in_message(settings.message_bytes),
    )
    now = clock.now()
    batch = Batch(
        id=str(ULID()),
        tenant=tenant,
        state=BatchState.ACCEPTING,
        total=len(operations),
        chunk_count=len(runs),
        group_totals=plan_groups(runs),
        created_at=now,
        accept_by=now + settings.accept_seconds,
        expires_at=now + settings.retention_seconds,
    )
    await backend.store.create_batch(batch)
    # Fair queues cost more than plain ones, so a message names its tenant only where there can be several.
    group = tenant if settings.tenant_header else None
    await backend.chunks.send(
        [
            Message(join_message(batch.id, str(number), encoded[run.start : run.stop]), tenant=group)
            for number, run in enumerate(runs)
        ]
    )
    await _mark_accepted(request, batch.id)
    get_log().info(Event.BATCH_ACCEPTED, batch_id=batch.id, tenant=tenant, total=batch.total, chunks=batch.chunk_count)
    headers = {"Location": status_url(batch.id), "Retry-After": str(FIRST_POLL_SECONDS)}
    return json_answer(accepted_body(batch.id), status=202, headers=headers)


async def _mark_accepted(request: web.Request, batch_id: str) -> None:
    """The point of no return, so a lost answer is worth asking again for; marking twice marks once."""
    backend, at = request.app[BACKEND], request.app[CLOCK].now()
    for repeat in range(ACCEPT_REPEATS):
        try:
            await backend.store.accept_batch(batch_id, at)
            return
        except Unavailable as error:
            if repeat == ACCEPT_REPEATS - 1:
                raise AcceptanceUnknown(batch_id) from error
        await asyncio.sleep(ACCEPT_REPEAT_SECONDS * 2**repeat)
