"""POST /batch/{id}/cancel: what runs finishes, what has not begun is cancelled."""

from aiohttp import web

from penstock.batch import BatchState, Ending
from penstock.errors import NotPossibleNow
from penstock.service.batches.status import find_batch, read_status
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SETTINGS
from penstock.telemetry import Event, get_log

REASON = "Cancelled on request."


async def cancel_batch(request: web.Request) -> web.Response:
    """202 with the batch's status; asked again, the same, even once it is final. 409 for one that ended otherwise."""
    batch = await find_batch(request)
    now = request.app[CLOCK].now()
    settle_by = now if batch.is_early(now) else now + request.app[SETTINGS].settle_seconds  # if early, nothing runs
    if not await request.app[BACKEND].store.end_batch(batch.id, Ending.CANCELLED, REASON, settle_by=settle_by):
        batch = await find_batch(request)
        if batch.state not in {BatchState.CANCELLING, BatchState.CANCELLED}:
            raise NotPossibleNow(f"The batch is {batch.state} already; there is nothing left to cancel.")
    get_log().info(Event.BATCH_ENDED, batch_id=batch.id, ending=Ending.CANCELLED, reason=REASON)
    return json_answer(await read_status(request, await find_batch(request)), status=202)
