"""GET /openapi.json: describes the endpoints of a listener as OpenAPI 3.1.

The operations of the application are listed by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web

from penstock.api_key import Scope
from penstock.distribution import installed_version
from penstock.metrics.exposition import OPEN_METRICS, TEXT
from penstock.operations import Operations
from penstock.outcome import OutcomeState
from penstock.priority import Priority
from penstock.service.batches.listing import ALL_TENANTS, PAGE_BATCHES
from penstock.service.batches.listing import LONGEST_PAGE as LONGEST_LIST
from penstock.service.batches.steer import Steering
from penstock.service.content import JSON, MERGE_PATCH, NDJSON
from penstock.service.decompression import MEMBERS
from penstock.service.events.framing import MEDIA_TYPE
from penstock.service.intake.idempotency import HEADER, LONGEST_KEY
from penstock.service.json_answer import json_answer
from penstock.service.keys import DESCRIBED_SCOPES, OPERATIONS, SETTINGS
from penstock.service.operators.api_keys import KeyRequest, RotateRequest
from penstock.service.operators.dead_letters import RedriveRequest
from penstock.service.paging import LONGEST_PAGE
from penstock.service.problems import CONTENT_TYPE as PROBLEM
from penstock.service.request_ids import HEADER as HEADER_OF_REQUEST_ID
from penstock.service.schemas import SHOWN_STATES, BatchOptions, BatchRequest, OperationRequest
from penstock.service.webhooks.endpoints import EndpointChange, EndpointRequest
from penstock.settings import Settings
from penstock.webhooks.delivery import DeliveryState
from penstock.webhooks.event import EventType

Fragment = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_KEY = "key"
_SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key. The roles of an operation are the scopes that the key needs.",
}
_ERRORS = {
    400: "The request cannot be read.",
    401: "The request has no valid key.",
    403: "The key has not the scope that this needs; or a web page sent the request.",
    404: "The batch, the key, the webhook endpoint or the delivery does not exist.",
    406: "None of the accepted types is available.",
    408: "The body arrived too slowly.",
    409: "The state of the batch, the key or the webhook does not allow this; or the first request with this "
    "Idempotency-Key is still in progress, or its batch does not run again.",
    413: "The request is larger than a limit. The problem names the limit.",
    415: "The type or encoding of the body is not supported.",
    421: "The Host header names another server.",
    422: "The request is invalid, or its Idempotency-Key was used for another request. No operation was run.",
    429: "The quota of the caller, or its limit of open operations or of streams, does not allow this now.",
    501: "This needs a setting of the service. The problem names it.",
    503: "The service is temporarily unavailable. Try again.",
    504: "It is not known whether the batch was accepted. Check its status. Repeat it only with an Idempotency-Key.",
}

_REJECTED = (403, 421)  # by every endpoint for operators

Scopes = Mapping[tuple[str, str], Scope]  # by method and path


async def openapi(request: web.Request) -> web.Response:
    return json_answer(describe(request.app[SETTINGS], request.app[OPERATIONS], request.app[DESCRIBED_SCOPES]))


async def openapi_for_operators(request: web.Request) -> web.Response:
    return json_answer(describe_for_operators(request.app[SETTINGS], request.app[DESCRIBED_SCOPES]))


def describe(settings: Settings, operations: Operations[Any], scopes: Scopes) -> Fragment:
    """Describe what clients and load balancers use. If requests need a key, operators use this listener, too."""
    about = "A bulk API: one request, many operations, exact counts."
    for_operators = _paths_for_operators() if settings.needs_keys else {}
    return _document("Penstock", about, for_operators | _paths(settings, operations), settings, scopes)


def describe_for_operators(settings: Settings, scopes: Scopes) -> Fragment:
    """Describe what operators use, on the listener of `--operator-port`."""
    about = "Dead letters, keys, limits, queues and metrics. They are on a listener of their own."
    return _document("Penstock for operators", about, _paths_for_operators(), settings, scopes)


def _document(title: str, description: str, paths: Fragment, settings: Settings, scopes: Scopes) -> Fragment:
    for path, methods in paths.items():
        for method, endpoint in methods.items():
            _add_security(endpoint, scopes.get((method.upper(), path)), settings)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": installed_version(), "description": description},
        "paths": paths,
        "components": _components_of(paths, settings),
    }


def _add_security(endpoint: Fragment, scope: Scope | None, settings: Settings) -> None:
    """Say which scope a key needs for an endpoint, and whether the endpoint can be used without a key."""
    if scope is None:
        endpoint["security"] = []
        return
    endpoint["security"] = [{_KEY: [scope]}, *([] if settings.needs_keys else [{}])]
    endpoint["responses"] |= _problems(401, 403)


def _components_of(paths: Fragment, settings: Settings) -> Fragment:
    """Return the components that these paths use, and those that these use in turn."""
    components: Fragment = {
        "schemas": _request_schemas(settings) | _ANSWER_SCHEMAS,
        "parameters": _PARAMETERS,
        "headers": _HEADERS,
        "responses": _problem_responses(),
    }
    used: set[tuple[str, str]] = set()
    unread = list(_references(paths))
    while unread:
        kind, name = unread.pop()
        if (kind, name) not in used:
            used.add((kind, name))
            unread += _references(components[kind][name])
    needed = {kind: {name: parts[name] for name in parts if (kind, name) in used} for kind, parts in components.items()}
    return {**needed, "securitySchemes": {_KEY: _SECURITY_SCHEME}}


def _references(part: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of each component that a part of the document refers to."""
    match part:
        case {"$ref": str(reference)}:
            kind, name = reference.removeprefix("#/components/").split("/")
            yield kind, name
        case dict():
            for member in part.values():
                yield from _references(member)
        case list():
            for member in part:
                yield from _references(member)


