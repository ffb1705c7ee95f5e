"""The bodies of requests and answers, as JSON in camelCase."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from penstock.api_key import Redaction
from penstock.batch import (
    RUNNING_STATES,
    UNACCEPTED_STATES,
    Batch,
    BatchState,
    Counts,
    FailureLimit,
    estimate_finish,
    failure_limit_of,
)
from penstock.cost import Cost
from penstock.errors import Flaw
from penstock.eta import Band
from penstock.outcome import Outcome, OutcomeState, result_value
from penstock.planning import Planning
from penstock.priority import Priority
from penstock.service.base_url import public_url
from penstock.settings import LONGEST_DEADLINE_SECONDS
from penstock.webhooks.urls import LONGEST_URL

MOST_FAILURES = 2**53 - 1  # the largest number that every JSON parser reads exactly, and the table can hold it
PAUSED = "paused"  # not a state in the table: see `Batch.is_paused`
SHOWN_STATES = [*(state for state in BatchState if state not in UNACCEPTED_STATES), PAUSED]
MOST_METADATA = 16  # pairs of a batch
LONGEST_METADATA_NAME = 64
LONGEST_METADATA_VALUE = 512
METADATA_PREFIX = "metadata."  # of the names of metadata in a query

_TIME = re.compile(  # RFC 3339
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2})(?:(\.[0-9]{1,6})[0-9]*)?([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_LATEST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()  # later ones cannot be written in UTC
_TIME_WANTED = "Write the time as 2026-12-24T18:00:00Z, or with an offset such as +01:00 (in a query %2B01:00)"


def read_time(value: Any) -> float:
    """Return a time as RFC 3339 writes it, in seconds since the epoch. Raises ValueError."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(_TIME_WANTED)
    to_microseconds = "".join(match.groups("")).upper()  # further digits of the fraction are cut off
    try:
        seconds = datetime.fromisoformat(to_microseconds).timestamp()
    except ValueError as error:
        raise ValueError(f"This time does not exist: {error}") from error
    if seconds < 0:
        raise ValueError("The time must not be before 1970")
    return min(seconds, _LATEST)


Time = Annotated[float, BeforeValidator(read_time), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time in seconds since the epoch. In JSON it is written as in RFC 3339."""


def _check_pairs(value: Any) -> Any:
    """Reject too many pairs before Pydantic validates each of them."""
    if isinstance(value, dict) and len(value) > MOST_METADATA:
        raise ValueError(f"A batch has at most {MOST_METADATA} pairs of metadata. These are {len(value):,}")
    return value


Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_METADATA_NAME)],
        Annotated[str, StringConstraints(max_length=LONGEST_METADATA_VALUE)],
    ],
    Field(max_length=MOST_METADATA),
    BeforeValidator(_check_pairs),
]
"""What a client says about its batch, in its own words."""


class BatchOptions(BaseModel):
    """The options of a batch."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    atomic: bool = False
    priority: Annotated[Priority, Field(strict=False), WithJsonSchema({"type": "string", "enum": list(Priority)})] = (
        Priority.NORMAL
    )
    not_before: Time | None = Field(None, alias="notBefore")
    deadline_seconds: float | None = Field(None, gt=0, le=LONGEST_DEADLINE_SECONDS, alias="deadlineSeconds")
    max_failures: int | None = Field(None, ge=0, le=MOST_FAILURES, alias="maxFailures")
    max_failed_percent: float | None = Field(None, ge=0, le=100, alias="maxFailedPercent")
    metadata: Metadata | None = None
    validate_only: bool = Field(False, alias="validateOnly")

    callback_url: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_URL)] | None = Field(
        None, alias="callbackUrl"
    )

    def failure_limit(self, total: int) -> FailureLimit | None:
        return failure_limit_of(self.max_failures, self.max_failed_percent, total)


class BatchRequest(BatchOptions):
    """A batch with its options. The operations are validated one by one, so that every invalid one is reported."""

    operations: Annotated[list[Any], Field(min_length=1)]


def outcome_body(outcome: Outcome) -> dict[str, Any]:
    body: dict[str, Any] = {"id": outcome.id, "status": outcome.status}
    if outcome.state is OutcomeState.SUCCEEDED:
        body["result"] = result_value(outcome.result)
    else:
        body["error"] = outcome.error
    return body


