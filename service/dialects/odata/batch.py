"""POST /$batch: runs a batch, and answers with its responses, or with its monitor.

Without `respond-async`, OData allows no 202. So a batch that is too large to run immediately is waited for, as long as
a small one may take. If it has not finished by then, the answer has no responses yet, and a link to them.
"""

from functools import partial
from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from penstock.chunk import UrlRule
from penstock.documents.pointer import pointer
from penstock.errors import Flaw, InvalidRequest, LimitPassed, UnsupportedContent
from penstock.negotiation import choose_type
from penstock.operations import Operations
from penstock.reading.flaws import Flaws
from penstock.route import InvalidOperation, Route
from penstock.service.base_url import public_url, root_path
from penstock.service.content import JSON, check_type
from penstock.service.dialects.dialect import Problem
from penstock.service.dialects.odata.answers import answer, check_query, write_problem
from penstock.service.dialects.odata.headers import applied_on_error, check_versions, stops_at_error
from penstock.service.dialects.odata.monitor import answer_or_link, monitor_headers
from penstock.service.dialects.odata.request_object import unknown_members
from penstock.service.dialects.odata.responses import batch_response
from penstock.service.dialects.odata.translation import URLS, NotOffered, Translation
from penstock.service.dialects.odata.urls import ServiceRoot
from penstock.service.intake.draft import Draft
from penstock.service.intake.preferences import read_preferences
from penstock.service.intake.reading import OPERATIONS_IN_TURN, Read, add_operations, read_document
from penstock.service.intake.submit import Accepted, Submitted, headers_of, submit
from penstock.service.json_answer import BodyAnswer
from penstock.service.keys import CLOCK, OPERATIONS, SETTINGS, TURNS
from penstock.service.public_urls import path_in_app
from penstock.service.schemas import BatchOptions

_ENVELOPE = -1


async def run_batch(request: web.Request) -> web.StreamResponse:
    """Run or accept the batch in the body of a request."""
    started_at = request.app[CLOCK].monotonic()
    check_versions(request.headers)
    check_query(request, ("$format",))
    _check_type(request)
    choose_type(", ".join(request.headers.getall(hdrs.ACCEPT, ())), (JSON,))
    try:
        submitted = await submit(request, _read, batch_response)
    except NotOffered as error:
        return write_problem(request, _problem_of(error))
    preferences = read_preferences(", ".join(request.headers.getall("Prefer", ())))
    headers = _headers_of(request, submitted)
    if not isinstance(submitted, Accepted):
        return answer(request, BodyAnswer(body=submitted.body, content_type=JSON), headers)
    if preferences.respond_async:
        return answer(request, web.Response(status=202), {**monitor_headers(submitted.batch_id, 1), **headers})
    seconds = request.app[SETTINGS].sync_seconds
    if preferences.wait_seconds is not None:
        seconds = min(seconds, preferences.wait_seconds)
    return answer(request, await answer_or_link(request, submitted.batch_id, started_at + seconds), headers)


def _check_type(request: web.Request) -> None:
    if request.content_type.startswith("multipart/"):
        raise UnsupportedContent("Multipart batches are not offered. Send the batch as application/json (OData 4.01).")
    check_type(request, [JSON])


async def _read(request: web.Request, draft: Draft) -> Read:
    """Read the batch of a request into the draft. Raises InvalidRequest, LimitPassed or NotOffered."""
    document = await read_document(request)
    requests = _requests_of(document.value, request.app[SETTINGS].max_operations)
    stops = stops_at_error(request.headers)
    find_route = partial(_find_route, request.app[OPERATIONS])
    root = _service_root(request)
    translation = Translation(root, find_route, stops_at_error=stops)
    for index, one in enumerate(requests):
        translation.add(index, one)
        if index % OPERATIONS_IN_TURN == OPERATIONS_IN_TURN - 1:
            await request.app[TURNS].next()
    translation.finish()
    draft.read_urls(UrlRule(URLS, tuple(sorted(root.hosts)), root.prefixes))
    draft.accept_invalid(unknown=True)  # an invalid individual request gets a response of its own
    await add_operations(request, draft, translation.operations, document.size)
    return Read(BatchOptions(), f"odata {stops} {document.fingerprint}")


def _requests_of(document: Any, most: int) -> list[Any]:
    """Return the individual requests of a batch. Raises InvalidRequest, or LimitPassed."""
    flaws = Flaws()
    requests = document.get("requests") if isinstance(document, dict) else None
    if requests == []:
        flaws.add(_ENVELOPE, Flaw("/requests", "The batch has no requests. It needs at least one."))
    elif not isinstance(requests, list):
        detail = 'A batch is a JSON object with a list: {"requests": [{"id": "1", "method": "GET", "url": "users/1"}]}'
        flaws.add(_ENVELOPE, Flaw("/requests", f"{detail}."))
    for name in unknown_members(document if isinstance(document, dict) else ()):
        if name != "requests":
            flaws.add(_ENVELOPE, Flaw(pointer(name), "This member is unknown. A batch has the member requests."))
    if flaws.count:
        raise InvalidRequest(flaws.listed, flaws.count)
    assert isinstance(requests, list)
    if len(requests) > most:
        raise LimitPassed(
            f"The batch has {len(requests):,} requests. The limit is {most:,}.", limit={"maxRequests": most}
        )
    return requests


def _find_route(operations: Operations[Any], method: str, path: str) -> Route | None:
    try:
        return operations.match(method, path)
    except InvalidOperation:
        return None


def _service_root(request: web.Request) -> ServiceRoot:
    """Return the part of a URL that leads to the service: everything before `/$batch`."""
    version = path_in_app(request).rpartition("/")[0]
    prefixes = (root_path() + version, version, root_path())
    hosts = {request.host.lower(), urlsplit(public_url("/")).netloc.lower()}
    return ServiceRoot(frozenset(hosts - {""}), tuple(prefix for prefix in dict.fromkeys(prefixes) if prefix))


def _headers_of(request: web.Request, submitted: Submitted) -> dict[str, str]:
    headers = headers_of(submitted)
    continuing = applied_on_error(request.headers)
    if continuing is not None:
        applied = [headers["Preference-Applied"]] if "Preference-Applied" in headers else []
        headers["Preference-Applied"] = ", ".join([*applied, continuing])
    return headers


def _problem_of(error: NotOffered) -> Problem:
    errors = [{"pointer": flaw.pointer, "detail": flaw.detail} for flaw in error.flaws]
    body = {"type": "about:blank", "title": "Not Implemented", "detail": str(error), "errors": errors}
    return Problem(501, {**body, "errorCount": error.count}, {})
