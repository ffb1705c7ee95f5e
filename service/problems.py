"""Answers errors as HTTP problems (RFC 9457). This is the only file that knows the HTTP status of an error."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from penstock.api_key import Redaction
from penstock.errors import (
    AcceptanceLost,
    AcceptanceUnknown,
    Flaw,
    FromWebPage,
    InvalidRequest,
    KeyEnded,
    KeyInUse,
    KeyReplaced,
    KeyReused,
    LimitPassed,
    MalformedRequest,
    Misconfigured,
    Misdirected,
    MissingScope,
    NewerVersion,
    NoAccess,
    NoSuchVersion,
    NotAcceptable,
    NotAuthenticated,
    NotConfigured,
    NotPossibleNow,
    Overloaded,
    PenstockError,
    QuotaExceeded,
    RejectedCall,
    RunsNoMore,
    TooLargeForAws,
    TooSlow,
    Unavailable,
    UnknownApiKey,
    UnknownBatch,
    UnknownDelivery,
    UnknownEndpoint,
    UnknownExport,
    UnknownQueue,
    UnknownUpload,
    UnsupportedContent,
    UploadReplaced,
    WebhookConflict,
)
from penstock.service.decompression import MEMBERS
from penstock.service.json_answer import json_answer
from penstock.service.keys import PATHS_HINT, SETTINGS
from penstock.service.request_ids import HEADER, request_id
from penstock.service.schemas import flaws_body, status_url
from penstock.telemetry import Event, get_log

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
QUOTA_EXCEEDED_TITLE = "Request cannot be satisfied as assigned quota has been exceeded"  # as it is registered
_UNREADABLE = "The request is not valid HTTP, or its first line or one of its headers is too long."
_BROKEN = "The server failed unexpectedly. The error is in its log."

_PROBLEMS: dict[type[PenstockError], tuple[HTTPStatus, str, str]] = {
    MalformedRequest: (HTTPStatus.BAD_REQUEST, "malformed-request", "The request cannot be read"),
    NotAuthenticated: (HTTPStatus.UNAUTHORIZED, "not-authenticated", "A valid key is missing"),
    MissingScope: (HTTPStatus.FORBIDDEN, "missing-scope", "The key does not allow this"),
    FromWebPage: (HTTPStatus.FORBIDDEN, "from-web-page", "Web pages are not answered"),
    Misdirected: (HTTPStatus.MISDIRECTED_REQUEST, "misdirected", "The Host header names another server"),
    TooSlow: (HTTPStatus.REQUEST_TIMEOUT, "too-slow", "The body arrived too slowly"),
    UnknownBatch: (HTTPStatus.NOT_FOUND, "unknown-batch", "The batch does not exist"),
    UnknownExport: (HTTPStatus.NOT_FOUND, "unknown-export", "The export does not exist"),
    UnknownUpload: (HTTPStatus.NOT_FOUND, "unknown-upload", "The upload does not exist"),
    UploadReplaced: (HTTPStatus.PRECONDITION_FAILED, "upload-replaced", "The uploaded file has changed"),
    NoSuchVersion: (HTTPStatus.PRECONDITION_FAILED, "no-such-version", "The condition of the request is not met"),
    UnknownQueue: (HTTPStatus.NOT_FOUND, "unknown-queue", "The queue does not exist"),
    UnknownEndpoint: (HTTPStatus.NOT_FOUND, "unknown-endpoint", "The webhook endpoint does not exist"),
    UnknownDelivery: (HTTPStatus.NOT_FOUND, "unknown-delivery", "The delivery does not exist"),
    WebhookConflict: (HTTPStatus.CONFLICT, "webhook-conflict", "The state of the webhook does not allow this"),
    NotConfigured: (HTTPStatus.NOT_IMPLEMENTED, "not-configured", "This needs a setting of the service"),
    UnknownApiKey: (HTTPStatus.NOT_FOUND, "unknown-key", "The key does not exist"),
    NotAcceptable: (HTTPStatus.NOT_ACCEPTABLE, "not-acceptable", "None of the accepted types is available"),
    NotPossibleNow: (HTTPStatus.CONFLICT, "not-possible-now", "The state of the batch does not allow this"),
    KeyEnded: (HTTPStatus.CONFLICT, "key-ended", "The key has ended"),
    KeyReplaced: (HTTPStatus.CONFLICT, "key-replaced", "The key was replaced already"),
    KeyInUse: (HTTPStatus.CONFLICT, "key-in-use", "The first request with this key is still in progress"),
    RunsNoMore: (HTTPStatus.CONFLICT, "runs-no-more", "The batch does not run again with this key"),
    KeyReused: (HTTPStatus.UNPROCESSABLE_ENTITY, "key-reused", "This key was used for another request"),
    LimitPassed: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "limit-passed", "The request is too large"),
    UnsupportedContent: (
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported-content",
        "The type or encoding of the body is not supported",
    ),
    InvalidRequest: (HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", "The request is invalid"),
    QuotaExceeded: (HTTPStatus.TOO_MANY_REQUESTS, QUOTA_EXCEEDED, QUOTA_EXCEEDED_TITLE),
    Overloaded: (HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "The service has too much to do"),
    AcceptanceLost: (HTTPStatus.SERVICE_UNAVAILABLE, "not-accepted", "The batch could not be accepted in time"),
    AcceptanceUnknown: (
        HTTPStatus.GATEWAY_TIMEOUT,
        "acceptance-unknown",
        "It is not known yet whether the batch was accepted",
    ),
    Unavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "The service is temporarily unavailable"),
    NewerVersion: (HTTPStatus.SERVICE_UNAVAILABLE, "newer-version", "The batch was written by a newer version"),
    NoAccess: (HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "The service is temporarily unavailable"),
    TooLargeForAws: (
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "too-large-to-store",
        "The request is too large to be stored",
    ),
    RejectedCall: (HTTPStatus.INTERNAL_SERVER_ERROR, "not-stored", "The request could not be stored or answered"),
    Misconfigured: (HTTPStatus.INTERNAL_SERVER_ERROR, "misconfigured", "The service is not configured correctly"),
}

_SHORT_TROUBLE = (KeyInUse, Overloaded, NewerVersion, Unavailable, AcceptanceLost, NoAccess)

# What a client reads instead of an error that names parts of this installation.
_TOLD: dict[type[PenstockError], tuple[Event, str]] = {
    NoAccess: (Event.AWS_UNAVAILABLE, "The server has no access to AWS at the moment. The error is in its log."),
    TooLargeForAws: (
        Event.BATCH_REJECTED,
        "A part of the request is larger than AWS stores. Send fewer or shorter values. No operation of a batch runs.",
    ),
    RejectedCall: (
        Event.REQUEST_BROKE,
        "AWS rejected it, and sending it again will not help. The error is in the log. No operation of a batch runs.",
    ),
    Misconfigured: (
        Event.REQUEST_BROKE,
        "The server is not configured correctly. The error is in its log.",
    ),
}

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def problems(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """Answer every error as a problem. An unexpected error is logged, and the client does not see its text."""
    redaction = request.app[SETTINGS].redaction
    try:
        return await handler(request)
    except PenstockError as error:
        return _known_problem(error, redaction, request_id(request))
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        headers = {name: value for name, value in error.headers.items() if name == "Allow"}
        hint = redaction.cut(_route_hint(request, error))
        return _problem(error.status, "about:blank", error.reason, hint, headers=headers)
    except Exception:  # noqa: BLE001 - the last resort: logged here with its traceback, answered as 500
        id_, path = request_id(request), redaction.cut(request.path)
        get_log().exception(Event.REQUEST_BROKE, request_id=id_, method=request.method, path=path)
        return _problem(500, "about:blank", "Internal Server Error", _BROKEN, members={"requestId": id_})


class UnparsedAnswer(web.Response):
    """The answer to a request that cannot be parsed. No signal of the application sets its headers."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.pop("Server", None)