def _paths(settings: Settings, operations: Operations[Any]) -> Fragment:
    of_batches = {
        "/batch": {"post": _submit(settings, operations)},
        "/batches": {"get": _list("The batches of the caller's tenant, newest first")},
        **_paths_of_a_batch(),
    }
    return {
        **_limited(of_batches),
        **_paths_of_webhooks(),
        "/health/live": {"get": _endpoint("Liveness of this front end", _answers(200, "Health"))},
        "/health/ready": {"get": _endpoint("Readiness of this front end for requests", _answers(200, "Health", 503))},
        "/openapi.json": {"get": _endpoint("This document", _description())},
    }


def _limited(paths: Fragment) -> Fragment:
    """Add the headers that say what is left of the caller's quota. They are also in the answers that are problems."""
    for endpoint in (endpoint for methods in paths.values() for endpoint in methods.values()):
        for answer in (answer for answer in endpoint["responses"].values() if "$ref" not in answer):
            _add_headers(answer, "RateLimit-Policy", "RateLimit")
    return paths


def _paths_of_a_batch() -> Fragment:
    return {
        "/batch/{batch_id}": {"get": _status(), "patch": _steer()},
        "/batch/{batch_id}/status": {"get": _status()},
        "/batch/{batch_id}/results": {"get": _results()},
        "/batch/{batch_id}/events": {"get": _events()},
        "/batch/{batch_id}/failures": {"get": _failures()},
        "/batch/{batch_id}/cancel": {
            "post": _endpoint(
                "Cancel a batch. Operations that are running finish", _batch_answers(202, "Status", 409), _ON_BATCH
            )
        },
        "/batch/{batch_id}/retry": {
            "post": _endpoint(
                "Retry the failed operations of a final batch", _batch_answers(202, "Retried", 409, 413, 429), _ON_BATCH
            )
        },
    }


def _steer() -> Fragment:
    endpoint = _endpoint(
        "Change a batch while it runs. The body is a merge patch (RFC 7396)",
        _batch_answers(200, "Status", 408, 409, 413, 415, 422),
        _ON_BATCH,
        body="Steering",
    )
    content = endpoint["requestBody"]["content"]
    endpoint["requestBody"]["content"] = {MERGE_PATCH: content[JSON], **content}
    return endpoint


