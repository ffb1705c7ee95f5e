"""Describes the list of batches, and what a client can ask of one batch."""

from penstock.export import ExportState
from penstock.outcome import OutcomeState
from penstock.priority import Priority
from penstock.service.batches.choice import RetryChoice
from penstock.service.batches.export_files import GZIP, TYPES
from penstock.service.batches.listing import ALL_TENANTS, PAGE_BATCHES
from penstock.service.batches.listing import LONGEST_PAGE as LONGEST_LIST
from penstock.service.batches.steer import Steering
from penstock.service.content import CSV, JSON, MERGE_PATCH, NDJSON
from penstock.service.events.framing import MEDIA_TYPE
from penstock.service.openapi.answers import (
    REJECTED,
    add_headers,
    answer,
    answers_of,
    batch_answers,
    endpoint,
    problems,
)
from penstock.service.openapi.problems import ERRORS
from penstock.service.openapi.submitting import WHERE
from penstock.service.openapi.values import (
    COUNT,
    INTEGER,
    MOST,
    OPTIONAL_TEXT,
    TEXT,
    TIME,
    Fragment,
    list_of,
    object_of,
    one_of,
    ref,
    schema_of_changes,
)
from penstock.service.paging import LONGEST_PAGE
from penstock.service.schemas import SHOWN_STATES

TAG: Fragment = {
    "name": "Batches",
    "description": "Follow a batch, change it while it runs, and read its results and failures.",
}
REQUESTS: Fragment = {"Steering": schema_of_changes(Steering), "RetryChoice": schema_of_changes(RetryChoice)}
_ON_BATCH = ["batch_id"]
_COUNTS: Fragment = dict.fromkeys(("total", "completed", "succeeded", "failed", "cancelled", "expired"), COUNT)
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
    TIME,
)
_LINES: Fragment = {"type": "string", "description": "One Outcome per line, as they are read from the table."}
_TABLE: Fragment = {
    "type": "string",
    "description": "The columns id, status, title and detail, then the members of the results.",
}
_ROWS: Fragment = {
    "type": "string",
    "description": "The rows as they were sent, each with error_status, error_title and error_detail. "
    "These are ignored if the rows are sent again.",
}
_EVENTS: Fragment = {
    "type": "object",
    "description": "An event, written as EventSource reads it. `progress`: its data is the Status when it changes. "
    "`outcome`, with outcomes=1: its data is an Outcome. `end`: its data is the final Status, and the stream ends.",
    "properties": {
        "event": one_of(["progress", "outcome", "end"]),
        "data": {"type": "string", "contentMediaType": JSON},
        "id": TEXT,
    },
    "examples": [{"event": "progress", "id": "3f1c", "data": '{"status": "processing", "completed": 2}'}],
}


def paths() -> Fragment:
    return {"/batches": {"get": _list("The batches of the caller's tenant, newest first")}, **_paths_of_a_batch()}


def paths_for_operators() -> Fragment:
    return {"/batches": {"get": _list("The batches of all tenants, newest first", *REJECTED)}}


def _paths_of_a_batch() -> Fragment:
    return {
        "/batch/{batch_id}": {"get": _status("getBatch"), "patch": _steer()},
        "/batch/{batch_id}/status": {"get": _status("getStatus")},
        "/batch/{batch_id}/results": {"get": _results()},
        "/batch/{batch_id}/rejected": {"get": _rejected()},
        "/batch/{batch_id}/export": {"post": _create_export()},
        "/batch/{batch_id}/exports/{export_id}": {"get": _show_export()},
        "/batch/{batch_id}/events": {"get": _events()},
        "/batch/{batch_id}/failures": {"get": _failures()},
        "/batch/{batch_id}/cancel": {
            "post": endpoint(
                "cancelBatch",
                "Cancel a batch. Operations that are running finish",
                batch_answers(202, "Status", 409),
                _ON_BATCH,
            )
        },
        "/batch/{batch_id}/retry": {"post": _retry()},
    }


def _retry() -> Fragment:
    answers = batch_answers(202, "Retried", 408, 409, 413, 415, 422, 429)
    add_headers(answers["202"], "Idempotent-Replayed")
    return endpoint(
        "retryBatch",
        "Retry the failed operations of a final batch: all of them, or those that are chosen",
        answers,
        [*_ON_BATCH, "Idempotency-Key"],
        body="RetryChoice",
        needs_body=False,
    )


