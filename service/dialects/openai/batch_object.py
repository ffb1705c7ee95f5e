"""A batch as OpenAI writes it: from its entry in the catalog, and from the state and the counts that the engine has.

The status `failed` means that the input is invalid. A batch whose operations have all failed is `completed`. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.batch import Batch, BatchState, Counts, Ending
from penstock.service.dialects.openai.batch_entry import PREFIX, BatchEntry
from penstock.service.dialects.openai.lines import LineError

VALIDATING, IN_PROGRESS, FINALIZING = "validating", "in_progress", "finalizing"
COMPLETED, FAILED, EXPIRED = "completed", "failed", "expired"
CANCELLING, CANCELLED = "cancelling", "cancelled"

OUTPUT, ERRORS = "output", "errors"

_FINAL = {
    BatchState.COMPLETED: COMPLETED,
    BatchState.FAILED: COMPLETED,
    BatchState.CANCELLED: CANCELLED,
    BatchState.EXPIRED: EXPIRED,
}


@dataclass(frozen=True, slots=True)
class Running:
    """A batch of the engine. `counted_at` is the time of the last count, if there was one.

    `errors` are those in its file.
    """

    batch: Batch
    counts: Counts = field(default_factory=Counts)
    counted_at: float | None = None
    errors: Sequence[LineError] = ()


def batch_body(entry: BatchEntry, running: Running) -> dict[str, Any]:
    """Return a batch as OpenAI writes it."""
    return {
        "id": entry.id,
        "object": "batch",
        "endpoint": entry.endpoint,
        "model": entry.model,
        "errors": _errors(running.errors),
        "input_file_id": entry.input_file_id,
        "completion_window": entry.completion_window,
        "created_at": int(entry.created_at),
        "metadata": entry.metadata or None,
        "usage": None,
        **_progress(entry, running),
    }


def output_id(batch_id: str, kind: str) -> str:
    """Return the id of the file with the outputs or the errors of a batch."""
    return f"file-{batch_id.removeprefix(PREFIX)}-{kind}"


def status_of(running: Running) -> str:
    batch, counts = running.batch, running.counts
    if batch.is_final:
        return FAILED if is_invalid(batch) else _FINAL[batch.state]
    if batch.state is BatchState.VALIDATING:
        return VALIDATING
    if counts.completed == batch.total:
        return FINALIZING
    if batch.state is BatchState.CANCELLING and batch.ending in {None, Ending.CANCELLED}:
        return CANCELLING
    return IN_PROGRESS


def is_invalid(batch: Batch) -> bool:
    """Return True if a consumer has found that the file is no input of a batch."""
    return batch.was_never_accepted and batch.state is BatchState.FAILED


def has_output(counts: Counts, kind: str) -> bool:
    """Return True if a file of this kind has any line."""
    return counts.succeeded > 0 if kind == OUTPUT else counts.completed > counts.succeeded


def _progress(entry: BatchEntry, running: Running) -> dict[str, Any]:
    batch, counts, status = running.batch, running.counts, FAILED if entry.errors else status_of(running)
    ended_at = None if batch.was_never_accepted else batch.finished_at
    finalizing_at = running.counted_at if status == FINALIZING else ended_at
    cancelling_at = entry.cancelling_at
    if cancelling_at is None and status == CANCELLED:
        cancelling_at = batch.finished_at
    return {
        "status": status,
        **{f"{kind_name}_file_id": _output(batch, counts, kind) for kind_name, kind in _FILES.items()},
        **_times(
            in_progress_at=batch.accepted_at,
            expires_at=batch.deadline_at,
            finalizing_at=finalizing_at,
            completed_at=batch.finished_at if status == COMPLETED else None,
            failed_at=(batch.finished_at or batch.created_at) if status == FAILED else None,
            expired_at=batch.finished_at if status == EXPIRED else None,
            cancelling_at=cancelling_at,
            cancelled_at=batch.finished_at if status == CANCELLED else None,
        ),
        "request_counts": {"total": batch.total, "completed": counts.succeeded, "failed": counts.failed},
    }


_FILES = {"output": OUTPUT, "error": ERRORS}


def _output(batch: Batch, counts: Counts, kind: str) -> str | None:
    return output_id(batch.id, kind) if has_output(counts, kind) else None


def _times(**times: float | None) -> dict[str, int | None]:
    """Return times in whole seconds."""
    return {name: None if at is None else int(at) for name, at in times.items()}


def _errors(errors: Sequence[LineError]) -> dict[str, Any] | None:
    return {"object": "list", "data": [error.encode() for error in errors]} if errors else None
