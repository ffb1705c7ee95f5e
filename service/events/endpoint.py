"""GET /batch/{id}/events: the status of a batch whenever it changes, and with `?outcomes=1` its outcomes in order."""

from aiohttp import hdrs, web

from penstock.batch import Batch
from penstock.errors import MalformedRequest, NoAccess, Overloaded, Unavailable
from penstock.negotiation import choose_type
from penstock.service.batches.results import Cursor
from penstock.service.batches.status import batch_id_of
from penstock.service.events.framing import MEDIA_TYPE, ended_version
from penstock.service.events.outcomes import OUTCOMES, Block
from penstock.service.events.stream import HEADERS, Stream, open_stream
from penstock.service.events.watching import Seen, watching
from penstock.service.keys import CALLER, SHARE
from penstock.service.paging import read_once

LAST_EVENT_ID = "Last-Event-ID"


async def batch_events(request: web.Request) -> web.StreamResponse:
    """Send events until the batch is final. Answer 204 to a client that has received the end, so that it stops.

    Browsers connect again after each end of a stream, unless the answer is not 200.
    """
    choose_type(", ".join(request.headers.getall(hdrs.ACCEPT, ())), (MEDIA_TYPE,))
    wants_outcomes = _read_options(request)
    last_event_id = request.headers.get(LAST_EVENT_ID, "")
    async with watching(request.app, batch_id_of(request), request[CALLER]) as watch:
        if watch.newest.is_final and ended_version(last_event_id) == watch.newest.version:
            return web.Response(status=204, headers={hdrs.CACHE_CONTROL: HEADERS[hdrs.CACHE_CONTROL]})
        cursor = _cursor_behind(last_event_id, watch.newest.batch) if wants_outcomes else None
        if request.method == hdrs.METH_HEAD:
            return await _only_headers(request)
        async with open_stream(request, watch) as stream:
            async for seen in stream.changes():
                if cursor is None:
                    await stream.send(seen.frames().progress)
                else:
                    await stream.send(seen.frames().progress_without_id)
                    cursor = await _send_outcomes(request, stream, seen, cursor)
                if seen.is_final:
                    await stream.send(seen.frames().end)
        return stream.answer


async def _only_headers(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers=HEADERS)
    await answer.prepare(request)
    return answer


async def _send_outcomes(request: web.Request, stream: Stream, seen: Seen, cursor: Cursor) -> Cursor:
    """Send the outcomes that follow a position, and return the position behind them."""
    while True:
        block = await _block_after(request, seen, cursor)
        if block is None:
            await stream.pause()
            continue
        if not block.events:
            return cursor
        await stream.do_what_is_due()  # a client that reads slowly is here for hours
        await stream.send(block.events)
        request[SHARE].take(0)
        cursor = block.cursor


async def _block_after(request: web.Request, seen: Seen, cursor: Cursor) -> Block | None:
    """Return the next outcomes. Return None if AWS or the memory is not available at the moment.

    A client that is sent away then does not come again.
    """
    try:
        block = await request.app[OUTCOMES].after(seen, cursor)
        request[SHARE].grow_to(len(block.events))
    except (Unavailable, NoAccess, Overloaded):
        return None
    return block


def _read_options(request: web.Request) -> bool:
    """Return True if the client wants outcomes, too. Raises MalformedRequest for anything else in the query."""
    for name in request.query:
        if name != "outcomes":
            raise MalformedRequest(f"The parameter {name!r} is unknown. Use outcomes=1, or none.")
    given = read_once(request, "outcomes")
    if given not in {None, "0", "1"}:
        raise MalformedRequest(f"Invalid outcomes {given!r}. Use 1 to get the outcomes, too.")
    return given == "1"


def _cursor_behind(last_event_id: str, batch: Batch) -> Cursor:
    """Return the position behind the last event that the client has received.

    A client that has received the end has all outcomes. If a retry replaces some of them, they are not sent again.
    """
    if not last_event_id:
        return Cursor()
    if ended_version(last_event_id) is not None:
        return Cursor(index=batch.total - 1)
    cursor = Cursor.parse(last_event_id)
    if cursor is None or cursor.index >= batch.total:
        raise MalformedRequest(
            f"Invalid Last-Event-ID {last_event_id!r}. Send the id of the last event that you got from this batch with "
            "outcomes=1, or none."
        )
    return cursor