def answered_body(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the answer to a batch that was run immediately, with all its results."""
    return {"summary": summary_of(outcomes), "results": [outcome_body(outcome) for outcome in outcomes]}


def summary_of(outcomes: Sequence[Outcome]) -> dict[str, int]:
    succeeded = sum(outcome.state is OutcomeState.SUCCEEDED for outcome in outcomes)
    return {"total": len(outcomes), "succeeded": succeeded, "failed": len(outcomes) - succeeded}


def accepted_body(batch_id: str) -> dict[str, Any]:
    return {"batchId": batch_id, "statusUrl": status_url(batch_id), "resultsUrl": results_url(batch_id)}


def status_body(
    batch: Batch,
    counts: Counts,
    redelivered: int,
    metadata: Mapping[str, str],
    now: float,
    *,
    cost: Cost | None,
    end: Band | None,
    errors: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a status. `cost` is what the batch has cost, and `end` when it will probably finish.

    `errors` has the members that list those of an uploaded file, if the batch has failed because of them.
    """
    likely = estimate_finish(batch, counts.completed, now) if end is None else end.likely
    return {
        "batchId": batch.id,
        "tenant": batch.tenant,
        "metadata": metadata,
        "status": shown_state(batch, counts, now),
        "priority": batch.priority,
        "total": batch.total,
        "completed": counts.completed,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "expired": counts.expired,
        "redelivered": redelivered,
        "progress": _progress(counts.completed, batch.total),
        "createdAt": time_text(batch.created_at),
        "acceptedAt": time_text(batch.accepted_at),
        "notBefore": time_text(batch.not_before),
        "startedAt": time_text(batch.started_at),
        "finishedAt": time_text(batch.finished_at),
        "deadlineAt": time_text(batch.deadline_at),
        "pausedAt": time_text(batch.paused_at),
        "pausedUntil": time_text(batch.paused_until),
        "concurrency": batch.concurrency,
        "maxFailures": batch.max_failures,
        "maxFailedPercent": batch.max_failed_percent,
        "reason": batch.reason,
        "eta": None if batch.is_paused(now) else time_text(likely),
        "etaEarliest": None if end is None else time_text(end.earliest),
        "etaLatest": None if end is None else time_text(end.latest),
        "cost": None if cost is None else _cost_body(cost),
        "resultsUrl": results_url(batch.id),
        **({} if batch.planning is None else {"validation": _validation_body(batch.planning)}),
        **(errors or {}),
    }


def _validation_body(planning: Planning) -> dict[str, Any]:
    """Return how far the uploaded file of a batch is read, and then how far its operations are on the queue."""
    return {
        "bytes": planning.file_bytes,
        "bytesRead": planning.read_bytes,
        "operationsRead": planning.operations,
        "operationsSent": planning.sent_operations,
        "errorCount": planning.errors,
    }


def flaws_body(flaws: Sequence[Flaw], count: int, redaction: Redaction) -> dict[str, Any]:
    """Return the members that list errors, in a problem and in a status."""
    return {"errorCount": count, "errors": [_flaw_body(flaw, redaction) for flaw in flaws]}


def _flaw_body(flaw: Flaw, redaction: Redaction) -> dict[str, Any]:
    """Return an error. Pointer and detail repeat words of the request, and a key may be among them."""
    error: dict[str, Any] = {"pointer": redaction.cut(flaw.pointer), "detail": redaction.cut(flaw.detail)}
    return error if flaw.line is None else {"line": flaw.line, **error}


def _cost_body(cost: Cost) -> dict[str, Any]:
    return {"usd": cost.usd, "requests": cost.requests, "asOf": time_text(cost.as_of)}


def shown_state(batch: Batch, counts: Counts, now: float) -> str:
    """Return the state for a client: a batch of which everything is counted is about to be finished."""
    is_ending = batch.state in RUNNING_STATES and counts.completed == batch.total
    if batch.is_paused(now) and not is_ending:
        return PAUSED
    return BatchState.PROCESSING if is_ending else batch.state


def status_url(batch_id: str) -> str:
    return public_url(f"/batch/{batch_id}/status")


def results_url(batch_id: str) -> str:
    return public_url(f"/batch/{batch_id}/results")


def failures_url(batch_id: str) -> str:
    return public_url(f"/batch/{batch_id}/failures")


def _progress(completed: int, total: int) -> float:
    """Return the progress, rounded down to four digits: it is 1.0 only when every operation is completed."""
    if total == 0:
        return 0.0  # of a file that is not validated, or is invalid
    return completed * 10_000 // total / 10_000


def time_text(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
