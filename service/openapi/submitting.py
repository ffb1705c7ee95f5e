"""Describes POST /batch and POST /uploads."""

from typing import Any

from penstock.operations import METHODS, Operations
from penstock.reading.operation_request import OperationRequest, ReferenceRequest
from penstock.service.content import CSV, JSON, NDJSON
from penstock.service.openapi.answers import add_headers, answer, answers_of, endpoint
from penstock.service.openapi.values import (
    COUNT,
    INTEGER,
    TEXT,
    TIME,
    Fragment,
    list_of,
    object_of,
    one_of,
    ref,
    schema_of,
)
from penstock.service.schemas import BatchOptions, BatchRequest
from penstock.settings import Settings

TAG: Fragment = {
    "name": "Submit",
    "description": "Send a batch: many operations in one request. Small batches are answered immediately.",
}
REQUESTS: Fragment = {model.__name__: schema_of(model) for model in (BatchRequest, OperationRequest, ReferenceRequest)}
WHERE: Fragment = dict.fromkeys(("batchId", "statusUrl", "resultsUrl"), TEXT)
_RESULT: Fragment = {"description": "What the handler returned."}
PARAMETERS: Fragment = {
    name: {
        "name": name,
        "in": "query",
        "description": "An option of a batch sent as NDJSON or CSV. In a JSON document it is a member.",
        "schema": schema.get("anyOf", [schema])[0],  # in a query an option is absent, never null
    }
    for name, schema in schema_of(BatchOptions)["properties"].items()
    if name != "metadata"  # OpenAPI cannot describe parameters such as metadata.team
}

_ROWS: Fragment = {
    "upload": ("The uploadId of a file from POST /uploads, which is read instead of a body.", TEXT),
    "method": ("The method of every operation, if each line of the body is only a row.", one_of(METHODS)),
    "path": ("The path of every operation. `{name}` is replaced by the cell of the row with this name.", TEXT),
    "columns": ('A JSON object with new names for cells, such as `{"E-mail": "email"}`. null leaves one out.', TEXT),
    "key": ("The name of the cell that is the key of the operation.", TEXT),
    "invalidRows": ("`fail`: invalid rows fail, and the others run.", one_of(["reject", "fail"])),
    "delimiter": ("What separates cells: one character, or tab. By default it is found.", TEXT),
    "charset": ("The charset of a CSV file, such as windows-1252. The default is utf-8.", TEXT),
}
ROW_PARAMETERS: Fragment = {
    name: {"name": name, "in": "query", "description": description, "schema": schema}
    for name, (description, schema) in _ROWS.items()
}
PARAMETERS |= ROW_PARAMETERS


def paths(settings: Settings, operations: Operations[Any]) -> Fragment:
    return {
        "/batch": {"post": _submit(settings, operations)},
        "/uploads": {
            "post": endpoint(
                "createUpload", "Upload a file for a batch", answers_of(201, "Upload", 400, 408, 413, 501, 503)
            )
        },
    }


def _submit(settings: Settings, operations: Operations[Any]) -> Fragment:
    answers = answers_of(200, "Answered", 400, 404, 408, 409, 412, 413, 415, 422, 429, 501, 503, 504)
    add_headers(answers["200"], "Preference-Applied", "Idempotent-Replayed")
    answers["200"]["description"] = (
        "All operations were run, and these are their results. With validateOnly, none was run."
    )
    answers["200"]["content"][JSON]["schema"] = {"oneOf": [ref("Answered"), ref("Validated")]}
    answers["202"] = answer(
        "The batch was accepted. Every operation is durable and will run.",
        {JSON: ref("Accepted")},
        "Location",
        "Retry-After",
        "Preference-Applied",
        "Idempotent-Replayed",
    )
    parameters = ["Idempotency-Key", "Prefer", "X-Request-Id", *PARAMETERS]
    described = endpoint(
        "submitBatch", "Run many operations", answers, parameters, body="BatchRequest", needs_body=False
    )
    described["requestBody"]["description"] = "The operations. Required, unless the query names an `upload` with them."
    described["requestBody"]["content"][NDJSON] = {"schema": _stream(settings)}
    described["requestBody"]["content"][CSV] = {"schema": _FILE}
    offered = "\n".join(f"- `{route.name}`" for route in operations.routes)
    limit = f"Up to {settings.sync_max_operations:,} operations are run immediately and answered with their results."
    larger = "Larger batches run in the background."
    return described | {"description": f"{limit} {larger}\n\nThe operations of this application:\n{offered}"}


_FILE: Fragment = {
    "type": "string",
    "description": "A file of rows. Its first row has the names of the columns. `method` and `path` say what a row is.",
    "examples": ["email;name\nada@example.com;Ada\nbob@example.com;Bob\n"],
}


def _stream(settings: Settings) -> Fragment:
    most = settings.max_stream_operations
    description = (
        f"One OperationRequest per line, up to {most:,}. With `method` and `path`, each line is only a body. "
        "Options are in the query, and metadata as metadata.NAME=VALUE."
    )
    example = '{"id": "1", "method": "GET", "path": "/users/1"}\n{"id": "2", "method": "GET", "path": "/users/2"}\n'
    return {"type": "string", "description": description, "examples": [example]}


SCHEMAS: Fragment = {
    "Outcome": {
        "description": "The outcome of an operation: its result if it succeeded, otherwise its error.",
        "oneOf": [ref("SucceededOutcome"), ref("FailedOutcome")],
    },
    "SucceededOutcome": object_of(
        {"id": TEXT, "status": INTEGER, "result": _RESULT},
        {"resultMissing": TEXT | {"description": "The result was large, and its file was deleted. It is null here."}},
    ),
    "FailedOutcome": object_of({"id": TEXT, "status": INTEGER, "error": object_of({"title": TEXT}, {"detail": TEXT})}),
    "Answered": object_of(
        {
            "summary": object_of({"total": COUNT, "succeeded": COUNT, "failed": COUNT}),
            "results": list_of(ref("Outcome")),
        }
    ),
    "Validated": {
        "description": "What the batch would be. Nothing of it runs: the request has validateOnly. With "
        "invalidRows=fail, `invalidRows` is how many operations would fail because they are invalid.",
        **object_of(
            {
                "valid": {"type": "boolean", "const": True},
                "total": COUNT,
                "chunks": COUNT,
                "byHandler": {"type": "object", "additionalProperties": COUNT},
                "estimatedSeconds": {"type": ["number", "null"]},
                "estimatedUsd": {"type": "number"},
            },
            {"invalidRows": COUNT},
        ),
    },
    "Upload": {
        "description": "A form for the file. Send it to `url` as multipart/form-data with these fields, and with the "
        "file as its last field, `file`.",
        **object_of(
            {
                "uploadId": TEXT,
                "url": TEXT,
                "fields": {"type": "object", "additionalProperties": TEXT},
                "expiresAt": TIME,
                "maxBytes": COUNT,
            }
        ),
    },
    "Accepted": {
        "description": "The URLs of the batch. The answer to a repeated request also has the status of the batch.",
        **object_of(WHERE),
    },
}