def _steer() -> Fragment:
    described = endpoint(
        "changeBatch",
        "Change a batch while it runs. The body is a merge patch (RFC 7396)",
        batch_answers(200, "Status", 408, 409, 412, 413, 415, 422),
        _ON_BATCH,
        body="Steering",
    )
    content = described["requestBody"]["content"]
    described["requestBody"]["content"] = {MERGE_PATCH: content[JSON], **content}
    return described


def _status(operation_id: str) -> Fragment:
    answers = batch_answers(200, "Status")
    add_headers(answers["200"], "Retry-After")
    return endpoint(operation_id, "Status of a batch", answers, _ON_BATCH)


def _list(summary: str, *errors: int) -> Fragment:
    answers = answers_of(200, "Batches", 400, 403, *errors, 503)
    add_headers(answers["200"], "Link")
    filters = ["batch_status", "batch_priority", "createdAfter", "createdBefore", "tenant"]
    description = (
        "With `metadata.NAME=VALUE`, only batches with this metadata. A page may be short or empty although there are "
        "more batches. Then it has a `nextCursor`."
    )
    return endpoint("listBatches", summary, answers, [*filters, "batches_limit", "cursor"]) | {
        "description": description
    }


def _failures() -> Fragment:
    answers = batch_answers(200, "Failures")
    add_headers(answers["200"], "Link")
    summary = "The failures of a batch so far, grouped by status and title"
    description = "An answer covers a part of a very large batch. Add up what the answers say, and follow `nextCursor`."
    return endpoint("getFailures", summary, answers, [*_ON_BATCH, "cursor"]) | {"description": description}


def _results() -> Fragment:
    answers = batch_answers(200, "Page", 406)
    answers["200"]["content"] |= {NDJSON: {"schema": _LINES}, CSV: {"schema": _TABLE}}
    add_headers(answers["200"], "Link")
    return endpoint(
        "getResults",
        "Results of a batch so far, in the order of the operations",
        answers,
        [*_ON_BATCH, "status", "cursor", "limit", "results_format"],
    )


def _create_export() -> Fragment:
    answers = batch_answers(202, "Export", 409, 501)
    answers["200"] = batch_answers(200, "Export")["200"]
    add_headers(answers["202"], "Location", "Retry-After")
    summary = "Write the outcomes of a final batch to files that can be downloaded"
    return endpoint("createExport", summary, answers, [*_ON_BATCH, "format", "status", "compression"]) | {
        "description": "It is made in the background. The same request again finds the same export: 200 if it is there."
    }


def _show_export() -> Fragment:
    answers = batch_answers(200, "Export", 501)
    add_headers(answers["200"], "Retry-After")
    return endpoint("getExport", "An export, with URLs to download its files", answers, [*_ON_BATCH, "export_id"])


def _rejected() -> Fragment:
    content: Fragment = {NDJSON: {"schema": _ROWS}, CSV: {"schema": _ROWS}}
    answers = {"200": answer("The rows.", {}), **problems(400, 404, 406, 503)}
    answers["200"]["content"] = content
    return endpoint(
        "getRejected", "The rows that failed, to be corrected and sent again", answers, [*_ON_BATCH, "format"]
    )


def _events() -> Fragment:
    answers = {
        "200": answer("Server-sent events, up to the end of the batch.", {MEDIA_TYPE: _EVENTS}),
        "204": answer("The client has received the end.", {}),
        **problems(400, 404, 406, 429, 503),
    }
    return endpoint("watchBatch", "Events of a batch", answers, [*_ON_BATCH, "outcomes", "Last-Event-ID"])