def _paths_for_operators() -> Fragment:
    return {
        "/batches": {"get": _list("The batches of all tenants, newest first", *_REJECTED)},
        "/dead-letters": {
            "get": _endpoint(
                "Show some of the dead letters", _answers(200, "DeadLetters", 400, *_REJECTED, 503), ["limit"]
            )
        },
        "/dead-letters/redrive": {
            "post": _endpoint(
                "Move dead letters back to the queue, all or those of one batch",
                _answers(202, "Redriven", 400, *_REJECTED, 408, 413, 415, 422, 503),
                body="RedriveRequest",
            )
        },
        **_paths_of_keys(),
        **_paths_of_deliveries(*_REJECTED),
        "/limits": {
            "get": _endpoint(
                "The limits that all consumers share, as they last wrote them", _answers(200, "Limits", *_REJECTED, 503)
            )
        },
        **_paths_of_queues(),
        "/metrics": {"get": _metrics()},
        "/openapi.json": {"get": _endpoint("This document", _description() | _problems(*_REJECTED))},
    }


def _paths_of_queues() -> Fragment:
    answers = (400, *_REJECTED, 404, 408, 413, 415, 503)
    return {
        "/queues": {
            "get": _endpoint(
                "The queues of the priorities, and since when each is paused", _answers(200, "Queues", *_REJECTED, 503)
            )
        },
        "/queues/{priority}/pause": {
            "post": _endpoint(
                "Pause a queue for all consumers", _answers(200, "Queue", *answers), ["priority_of_queue"]
            )
        },
        "/queues/{priority}/resume": {
            "post": _endpoint("Resume a queue", _answers(200, "Queue", *answers), ["priority_of_queue"])
        },
    }


def _paths_of_webhooks() -> Fragment:
    of_body = (400, 408, 413, 415, 422, 501, 503)
    of_endpoint = (400, 404, 408, 501, 503)
    path, on_endpoint = "/v1/webhook_endpoints", ["endpoint_id"]
    return {
        path: {
            "get": _endpoint("The webhook endpoints of the tenant", _answers(200, "WebhookEndpoints", 501, 503)),
            "post": _endpoint(
                "Make a webhook endpoint. It gets the events of batches that are accepted from now on",
                _answers(201, "NewWebhookEndpoint", 409, *of_body),
                body="EndpointRequest",
            ),
        },
        f"{path}/{{endpoint_id}}": {
            "get": _endpoint("A webhook endpoint", _answers(200, "WebhookEndpoint", *of_endpoint), on_endpoint),
            "patch": _endpoint(
                "Change a webhook endpoint",
                _answers(200, "WebhookEndpoint", 404, *of_body),
                on_endpoint,
                body="EndpointChange",
            ),
            "delete": _endpoint(
                "Delete a webhook endpoint. What is still to be delivered to it fails",
                {"204": {"description": "It is deleted."}, **_problems(*of_endpoint)},
                on_endpoint,
            ),
        },
        f"{path}/{{endpoint_id}}/secret": {
            "get": _endpoint(
                "The secret of a webhook endpoint. The id `callback` is for the callbackUrl of all batches",
                _answers(200, "WebhookSecret", *of_endpoint),
                on_endpoint,
            )
        },
        f"{path}/{{endpoint_id}}/rotate_secret": {
            "post": _endpoint(
                "Replace the secret of a webhook endpoint. Events are signed with both for 24 hours",
                _answers(200, "WebhookSecret", 409, *of_endpoint),
                on_endpoint,
            )
        },
        f"{path}/{{endpoint_id}}/test": {
            "post": _endpoint(
                "Send an event of the type webhook.test",
                _answers(202, "WebhookDelivery", 409, *of_endpoint),
                on_endpoint,
            )
        },
        **_paths_of_deliveries(),
        "/webhooks/deliveries/{delivery_id}/replay": {
            "post": _endpoint(
                "Send an event again", _answers(202, "WebhookDelivery", 409, *of_endpoint), ["delivery_id"]
            )
        },
    }


def _paths_of_deliveries(*errors: int) -> Fragment:
    answers = _answers(200, "WebhookDeliveries", 400, *errors, 501, 503)
    _add_headers(answers["200"], "Link")
    return {
        "/webhooks/deliveries": {
            "get": _endpoint(
                "Deliveries of events, the newest first", answers, ["limit", "cursor", "tenant_of_deliveries"]
            )
        }
    }


