"""GET /openapi.json: what every endpoint takes and answers, as OpenAPI 3.1. Not the application's own operations."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from aiohttp import web

from penstock.batch import UNACCEPTED_STATES, BatchState
from penstock.metrics.exposition import OPEN_METRICS, TEXT
from penstock.operations import Operations
from penstock.outcome import OutcomeState
from penstock.priority import Priority
from penstock.service.content import JSON, NDJSON
from penstock.service.intake.idempotency import HEADER, LONGEST_KEY
from penstock.service.json_answer import json_answer
from penstock.service.keys import OPERATIONS, SETTINGS
from penstock.service.operators.dead_letters import RedriveRequest
from penstock.service.paging import LONGEST_PAGE
from penstock.service.problems import CONTENT_TYPE as PROBLEM
from penstock.service.schemas import BatchOptions, BatchRequest, OperationRequest
from penstock.service.unpacking import MEMBERS
from penstock.settings import Settings

Part = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_ERRORS = {
    400: "The request cannot be read.",
    404: "There is no such batch.",
    406: "The answer comes in other types.",
    408: "The body came too slowly.",
    409: "Not in the state that the batch, or the first request of this key, is in now.",
    413: "The request is larger than a limit, which it names.",
    415: "The body is of another type, or encoded in another way.",
    422: "The request is wrong, or its Idempotency-Key came with another body before; nothing was run.",
    503: "A part that is needed does not answer; ask again.",
    504: "Whether the batch runs is not known; its status will tell. Send it again only with its Idempotency-Key.",
}


async def openapi(request: web.Request) -> web.Response:
    return json_answer(describe(request.app[SETTINGS], request.app[OPERATIONS]))


def describe(settings: Settings, operations: Operations[Any]) -> Part:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": version("penstock"),
            "description": "A bulk API: one request, many operations, exact counts.",
        },
        "paths": _paths(settings, operations),
        "components": {
            "schemas": _request_schemas(settings) | _ANSWER_SCHEMAS,
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": _problem_responses(),
        },
    }


def _paths(settings: Settings, operations: Operations[Any]) -> Part:
    return {
        "/batch": {"post": _submit(settings, operations)},
        "/batch/{batch_id}/status": {"get": _endpoint("How far a batch is", _batch_answers(200, "Status"), _ON_BATCH)},
        "/batch/{batch_id}/results": {"get": _results()},
        "/batch/{batch_id}/cancel": {
            "post": _endpoint(
                "Run nothing more of a batch; what runs finishes", _batch_answers(202, "Status", 409), _ON_BATCH
            )
        },
        "/batch/{batch_id}/retry": {
            "post": _endpoint(
                "Run the failed operations of a final batch again", _batch_answers(202, "Retried", 409), _ON_BATCH
            )
        },
        "/dead-letters": {
            "get": _endpoint("Some of what finally failed", _answers(200, "DeadLetters", 400, 503), ["limit"])
        },
        "/dead-letters/redrive": {
            "post": _endpoint(
                "Put dead letters back, all or one batch's",
                _answers(202, "Redriven", 400, 408, 413, 415, 422, 503),
                body="RedriveRequest",
                is_body_required=False,
            )
        },
        "/health/live": {"get": _endpoint("Whether the process runs", _answers(200, "Health"))},
        "/health/ready": {"get": _endpoint("Whether requests may be sent here", _answers(200, "Health", 503))},
        "/metrics": {"get": _metrics()},
        "/openapi.json": {
            "get": _endpoint("This description", {"200": _answer("An OpenAPI document.", {JSON: {"type": "object"}})})
        },
    }


def _submit(settings: Settings, operations: Operations[Any]) -> Part:
    answers = _answers(200, "Answered", 400, 408, 409, 413, 415, 422, 503, 504)
    answers["200"] |= _with_headers("Preference-Applied", "Idempotent-Replayed")
    answers["202"] = _answer(
        "Every operation is durable and will run.",
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
    at_once = f"Up to {settings.sync_max_operations:,} operations are answered at once, more run in the background."
    return endpoint | {"description": f"{at_once}\n\nThis application offers:\n{offered}"}


def _stream(settings: Settings) -> Part:
    words = f"An OperationRequest a line, up to {settings.max_stream_operations:,}; the rest of a batch in the query."
    return {"type": "string", "description": words}


def _results() -> Part:
    answers = _batch_answers(200, "Page", 406)
    answers["200"]["content"][NDJSON] = {"schema": {"type": "string", "description": "An Outcome a line."}}
    answers["200"] |= _with_headers("Link")
    return _endpoint(
        "The outcomes counted so far, in the order of the operations",
        answers,
        [*_ON_BATCH, "status", "cursor", "limit"],
    )


def _metrics() -> Part:
    answers = _answers(200, "Metrics", 406)
    for kind in (TEXT, OPEN_METRICS):
        answers["200"]["content"][kind] = {"schema": {"type": "string", "description": "As Prometheus reads it."}}
    return _endpoint("What this front end has done since its start, and what it took", answers)


def _endpoint(
    summary: str,
    answers: Part,
    parameters: Sequence[str] = (),
    *,
    body: str | None = None,
    is_body_required: bool = True,
) -> Part:
    endpoint: Part = {"summary": summary, "responses": answers}
    if parameters:
        endpoint["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in parameters]
    if body is not None:
        endpoint.setdefault("parameters", []).append({"$ref": "#/components/parameters/Content-Encoding"})
        endpoint["requestBody"] = {"required": is_body_required, "content": {JSON: {"schema": _ref(body)}}}
    return endpoint


def _batch_answers(status: int, schema: str, *errors: int) -> Part:
    return _answers(status, schema, 400, 404, *errors, 503)


def _answers(status: int, schema: str, *errors: int) -> Part:
    problems = {str(error): {"$ref": f"#/components/responses/{error}"} for error in errors}
    return {str(status): _answer(f"{schema}.", {JSON: _ref(schema)}), **problems}


def _answer(description: str, contents: Part, *headers: str) -> Part:
    content = {kind: {"schema": schema} for kind, schema in contents.items()}
    return {"description": description, "content": content, **_with_headers(*headers)}


def _with_headers(*names: str) -> Part:
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}} if names else {}


def _problem_responses() -> Part:
    headers = {409: ["Retry-After"], 415: ["Accept-Encoding"], 503: ["Retry-After"]}
    return {
        str(status): _answer(words, {PROBLEM: _ref("Problem")}, *headers.get(status, ()))
        for status, words in _ERRORS.items()
    }


def _request_schemas(settings: Settings) -> Part:
    schemas: Part = {
        model.__name__: model.model_json_schema(by_alias=True)
        for model in (BatchRequest, OperationRequest, RedriveRequest)
    }
    schemas["BatchRequest"]["properties"]["operations"] |= {
        "items": _ref("OperationRequest"),
        "maxItems": settings.max_operations,
    }
    return schemas


def _ref(schema: str) -> Part:
    return {"$ref": _SCHEMAS + schema}


def _object(required: Part, optional: Part | None = None) -> Part:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def _list_of(schema: Part) -> Part:
    return {"type": "array", "items": schema}


_TEXT: Part = {"type": "string"}
_COUNT: Part = {"type": "integer", "minimum": 0}
_TIME: Part = {"type": ["string", "null"], "format": "date-time"}
_WHERE: Part = dict.fromkeys(("batchId", "statusUrl", "resultsUrl"), _TEXT)
_COUNTS: Part = dict.fromkeys(("total", "completed", "succeeded", "failed", "cancelled", "expired"), _COUNT)
_TIMES: Part = dict.fromkeys(
    ("createdAt", "acceptedAt", "notBefore", "startedAt", "finishedAt", "deadlineAt", "eta"), _TIME
)
_STATES = [state for state in BatchState if state not in UNACCEPTED_STATES]

_ANSWER_SCHEMAS: Part = {
    "Problem": {
        "description": "RFC 9457. It holds the limits that were passed, too, such as maxOperations.",
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
            },
        ),
    },
    "Outcome": {
        "description": "What an operation came to: its result if it succeeded, else its error.",
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
        "description": "Where the batch is; when it is replayed, with its status too.",
        **_object(_WHERE),
    },
    "Retried": _object({**_WHERE, "retried": _COUNT}),
    "Status": _object(
        {
            "batchId": _TEXT,
            "status": {"enum": _STATES},
            "priority": {"enum": list(Priority)},
            **_COUNTS,
            "progress": {"type": "number", "minimum": 0, "maximum": 1},
            **_TIMES,
            "reason": {"type": ["string", "null"]},
            "resultsUrl": _TEXT,
        }
    ),
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
    "Redriven": _object({"redrivenChunks": _COUNT, "isComplete": {"type": "boolean"}}),
    "Health": _object({"status": _TEXT}),
}

_HEADERS: Part = {
    "Accept-Encoding": {"description": "How a body may be encoded.", "schema": _TEXT},
    "Location": {"description": "Where the status of the batch is.", "schema": _TEXT},
    "Retry-After": {"description": "When it makes sense to ask again, in seconds.", "schema": _COUNT},
    "Preference-Applied": {"description": "Which preference was followed (RFC 7240).", "schema": _TEXT},
    "Idempotent-Replayed": {"description": "This is the answer to an earlier request.", "schema": {"const": "true"}},
    "Link": {"description": 'The next page, as `<...>; rel="next"`.', "schema": _TEXT},
}

_ON_BATCH = ["batch_id"]
_OPTIONS: Part = {
    name: {
        "name": name,
        "in": "query",
        "description": "Of a batch that comes as NDJSON; a JSON document has it as a member.",
        "schema": schema.get("anyOf", [schema])[0],  # it is not there, or not null
    }
    for name, schema in BatchOptions.model_json_schema(by_alias=True)["properties"].items()
}
_PARAMETERS: Part = {
    **_OPTIONS,
    "batch_id": {"name": "batch_id", "in": "path", "required": True, "schema": _TEXT},
    "status": {
        "name": "status",
        "in": "query",
        "description": "Only outcomes of this kind.",
        "schema": {"enum": list(OutcomeState)},
    },
    "cursor": {"name": "cursor", "in": "query", "description": "From an earlier page.", "schema": _TEXT},
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "At most so many.",
        "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE},
    },
    "Idempotency-Key": {
        "name": HEADER,
        "in": "header",
        "description": f'`"..."`, or bare, of 1 to {LONGEST_KEY} ASCII characters: the same key is the same batch.',
        "schema": {"type": "string", "pattern": r'^("[ !#-\[\]-~]{1,255}"|[!#-+.-~]{1,255})$'},
    },
    "Content-Encoding": {
        "name": "Content-Encoding",
        "in": "header",
        "description": "How the body is packed; its limit holds for what it unpacks to.",
        "schema": {"enum": ["identity", *MEMBERS]},
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`respond-async`, or `wait=n` (seconds): what has not ended by then runs in the background.",
        "schema": _TEXT,
    },
}