SCHEMAS: Fragment = {
    "Retried": object_of({**WHERE, "retried": COUNT}),
    "Status": object_of(
        {
            "batchId": TEXT,
            "tenant": TEXT,
            "metadata": {"type": "object", "additionalProperties": TEXT},
            "status": one_of(SHOWN_STATES),
            "priority": one_of(Priority),
            **_COUNTS,
            "redelivered": {
                "description": "How often operations were delivered again because a consumer crashed or lost its "
                "lease. Each time, their handlers may have run before.",
                **COUNT,
            },
            "progress": {"type": "number", "minimum": 0, "maximum": 1},
            **_TIMES,
            "concurrency": MOST,
            "maxFailures": {"type": ["integer", "null"], "minimum": 0},
            "maxFailedPercent": {"type": ["number", "null"], "minimum": 0, "maximum": 100},
            "reason": {"type": ["string", "null"]},
            "cost": {
                "description": "What the AWS calls for the batch have cost until asOf, at the prices of us-east-1. "
                "null if no program has reported it.",
                "type": ["object", "null"],
                "required": ["usd", "requests", "asOf"],
                "properties": {"usd": {"type": "number", "minimum": 0}, "requests": COUNT, "asOf": TIME},
            },
            "resultsUrl": TEXT,
        },
        {
            "validation": {
                "description": "How far a consumer has read the uploaded file of the batch, and put its operations on "
                "the queue. Only for a file that is validated in the background.",
                **object_of(
                    {
                        "bytes": COUNT,
                        "bytesRead": COUNT,
                        "operationsRead": COUNT,
                        "operationsSent": COUNT,
                        "errorCount": COUNT,
                    }
                ),
            },
            "errorCount": {"description": "How many errors the uploaded file has. The batch has failed.", **COUNT},
            "errors": ERRORS,
        },
    ),
    "Failures": object_of(
        {
            "batchId": TEXT,
            "failed": COUNT,
            "counted": COUNT,
            "groups": list_of(
                object_of(
                    {
                        "status": INTEGER,
                        "title": TEXT,
                        "count": COUNT,
                        "retryable": {"description": "How many of them a retry can run again.", **COUNT},
                        "firstAt": TIME,
                        "lastAt": TIME,
                        "samples": list_of(object_of({"id": TEXT, "index": COUNT, "detail": OPTIONAL_TEXT})),
                    }
                )
            ),
            "other": COUNT,
            "nextCursor": OPTIONAL_TEXT,
        }
    ),
    "Export": object_of(
        {
            "batchId": TEXT,
            "exportId": TEXT,
            "status": one_of(ExportState),
            "format": one_of(TYPES),
            "compression": {"type": ["string", "null"], "enum": [GZIP, None]},
            "outcomes": {"description": "null: all of them.", "type": ["string", "null"]},
            "rows": COUNT,
            "total": COUNT,
            "bytes": COUNT,
            "createdAt": TIME,
            "expiresAt": TIME,
            "url": TEXT,
            "parts": list_of(
                object_of(
                    {"name": TEXT, "rows": COUNT, "bytes": COUNT, "sha256": TEXT},
                    {"url": {"description": "Once the export is completed.", **TEXT}},
                ),
            ),
            "manifestUrl": OPTIONAL_TEXT,
            "urlsExpireAt": TIME,
            "error": {"type": ["object", "null"], "properties": {"title": TEXT, "detail": TEXT}},
        }
    ),
    "Batches": object_of({"batches": list_of(ref("Status")), "nextCursor": {"type": ["string", "null"]}}),
    "Page": object_of({"results": list_of(ref("Outcome")), "nextCursor": {"type": ["string", "null"]}}),
}

PARAMETERS: Fragment = {
    "export_id": {"name": "export_id", "in": "path", "required": True, "schema": TEXT},
    "compression": {
        "name": "compression",
        "in": "query",
        "description": "How the files are compressed.",
        "schema": one_of([GZIP]),
    },
    "batch_id": {"name": "batch_id", "in": "path", "required": True, "schema": TEXT},
    "status": {
        "name": "status",
        "in": "query",
        "description": "Only outcomes with this status.",
        "schema": one_of(OutcomeState),
    },
    "batch_status": {
        "name": "status",
        "in": "query",
        "description": "Only batches with this status.",
        "schema": one_of(SHOWN_STATES),
    },
    "batch_priority": {
        "name": "priority",
        "in": "query",
        "description": "Only batches with this priority.",
        "schema": one_of(Priority),
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
        "schema": TEXT,
    },
    "batches_limit": {
        "name": "limit",
        "in": "query",
        "description": f"The largest number of batches in the answer. The default is {PAGE_BATCHES}.",
        "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_LIST},
    },
    **{
        key: {
            "name": "format",
            "in": "query",
            "description": "The format of the answer, instead of the header Accept.",
            "schema": one_of(formats),
        }
        for key, formats in {"format": ["ndjson", "csv"], "results_format": ["ndjson", "json", "csv"]}.items()
    },
    "cursor": {"name": "cursor", "in": "query", "description": "The `nextCursor` of an earlier page.", "schema": TEXT},
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
        "schema": one_of(["0", "1"]),
    },
}