def protocol_problem(status: int, id_: str) -> web.Response:
    """Return the answer to a request that aiohttp cannot parse. `id_` is the id of the request."""
    title = HTTPStatus(status).phrase
    detail = _UNREADABLE if status < HTTPStatus.INTERNAL_SERVER_ERROR else _BROKEN
    headers = {"X-Content-Type-Options": "nosniff", HEADER: id_}
    problem = _problem(status, "about:blank", title, detail, headers=headers)
    return UnparsedAnswer(body=problem.body, status=status, headers=problem.headers)


def as_problem(error: web.HTTPException) -> web.Response:
    """Return the answer to a request that aiohttp rejects before the middleware sees it."""
    return _problem(error.status, "about:blank", error.reason, f"{error.reason}. Send the request without it.")


def example_of(error: PenstockError) -> dict[str, Any]:
    """Return the body of an error's answer, for the description of the API."""
    status, slug, title = _PROBLEMS[type(error)]
    return {"type": _kind(slug), "title": title, "status": int(status), "detail": str(error)}


def _known_problem(error: PenstockError, redaction: Redaction, id_: str) -> web.Response:
    status, slug, title = _PROBLEMS[type(error)]
    detail = redaction.cut(str(error))
    headers = _retry_after(error)
    members: dict[str, Any] = {}
    match error:
        case InvalidRequest(flaws=flaws, count=count):
            members = _flaws(flaws, count, redaction)
        case LimitPassed(flaws=flaws, count=count, limit=limit):
            members = {**limit, **_flaws(flaws, count, redaction)}
        case AcceptanceUnknown(batch_id=batch_id):
            # No Retry-After: if the client sends the request again, it could create a second batch.
            members = {"batchId": batch_id, "statusUrl": status_url(batch_id)}
            get_log().error(Event.AWS_UNAVAILABLE, request_id=id_, error=detail)
        case NotAuthenticated() | MissingScope():
            headers["WWW-Authenticate"] = _challenge(error)
            members = {"scope": error.scope} if isinstance(error, MissingScope) else {}
        case UnsupportedContent(patch_type=patch_type):
            headers["Accept-Encoding"] = ", ".join(MEMBERS)
            if patch_type is not None:
                headers["Accept-Patch"] = patch_type
        case QuotaExceeded(policy=policy):
            members = {"violated-policies": [policy]}
        case Unavailable() | AcceptanceLost():
            get_log().error(Event.AWS_UNAVAILABLE, request_id=id_, error=detail)
        case Misconfigured() | RejectedCall():
            detail = _keep_in_log(error, id_)
            members = {"requestId": id_}
    return _problem(status, _kind(slug), title, detail, members=members, headers=headers)