def _paths_of_keys() -> Fragment:
    of_body = (400, *_REJECTED, 408, 413, 415, 422, 503)
    return {
        "/keys": {
            "get": _endpoint("All keys. Their texts are not stored", _answers(200, "Keys", *_REJECTED, 503)),
            "post": _endpoint("Make a key", _answers(201, "NewKey", *of_body), body="KeyRequest"),
        },
        "/keys/{key_id}/rotate": {
            "post": _endpoint(
                "Replace a key by a new one. The old one works until the overlap is over",
                _answers(201, "RotatedKey", 404, 409, *of_body),
                ["key_id"],
                body="RotateRequest",
                needs_body=False,
            )
        },
        "/keys/{key_id}": {
            "delete": _endpoint("Revoke a key", _answers(200, "Key", 400, *_REJECTED, 404, 408, 503), ["key_id"])
        },
    }


def _description() -> Fragment:
    return {"200": _answer("An OpenAPI document.", {JSON: {"type": "object"}})}


def _submit(settings: Settings, operations: Operations[Any]) -> Fragment:
    answers = _answers(200, "Answered", 400, 408, 409, 413, 415, 422, 429, 501, 503, 504)
    _add_headers(answers["200"], "Preference-Applied", "Idempotent-Replayed")
    answers["202"] = _answer(
        "The batch was accepted. Every operation is durable and will run.",
        {JSON: _ref("Accepted")},
        "Location",
        "Retry-After",
        "Preference-Applied",
        "Idempotent-Replayed",
    )
    parameters = ["Idempotency-Key", "Prefer", *_OPTIONS]
    endpoint = _endpoint("Run many operations", answers, parameters, body="BatchRequest")
    endpoint["requestBody"]["content"][NDJSON] = {"schema": _stream(settings)}
    offered = "\n".join(f"- `{route.name}`" for route in operations.routes)
    limit = f"Up to {settings.sync_max_operations:,} operations are run immediately and answered with their results."
    larger = "Larger batches run in the background."
    return endpoint | {"description": f"{limit} {larger}\n\nThe operations of this application:\n{offered}"}


def _stream(settings: Settings) -> Fragment:
    most = settings.max_stream_operations
    description = (
        f"One OperationRequest per line, up to {most:,}. Options are in the query, and metadata as metadata.NAME=VALUE."
    )
    return {"type": "string", "description": description}


def _status() -> Fragment:
    answers = _batch_answers(200, "Status")
    _add_headers(answers["200"], "Retry-After")
    return _endpoint("Status of a batch", answers, _ON_BATCH)


def _list(summary: str, *errors: int) -> Fragment:
    answers = _answers(200, "Batches", 400, 403, *errors, 503)
    _add_headers(answers["200"], "Link")
    filters = ["batch_status", "batch_priority", "createdAfter", "createdBefore", "tenant"]
    description = (
        "With `metadata.NAME=VALUE`, only batches with this metadata. A page may be short or empty although there are "
        "more batches. Then it has a `nextCursor`."
    )
    return _endpoint(summary, answers, [*filters, "batches_limit", "cursor"]) | {"description": description}


def _failures() -> Fragment:
    answers = _batch_answers(200, "Failures")
    _add_headers(answers["200"], "Link")
    summary = "The failures of a batch so far, grouped by status and title"
    description = "An answer covers a part of a very large batch. Add up what the answers say, and follow `nextCursor`."
    return _endpoint(summary, answers, [*_ON_BATCH, "cursor"]) | {"description": description}


def _results() -> Fragment:
    answers = _batch_answers(200, "Page", 406)
    answers["200"]["content"][NDJSON] = {"schema": {"type": "string", "description": "One Outcome per line."}}
    _add_headers(answers["200"], "Link")
    return _endpoint(
        "Results of a batch so far, in the order of the operations",
        answers,
        [*_ON_BATCH, "status", "cursor", "limit"],
    )


def _events() -> Fragment:
    answers = {
        "200": _answer("Server-sent events, up to the end of the batch.", {MEDIA_TYPE: _EVENT}),
        "204": _answer("The client has received the end.", {}),
        **_problems(400, 404, 406, 429, 503),
    }
    return _endpoint("Events of a batch", answers, [*_ON_BATCH, "outcomes", "Last-Event-ID"])


def _metrics() -> Fragment:
    answers = _answers(200, "Metrics", *_REJECTED, 406)
    for kind in (TEXT, OPEN_METRICS):
        answers["200"]["content"][kind] = {"schema": {"type": "string", "description": "The Prometheus text format."}}
    return _endpoint("Metrics of this front end since it started", answers)


