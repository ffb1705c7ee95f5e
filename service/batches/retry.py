"""POST /batch/{id}/retry: run the failed operations again, starting at attempt 1.

A retry sends the same chunks that went to the dead letter queue. So two retries, or a retry and a redrive, count no
operation twice: the first copy of a chunk to be recorded counts, and later copies do not run. Both copies run only if
they are delivered at the same time, as with any chunk that is on the queue twice.
"""

from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet

from aiohttp import web
from pydantic_core import to_json
from ulid import ULID

from penstock.batch import Batch
from penstock.chunk import Chunk
from penstock.errors import NotPossibleNow
from penstock.outcome import dead_letters
from penstock.record import EncodedRecord, decode_without_results
from penstock.sending import ChunkSender, tenant_on_queue
from penstock.service.audit import Action, auditing
from penstock.service.batches.status import find_batch
from penstock.service.content import check_no_options
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, METER, SETTINGS
from penstock.service.limits.applied import limits_of, open_limits_of
from penstock.service.limits.charging import Charged, charged, check_something_left
from penstock.service.limits.opening import Opening, opened
from penstock.service.schemas import accepted_body
from penstock.settings import MIB
from penstock.store import Store
from penstock.telemetry import Event, get_log

CHUNKS_IN_SEND = 100
BYTES_IN_SEND = MIB
SECONDS_TO_FIRST_SEND = 60  # after that the charge lapses


async def retry_batch(request: web.Request) -> web.Response:
    """Answer 202 with the number of operations that run again, or 409 if the batch is not final yet."""
    await check_no_options(request)
    batch = await find_batch(request)
    if not batch.is_final:
        raise NotPossibleNow(f"The batch is {batch.state}. Retry its failures once it is final.")
    operations, retry_id = await _count_failed(request, batch), str(ULID())
    async with (
        charged(request, retry_id, operations, SECONDS_TO_FIRST_SEND, is_retry=True) as charge,
        opened(request, batch.id, operations, retry_id=retry_id) as opening,
    ):
        with auditing(request, Action.RETRY, batch_id=batch.id, batch_tenant=batch.tenant, operations=0) as line:
            async for sent in _send_failures(request, batch, charge, opening):
                line["operations"] += sent
    get_log().info(Event.BATCH_RETRIED, batch_id=batch.id, operations=line["operations"])
    return json_answer({**accepted_body(batch.id), "retried": line["operations"]}, status=202)


async def _send_failures(request: web.Request, batch: Batch, charge: Charged, opening: Opening) -> AsyncIterator[int]:
    """Send the failed operations to the queue. Yield the number of operations after each send."""
    backend, settings = request.app[BACKEND], request.app[SETTINGS]
    sender, tenant = ChunkSender(backend, settings, request.app[CLOCK]), tenant_on_queue(batch, settings)
    async for chunks in _in_sends(_failed_chunks(backend.store, batch)):
        await charge.settle()  # nobody could tell later if something was sent
        opening.may_run = True
        await sender.send(batch, chunks, tenant)
        operations = sum(len(chunk.operations) for chunk in chunks)
        request.app[METER].accepted(batch.tenant, operations)
        yield operations


async def _count_failed(request: web.Request, batch: Batch) -> int:
    """Count what will run again, if the caller has a limit: a retry is allowed whole, or not at all."""
    if not limits_of(request) and not open_limits_of(request):
        return 0
    await check_something_left(request)
    return sum([len(chunk.operations) async for chunk in _failed_chunks(request.app[BACKEND].store, batch)])


async def _in_sends(chunks: AsyncIterator[Chunk]) -> AsyncIterator[list[Chunk]]:
    """Split the chunks into lists that are small enough to be in memory."""
    waiting: list[Chunk] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(to_json([operation.body for operation in chunk.operations]))
        if len(waiting) == CHUNKS_IN_SEND or size >= BYTES_IN_SEND:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


async def _failed_chunks(store: Store, batch: Batch) -> AsyncIterator[Chunk]:
    """Yield the failed operations of a batch, as chunks, except those that have already run again."""
    for number in range(len(batch.group_totals)):
        counted = (await store.read_group(batch.id, number)).done
        async for record in store.read_records(batch, number, 0):
            if record.chunk_id in counted:
                for chunk in _not_run_again(batch, record, counted):
                    yield chunk


def _not_run_again(batch: Batch, record: EncodedRecord, counted: AbstractSet[str]) -> list[Chunk]:
    decoded = decode_without_results(record.chunk_id, record.content)
    return [chunk for chunk in dead_letters(batch.id, decoded) if chunk.id not in counted]
