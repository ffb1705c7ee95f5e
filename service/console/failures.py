"""GET /console/batch/{id}/failures: what failed, by its cause, with some rows of each."""

from aiohttp import web

from penstock.service.batches.failures import find_failures
from penstock.service.batches.status import batch_id_of
from penstock.service.console.batch import read_shared_status
from penstock.service.console.live import LIVE
from penstock.service.console.rendering import page, viewer_of
from penstock.service.keys import CALLER
from penstock.service.paging import read_once

READ_SECONDS = 5.0  # they are found in the records of the batch, so they cost more than its status


async def show(request: web.Request) -> web.Response:
    batch_id, cursor, caller = batch_id_of(request), read_once(request, "cursor"), request[CALLER]
    status = await read_shared_status(request)
    key = ("failures", batch_id, cursor, status["failed"], caller.tenant, caller.scopes)
    found = await request.app[LIVE].read(key, lambda: find_failures(request, cursor), READ_SECONDS)
    may_retry = viewer_of(request).may_write and status["finishedAt"] is not None
    return page(request, "failures.html", found=found, cursor=cursor, may_retry=may_retry)