def _endpoint(
    summary: str,
    answers: Fragment,
    parameters: Sequence[str] = (),
    *,
    body: str | None = None,
    needs_body: bool = True,
) -> Fragment:
    endpoint: Fragment = {"summary": summary, "responses": answers}
    if parameters:
        endpoint["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in parameters]
    if body is not None:
        endpoint.setdefault("parameters", []).append({"$ref": "#/components/parameters/Content-Encoding"})
        endpoint["requestBody"] = {"required": needs_body, "content": {JSON: {"schema": _ref(body)}}}
    return endpoint


def _batch_answers(status: int, schema: str, *errors: int) -> Fragment:
    return _answers(status, schema, 400, 404, *errors, 503)


def _answers(status: int, schema: str, *errors: int) -> Fragment:
    return {str(status): _answer(f"{schema}.", {JSON: _ref(schema)}), **_problems(*errors)}


def _problems(*errors: int) -> Fragment:
    return {str(error): {"$ref": f"#/components/responses/{error}"} for error in errors}


def _answer(description: str, contents: Fragment, *headers: str) -> Fragment:
    content = {kind: {"schema": schema} for kind, schema in contents.items()}
    answer: Fragment = {"description": description, "content": content, "headers": {}}
    _add_headers(answer, HEADER_OF_REQUEST_ID, *headers)
    return answer


def _add_headers(answer: Fragment, *names: str) -> None:
    answer["headers"] |= {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _problem_responses() -> Fragment:
    headers = {
        401: ["WWW-Authenticate"],
        409: ["Retry-After"],
        415: ["Accept-Encoding", "Accept-Patch"],
        429: ["Retry-After", "RateLimit-Policy", "RateLimit"],
        503: ["Retry-After"],
    }
    return {
        str(status): _answer(description, {PROBLEM: _ref("Problem")}, *headers.get(status, ()))
        for status, description in _ERRORS.items()
    }


def _request_schemas(settings: Settings) -> Fragment:
    schemas: Fragment = {
        model.__name__: model.model_json_schema(by_alias=True)
        for model in (
            EndpointRequest,
            EndpointChange,
            BatchRequest,
            OperationRequest,
            RedriveRequest,
            KeyRequest,
            RotateRequest,
            Steering,
        )
    }
    schemas["BatchRequest"]["properties"]["operations"] |= {
        "items": _ref("OperationRequest"),
        "maxItems": settings.max_operations,
    }
    return schemas


def _ref(schema: str) -> Fragment:
    return {"$ref": _SCHEMAS + schema}


def _object(required: Fragment, optional: Fragment | None = None) -> Fragment:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def _list_of(schema: Fragment) -> Fragment:
    return {"type": "array", "items": schema}


_TEXT: Fragment = {"type": "string"}
_MOST: Fragment = {"type": ["integer", "null"], "minimum": 1}
_COUNT: Fragment = {"type": "integer", "minimum": 0}
_RATE: Fragment = {"type": ["number", "null"], "minimum": 0}
_TIME: Fragment = {"type": ["string", "null"], "format": "date-time"}
_WHERE: Fragment = dict.fromkeys(("batchId", "statusUrl", "resultsUrl"), _TEXT)
_COUNTS: Fragment = dict.fromkeys(("total", "completed", "succeeded", "failed", "cancelled", "expired"), _COUNT)
_TIMES: Fragment = dict.fromkeys(
    (
        "createdAt",
        "acceptedAt",
        "notBefore",
        "startedAt",
        "finishedAt",
        "deadlineAt",
        "pausedAt",
        "pausedUntil",
        "eta",
        "etaEarliest",
        "etaLatest",
    ),
    _TIME,
)
_QUEUE: Fragment = {
    "priority": {"enum": list(Priority)},
    "paused": {"type": "boolean"},
    "pausedAt": _TIME,
    "waiting": _COUNT,
}
_OPTIONAL_TEXT: Fragment = {"type": ["string", "null"]}
_KEY_MEMBERS: Fragment = {
    "id": _TEXT,
    "tenant": _TEXT,
    "scopes": _list_of({"enum": list(Scope)}),
    "name": _OPTIONAL_TEXT,
    "limit": _OPTIONAL_TEXT,
    "maxOpen": {"type": ["integer", "null"], "minimum": 1},
    **dict.fromkeys(("createdAt", "expiresAt", "revokedAt", "lastUsedAt"), _TIME),
}
_ENDPOINT_MEMBERS: Fragment = {
    "id": _TEXT,
    "url": _TEXT,
    "types": _list_of({"enum": list(EventType)}),
    "description": _OPTIONAL_TEXT,
    "disabled": {"type": "boolean"},
    "disabledReason": _OPTIONAL_TEXT,
    **dict.fromkeys(("createdAt", "disabledAt", "secretRotatedAt"), _TIME),
}

_ANSWER_SCHEMAS: Fragment = {
    "Problem": {
        "description": "A problem as in RFC 9457. It names a limit that was exceeded, such as maxOperations.",
        **_object(
            {"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT},
            {
                "errorCount": _COUNT,
                "errors": _list_of(
                    _object(
                        {"pointer": {"type": "string", "format": "json-pointer"}, "detail": _TEXT}, {"line": _COUNT}
                    )
                ),
                "batchId": _TEXT,
                "statusUrl": _TEXT,
                "requestId": _TEXT,
                "scope": {"description": "The scope that the key would need.", "enum": list(Scope)},
                "violated-policies": {
                    "description": "The names of the quotas or limits that were exceeded.",
                    **_list_of(_TEXT),
                },
            },
        ),
    },
    "Outcome": {
        "description": "The outcome of an operation: its result if it succeeded, otherwise its error.",
        **_object({"id": _TEXT, "status": {"type": "integer"}}, {"result": {}, "error": _object({"title": _TEXT})}),
        "oneOf": [{"required": ["result"]}, {"required": ["error"]}],
    },
    "Answered": _object(
        {
            "summary": _object({"total": _COUNT, "succeeded": _COUNT, "failed": _COUNT}),
            "results": _list_of(_ref("Outcome")),
        }
    ),
    "Accepted": {
        "description": "The URLs of the batch. The answer to a repeated request also has the status of the batch.",
        **_object(_WHERE),
    },
    "Retried": _object({**_WHERE, "retried": _COUNT}),
    "Status": _object(
        {
            "batchId": _TEXT,
            "tenant": _TEXT,
            "metadata": {"type": "object", "additionalProperties": _TEXT},
            "status": {"enum": SHOWN_STATES},
            "priority": {"enum": list(Priority)},
            **_COUNTS,
            "redelivered": {
                "description": "How often operations were delivered again because a consumer crashed or lost its "
                "lease. Each time, their handlers may have run before.",
                **_COUNT,
            },
            "progress": {"type": "number", "minimum": 0, "maximum": 1},
            **_TIMES,
            "concurrency": _MOST,
            "maxFailures": {"type": ["integer", "null"], "minimum": 0},
            "maxFailedPercent": {"type": ["number", "null"], "minimum": 0, "maximum": 100},
            "reason": {"type": ["string", "null"]},
            "cost": {
                "description": "What the AWS calls for the batch have cost until asOf, at the prices of us-east-1. "
                "null if no program has reported it.",
                "type": ["object", "null"],
                "required": ["usd", "requests", "asOf"],
                "properties": {"usd": {"type": "number", "minimum": 0}, "requests": _COUNT, "asOf": _TIME},
            },
            "resultsUrl": _TEXT,
        }
    ),
    "Failures": _object(
        {
            "batchId": _TEXT,
            "failed": _COUNT,
            "counted": _COUNT,
            "groups": _list_of(
                _object(
                    {
                        "status": {"type": "integer"},
                        "title": _TEXT,
                        "count": _COUNT,
                        "firstAt": _TIME,
                        "lastAt": _TIME,
                        "samples": _list_of(_object({"id": _TEXT, "index": _COUNT, "detail": _OPTIONAL_TEXT})),
                    }
                )
            ),
            "other": _COUNT,
            "nextCursor": _OPTIONAL_TEXT,
        }
    ),
    "Batches": _object({"batches": _list_of(_ref("Status")), "nextCursor": {"type": ["string", "null"]}}),
    "Page": _object({"results": _list_of(_ref("Outcome")), "nextCursor": {"type": ["string", "null"]}}),
    "Metrics": _object(
        {
            "program": _TEXT,
            "peakMemoryBytes": _COUNT,
            "handlers": {"type": "object", "additionalProperties": {"type": "object"}},
            "metrics": {"type": "object"},
        }
    ),
    "DeadLetters": _object(
        {"approximateCount": _COUNT, "deadLetters": _list_of(_object({"messageId": _TEXT}))},
    ),
    "Key": _object(_KEY_MEMBERS),
    "Keys": _object({"keys": _list_of(_ref("Key"))}),
    "NewKey": {
        "description": "A new key. `key` is its text, which no other answer has.",
        **_object({**_KEY_MEMBERS, "key": _TEXT}),
    },
    "RotatedKey": {
        "description": "A new key, and the one that it replaces, which works until its `expiresAt`.",
        **_object({**_KEY_MEMBERS, "key": _TEXT, "replaces": _ref("Key")}),
    },
    "WebhookEndpoint": _object(_ENDPOINT_MEMBERS),
    "WebhookEndpoints": _object({"endpoints": _list_of(_ref("WebhookEndpoint"))}),
    "NewWebhookEndpoint": _object({**_ENDPOINT_MEMBERS, "secret": _TEXT}),
    "WebhookSecret": _object({"id": _TEXT, "secret": _TEXT, "secretRotatedAt": _TIME}),
    "WebhookDelivery": _object(
        {
            **dict.fromkeys(("id", "eventId", "endpointId", "type"), _TEXT),
            "batchId": _OPTIONAL_TEXT,
            "state": {"enum": list(DeliveryState)},
            "attempts": _COUNT,
            **dict.fromkeys(("createdAt", "attemptedAt", "nextAttemptAt"), _TIME),
            "status": {"description": "The status of the last response.", "type": ["integer", "null"]},
            "error": {"description": "Why there was no response, or is no further attempt.", **_OPTIONAL_TEXT},
        },
        {"response": {"description": "The beginning of the last response, for operators only.", **_TEXT}},
    ),
    "WebhookDeliveries": _object(
        {"deliveries": _list_of(_ref("WebhookDelivery")), "nextCursor": {"type": ["string", "null"]}}
    ),
    "Limits": _object(
        {
            "limits": _list_of(
                _object(
                    {
                        "name": _TEXT,
                        **dict.fromkeys(("rate", "declaredRate"), _RATE),
                        **dict.fromkeys(("declaredBurst", "declaredConcurrency"), _MOST),
                        "permits": {**_object({"held": _COUNT, "wanted": _COUNT}), "type": ["object", "null"]},
                        **dict.fromkeys(("notBefore", "cutAt", "awaySince", "asOf"), _TIME),
                        "consumers": _COUNT,
                    }
                )
            )
        }
    ),
    "Queue": _object(_QUEUE),
    "Queues": _object({"queues": _list_of(_ref("Queue"))}),
    "Redriven": _object({"redrivenChunks": _COUNT, "isComplete": {"type": "boolean"}}),
    "Health": _object({"status": _TEXT}),
}

_HEADERS: Fragment = {
    HEADER_OF_REQUEST_ID: {
        "description": "The id of the request: its own X-Request-Id if that is valid, otherwise a new one.",
        "schema": _TEXT,
    },
    "Accept-Patch": {"description": "The type of a PATCH (RFC 5789).", "schema": _TEXT},
    "Accept-Encoding": {"description": "The supported values of Content-Encoding.", "schema": _TEXT},
    "WWW-Authenticate": {"description": "What the request needs (RFC 6750).", "schema": _TEXT},
    "Location": {"description": "The URL of the status of the batch.", "schema": _TEXT},
    "Retry-After": {"description": "The seconds to wait before the next request.", "schema": _COUNT},
    "Preference-Applied": {"description": "The preference that was applied (RFC 7240).", "schema": _TEXT},
    "Idempotent-Replayed": {
        "description": "The answer to an earlier request, repeated.",
        "schema": {"const": "true"},
    },
    "RateLimit-Policy": {
        "description": "The limits of the caller, if any: `q` operations in `w` seconds, or `q` open operations.",
        "schema": _TEXT,
    },
    "RateLimit": {
        "description": "What is left of each limit: `r` operations now. Of a quota there is more in `t` seconds.",
        "schema": _TEXT,
    },
    "Link": {"description": 'The URL of the next page, as `<...>; rel="next"`.', "schema": _TEXT},
}

_ON_BATCH = ["batch_id"]
_OPTIONS: Fragment = {
    name: {
        "name": name,
        "in": "query",
        "description": "An option of a batch sent as NDJSON. In a JSON document it is a member.",
        "schema": schema.get("anyOf", [schema])[0],  # in a query an option is absent, never null
    }
    for name, schema in BatchOptions.model_json_schema(by_alias=True)["properties"].items()
    if name != "metadata"  # OpenAPI cannot describe parameters such as metadata.team
}
_EVENT: Fragment = {
    "type": "object",
    "description": "The data of `progress` is the Status whenever it changes, that of `outcome` an Outcome, if "
    "outcomes=1, and that of `end` the final Status.",
    "properties": {
        "event": {"enum": ["progress", "outcome", "end"]},
        "data": {"type": "string", "contentMediaType": JSON},
        "id": _TEXT,
    },
}

_PARAMETERS: Fragment = {
    **_OPTIONS,
    "batch_id": {"name": "batch_id", "in": "path", "required": True, "schema": _TEXT},
    "priority_of_queue": {"name": "priority", "in": "path", "required": True, "schema": {"enum": list(Priority)}},
    "key_id": {"name": "key_id", "in": "path", "required": True, "schema": _TEXT},
    "endpoint_id": {"name": "endpoint_id", "in": "path", "required": True, "schema": _TEXT},
    "delivery_id": {"name": "delivery_id", "in": "path", "required": True, "schema": _TEXT},
    "tenant_of_deliveries": {
        "name": "tenant",
        "in": "query",
        "description": "The deliveries of this tenant. This needs the scope operate.",
        "schema": _TEXT,
    },
    "status": {
        "name": "status",
        "in": "query",
        "description": "Only outcomes with this status.",
        "schema": {"enum": list(OutcomeState)},
    },
    "batch_status": {
        "name": "status",
        "in": "query",
        "description": "Only batches with this status.",
        "schema": {"enum": SHOWN_STATES},
    },
    "batch_priority": {
        "name": "priority",
        "in": "query",
        "description": "Only batches with this priority.",
        "schema": {"enum": list(Priority)},
    },
    **{
        name: {
            "name": name,
            "in": "query",
            "description": f"Only batches that were created {when} this time.",
            "schema": {"type": "string", "format": "date-time"},
        }
        for name, when in {"createdAfter": "at or after", "createdBefore": "before"}.items()
    },
    "tenant": {
        "name": "tenant",
        "in": "query",
        "description": f"The batches of this tenant, or of all with `{ALL_TENANTS}`. This needs the scope operate.",
        "schema": _TEXT,
    },
    "batches_limit": {
        "name": "limit",
        "in": "query",
        "description": f"The largest number of batches in the answer. The default is {PAGE_BATCHES}.",
        "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_LIST},
    },
    "cursor": {"name": "cursor", "in": "query", "description": "The `nextCursor` of an earlier page.", "schema": _TEXT},
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "The largest number of entries in the answer.",
        "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE},
    },
    "outcomes": {
        "name": "outcomes",
        "in": "query",
        "description": "1: also an event for each outcome, in the order of the operations.",
        "schema": {"enum": ["0", "1"]},
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The id of the last event of an earlier stream, which is continued. Browsers send it.",
        "schema": _TEXT,
    },
    "Idempotency-Key": {
        "name": HEADER,
        "in": "header",
        "description": f'`"..."` or without quotes, of 1 to {LONGEST_KEY} ASCII characters. A key creates one batch.',
        "schema": {"type": "string", "pattern": r'^("[ !#-\[\]-~]{1,255}"|[!#-+.-~]{1,255})$'},
    },
    "Content-Encoding": {
        "name": "Content-Encoding",
        "in": "header",
        "description": "The compression of the body. Limits apply to the decompressed size.",
        "schema": {"enum": ["identity", *MEMBERS]},
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async`: run in the background. `wait=n`: run in the background after n seconds.",
        "schema": _TEXT,
    },
}
