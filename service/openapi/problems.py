"""The problems that endpoints answer with, as shared answers."""

from penstock.api_key import Scope
from penstock.errors import (
    AcceptanceUnknown,
    Flaw,
    InvalidRequest,
    LimitPassed,
    MalformedRequest,
    Misdirected,
    MissingScope,
    NotAcceptable,
    NotAuthenticated,
    NotConfigured,
    NotPossibleNow,
    QuotaExceeded,
    TooSlow,
    Unavailable,
    UnknownBatch,
    UnsupportedContent,
    UploadReplaced,
)
from penstock.service.openapi.answers import answer
from penstock.service.openapi.examples import BATCH_ID
from penstock.service.openapi.values import COUNT, INTEGER, TEXT, Fragment, list_of, object_of, one_of, ref
from penstock.service.problems import CONTENT_TYPE as PROBLEM
from penstock.service.problems import example_of

_ERRORS = {
    400: "The request cannot be read.",
    401: "The request has no valid key.",
    403: "The key lacks the scope that this needs, or a web page sent the request.",
    404: "The batch, the upload, the key, the webhook endpoint or the delivery does not exist.",
    406: "None of the accepted types is available.",
    408: "The body arrived too slowly.",
    409: "The state of the batch, the key or the webhook does not allow this; or the first request with this "
    "Idempotency-Key is still in progress, or its batch does not run again.",
    412: "The uploaded file was replaced or deleted while it was read; or `If-Match` has entity tags, which nothing "
    "has here.",
    413: "The request is larger than a limit. The problem names the limit.",
    415: "The type or encoding of the body is not supported.",
    421: "The Host header names another server.",
    422: "The request is invalid, or its Idempotency-Key was used for another request. No operation was run.",
    429: "The quota of the caller, or its limit of open operations or of streams, does not allow this now.",
    501: "This needs a setting of the service. The problem names it.",
    503: "The service is temporarily unavailable. Try again.",
    504: "It is not known whether the batch was accepted. Check its status. Repeat it only with an Idempotency-Key.",
}

ERRORS = list_of(object_of({"pointer": {"type": "string", "format": "json-pointer"}, "detail": TEXT}, {"line": COUNT}))

SCHEMAS: Fragment = {
    "Problem": {
        "description": "A problem as in RFC 9457. It names a limit that was exceeded, such as maxOperations.",
        **object_of(
            {"type": TEXT, "title": TEXT, "status": INTEGER, "detail": TEXT},
            {
                "errorCount": COUNT,
                "errors": ERRORS,
                "batchId": TEXT,
                "statusUrl": TEXT,
                "requestId": TEXT,
                "scope": {"description": "The scope that the key would need.", **one_of(Scope)},
                "violated-policies": {
                    "description": "The names of the quotas or limits that were exceeded.",
                    **list_of(TEXT),
                },
            },
        ),
    }
}


def problem_responses() -> Fragment:
    headers = {
        401: ["WWW-Authenticate"],
        409: ["Retry-After"],
        415: ["Accept-Encoding", "Accept-Patch"],
        429: ["Retry-After", "RateLimit-Policy", "RateLimit"],
        503: ["Retry-After"],
    }
    described = {
        str(status): answer(description, {PROBLEM: ref("Problem")}, *headers.get(status, ()))
        for status, description in _ERRORS.items()
    }
    for example in _examples():
        described[str(example["status"])]["content"][PROBLEM]["example"] = example
    return described


def _examples() -> list[Fragment]:
    """Return an example of each problem, with the members that only some problems have."""
    missing = {"pointer": "/operations/1/body/email", "detail": "Field required."}
    quota = "Nothing is left of the quota of 100,000 operations in 3,600 s. Send it again in 12 s."
    return [
        example_of(MalformedRequest("The body is not valid JSON: EOF while parsing a list at line 1 column 15.")),
        example_of(NotAuthenticated("This needs a key. Send it as: Authorization: Bearer pk_...", has_key=False)),
        {**example_of(MissingScope(Scope.WRITE)), "scope": Scope.WRITE},
        example_of(UnknownBatch(BATCH_ID)),
        example_of(NotAcceptable("This is available as application/json or application/x-ndjson.")),
        example_of(TooSlow("The body was not complete within 120 s.")),
        example_of(NotPossibleNow("The batch is completed.")),
        example_of(UploadReplaced()),
        {**example_of(LimitPassed("The batch has too many operations.", limit={})), "maxOperations": 10_000},
        example_of(UnsupportedContent("The Content-Type text/plain is not supported. Use application/json.")),
        example_of(Misdirected("The Host header names another server.")),
        {
            **example_of(InvalidRequest([Flaw(missing["pointer"], missing["detail"])])),
            "errorCount": 1,
            "errors": [missing],
        },
        {**example_of(QuotaExceeded(quota, "operations", 12)), "violated-policies": ["operations"]},
        example_of(NotConfigured("Webhooks are not configured here. Set PENSTOCK_WEBHOOK_SECRET.")),
        example_of(Unavailable("DynamoDB does not answer.")),
        {**example_of(AcceptanceUnknown(BATCH_ID)), "batchId": BATCH_ID, "statusUrl": f"/batch/{BATCH_ID}/status"},
    ]
