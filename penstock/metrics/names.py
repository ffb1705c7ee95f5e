"""All metrics with their names, their units, the programs that measure them, and their meanings.

The names are those in CloudWatch, in the namespace `Penstock`. The documentation for operators has the same table.
"""

from enum import StrEnum
from typing import Self


class Program(StrEnum):
    """The program that measures a metric."""

    SERVICE = "service"
    CONSUMER = "consumer"


class Unit(StrEnum):
    """The unit of a metric, as CloudWatch calls it."""

    COUNT = "Count"
    SECONDS = "Seconds"


_BOTH = (Program.SERVICE, Program.CONSUMER)


class Metric(StrEnum):
    """A metric. Its value is its name in CloudWatch; its dimensions are `Service` (PENSTOCK_NAME) and `Program`."""

    unit: Unit
    programs: tuple[Program, ...]
    meaning: str

    def __new__(cls, name: str, unit: Unit, programs: tuple[Program, ...], meaning: str) -> Self:
        metric = str.__new__(cls, name)
        metric._value_ = name
        metric.unit, metric.programs, metric.meaning = unit, programs, meaning
        return metric

    OPERATIONS_SUCCEEDED = "OperationsSucceeded", Unit.COUNT, _BOTH, "Attempts after which an operation has succeeded."
    OPERATIONS_FAILED = "OperationsFailed", Unit.COUNT, _BOTH, "Attempts after which an operation has failed."
    OPERATIONS_RETRIED = (
        "OperationsRetried",
        Unit.COUNT,
        _BOTH,
        "Attempts that failed and are followed by another attempt.",
    )
    HANDLER_SECONDS = "HandlerSeconds", Unit.SECONDS, _BOTH, "Duration of one attempt of a handler."
    CHUNK_AGE_SECONDS = (
        "ChunkAgeSeconds",
        Unit.SECONDS,
        (Program.CONSUMER,),
        "Time that a chunk waited on the queue, ready to run, until it was received.",
    )
    CHUNK_SECONDS = (
        "ChunkSeconds",
        Unit.SECONDS,
        (Program.CONSUMER,),
        "Time from the receipt of a chunk to its acknowledgement: waiting for slots, running, recording, counting.",
    )
    IN_FLIGHT = (
        "InFlight",
        Unit.COUNT,
        (Program.CONSUMER,),
        "Chunks that one consumer has received and not finished, sampled every second; 0 while it is idle.",
    )
    DEAD_LETTERS = (
        "DeadLetters",
        Unit.COUNT,
        _BOTH,
        "Messages sent to the dead letter queue: chunks of failed operations, and messages that are not chunks.",
    )
    BATCHES_SWEPT = (
        "BatchesSwept",
        Unit.COUNT,
        (Program.CONSUMER,),
        "Overdue batches that the sweeper finished.",
    )
    WEBHOOKS_FAILED = (
        "WebhooksFailed",
        Unit.COUNT,
        (Program.CONSUMER,),
        "Events that were given up after the last attempt, or because their receiver wants no more.",
    )
    ACCEPT_SECONDS = (
        "AcceptSeconds",
        Unit.SECONDS,
        (Program.SERVICE,),
        "Time from the validation of a batch to its acceptance: planning, and sending all chunks.",
    )
    HTTP_ANSWERS_2XX = (
        "HttpAnswers2xx",
        Unit.COUNT,
        (Program.SERVICE,),
        "Responses with status 200 to 299, without health checks.",
    )
    HTTP_ANSWERS_4XX = (
        "HttpAnswers4xx",
        Unit.COUNT,
        (Program.SERVICE,),
        "Responses with status 400 to 499, without health checks.",
    )
    HTTP_ANSWERS_5XX = (
        "HttpAnswers5xx",
        Unit.COUNT,
        (Program.SERVICE,),
        "Responses with status 500 to 599, without health checks.",
    )
    REJECTED_BY_LIMIT = (
        "RejectedByLimit",
        Unit.COUNT,
        (Program.SERVICE,),
        "Requests that were rejected because of a limit (413 or 429); HttpAnswers4xx includes them.",
    )


BY_HANDLER = frozenset(
    {Metric.OPERATIONS_SUCCEEDED, Metric.OPERATIONS_FAILED, Metric.OPERATIONS_RETRIED, Metric.HANDLER_SECONDS}
)
GAUGES = frozenset({Metric.IN_FLIGHT})


class TenantMetric(StrEnum):
    """A counter by tenant. Its dimensions in CloudWatch are `Service` and `Tenant`, so both programs add up.

    `/metrics` also splits it by `label`, if it has one.
    """

    programs: tuple[Program, ...]
    label: str | None
    meaning: str

    def __new__(cls, name: str, programs: tuple[Program, ...], label: str | None, meaning: str) -> Self:
        metric = str.__new__(cls, name)
        metric._value_ = name
        metric.programs, metric.label, metric.meaning = programs, label, meaning
        return metric

    TENANT_OPERATIONS = (
        "TenantOperations",
        (Program.SERVICE,),
        None,
        "Operations of batches that were accepted or answered with their results, and operations that were retried.",
    )
    TENANT_FAILURES = (
        "TenantFailures",
        _BOTH,
        None,
        "Operations that have failed, and again if their chunk is delivered twice. An attempt that is retried is none.",
    )
    TENANT_REJECTIONS = (
        "TenantRejections",
        (Program.SERVICE,),
        "status",
        "Requests that were rejected with status 401, 403 or 429.",
    )
    TENANT_ACTIONS = (
        "TenantActions",
        (Program.SERVICE,),
        "action",
        "Keys made, rotated and revoked, batches cancelled and retried, and redrives: by the tenant of the caller.",
    )


def metrics_of(program: Program) -> list[Metric]:
    """Return the metrics that a program measures."""
    return [metric for metric in Metric if program in metric.programs]


def tenant_metrics_of(program: Program) -> list[TenantMetric]:
    """Return the metrics by tenant that a program measures."""
    return [metric for metric in TenantMetric if program in metric.programs]
