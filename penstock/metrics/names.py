"""Every metric by name, with its unit, who measures it, and its meaning. Gathered in `meter.py`.

The names are those in CloudWatch, in the namespace `Penstock`; `infra/README.md` has them as a table.
"""

from enum import StrEnum
from typing import Self


class Program(StrEnum):
    """Who measures."""

    SERVICE = "service"
    CONSUMER = "consumer"


class Unit(StrEnum):
    """As CloudWatch calls it."""

    COUNT = "Count"
    SECONDS = "Seconds"


_BOTH = (Program.SERVICE, Program.CONSUMER)


class Metric(StrEnum):
    """Its value is its name in CloudWatch. Dimensions are `Service`, which is PENSTOCK_NAME, and `Program`."""

    unit: Unit
    programs: tuple[Program, ...]
    meaning: str

    def __new__(cls, name: str, unit: Unit, programs: tuple[Program, ...], meaning: str) -> Self:
        metric = str.__new__(cls, name)
        metric._value_ = name
        metric.unit, metric.programs, metric.meaning = unit, programs, meaning
        return metric

    OPERATIONS_SUCCEEDED = "OperationsSucceeded", Unit.COUNT, _BOTH, "Attempts that ended an operation as succeeded."
    OPERATIONS_FAILED = "OperationsFailed", Unit.COUNT, _BOTH, "Attempts that ended an operation as failed."
    OPERATIONS_RETRIED = "OperationsRetried", Unit.COUNT, _BOTH, "Attempts that failed and left another one to come."
    HANDLER_SECONDS = "HandlerSeconds", Unit.SECONDS, _BOTH, "What a handler took for one attempt."
    CHUNK_AGE_SECONDS = (
        "ChunkAgeSeconds",
        Unit.SECONDS,
        (Program.CONSUMER,),
        "How long a chunk had stood on the queue, ready to run, when it was received.",
    )
    CHUNK_SECONDS = (
        "ChunkSeconds",
        Unit.SECONDS,
        (Program.CONSUMER,),
        "From a chunk's receipt to its acknowledgement: waiting for slots, handlers, recording.",
    )
    IN_FLIGHT = (
        "InFlight",
        Unit.COUNT,
        (Program.CONSUMER,),
        "Chunks that one consumer has received and not settled, looked at every second; 0 while it is idle.",
    )
    DEAD_LETTERS = (
        "DeadLetters",
        Unit.COUNT,
        _BOTH,
        "Messages put into the dead letter queue: chunks of what finally failed, and what was set aside.",
    )
    BATCHES_SWEPT = (
        "BatchesSwept",
        Unit.COUNT,
        (Program.CONSUMER,),
        "Batches that the sweeper ended because they were past their time.",
    )
    ACCEPT_SECONDS = (
        "AcceptSeconds",
        Unit.SECONDS,
        (Program.SERVICE,),
        "From a valid batch to its acceptance: planning, and sending every chunk.",
    )
    HTTP_ANSWERS_2XX = "HttpAnswers2xx", Unit.COUNT, (Program.SERVICE,), "Answers 200 to 299, without health checks."
    HTTP_ANSWERS_4XX = "HttpAnswers4xx", Unit.COUNT, (Program.SERVICE,), "Answers 400 to 499, without health checks."
    HTTP_ANSWERS_5XX = "HttpAnswers5xx", Unit.COUNT, (Program.SERVICE,), "Answers 500 to 599, without health checks."
    REJECTED_BY_LIMIT = (
        "RejectedByLimit",
        Unit.COUNT,
        (Program.SERVICE,),
        "Requests that a limit refused (413 and 429); they are among HttpAnswers4xx, too.",
    )


BY_HANDLER = frozenset(
    {Metric.OPERATIONS_SUCCEEDED, Metric.OPERATIONS_FAILED, Metric.OPERATIONS_RETRIED, Metric.HANDLER_SECONDS}
)
GAUGES = frozenset({Metric.IN_FLIGHT})


def metrics_of(program: Program) -> list[Metric]:
    return [metric for metric in Metric if program in metric.programs]
