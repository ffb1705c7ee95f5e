"""An example of each body, as one story: a batch of three users, the second of which is rejected.

A test validates each of them by its schema.
"""

from penstock.service.openapi.values import Fragment

BATCH_ID = "01JDV5Q8ZK3W6M2N9R7T4X1YCA"
_WHERE = {
    "batchId": BATCH_ID,
    "statusUrl": f"/batch/{BATCH_ID}/status",
    "resultsUrl": f"/batch/{BATCH_ID}/results",
}
_ACCEPTED_AT, _FINISHED_AT = "2026-12-24T18:00:00.120Z", "2026-12-24T18:00:02.840Z"
_SUCCEEDED = {"id": "1", "status": 201, "result": None}
_FAILED = {"id": "2", "status": 409, "error": {"title": "Conflict", "detail": "ada@example.com has an account."}}
_OUTCOMES = [_SUCCEEDED, _FAILED, {**_SUCCEEDED, "id": "3"}]
_STATUS = {
    "batchId": BATCH_ID,
    "tenant": "default",
    "metadata": {"team": "growth"},
    "status": "completed",
    "priority": "normal",
    "total": 3,
    "completed": 3,
    "succeeded": 2,
    "failed": 1,
    "cancelled": 0,
    "expired": 0,
    "redelivered": 0,
    "progress": 1.0,
    "createdAt": _ACCEPTED_AT,
    "acceptedAt": _ACCEPTED_AT,
    "startedAt": _ACCEPTED_AT,
    "finishedAt": _FINISHED_AT,
    "deadlineAt": "2026-12-25T18:00:00.120Z",
    **dict.fromkeys(("notBefore", "pausedAt", "pausedUntil", "eta", "etaEarliest", "etaLatest")),
    **dict.fromkeys(("concurrency", "maxFailures", "maxFailedPercent", "reason", "cost")),
    "resultsUrl": _WHERE["resultsUrl"],
}
_EXPORT_ID = "9c1d5a0b7e3f42d86a10"
_KEY = {
    "id": "9mZ4kT0qLx2B",
    "tenant": "acme",
    "scopes": ["write", "read"],
    "name": "nightly import",
    "limit": "100000/3600",
    "maxOpen": None,
    "createdAt": _ACCEPTED_AT,
    **dict.fromkeys(("expiresAt", "revokedAt", "lastUsedAt")),
}
_KEY_TEXT = "pk_prod_..."
_ENDPOINT_ID = "we_0f1e2d3c4b5a69788796a5b4"
_ENDPOINT = {
    "id": _ENDPOINT_ID,
    "url": "https://example.com/hooks",
    "types": ["batch.completed", "batch.failed"],
    "description": "Tells the import team",
    "disabled": False,
    "disabledReason": None,
    "createdAt": _ACCEPTED_AT,
    **dict.fromkeys(("disabledAt", "secretRotatedAt")),
}
_SECRET = "whsec_..."  # noqa: S105 - only its form
_DELIVERY = {
    "id": "01JDV5Q9B0A8S6D4F2G1H3J5K7",
    "eventId": "evt_01JDV5Q9B0A8S6D4F2G1H3J5K7",
    "endpointId": _ENDPOINT_ID,
    "type": "batch.completed",
    "batchId": BATCH_ID,
    "state": "delivered",
    "attempts": 1,
    "createdAt": _FINISHED_AT,
    "attemptedAt": _FINISHED_AT,
    "nextAttemptAt": None,
    "status": 204,
    "error": None,
}
_QUEUE = {"priority": "low", "paused": True, "pausedAt": _ACCEPTED_AT, "waiting": 12}

