"""Describes what operators use: dead letters, limits, queues and metrics."""

from penstock.metrics.exposition import OPEN_METRICS
from penstock.metrics.exposition import TEXT as PROMETHEUS_TEXT
from penstock.priority import Priority
from penstock.service.openapi.answers import REJECTED, answers_of, endpoint
from penstock.service.openapi.values import (
    COUNT,
    MOST,
    RATE,
    TEXT,
    TIME,
    Fragment,
    list_of,
    object_of,
    one_of,
    ref,
    schema_of,
)
from penstock.service.operators.dead_letters import RedriveRequest

TAG: Fragment = {
    "name": "Operators",
    "description": "Dead letters, limits, queues and metrics. They need the scope `operate`.",
}
REQUESTS: Fragment = {
    "RedriveRequest": schema_of(RedriveRequest),
    "NoOptions": {
        "description": "An empty object: the request has no options. A form of a web page cannot send JSON.",
        "type": "object",
        "additionalProperties": False,
    },
}
_QUEUE: Fragment = {
    "priority": one_of(Priority),
    "paused": {"type": "boolean"},
    "pausedAt": TIME,
    "waiting": COUNT,
}


def paths_for_operators() -> Fragment:
    return {
        "/dead-letters": {
            "get": endpoint(
                "listDeadLetters",
                "Show some of the dead letters",
                answers_of(200, "DeadLetters", 400, *REJECTED, 503),
                ["limit"],
            )
        },
        "/dead-letters/redrive": {
            "post": endpoint(
                "redriveDeadLetters",
                "Move dead letters back to the queue, all or those of one batch",
                answers_of(202, "Redriven", 400, *REJECTED, 408, 413, 415, 422, 503),
                body="RedriveRequest",
            )
        },
        "/limits": {
            "get": endpoint(
                "listLimits",
                "The limits that all consumers share, as they last wrote them",
                answers_of(200, "Limits", *REJECTED, 503),
            )
        },
        **_paths_of_queues(),
        "/metrics": {"get": _metrics()},
    }


def _paths_of_queues() -> Fragment:
    answers = (400, *REJECTED, 404, 408, 413, 415, 503)
    return {
        "/queues": {
            "get": endpoint(
                "listQueues",
                "The queues of the priorities, and since when each is paused",
                answers_of(200, "Queues", *REJECTED, 503),
            )
        },
        "/queues/{priority}/pause": {
            "post": endpoint(
                "pauseQueue",
                "Pause a queue for all consumers",
                answers_of(200, "Queue", *answers),
                ["priority_of_queue"],
                body="NoOptions",
            )
        },
        "/queues/{priority}/resume": {
            "post": endpoint(
                "resumeQueue",
                "Resume a queue",
                answers_of(200, "Queue", *answers),
                ["priority_of_queue"],
                body="NoOptions",
            )
        },
    }


def _metrics() -> Fragment:
    answers = answers_of(200, "Metrics", *REJECTED, 406)
    for kind in (PROMETHEUS_TEXT, OPEN_METRICS):
        answers["200"]["content"][kind] = {"schema": {"type": "string", "description": "The Prometheus text format."}}
    return endpoint("getMetrics", "Metrics of this front end since it started", answers)


SCHEMAS: Fragment = {
    "Metrics": object_of(
        {
            "program": TEXT,
            "peakMemoryBytes": COUNT,
            "handlers": {"type": "object", "additionalProperties": {"type": "object"}},
            "metrics": {"type": "object"},
        }
    ),
    "DeadLetters": object_of(
        {"approximateCount": COUNT, "deadLetters": list_of(object_of({"messageId": TEXT}))},
    ),
    "Limits": object_of(
        {
            "limits": list_of(
                object_of(
                    {
                        "name": TEXT,
                        **dict.fromkeys(("rate", "declaredRate"), RATE),
                        **dict.fromkeys(("declaredBurst", "declaredConcurrency"), MOST),
                        "permits": {**object_of({"held": COUNT, "wanted": COUNT}), "type": ["object", "null"]},
                        **dict.fromkeys(("notBefore", "cutAt", "awaySince", "asOf"), TIME),
                        "consumers": COUNT,
                    }
                )
            )
        }
    ),
    "Queue": object_of(_QUEUE),
    "Queues": object_of({"queues": list_of(ref("Queue"))}),
    "Redriven": object_of({"redrivenChunks": COUNT, "isComplete": {"type": "boolean"}}),
}

PARAMETERS: Fragment = {
    "priority_of_queue": {"name": "priority", "in": "path", "required": True, "schema": one_of(Priority)},
}
