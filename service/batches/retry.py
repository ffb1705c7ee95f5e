"""POST /batch/{id}/retry: run failed operations again, starting at attempt 1: all of them, or those that are chosen.

A retry sends the chunks that went to the dead letter queue, or a part of each. However many retries and redrives ask
for a failure, it is counted again once. Consumers read in the table what has run again, and do not run that. Until the
first retry is recorded, another one sends and charges the same failures, too. Then their handlers may run twice, as
with any chunk that is on the queue twice.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from aiohttp import web
from ulid import ULID

from penstock.batch import Batch
from penstock.errors import NotPossibleNow
from penstock.message import encode_chunk
from penstock.queue import Message
from penstock.sending import tenant_on_queue
from penstock.service.audit import Action, auditing
from penstock.service.batches.causes import LONGEST_TITLE
from penstock.service.batches.choice import Chosen, RetryChoice, find_chosen, read_choice
from penstock.service.batches.failed_chunks import failed_chunks
from penstock.service.batches.status import find_finished
from penstock.service.idempotency import answer_once, read_key
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
    key = read_key(request)
    choice = await read_choice(request)
    batch = await _find_final_batch(request)
    await check_something_left(request, key)
    # An invalid choice does not claim its key, so the client can correct it and send it again with the same key.
    chosen = await find_chosen(request.app[BACKEND].store, batch, choice)

    async def answer() -> web.Response:
        retried = await _retry(request, batch, choice, chosen)
        return json_answer({**accepted_body(batch.id), "retried": retried}, status=202)

    return await answer() if key is None else await answer_once(request, key, _fingerprint(batch, choice), answer)


async def retry_failures(request: web.Request, choice: RetryChoice) -> int:
    """Run the chosen failures of the batch in the path again. Return how many these are.

    Raises NotPossibleNow if the batch is not final, or if the choice fits no failure that can run again.
    """
    batch = await _find_final_batch(request)
    await check_something_left(request)
    chosen = await find_chosen(request.app[BACKEND].store, batch, choice)
    return await _retry(request, batch, choice, chosen)


async def _find_final_batch(request: web.Request) -> Batch:
    batch = await find_finished(request)
    if not batch.is_final:
        raise NotPossibleNow("The batch is not final yet. Retry its failures once it is.")
    if batch.was_never_accepted:
        raise NotPossibleNow("The file of this batch was never accepted, so nothing has run. Correct it and submit it.")
    return batch


async def _retry(request: web.Request, batch: Batch, choice: RetryChoice, chosen: Chosen) -> int:
    retry_id = str(ULID())
    with closing(Spool()) as spool:
        operations, failures = await _counted(request, batch, chosen, spool)
        async with (
            charged(request, retry_id, operations, SECONDS_TO_FIRST_SEND, is_retry=True) as charge,
            opened(request, batch.id, operations, retry_id=retry_id) as opening,
        ):
            with auditing(
                request,
                Action.RETRY,
                batch_id=batch.id,
                batch_tenant=batch.tenant,
                operations=0,
                choice=choice.summary,
            ) as line:
                async for sent in _send(request, batch, failures, charge, opening):
                    line["operations"] += sent
                if not line["operations"] and not choice.is_everything:
                    raise _nothing_chosen(batch, choice)
    get_log().info(Event.BATCH_RETRIED, batch_id=batch.id, operations=line["operations"])
    retried: int = line["operations"]
    return retried


def _nothing_chosen(batch: Batch, choice: RetryChoice) -> NotPossibleNow:
    words = {
        "status": f"the status {' or '.join(map(str, choice.status))}",
        "title": f"the title {choice.title[:LONGEST_TITLE]!r}",
        "ids": f"the id {choice.ids[0]!r}" if len(choice.ids) == 1 else f"one of these {len(choice.ids):,} ids",
    }
    chosen = " and ".join(words[name] for name in words if name in choice.model_fields_set)
    return NotPossibleNow(
        f"No failure that can run again has {chosen}. GET /batch/{batch.id}/failures lists what has failed."
    )


def _fingerprint(batch: Batch, choice: RetryChoice) -> str:
    """Return what tells if two requests are the same."""
    same = choice.model_dump_json(include=choice.model_fields_set)
    return hashlib.sha256(f"retry {batch.id} {same}".encode()).hexdigest()


async def _counted(
    request: web.Request, batch: Batch, chosen: Chosen, spool: Spool
) -> tuple[int, AsyncIterator[Failures]]:
    """Return the chosen failures of a batch. Count their operations if the caller has a limit, and otherwise return 0.

    A retry is allowed whole, or not at all. So all failures are read into the spool before the first of them is sent.
    """
    failures = _read_failures(request.app[BACKEND].store, batch, chosen)
    if not limits_of(request) and not open_limits_of(request):
        return 0, failures
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


async def _read_failures(store: Store, batch: Batch, chosen: Chosen) -> AsyncIterator[Failures]:
    async for chunk in failed_chunks(store, batch, chosen):
        yield Failures(encode_chunk(chunk), len(chunk.operations))
