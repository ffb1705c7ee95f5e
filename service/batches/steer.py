"""PATCH /batch/{id}: changes a batch while it runs. The body is a merge patch (RFC 7396).

All members take effect in one conditional write, or none of them does. Consumers read a batch once a second.
"""

from dataclasses import replace
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from penstock.batch import RUNNING_STATES, Batch, BatchState, Ending, failure_limit_of
from penstock.documents.validation import errors_of
from penstock.ending import counts_of
from penstock.errors import Flaw, InvalidRequest, MalformedRequest, NotPossibleNow
from penstock.limit import MOST_OPERATIONS
from penstock.priority import Priority
from penstock.reading.flaws import to_flaw, without_most_unknown_members
from penstock.service.audit import Action, auditing
from penstock.service.batches.status import find_batch, find_progress, find_status
from penstock.service.content import JSON, MERGE_PATCH, check_no_tags, read_json
from penstock.service.json_answer import json_answer
from penstock.service.keys import BACKEND, CLOCK, SETTINGS
from penstock.service.schemas import MOST_FAILURES, Time, time_text
from penstock.settings import LONGEST_DEADLINE_SECONDS
from penstock.telemetry import Event, get_log

TRIES = 5  # other requests may change the batch at the same time
LEAST_RETENTION = 0.5  # how much of the retention must be left after a deadline that was moved later


class Steering(BaseModel):
    """A merge patch of a batch. A member that is absent changes nothing. The limits can be null, which removes them."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    paused: bool = False
    concurrency: int | None = Field(None, ge=1, le=MOST_OPERATIONS)
    priority: Annotated[Priority, Field(strict=False), WithJsonSchema({"type": "string", "enum": list(Priority)})] = (
        Priority.NORMAL
    )
    max_failures: int | None = Field(None, ge=0, le=MOST_FAILURES, alias="maxFailures")
    max_failed_percent: float | None = Field(None, ge=0, le=100, alias="maxFailedPercent")
    deadline_at: Time = Field(0.0, alias="deadlineAt")

    @property
    def given(self) -> dict[str, Any]:
        """Return the members that the client has sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    @property
    def changes(self) -> dict[str, Any]:
        """Return the members that the client has sent, as JSON."""
        changes = self.model_dump(mode="json", by_alias=True, include=self.model_fields_set)
        return changes | ({"deadlineAt": time_text(self.deadline_at)} if "deadlineAt" in changes else {})

    @property
    def has_limits(self) -> bool:
        return not self.model_fields_set.isdisjoint({"max_failures", "max_failed_percent"})

    def apply_to(self, batch: Batch, now: float) -> Batch:
        """Return the batch as the client wants it."""
        given = self.given
        if given.pop("paused", None) is not None:
            given |= _pause(batch, now) if self.paused else _resume(batch, now)
        wanted = replace(batch, **given)
        if not self.has_limits:
            return wanted
        limit = failure_limit_of(wanted.max_failures, wanted.max_failed_percent, wanted.total)
        return replace(wanted, failure_limit=limit)


def _pause(batch: Batch, now: float) -> dict[str, Any]:
    """Return what a pause changes. To pause a batch again does not make its pause longer."""
    is_paused = batch.paused_until is not None and now < batch.paused_until
    return {} if is_paused else {**_resume(batch, now), "paused_at": now}


def _resume(batch: Batch, now: float) -> dict[str, Any]:
    return {"paused_at": None, "paused_seconds": round(batch.paused_seconds_at(now), 3)}


async def steer_batch(request: web.Request) -> web.Response:
    """Answer 200 with the status. Answer 409 if the batch is final, is being cancelled or is past its deadline."""
    await change_batch(request, await _read(request))
    return json_answer(await find_status(request))


async def change_batch(request: web.Request, steering: Steering) -> None:
    """Change the batch in the path. Raises NotPossibleNow, InvalidRequest or UnknownBatch."""
    batch = (await find_progress(request)).batch
    with auditing(request, Action.STEER, batch_id=batch.id, batch_tenant=batch.tenant, changes=steering.changes):
        steered = await _steer(request, batch, steering)
    if steering.has_limits:
        await _check_limit(request, steered)


async def _read(request: web.Request) -> Steering:
    if request.query:
        raise MalformedRequest("This request has no query. Send the changes in its body.")
    return steering_of(without_most_unknown_members(await read_json(request, [MERGE_PATCH, JSON]), Steering))


def steering_of(document: Any) -> Steering:
    """Return the changes in a document. Raises InvalidRequest."""
    try:
        return Steering.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest([to_flaw(one, document) for one in errors_of(error)]) from error


async def _steer(request: web.Request, batch: Batch, steering: Steering) -> Batch:
    """Write the changes. If another request has changed the batch meanwhile, apply them to what it is now."""
    for _ in range(TRIES):
        now = request.app[CLOCK].now()
        _check_state(batch, now)
        if "deadline_at" in steering.model_fields_set:
            _check_deadline(batch, steering.deadline_at, now, request.app[SETTINGS].retention_seconds)
        wanted = steering.apply_to(batch, now)
        check_no_tags(request)
        if await request.app[BACKEND].store.steer_batch(batch, wanted, now):
            return wanted
        batch = await find_batch(request)
    raise NotPossibleNow("Other requests change the batch at the same time. Send this one again.")


def _check_state(batch: Batch, now: float) -> None:
    if batch.state is BatchState.VALIDATING:
        raise NotPossibleNow("The file of the batch is not validated yet. Change the batch once it is queued.")
    if batch.state not in RUNNING_STATES:
        raise NotPossibleNow(f"The batch is {batch.state}, so it cannot be changed any more.")
    if batch.ending_at(now) is not None:
        raise NotPossibleNow("The deadline of the batch is over, so it cannot be changed any more.")


def _check_deadline(batch: Batch, deadline_at: float, now: float, retention_seconds: float) -> None:
    """Raise InvalidRequest if a deadline is not in the future, or too late for SQS or for the retention of the batch.

    What is stored of the batch is deleted at a fixed time. So a later deadline leaves less time to read the results.
    """
    latest = min(
        max(batch.created_at, batch.not_before or 0) + LONGEST_DEADLINE_SECONDS,
        max(batch.deadline_at, batch.expires_at - LEAST_RETENTION * retention_seconds),
    )
    if deadline_at <= now:
        raise InvalidRequest([Flaw("/deadlineAt", "This time is over. Use a time in the future, or cancel the batch.")])
    if deadline_at > latest:
        detail = f"This is too late. The deadline of this batch can be {time_text(latest)} at the latest."
        raise InvalidRequest([Flaw("/deadlineAt", detail)])


async def _check_limit(request: web.Request, batch: Batch) -> None:
    """End the batch if more operations have failed than its new limit allows.

    A consumer checks the limit after each failure. What has failed before, nobody else would check again.
    """
    store, limit = request.app[BACKEND].store, batch.failure_limit
    if limit is None:
        return
    groups = await store.read_groups(batch.id, range(len(batch.group_totals)))
    if limit.is_passed(counts_of(groups.values())):
        settle_by = request.app[CLOCK].now() + request.app[SETTINGS].settle_seconds
        if await store.end_batch(batch.id, Ending.CANCELLED, limit.reason, settle_by=settle_by):
            get_log().warning(Event.BATCH_ENDED, batch_id=batch.id, ending=Ending.CANCELLED, reason=limit.reason)
