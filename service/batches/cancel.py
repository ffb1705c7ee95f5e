"""POST /batch/{id}/cancel: operations that are running finish, and all others are cancelled."""

from contextlib import suppress

from aiohttp import web

from penstock.batch import Batch, BatchState, Counts, Ending
from penstock.errors import NotPossibleNow, PenstockError
from penstock.sending import ChunkSender
from penstock.service.audit import Action, auditing
from penstock.service.batches.status import find_batch, find_progress, find_status
from penstock.service.content import check_no_options
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SETTINGS
from penstock.telemetry import Event, get_log
from penstock.webhooks.event import new_event

REASON = "Cancelled on request."


async def cancel_batch(request: web.Request) -> web.Response:
    """Answer 202 with the status, also if the batch is cancelled already. Answer 409 if it ended in another way."""
    await check_no_options(request)
    await cancel(request, (await find_progress(request)).batch, REASON)
    return json_answer(await find_status(request), status=202)


async def cancel(request: web.Request, batch: Batch, reason: str) -> None:
    """Cancel a batch for its client. Raises NotPossibleNow if it ended in another way."""
    with auditing(request, Action.CANCEL, batch_id=batch.id, batch_tenant=batch.tenant):
        await _cancel(request, batch, reason)
    get_log().info(Event.BATCH_ENDED, batch_id=batch.id, ending=Ending.CANCELLED, reason=reason)


async def _cancel_validation(request: web.Request, batch: Batch, reason: str, now: float) -> bool:
    """End a batch whose uploaded file is not validated yet. Return False if it has been accepted meanwhile."""
    app, event = request.app, new_event(batch, BatchState.CANCELLED, Counts(), now)
    if not await app[BACKEND].store.end_planning(
        batch.id, BatchState.CANCELLED, now, reason, ending=Ending.CANCELLED, event=event
    ):
        return False
    with suppress(PenstockError):  # a consumer gives back what was charged; otherwise the charge lapses
        await ChunkSender(app[BACKEND], app[SETTINGS], app[CLOCK]).ask_to_plan(batch)
    return True


async def _cancel(request: web.Request, batch: Batch, reason: str) -> None:
    now = request.app[CLOCK].now()
    if batch.state is BatchState.VALIDATING and await _cancel_validation(request, batch, reason, now):
        return
    # Before its notBefore time, no operation of a batch is running, so there is nothing to wait for.
    settle_seconds = 0 if batch.is_early(now) else request.app[SETTINGS].settle_seconds
    settle_by = now + settle_seconds
    if batch.is_final:
        ended = batch
    elif await request.app[BACKEND].store.end_batch(batch.id, Ending.CANCELLED, reason, settle_by=settle_by):
        return
    else:
        ended = await find_batch(request)
    is_asked_again = (ended.ending, ended.reason) == (Ending.CANCELLED, reason)  # perhaps nothing was left to cancel
    if ended.state not in {BatchState.CANCELLING, BatchState.CANCELLED} and not is_asked_again:
        raise NotPossibleNow(f"The batch is already {ended.state}, so it cannot be cancelled.")
