"""POST /batch/{id}/retry: run the failed operations again, starting at attempt 1.

A retry sends the same chunks that went to the dead letter queue. So two retries, or a retry and a redrive, count no
operation twice: the first copy of a chunk to be recorded counts, and later copies do not run. Both copies run only if
they are delivered at the same time, as with any chunk that is on the queue twice.
"""

from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass

from aiohttp import web
from ulid import ULID

from penstock.batch import Batch
from penstock.chunk import Chunk
from penstock.errors import NotPossibleNow
from penstock.message import encode_chunk
from penstock.outcome import dead_letters
from penstock.queue import Message
from penstock.record import EncodedRecord, decode_without_results
from penstock.sending import tenant_on_queue
from penstock.service.audit import Action, auditing
from penstock.service.batches.status import find_batch
from penstock.service.content import check_no_options
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, METER, SETTINGS
from penstock.service.limits.applied import limits_of, open_limits_of
from penstock.service.limits.charging import Charged, charged, check_something_left
from penstock.service.limits.opening import Opening, opened
from penstock.service.schemas import accepted_body
from penstock.service.spool import Spool
from penstock.settings import MIB
from penstock.store import Store
from penstock.telemetry import Event, get_log

MESSAGES_IN_SEND = 100
BYTES_IN_SEND = MIB
SECONDS_TO_FIRST_SEND = 60  # after that the charge lapses


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed operations of a batch, as the message that runs them again."""

    message: str
    operations: int


async def retry_batch(request: web.Request) -> web.Response:
    """Answer 202 with the number of operations that run again, or 409 if the batch is not final yet."""
    await check_no_options(request)
    batch = await find_batch(request)
    if not batch.is_final:
        raise NotPossibleNow(f"The batch is {batch.state}. Retry its failures once it is final.")
    retry_id = str(ULID())
    with closing(Spool()) as spool:
        operations, failures = await _counted(request, batch, spool)
        async with (
            charged(request, retry_id, operations, SECONDS_TO_FIRST_SEND, is_retry=True) as charge,
            opened(request, batch.id, operations, retry_id=retry_id) as opening,
        ):
            with auditing(request, Action.RETRY, batch_id=batch.id, batch_tenant=batch.tenant, operations=0) as line:
                async for sent in _send(request, batch, failures, charge, opening):
                    line["operations"] += sent
    get_log().info(Event.BATCH_RETRIED, batch_id=batch.id, operations=line["operations"])
    return json_answer({**accepted_body(batch.id), "retried": line["operations"]}, status=202)


async def _counted(request: web.Request, batch: Batch, spool: Spool) -> tuple[int, AsyncIterator[Failures]]:
    """Return the failures of a batch. Count their operations if the caller has a limit, and otherwise return 0.

    A retry is allowed whole, or not at all. So all failures are read into the spool before the first of them is sent.
    """
    failures = _read_failures(request.app[BACKEND].store, batch)
    if not limits_of(request) and not open_limits_of(request):
        return 0, failures
    await check_something_left(request)
    counts = list[int]()
    async for one in failures:
        spool.write(one.message.encode())  # contains no line break, as JSON or as base64
        counts.append(one.operations)
    return sum(counts), _from_spool(spool, counts)


async def _from_spool(spool: Spool, counts: Sequence[int]) -> AsyncIterator[Failures]:
    for message, operations in zip(spool, counts, strict=True):
        yield Failures(message.decode(), operations)


async def _send(
    request: web.Request, batch: Batch, failures: AsyncIterator[Failures], charge: Charged, opening: Opening
) -> AsyncIterator[int]:
    """Send the failed operations to the queue. Yield the number of operations after each send."""
    queue, tenant = request.app[BACKEND].queues[batch.priority], tenant_on_queue(batch, request.app[SETTINGS])
    async for sent_together in _in_sends(failures):
        await charge.settle()  # nobody could tell later if something was sent
        opening.may_run = True
        await queue.send([Message(one.message, tenant=tenant, batch_id=batch.id) for one in sent_together])
        operations = sum(one.operations for one in sent_together)
        request.app[METER].accepted(batch.tenant, operations)
        yield operations


async def _in_sends(failures: AsyncIterator[Failures]) -> AsyncIterator[list[Failures]]:
    """Split the messages into lists that are small enough to be in memory."""
    waiting: list[Failures] = []
    size = 0
    async for one in failures:
        waiting.append(one)
        size += len(one.message)
        if len(waiting) == MESSAGES_IN_SEND or size >= BYTES_IN_SEND:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


async def _read_failures(store: Store, batch: Batch) -> AsyncIterator[Failures]:
    """Yield the failed operations of a batch, except those that have already run again."""
    for number in range(len(batch.group_totals)):
        counted = (await store.read_group(batch.id, number)).done
        async for record in store.read_records(batch, number, 0):
            if record.chunk_id in counted:
                for chunk in _not_run_again(batch, record, counted):
                    yield Failures(encode_chunk(chunk), len(chunk.operations))


def _not_run_again(batch: Batch, record: EncodedRecord, counted: AbstractSet[str]) -> list[Chunk]:
    decoded = decode_without_results(record.chunk_id, record.content)
    return [chunk for chunk in dead_letters(batch.id, decoded) if chunk.id not in counted]