EXAMPLES: Fragment = {
    "ReferenceRequest": {"operation": "new", "member": "id"},
    "Upload": {
        "uploadId": BATCH_ID,
        "url": "https://penstock-files.s3.eu-central-1.amazonaws.com/",
        "fields": {"key": f"uploads/default/{BATCH_ID}", "policy": "...", "x-amz-signature": "..."},
        "expiresAt": "2026-12-24T19:00:00.120Z",
        "maxBytes": 2_147_483_648,
    },
    "Accepted": _WHERE,
    "Answered": {"summary": {"total": 3, "succeeded": 2, "failed": 1}, "results": _OUTCOMES},
    "Batches": {"batches": [_STATUS], "nextCursor": None},
    "DeadLetters": {
        "approximateCount": 1,
        "deadLetters": [
            {
                "messageId": "0c1f7f0e-6d1e-4c51-9a55-52f5f8f0a6c1",
                "batchId": BATCH_ID,
                "chunkId": "3",
                "operations": [{"id": "7", "method": "POST", "path": "/users", "body": {"name": "Ada"}}],
            }
        ],
    },
    "EndpointChange": {"disabled": False},
    "EndpointRequest": {"url": "https://example.com/hooks", "types": ["batch.completed", "batch.failed"]},
    "Export": {
        "batchId": BATCH_ID,
        "exportId": _EXPORT_ID,
        "status": "completed",
        "format": "csv",
        "compression": "gzip",
        "outcomes": None,
        "rows": 3,
        "total": 3,
        "bytes": 128,
        "createdAt": _FINISHED_AT,
        "expiresAt": "2026-12-31T18:00:00.120Z",
        "url": f"/batch/{BATCH_ID}/exports/{_EXPORT_ID}",
        "parts": [
            {
                "name": "part-00001.csv.gz",
                "rows": 3,
                "bytes": 128,
                "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "url": "https://acme-penstock-files.s3.eu-central-1.amazonaws.com/exports/...",
            }
        ],
        "manifestUrl": "https://acme-penstock-files.s3.eu-central-1.amazonaws.com/exports/...",
        "urlsExpireAt": "2026-12-24T19:00:02.840Z",
        "error": None,
    },
    "Failures": {
        "batchId": BATCH_ID,
        "failed": 1,
        "counted": 1,
        "groups": [
            {
                "status": 409,
                "title": "Conflict",
                "count": 1,
                "retryable": 1,
                "firstAt": _FINISHED_AT,
                "lastAt": _FINISHED_AT,
                "samples": [{"id": "2", "index": 1, "detail": "ada@example.com has an account."}],
            }
        ],
        "other": 0,
        "nextCursor": None,
    },
    "Health": {"status": "live"},
    "Key": _KEY,
    "KeyRequest": {"tenant": "acme", "scopes": ["write", "read"], "name": "nightly import", "limit": "100000/3600"},
    "Keys": {"keys": [_KEY]},
    "Limits": {
        "limits": [
            {
                "name": "stripe",
                "rate": 80.0,
                "declaredRate": 100.0,
                "declaredBurst": 100,
                "declaredConcurrency": 20,
                "permits": {"held": 12, "wanted": 20},
                **dict.fromkeys(("notBefore", "cutAt", "awaySince")),
                "consumers": 2,
                "asOf": _FINISHED_AT,
            }
        ]
    },
    "Metrics": {"program": "service", "peakMemoryBytes": 81_264_640, "handlers": {}, "metrics": {}},
    "NewKey": {**_KEY, "key": _KEY_TEXT},
    "NewWebhookEndpoint": {**_ENDPOINT, "secret": _SECRET},
    "Page": {"results": _OUTCOMES, "nextCursor": None},
    "Queue": _QUEUE,
    "Queues": {"queues": [_QUEUE]},
    "Redriven": {"redrivenChunks": 1, "isComplete": True},
    "RedriveRequest": {"batchId": BATCH_ID},
    "NoOptions": {},
    "Retried": {**_WHERE, "retried": 1},
    "RetryChoice": {"status": [409], "title": "Conflict"},
    "RotatedKey": {**_KEY, "id": "Vw3cN8yR5uPe", "key": _KEY_TEXT, "replaces": _KEY},
    "RotateRequest": {"overlapSeconds": 86_400},
    "Status": _STATUS,
    "Steering": {"paused": True},
    "Validated": {
        "valid": True,
        "total": 3,
        "chunks": 1,
        "byHandler": {"POST /users": 3},
        "estimatedSeconds": None,
        "estimatedUsd": 0.0000041,
    },
    "WebhookDeliveries": {"deliveries": [_DELIVERY], "nextCursor": None},
    "WebhookDelivery": _DELIVERY,
    "WebhookEndpoint": _ENDPOINT,
    "WebhookEndpoints": {"endpoints": [_ENDPOINT]},
    "WebhookSecret": {"id": _ENDPOINT_ID, "secret": _SECRET, "secretRotatedAt": None},
}
