"""POST /batch/{id}/retry: run the failed operations again, with all their attempts anew.

What is sent are the very chunks that went to the dead letter queue, so retrying twice, or retrying and redriving,
counts nothing twice: the first to be recorded stands, and what comes after it does not run. Only copies that are
delivered at the very same time both run, as those of any chunk that the queue holds twice.
"""

from collections.abc import AsyncIterator

from aiohttp import web

from penstock.batch import Batch
from penstock.chunk import Chunk
from penstock.errors import NotPossibleNow
from penstock.message import encode_chunk
from penstock.outcome import ChunkRecord, dead_letters
from penstock.queue import Message
from penstock.service.batches.status import find_batch
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, SETTINGS
from penstock.service.schemas import accepted_body
from penstock.store import Store
from penstock.telemetry import Event, get_log

CHUNKS_IN_SEND = 100


async def retry_batch(request: web.Request) -> web.Response:
    """202 and how many operations run again. 409 while the batch is not final."""
    batch = await find_batch(request)
    if not batch.is_final:
        raise NotPossibleNow(f"The batch is {batch.state}; its failures can be retried once it is final.")
    backend = request.app[BACKEND]
    queue = backend.queues[batch.priority]
    tenant = batch.tenant if request.app[SETTINGS].tenant_header else None
    retried = 0
    waiting: list[Message] = []
    async for chunk in _failed_chunks(backend.store, batch):
        retried += len(chunk.operations)
        waiting.append(Message(encode_chunk(chunk), tenant=tenant))
        if len(waiting) == CHUNKS_IN_SEND:
            await queue.send(waiting)
            waiting = []
    await queue.send(waiting)
    get_log().info(Event.BATCH_RETRIED, batch_id=batch.id, operations=retried)
    return json_answer({**accepted_body(batch.id), "retried": retried}, status=202)


async def _failed_chunks(store: Store, batch: Batch) -> AsyncIterator[Chunk]:
    """What failed and has not been run again since."""
    for number in range(len(batch.group_totals)):
        group = await store.read_group(batch.id, number)
        async for family in store.read_records(batch, number, 0):
            counted = [record for record in family if record.chunk_id in group.done]
            for chunk in _not_run_again(batch, counted):
                yield chunk


def _not_run_again(batch: Batch, family: list[ChunkRecord]) -> list[Chunk]:
    known = {record.chunk_id for record in family}
    return [chunk for record in family for chunk in dead_letters(batch.id, record) if chunk.id not in known]