def _retry_after(error: PenstockError) -> dict[str, str]:
    """Return the header that says when to send the request again, if that can help."""
    if isinstance(error, QuotaExceeded):
        return {"Retry-After": str(error.retry_after_seconds)}
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if isinstance(error, _SHORT_TROUBLE) else {}


def _kind(slug: str) -> str:
    """Return the type of a problem: it is registered, or one of ours."""
    return slug if slug.startswith("https:") else f"urn:penstock:problem:{slug}"


def _challenge(error: NotAuthenticated | MissingScope) -> str:
    """Return what a client needs, as RFC 6750 writes it."""
    if isinstance(error, MissingScope):
        return f'Bearer error="insufficient_scope", scope="{error.scope}"'
    return 'Bearer error="invalid_token"' if error.has_key else "Bearer"


def _keep_in_log(error: PenstockError, id_: str) -> str:
    """Log an error with details of this installation. Return what its client may know."""
    event, told = _TOLD[type(error)]
    get_log().error(event, request_id=id_, error=str(error))
    return told


def _flaws(flaws: tuple[Flaw, ...], count: int, redaction: Redaction) -> dict[str, Any]:
    return flaws_body(flaws, count, redaction) if flaws else {}


def _route_hint(request: web.Request, error: web.HTTPException) -> str:
    if error.status == HTTPStatus.NOT_FOUND:
        return f"The path {request.path} does not exist. {request.app[PATHS_HINT]}"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.path} does not support {request.method}. Use {' or '.join(sorted(error.allowed_methods))}."
    return error.text or error.reason


def _problem(
    status: int,
    kind: str,
    title: str,
    detail: str,
    *,
    members: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    # Header bytes that are not UTF-8 arrive as lone surrogates, which JSON cannot express.
    readable = detail.encode("utf-8", "replace").decode()
    body = {"type": kind, "title": title, "status": int(status), "detail": readable, **(members or {})}
    return json_answer(body, status=status, headers=headers, content_type=CONTENT_TYPE)
