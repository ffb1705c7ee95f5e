"""GET and DELETE /$batch/{batch_id}: the status monitor of a batch (OData Protocol, section 11.6).

While the batch runs, the answer is 202. After its end it is what the batch would have been answered with, in pages.
DELETE cancels the batch. After that there is no monitor any more.
"""

from collections.abc import Iterable
from contextlib import aclosing

from aiohttp import hdrs, web
from pydantic_core import from_json

from penstock.batch import Batch
from penstock.chunk import group_of
from penstock.errors import MalformedRequest, UnknownBatch
from penstock.negotiation import choose_type
from penstock.service.base_url import public_url
from penstock.service.batches.cancel import cancel
from penstock.service.batches.results import PAGE_OUTCOMES, Cursor, Reading, Wanted, read_page
from penstock.service.batches.status import Progress, find_progress, poll_seconds, read_progress
from penstock.service.content import JSON
from penstock.service.dialects.odata.answers import answer, check_query
from penstock.service.dialects.odata.headers import VERSION, answer_version, check_versions
from penstock.service.dialects.odata.responses import NEXT_LINK, response_object
from penstock.service.json_answer import BodyAnswer, encode, json_answer
from penstock.service.keys import BACKEND, CLOCK, LEAVING, SHARE, TURNS

HTTP = "application/http"
ASYNC_RESULT = "AsyncResult"
CANCELLED_HERE = "Cancelled with DELETE on its monitor."
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.5
_TOKEN = "$skiptoken"  # noqa: S105 - a position in the results


async def batch_monitor(request: web.Request) -> web.StreamResponse:
    """Answer 202 while the batch runs, and then with its responses."""
    check_versions(request.headers)
    check_query(request, (_TOKEN,))
    kind = _kind(request)
    progress = await find_progress(request)
    _check_not_cancelled(progress.batch)
    if not progress.batch.is_final:
        return answer(request, web.Response(status=202), _running(request, progress))
    page = await _page(request, progress.batch, _cursor(request))
    if kind == HTTP:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\n{VERSION}: {answer_version(request.headers)}\r\n\r\n"
        return answer(request, BodyAnswer(body=head.encode() + page, content_type=HTTP), {})
    return answer(request, BodyAnswer(body=page, content_type=JSON), {ASYNC_RESULT: "200"})


async def cancel_monitor(request: web.Request) -> web.StreamResponse:
    """Cancel the batch. What is running finishes. Answer 409 if the batch has ended already."""
    check_versions(request.headers)
    batch = (await find_progress(request)).batch
    _check_not_cancelled(batch)
    await cancel(request, batch, CANCELLED_HERE)
    return answer(request, web.Response(status=204), {})


async def answer_or_link(request: web.Request, batch_id: str, until: float) -> web.Response:
    """Wait until the batch is final. If it is not in time, answer with a link to the monitor, which has its responses.

    `until` is a time of the monotonic clock.
    """
    clock, pause = request.app[CLOCK], FIRST_PAUSE_SECONDS
    progress = await read_progress(request.app, batch_id)
    while not progress.batch.is_final:
        left = until - clock.monotonic()
        if left <= 0 or request.app[LEAVING].is_set():
            return json_answer({"responses": [], NEXT_LINK: _monitor_url(batch_id)})
        await clock.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        progress = await read_progress(request.app, batch_id)
    return BodyAnswer(body=await _page(request, progress.batch, Cursor()), content_type=JSON)


def monitor_headers(batch_id: str, seconds: int) -> dict[str, str]:
    """Return where the monitor of a batch is, and when to ask it."""
    return {hdrs.LOCATION: _monitor_url(batch_id), hdrs.RETRY_AFTER: str(seconds)}


def _monitor_url(batch_id: str) -> str:
    return public_url(f"/$batch/{batch_id}")


def _running(request: web.Request, progress: Progress) -> dict[str, str]:
    seconds = poll_seconds(progress.batch, progress.counts.completed, request.app[CLOCK].now())
    return monitor_headers(progress.batch.id, seconds)


def _check_not_cancelled(batch: Batch) -> None:
    """Raise UnknownBatch after a DELETE, as OData wants it. The batch itself is still at /batch/{batch_id}."""
    if batch.reason == CANCELLED_HERE:
        raise UnknownBatch(batch.id)


def _kind(request: web.Request) -> str:
    """Return the type of the final answer. A client of OData 4.0 that accepts anything gets it as an HTTP message."""
    accepted = ", ".join(request.headers.getall(hdrs.ACCEPT, ()))
    if not accepted and answer_version(request.headers) == "4.0":
        return HTTP
    return choose_type(accepted, (JSON, HTTP))


def _cursor(request: web.Request) -> Cursor:
    given = request.query.get(_TOKEN)
    if given is None:
        return Cursor()
    cursor = Cursor.parse(given)
    if cursor is None:
        raise MalformedRequest(f"Invalid {_TOKEN} {given!r}. Use the next link of an earlier page.")
    return cursor


async def _page(request: web.Request, batch: Batch, cursor: Cursor) -> bytes:
    """Return a page of the responses of a final batch, with a link to the next one if there are more."""
    group = await request.app[BACKEND].store.read_group(batch.id, group_of(str(cursor.chunk)))
    async with aclosing(Reading(request.app, batch, Wanted(cursor, None)).windows(group)) as windows:
        lines, following = await read_page(windows, PAGE_OUTCOMES, request[SHARE], request.app[TURNS])
    link = None if following is None else f"{_monitor_url(batch.id)}?{_TOKEN}={following}"
    return _joined(_responses(lines), link)


def _responses(lines: list[bytes]) -> Iterable[bytes]:
    """Yield the response objects. Each line is dropped when it has become one, so that a page is in memory once."""
    lines.reverse()
    while lines:
        yield encode(response_object(from_json(lines.pop())))


def _joined(responses: Iterable[bytes], link: str | None) -> bytes:
    following = b"" if link is None else b',"%b":%b' % (NEXT_LINK.encode(), encode(link))
    return b'{"responses":[%b]%b}' % (b",".join(responses), following)
