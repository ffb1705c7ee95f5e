"""GET /console/batch/{id} and its buttons: how far one batch is, and what to do about it."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from penstock.service.batches.cancel import cancel_batch
from penstock.service.batches.choice import EVERYTHING, choice_of
from penstock.service.batches.retry import retry_failures
from penstock.service.batches.status import batch_id_of, find_status
from penstock.service.batches.steer import change_batch, steering_of
from penstock.service.console.forms import read_choice_field, read_form, to_number
from penstock.service.console.live import LIVE, Point, note_progress
from penstock.service.console.progress import bar_of, chart_of, rate_of
from penstock.service.console.rendering import back_to, page
from penstock.service.console.texts import to_seconds
from penstock.service.content import parse_json
from penstock.service.keys import BACKEND, CALLER, CLOCK


async def show(request: web.Request) -> web.Response:
    status = await read_shared_status(request)
    history = request.app[LIVE].history
    seen = history.of(status["batchId"])
    return page(
        request,
        "batch.html",
        batch=status,
        has_bucket=request.app[BACKEND].bucket is not None,
        bar=bar_of(status),
        rate=rate_of(status, history.rate(status["batchId"]), request.app[CLOCK].now()),
        chart=chart_of(_points(status, seen)),
    )


async def read_shared_status(request: web.Request) -> dict[str, Any]:
    """Return the status of the batch in the path. All who may see it share one read a second."""
    live, batch_id, caller = request.app[LIVE], batch_id_of(request), request[CALLER]
    return await live.read(("status", batch_id, caller.tenant, caller.scopes), lambda: _read_status(request))


async def _read_status(request: web.Request) -> dict[str, Any]:
    status = await find_status(request)
    note_progress(request.app, status)
    return status


async def cancel(request: web.Request) -> web.Response:
    await cancel_batch(request)
    return _changed(request, "cancelled")


async def retry(request: web.Request) -> web.Response:
    """Retry all failures of the batch, or those of one cause. A form has the cause as the API expects it, as JSON."""
    given = await read_choice_field(request, "choice")
    choice = EVERYTHING if given is None else choice_of(parse_json(given.encode()))
    count = await retry_failures(request, choice)
    return _changed(request, "retried" if count else "nothing-to-retry", count)


async def change(request: web.Request) -> web.Response:
    """Pause or resume the batch, or change its priority or its concurrency."""
    changes = _changes(await read_form(request))
    await change_batch(request, steering_of(changes))
    done = {True: "paused", False: "resumed", None: "changed"}[changes.get("paused")]
    return _changed(request, done)


def _changes(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a form as the API expects them. An empty number removes a limit."""
    changes: dict[str, Any] = {}
    for name, text in form.items():
        if name == "paused":
            changes[name] = text == "true"
        elif name == "concurrency":
            changes[name] = to_number(text)
        else:
            changes[name] = text
    return changes


def _changed(request: web.Request, done: str, count: int | None = None) -> web.Response:
    """Show the batch again as it is now."""
    batch_id = batch_id_of(request)
    request.app[LIVE].forget("status", batch_id)
    return back_to(f"/console/batch/{batch_id}", done, count)


def _points(status: dict[str, Any], seen: list[Point]) -> list[Point]:
    """Return the points of the chart in their order. There are none if nobody watched the batch."""
    if not seen:
        return []
    end = _end(status)
    # The batch may be read before it is final, and noted after that. It may also be noted before it starts.
    noted = (Point(one.at, status["completed"]) if end and one.at >= end[0].at else one for one in seen)
    return sorted([*_start(status), *noted, *end])


def _start(status: dict[str, Any]) -> list[Point]:
    """Return the point at which the batch started, which is known although nobody may have watched it."""
    return [Point(to_seconds(status["startedAt"]), 0)] if status["startedAt"] else []


def _end(status: dict[str, Any]) -> list[Point]:
    is_known = status["startedAt"] and status["finishedAt"]
    return [Point(to_seconds(status["finishedAt"]), status["completed"])] if is_known else []
