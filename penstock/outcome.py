"""What operations came to, and what follows from a chunk. Pure.

Here is the one decision that everything rests on: what an attempt at a chunk came to, told per operation as a verdict,
becomes a chunk record: the outcomes that are final, and the chunks that follow for everything that is not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from penstock.backoff import Backoff
from penstock.batch import Counts, Ending
from penstock.chunk import Chunk, Operation, redriven_from

BROKE = "d1"
REJECTED = "d2"


class OutcomeState(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation came to. `status` is read like an HTTP status, `error` like an RFC 9457 problem."""

    index: int
    id: str
    state: OutcomeState
    status: int
    result: Any = None
    error: dict[str, Any] | None = None
    rejected: bool = False  # the handler refused it: trying again cannot help


@dataclass(frozen=True, slots=True)
class TryAgain:
    """This attempt failed and another may succeed. `failure` is the outcome if there is none left."""

    failure: Outcome
    max_attempts: int
    after_seconds: float | None = None  # asked for by the handler; None: backoff decides


Verdict = Outcome | TryAgain


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A chunk that follows, without its operations: whoever holds the chunk has them."""

    id: str
    attempt: int
    indexes: tuple[int, ...]
    not_before: float | None = None


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """The durable answer to a chunk. Of what failed it keeps the operations too, since a retry needs them.

    `deaths` is how many deliveries of the chunk ended without a record.
    """

    chunk_id: str
    outcomes: tuple[Outcome, ...] = ()
    follow_ups: tuple[FollowUp, ...] = ()
    failed_operations: tuple[Operation, ...] = ()
    deaths: int = 0

    @property
    def counts(self) -> Counts:
        """What this record adds to the counters. Of a redriven chunk every outcome takes the place of a failure."""
        states = [outcome.state for outcome in self.outcomes]
        counts = Counts(*(states.count(state) for state in OutcomeState))
        if redriven_from(self.chunk_id) is None:
            return counts
        return counts + Counts(failed=-len(self.outcomes))


def succeeded(operation: Operation, status: int, result: Any) -> Outcome:
    return Outcome(operation.index, operation.id, OutcomeState.SUCCEEDED, status, result=result)


def failed(
    operation: Operation, status: int, title: str, detail: str | None = None, *, rejected: bool = False
) -> Outcome:
    error = {"title": title} if detail is None else {"title": title, "detail": _readable(detail)}
    return Outcome(operation.index, operation.id, OutcomeState.FAILED, status, error=error, rejected=rejected)


def never_ended(index: int, operation_id: str, ending: Ending, reason: str | None) -> Outcome:
    """The outcome of an operation that had not ended when its batch was."""
    state, status, title = _NEVER_ENDED[ending]
    error = {"title": title, "detail": reason} if reason else {"title": title}
    return Outcome(index, operation_id, state, status, error=error, rejected=True)


_NEVER_ENDED = {
    Ending.CANCELLED: (OutcomeState.CANCELLED, 410, "Cancelled"),
    Ending.EXPIRED: (OutcomeState.EXPIRED, 504, "Not done by the deadline"),
    Ending.FAILED: (OutcomeState.FAILED, 503, "Stopped"),
}


def _readable(text: str) -> str:
    """Without lone surrogates, which file names bring into messages and JSON cannot hold."""
    return text.encode("utf-8", "replace").decode()


def is_final(verdict: Verdict, attempt: int) -> bool:
    return isinstance(verdict, Outcome) or attempt >= verdict.max_attempts


def as_outcome(verdict: Verdict) -> Outcome:
    """The outcome of a verdict after which nothing is tried again."""
    return verdict if isinstance(verdict, Outcome) else verdict.failure


@dataclass(frozen=True, slots=True)
class Ended:
    """That a batch is to end, and why: what has not begun does not begin any more."""

    ending: Ending
    reason: str | None = None


def record_attempt(
    chunk: Chunk,
    verdicts: Mapping[int, Verdict],
    *,
    backoff: Backoff,
    draw: float,
    now: float,
    attempts: Mapping[int, int] | None = None,
    ended: Ended | None = None,
    deaths: int = 0,
) -> ChunkRecord:
    """The record of an attempt at a chunk. An operation without a verdict was not run, or not to its end.

    Final verdicts become outcomes. What is to be tried again follows, delayed, its attempt one higher; what was not run
    follows in another chunk, at once, its attempt unchanged. Of a batch that is to end nothing follows: what failed has
    failed, and what did not run is given the outcome that the ending says. `attempts` tells the attempt of operations
    that were tried more often than the chunk.
    """
    attempts = attempts or {}
    outcomes: list[Outcome] = []
    again: dict[int, list[int]] = {}
    rest: list[int] = []
    for operation in chunk.operations:
        verdict = verdicts.get(operation.index)
        attempt = attempts.get(operation.index, chunk.attempt)
        if verdict is None and ended is not None:
            outcomes.append(never_ended(operation.index, operation.id, ended.ending, ended.reason))
        elif verdict is None:
            rest.append(operation.index)
        elif is_final(verdict, attempt) or ended is not None:
            outcomes.append(as_outcome(verdict))
        else:
            again.setdefault(attempt, []).append(operation.index)
    follow_ups: list[FollowUp] = []
    for attempt, indexes in sorted(again.items()):
        wait = _wait_seconds([verdicts[index] for index in indexes], attempt, backoff, draw)
        follow_ups.append(FollowUp(_next_id(chunk, follow_ups), attempt + 1, tuple(indexes), now + wait))
    if rest:
        follow_ups.append(FollowUp(_next_id(chunk, follow_ups), chunk.attempt, tuple(rest)))
    return _record(chunk, outcomes, follow_ups, deaths)


def record_halves(chunk: Chunk, deaths: int) -> ChunkRecord:
    """An earlier delivery of this chunk died without a record: its two halves, so that what killed it is cornered."""
    middle = len(chunk.operations) // 2
    halves = (chunk.operations[:middle], chunk.operations[middle:])
    follow_ups: list[FollowUp] = []
    for half in halves:
        indexes = tuple(operation.index for operation in half)
        follow_ups.append(FollowUp(_next_id(chunk, follow_ups), chunk.attempt, indexes))
    return _record(chunk, [], follow_ups, deaths)


def record_poison(chunk: Chunk, deaths: int) -> ChunkRecord:
    """The one operation of this chunk was under way `deaths` times when its consumer died: it is not tried again."""
    times = "time" if deaths == 1 else f"{deaths} times"
    detail = f"Its consumer died or lost its lease the {times} it ran this operation alone."
    return _record(chunk, [failed(operation, 500, "Poison", detail) for operation in chunk.operations], [], deaths)


def record_too_early(chunk: Chunk) -> ChunkRecord:
    """The chunk came before its time (a queue delays by 15 minutes at most): it follows from itself."""
    indexes = tuple(operation.index for operation in chunk.operations)
    return _record(chunk, [], [FollowUp(_next_id(chunk, []), chunk.attempt, indexes, chunk.not_before)])


def follow_up_chunks(chunk: Chunk, record: ChunkRecord) -> list[Chunk]:
    """The chunks that follow from a record, with their operations."""
    operations = {operation.index: operation for operation in chunk.operations}
    return [
        Chunk(
            batch_id=chunk.batch_id,
            id=follow_up.id,
            attempt=follow_up.attempt,
            operations=tuple(operations[index] for index in follow_up.indexes),
            not_before=follow_up.not_before,
        )
        for follow_up in record.follow_ups
    ]


def dead_letters(batch_id: str, record: ChunkRecord, *, rejections: bool = True) -> list[Chunk]:
    """A record's failed operations as chunks: `<chunk id>.d1` of what broke, `<chunk id>.d2` of what was rejected.

    They follow from the record alone, so whoever sends them again, from the dead letter queue or on request, sends the
    same: the first to be recorded stands. Their attempt is 1 again.
    """
    operations = {operation.index: operation for operation in record.failed_operations}
    failures = [outcome for outcome in record.outcomes if outcome.state is OutcomeState.FAILED]
    letters = []
    for kind, rejected in ((BROKE, False), (REJECTED, True)):
        indexes = [outcome.index for outcome in failures if outcome.rejected is rejected]
        if indexes and (rejections or not rejected):
            members = tuple(operations[index] for index in indexes)
            letters.append(Chunk(batch_id, f"{record.chunk_id}.{kind}", 1, members))
    return letters


def delay_seconds(not_before: float | None, now: float, longest: int) -> int:
    """The whole seconds, at most `longest`, for which the queue should hold back what is not to run before a time."""
    if not_before is None:
        return 0
    return max(0, min(longest, math.ceil(not_before - now)))


def _wait_seconds(verdicts: Sequence[Verdict], attempt: int, backoff: Backoff, draw: float) -> float:
    """They wait together, so as long as the one that waits longest: by its handler's word, or else by the backoff."""
    by_backoff = backoff.delay_seconds(attempt, draw)
    asked = [verdict.after_seconds for verdict in verdicts if isinstance(verdict, TryAgain)]
    return max(by_backoff if seconds is None else seconds for seconds in asked)


def _next_id(chunk: Chunk, already: Sequence[FollowUp]) -> str:
    return f"{chunk.id}.{len(already) + 1}"


def _record(chunk: Chunk, outcomes: Sequence[Outcome], follow_ups: Sequence[FollowUp], deaths: int = 0) -> ChunkRecord:
    failures = {outcome.index for outcome in outcomes if outcome.state is OutcomeState.FAILED}
    return ChunkRecord(
        chunk_id=chunk.id,
        outcomes=tuple(outcomes),
        follow_ups=tuple(follow_ups),
        failed_operations=tuple(operation for operation in chunk.operations if operation.index in failures),
        deaths=deaths,
    )
