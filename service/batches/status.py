"""GET /batch/{id}/status: reports the state, the counts and the times of a batch."""

import re
from typing import Any

from aiohttp import web

from penstock.batch import UNACCEPTED_STATES, Batch, sum_counts
from penstock.errors import UnknownBatch
from penstock.service.caller import tenant_of
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK
from penstock.service.schemas import status_body

_BATCH_ID = re.compile(r"[0-9A-Za-z_-]{1,40}")  # what can be part of a key: the table rejects keys that are too long


async def batch_status(request: web.Request) -> web.Response:
    return json_answer(await read_status(request, await find_batch(request)))


async def read_status(request: web.Request, batch: Batch) -> dict[str, Any]:
    """Read the status of a batch. The counts are read after the batch, so they are never older than its state."""
    groups = await request.app[BACKEND].store.read_groups(batch.id, range(len(batch.group_totals)))
    counts = sum_counts(group.counts for group in groups.values())
    redelivered = sum(group.redelivered for group in groups.values())
    return status_body(batch, counts, redelivered, request.app[CLOCK].now())


async def find_batch(request: web.Request) -> Batch:
    """Return the batch in the path.

    Raises UnknownBatch if it was never accepted, belongs to another tenant, or is past its retention.
    """
    batch_id = request.match_info["batch_id"]
    if not _BATCH_ID.fullmatch(batch_id):
        raise UnknownBatch(batch_id)
    tenant = tenant_of(request)
    batch = await request.app[BACKEND].store.read_batch(batch_id)
    if batch is None or batch.state in UNACCEPTED_STATES or batch.tenant != tenant:
        raise UnknownBatch(batch_id)
    if batch.is_forgotten(request.app[CLOCK].now()):
        raise UnknownBatch(batch_id)
    return batch
