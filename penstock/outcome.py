"""The outcomes of operations, and the chunks that follow from a chunk. Pure.

This module makes the central decision of Penstock. An attempt at a chunk gives a verdict for each operation. From the
verdicts follows the chunk record: the final outcomes, and the follow-up chunks for all other operations.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeVar, final

from msgspec import Struct
from msgspec.structs import replace as with_changes
from pydantic_core import from_json, to_json

from penstock.backoff import Backoff
from penstock.batch import Counts, Ending
from penstock.chunk import (
    Chunk,
    Operation,
    dead_letter_id,
    follow_up_id,
    next_round_id,
    redriven_from,
    steps_to,
    with_path,
)
from penstock.dependencies import Unit, blocked_by_failures, components, needs, share_out, to_run, units, with_connected
from penstock.references import NONE, Results, Unresolved

DEPENDENCY_FAILED = "Dependency failed"  # the title of the outcome of an operation that could not run
ROLLED_BACK = "Rolled back"  # the title of the outcome of an operation that was undone with its group
UNRESOLVED = "Unresolved reference"  # the title of the outcome of an operation whose path could not be made
BROKE = "d1"  # the suffix of a dead letter whose operations failed on the last attempt
EMPTY: Mapping[int, str] = {}
FEW_BYTES = 256  # a result that is not longer as JSON is kept as Python objects
LEAST_TURN_SECONDS = 1.0  # between two requests that are turned away
MOST_TRIES = 6  # that make the backoff of an operation that is turned away longer
REJECTED = "d2"  # the suffix of a dead letter whose operations were rejected


class OutcomeState(StrEnum):
    """The state of an operation that has an outcome."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


# Variables, because Python takes 0.2 µs to find a member of an enumeration.
SUCCEEDED = OutcomeState.SUCCEEDED
_FAILED = OutcomeState.FAILED


@dataclass(frozen=True, slots=True)
class EncodedResult:
    """A result as JSON. As Python objects, a long one would take up to 25 times as much memory."""

    content: bytes


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A reference to a result in the bucket: the name of its file there, and the size of its JSON."""

    name: str
    size: int


@final
class Outcome(Struct, frozen=True):
    """The final result of an operation. `status` is read like an HTTP status, `error` like an RFC 9457 problem.

    `result` is a JSON value, an EncodedResult if a handler has just returned it and it is long, or a StoredResult if it
    is in the bucket.
    """

    index: int
    id: str
    state: OutcomeState
    status: int
    result: Any = None
    error: dict[str, Any] | None = None
    rejected: bool = False  # True if another attempt cannot help, for example after a Reject


@dataclass(frozen=True, slots=True)
class TryAgain:
    """This attempt failed, and another may succeed. `failure` is the outcome if no attempt is left.

    An operation that was only turned away has not used its attempt. It is tried again until its batch ends.
    """

    failure: Outcome
    max_attempts: int
    after_seconds: float | None = None  # the delay that the handler asked for; None means the usual backoff
    uses_attempt: bool = True


Verdict = Outcome | TryAgain
Verdicts = dict[int, Verdict]  # by index
Indexed = TypeVar("Indexed", Operation, Outcome)


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A follow-up chunk without its operations. `indexes` names them: they are operations of the present chunk.

    `paths` has the paths of those that referred to a result which is known now, by index.
    """

    id: str
    attempt: int
    indexes: tuple[int, ...]
    not_before: float | None = None
    behind: tuple[tuple[int, int], ...] = ()
    one_at_a_time: bool = False
    paths: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)  # without slots, because `counts` is kept once it was computed
class ChunkRecord:
    """The durable result of a chunk. It also keeps the failed operations, since a retry needs them.

    `redelivered` is the number of its operations times the number of its lost deliveries. A delivery is lost if its
    consumer crashes, or loses its lease or the answer to its receive. `recorded_at` is None in records of earlier
    versions.
    """

    chunk_id: str
    outcomes: tuple[Outcome, ...] = ()
    follow_ups: tuple[FollowUp, ...] = ()
    failed_operations: tuple[Operation, ...] = ()
    redelivered: int = 0
    recorded_at: float | None = field(default=None, compare=False)

    @cached_property
    def counts(self) -> Counts:
        """Return what this record adds to the counters.

        In a redriven chunk each outcome replaces a failure that was counted before, so `failed` is reduced.
        """
        states = [outcome.state for outcome in self.outcomes]
        counts = Counts(*(states.count(state) for state in OutcomeState))
        if redriven_from(self.chunk_id) is None:
            return counts
        return counts + Counts(failed=-len(self.outcomes))

    @property
    def indexes(self) -> frozenset[int]:
        """Return the operations of the chunk: those with an outcome, and those that follow in another chunk."""
        following = (index for follow_up in self.follow_ups for index in follow_up.indexes)
        return frozenset((*(outcome.index for outcome in self.outcomes), *following))

    def without_results(self) -> "ChunkRecord":
        """Return the record without the results of its operations. It is enough to act on a committed record."""
        return replace(self, outcomes=tuple(with_changes(outcome, result=None) for outcome in self.outcomes))


def compact(value: Any, content: bytes) -> Any:
    """Return a result in the form that takes less memory. `content` is the same value as JSON."""
    return value if len(content) <= FEW_BYTES else EncodedResult(content)


def result_value(result: Any) -> Any:
    """Return a result as a JSON value."""
    return from_json(result.content) if isinstance(result, EncodedResult) else result


def size_of(verdict: Verdict) -> int:
    """Return about how many bytes a verdict takes beyond those that every verdict takes."""
    outcome = verdict if isinstance(verdict, Outcome) else verdict.failure
    if isinstance(outcome.result, EncodedResult):
        return len(outcome.result.content)
    return 0 if outcome.error is None else len(to_json(outcome.error))


def result_content(result: Any) -> bytes | None:
    """Return a result as JSON, or None if it is in the bucket."""
    if isinstance(result, EncodedResult):
        return result.content
    return None if isinstance(result, StoredResult) else to_json(result)


def has_long_result(verdict: Verdict) -> bool:
    return isinstance(verdict, Outcome) and isinstance(verdict.result, EncodedResult)


def succeeded(operation: Operation, status: int, result: Any) -> Outcome:
    return Outcome(operation.index, operation.id, SUCCEEDED, status, result=result)


def failed(
    operation: Operation, status: int, title: str, detail: str | None = None, *, rejected: bool = False
) -> Outcome:
    error = {"title": title} if detail is None else {"title": title, "detail": _readable(detail)}
    return Outcome(operation.index, operation.id, OutcomeState.FAILED, status, error=error, rejected=rejected)


def never_ended(index: int, operation_id: str, ending: Ending, reason: str | None) -> Outcome:
    """Return the outcome of an operation that had not finished when its batch ended early."""
    state, status, title = _NEVER_ENDED[ending]
    error = {"title": title, "detail": reason} if reason else {"title": title}
    return Outcome(index, operation_id, state, status, error=error, rejected=True)


_NEVER_ENDED = {
    Ending.CANCELLED: (OutcomeState.CANCELLED, 410, "Cancelled"),
    Ending.EXPIRED: (OutcomeState.EXPIRED, 504, "Not done by the deadline"),
    Ending.FAILED: (OutcomeState.FAILED, 503, "Stopped"),
}


def unresolved_outcome(operation: Operation, error: Unresolved) -> Outcome:
    """Return the outcome of an operation whose path cannot be made."""
    return failed(operation, 424, UNRESOLVED, str(error), rejected=True)


def undo(operation: Operation, culprit: str, verdict: Verdict, number: int) -> Verdict:
    """Return the verdict on an operation that was undone because `culprit`, of the same group, has `verdict`."""
    failure = as_outcome(verdict)
    detail = f"Operation {culprit!r} of the same group has failed."
    undone = failed(operation, 424, ROLLED_BACK, detail, rejected=failure.rejected)
    if isinstance(verdict, Outcome) or is_final(verdict, number):
        return undone
    return TryAgain(undone, verdict.max_attempts, verdict.after_seconds, verdict.uses_attempt)


def _readable(text: str) -> str:
    """Replace lone surrogates: file names bring them into error messages, and JSON cannot contain them."""
    return text.encode("utf-8", "replace").decode()


def is_final(verdict: Verdict, attempt: int) -> bool:
    return isinstance(verdict, Outcome) or (verdict.uses_attempt and attempt >= verdict.max_attempts)


def is_turned_away(verdict: Verdict) -> bool:
    """Return True if the operation was only turned away, so that it keeps its attempt."""
    return isinstance(verdict, TryAgain) and not verdict.uses_attempt


def is_throttled(verdict: Verdict) -> bool:
    """Return True if the operation was turned away because too much was asked of a service at the moment."""
    return is_turned_away(verdict) and as_outcome(verdict).status in _THROTTLED


_THROTTLED = frozenset({429, 503})


def next_attempt(verdict: Verdict, attempt: int) -> int:
    """Return the number of the next attempt: the same one if the operation was only turned away."""
    return attempt if is_turned_away(verdict) else attempt + 1


def wait_seconds(verdict: Verdict, attempt: int, tries: int, backoff: Backoff, draw: float) -> float:
    """Return the delay before the next attempt: the one that was asked for, or else the backoff.

    An operation that is turned away keeps its attempt. So its backoff grows with `tries`, and from the second time on
    it waits for a moment even if it was asked to come back immediately. `tries` also counts the times that it was
    postponed or handed over, so only a few tries count.
    """
    asked = verdict.after_seconds if isinstance(verdict, TryAgain) else None
    if asked is None:
        return backoff.delay_seconds(max(attempt, min(tries, MOST_TRIES)) if is_turned_away(verdict) else attempt, draw)
    return max(asked, LEAST_TURN_SECONDS) if is_turned_away(verdict) and tries > 1 else asked


def as_outcome(verdict: Verdict) -> Outcome:
    """Return the outcome for this verdict if there is no further attempt."""
    return verdict if isinstance(verdict, Outcome) else verdict.failure


@dataclass(frozen=True, slots=True)
class Ended:
    """The decision to end a batch early, with the reason. Operations that have not started do not start."""

    ending: Ending
    reason: str | None = None


def record_attempt(  # noqa: C901 - one case for each kind of verdict
    chunk: Chunk,
    verdicts: Mapping[int, Verdict],
    *,
    backoff: Backoff,
    draw: float,
    now: float,
    attempts: Mapping[int, int] | None = None,
    ended: Ended | None = None,
    pieces: Callable[[int], int] | None = None,
    postponed: Mapping[int, float] | None = None,
) -> ChunkRecord:
    """Return the record of an attempt at a chunk. An operation without a verdict did not run or did not finish.

    Final verdicts become outcomes. Operations to retry go into follow-up chunks with a delay. Their attempt goes up by
    one, unless they were only turned away. Operations that did not run go into other follow-up chunks without a delay,
    and their attempt is unchanged. `pieces` gets their number and returns the number of these chunks, by default one.
    If the batch ends early (`ended`), there are no follow-ups: failed operations have failed, and operations that did
    not run get the outcome of the ending. `postponed` has the delay of operations that did not run because their limit
    allows nothing for some time: they go into another chunk, which waits for the longest of these delays. `attempts`
    gives the attempt of operations that were tried more often than the chunk. Operations that are connected follow in
    the same chunk, and one that depends on a failure fails with it.
    """
    attempts, postponed = dict(attempts or {}), postponed or {}
    has_links = chunk.has_links
    if has_links:
        attempts = {**chunk.attempts(), **attempts}
        states = states_of(verdicts, attempts.__getitem__, is_ended=ended is not None)
        nowhere = {} if ended is not None else _unresolved(chunk, verdicts, states)
        verdicts, states = {**verdicts, **nowhere}, {**states, **dict.fromkeys(nowhere, False)}
        verdicts = {**verdicts, **dependency_failures(chunk.operations, verdicts, states, dict(chunk.unmet))}
    outcomes: list[Outcome] = []
    again: dict[int, list[int]] = {}  # by their next attempt
    waits: dict[int, float] = {}  # operations of a chunk wait together, as long as one of them must
    tries = steps_to(chunk.id) + 1
    rest: list[int] = []
    later: list[int] = []
    for operation in chunk.operations:
        verdict = verdicts.get(operation.index)
        if type(verdict) is Outcome:
            outcomes.append(verdict)
            continue
        attempt = attempts.get(operation.index, chunk.attempt)
        if verdict is None and ended is not None:
            outcomes.append(never_ended(operation.index, operation.id, ended.ending, ended.reason))
        elif verdict is None:
            (later if operation.index in postponed else rest).append(operation.index)
        elif is_final(verdict, attempt) or ended is not None:
            outcomes.append(as_outcome(verdict))
        else:
            following = next_attempt(verdict, attempt)
            again.setdefault(following, []).append(operation.index)
            wait = wait_seconds(verdict, attempt, tries, backoff, draw)
            waits[following] = max(wait, waits.get(following, 0.0))
    if has_links:
        delays = {index: waits[following] for following, indexes in again.items() for index in indexes}
        attempts.update((index, following) for following, indexes in again.items() for index in indexes)
        left = [*rest, *later, *delays]
        follow_ups = _follow_ups_of_components(
            chunk, left, attempts, delays=delays, postponed=postponed, now=now, pieces=pieces
        )
        return _record(chunk, outcomes, follow_ups)
    follow_ups = []
    for following, indexes in sorted(again.items()):
        follow_ups.append(_follow_up(chunk, following, indexes, now + waits[following]))
    if later:
        follow_ups.append(_follow_up(chunk, chunk.attempt, later, now + max(postponed[index] for index in later)))
    if rest:
        follow_ups += [
            _follow_up(chunk, chunk.attempt, piece) for piece in _cut(rest, pieces(len(rest)) if pieces else 1)
        ]
    return _record(chunk, outcomes, follow_ups)


def record_halves(chunk: Chunk) -> ChunkRecord:
    """Split a chunk in half after an earlier delivery died without a record. This isolates an operation that kills.

    What is connected stays together. If all of it is, the operations follow in a chunk that runs one at a time.
    """
    if chunk.has_links:
        shares = share_out(components(chunk.operations), 2)
        return _record(chunk, [], [_linked_follow_up(chunk, one, chunk.attempts(), len(shares) == 1) for one in shares])
    indexes = [operation.index for operation in chunk.operations]
    return _record(chunk, [], [_follow_up(chunk, chunk.attempt, half) for half in _cut(indexes, 2)])


def poison_verdicts(chunk: Chunk, deaths: int) -> dict[int, Verdict]:
    """Fail the operation that ran alone in this chunk, or its group: its consumer died `deaths` times of it."""
    when = "when" if deaths == 1 else "each time"
    count = "" if deaths == 1 else f" ({deaths} times)"
    ran = to_run(chunk)
    what = "this operation" if len(ran) == 1 else "the group of this operation"
    detail = f"The consumer died or lost its lease {when} it ran {what}{count}."
    return {operation.index: failed(operation, 500, "Poison", detail) for operation in ran}


def record_too_early(chunk: Chunk) -> ChunkRecord:
    """Send a chunk again that came before its `not_before` time. SQS delays a message by 15 minutes at most."""
    indexes = [operation.index for operation in chunk.operations]
    follow_up = _follow_up(chunk, chunk.attempt, indexes, chunk.not_before)
    return _record(chunk, [], [replace(follow_up, behind=chunk.behind, one_at_a_time=chunk.one_at_a_time)])


def follow_up_chunks(chunk: Chunk, record: ChunkRecord) -> list[Chunk]:
    """Return the follow-up chunks of a record, with their operations."""
    operations = {operation.index: operation for operation in chunk.operations}
    return [
        Chunk(
            batch_id=chunk.batch_id,
            id=follow_up.id,
            attempt=follow_up.attempt,
            operations=_with_paths((operations[index] for index in follow_up.indexes), dict(follow_up.paths)),
            not_before=follow_up.not_before,
            behind=follow_up.behind,
            one_at_a_time=follow_up.one_at_a_time,
        )
        for follow_up in record.follow_ups
    ]


def _with_paths(operations: Iterable[Operation], paths: Mapping[int, str]) -> tuple[Operation, ...]:
    return tuple(with_path(one, paths[one.index]) if one.index in paths else one for one in operations)


def dead_letters(batch_id: str, record: ChunkRecord, *, rejections: bool = True) -> list[Chunk]:
    """Return a record's failed operations as chunks: `<chunk id>.d1` for failures, `<chunk id>.d2` for rejections.

    The chunks depend on the record alone. So a redrive from the dead letter queue and a retry through the API send the
    same chunks, and the first one to be recorded counts. Their attempt is 1 again. An operation that has been redriven
    too often gets no further chunk: see `dead_letter_id`. Failures that are connected are in the same chunk, so that
    none of them runs again before what it depends on: `<chunk id>.d1`, unless all of them are rejections.
    """
    operations = {operation.index: operation for operation in record.failed_operations}
    failures = [outcome for outcome in record.outcomes if outcome.index in operations]
    broke = with_connected(record.failed_operations, {one.index for one in failures if not one.rejected})
    broken = {operation.index for operation in broke}
    letters = []
    for kind, rejected in ((BROKE, False), (REJECTED, True)):
        indexes = [outcome.index for outcome in failures if (outcome.index not in broken) is rejected]
        letter_id = dead_letter_id(record.chunk_id, kind)
        if letter_id is not None and indexes and (rejections or not rejected):
            members = tuple(operations[index] for index in indexes)
            letters.append(Chunk(batch_id, letter_id, 1, members))
    return letters


def next_round(chunk: Chunk, record: ChunkRecord) -> Chunk | None:
    """Return the round for the operations of a chunk that the record of its round does not have, or None without any.

    Another retry had chosen other failures of the same dead letter, and its chunk was recorded first.
    """
    left, round_id = _without(chunk.operations, record.indexes), next_round_id(chunk.id)
    return replace(chunk, id=round_id, operations=left) if left and round_id is not None else None


def in_next_round(made: ChunkRecord, standing: ChunkRecord) -> ChunkRecord | None:
    """Return what was made for a round, as the record of the next round, without what the standing record has.

    The operations have run, so their outcomes must not be lost. Return None if nothing is left.
    """
    round_id, taken = next_round_id(made.chunk_id), standing.indexes
    left = made.indexes - taken
    if not left or round_id is None:
        return None
    of_follow_ups = [
        (follow_up, tuple(index for index in follow_up.indexes if index in left)) for follow_up in made.follow_ups
    ]
    return ChunkRecord(
        chunk_id=round_id,
        outcomes=_without(made.outcomes, taken),
        follow_ups=tuple(
            replace(
                follow_up,
                id=follow_up_id(round_id, min(indexes)),
                indexes=indexes,
                behind=tuple(pair for pair in follow_up.behind if pair[0] in indexes),
                paths=tuple(pair for pair in follow_up.paths if pair[0] in indexes),
            )
            for follow_up, indexes in of_follow_ups
            if indexes
        ),
        failed_operations=_without(made.failed_operations, taken),
        redelivered=made.redelivered // len(made.indexes) * len(left),
        recorded_at=made.recorded_at,
    )


def _without(items: Sequence[Indexed], taken: AbstractSet[int]) -> tuple[Indexed, ...]:
    return tuple(item for item in items if item.index not in taken)


def delay_seconds(not_before: float | None, now: float, longest: int) -> int:
    """Return the delay for a message that must not run before `not_before`: whole seconds, at most `longest`."""
    if not_before is None:
        return 0
    return max(0, min(longest, math.ceil(not_before - now)))


def _follow_up(chunk: Chunk, attempt: int, indexes: Sequence[int], not_before: float | None = None) -> FollowUp:
    return FollowUp(follow_up_id(chunk.id, min(indexes)), attempt, tuple(indexes), not_before)


def states_of(
    verdicts: Mapping[int, Verdict], attempt_of: Callable[[int], int], *, is_ended: bool = False
) -> dict[int, bool]:
    """Return for each operation that is not tried again whether it has succeeded. If the batch has ended, none is."""
    return {
        index: as_outcome(verdict).state is OutcomeState.SUCCEEDED
        for index, verdict in verdicts.items()
        if is_ended or is_final(verdict, attempt_of(index))
    }


def dependency_failures(
    operations: Sequence[Operation],
    verdicts: Mapping[int, Verdict],
    states: Mapping[int, bool],
    unmet: Mapping[int, str] = EMPTY,
) -> dict[int, Outcome]:
    """Return the outcomes of the operations that cannot run, because an operation that they depend on has failed.

    `states` has True for each operation that has succeeded, and False for each that has failed for good. `unmet` has
    the ids of others that have not succeeded.
    """
    named = {operation.index: operation for operation in operations}
    outcomes: dict[int, Outcome] = {}
    for index, cause in blocked_by_failures(operations, {**states, **dict.fromkeys(unmet, False)}).items():
        links = named[index].links
        depends = "this one depends" if links and cause in links.after else "the group of this one depends"
        if cause in unmet:
            detail, rejected = f"Operation {unmet[cause]!r} has not succeeded, and {depends} on it.", False
        else:
            detail = f"Operation {named[cause].id!r} has failed, and {depends} on it."
            rejected = (outcomes.get(cause) or as_outcome(verdicts[cause])).rejected
        outcomes[index] = failed(named[index], 424, DEPENDENCY_FAILED, detail, rejected=rejected)
    return outcomes


def _follow_ups_of_components(
    chunk: Chunk,
    left: Collection[int],
    attempts: Mapping[int, int],
    *,
    delays: Mapping[int, float],
    postponed: Mapping[int, float],
    now: float,
    pieces: Callable[[int], int] | None,
) -> list[FollowUp]:
    """Return the chunks for the operations without an outcome. What is connected follows in the same chunk.

    It waits as long as one of its operations must. So an operation may wait while another one is tried again, and its
    own attempt stays the same.
    """
    again: list[Unit] = []
    later: list[Unit] = []
    rest: list[Unit] = []
    for part in components(operation for operation in chunk.operations if operation.index in left):
        is_again, is_later = (any(one.index in waits for one in part) for waits in (delays, postponed))
        (again if is_again else later if is_later else rest).append(part)

    def share(parts: Sequence[Unit], count: int = 1) -> Sequence[Unit]:
        return parts if chunk.one_at_a_time else share_out(parts, count)

    follow_ups = []
    for parts, waits in ((again, delays), (later, postponed)):
        for one in share(parts):
            not_before = now + max(waits[operation.index] for operation in one if operation.index in waits)
            follow_ups.append(_linked_follow_up(chunk, one, attempts, chunk.one_at_a_time, not_before))
    count = pieces(sum(map(len, rest))) if pieces and rest else 1
    return follow_ups + [_linked_follow_up(chunk, one, attempts, chunk.one_at_a_time) for one in share(rest, count)]


def _linked_follow_up(
    chunk: Chunk,
    operations: Unit,
    attempts: Mapping[int, int],
    one_at_a_time: bool,
    not_before: float | None = None,
) -> FollowUp:
    """Return a follow-up with operations that have had different numbers of attempts."""
    indexes = [operation.index for operation in operations]
    attempt = max(attempts[index] for index in indexes)
    return replace(
        _follow_up(chunk, attempt, indexes, not_before),
        behind=tuple((index, attempt - attempts[index]) for index in indexes if attempts[index] < attempt),
        one_at_a_time=one_at_a_time and len(indexes) > 1,
    )


def _cut(indexes: Sequence[int], count: int) -> list[Sequence[int]]:
    """Cut operations into `count` pieces of the same size, or of sizes that differ by one."""
    ends = [len(indexes) * number // count for number in range(count + 1)]
    return [indexes[start:end] for start, end in itertools.pairwise(ends)]


def _record(chunk: Chunk, outcomes: Sequence[Outcome], follow_ups: Sequence[FollowUp]) -> ChunkRecord:
    """Return the record. What failed or follows has the paths that are known now: its messages are made from that."""
    failures = {outcome.index for outcome in outcomes if outcome.state is _FAILED}
    paths = _known_paths(chunk, outcomes, failures | _following(follow_ups)) if chunk.has_links else {}
    if paths:
        follow_ups = [
            replace(one, paths=tuple((index, paths[index]) for index in one.indexes if index in paths))
            for one in follow_ups
        ]
    failed_operations = (operation for operation in chunk.operations if operation.index in failures)
    return ChunkRecord(
        chunk_id=chunk.id,
        outcomes=tuple(outcomes),
        follow_ups=tuple(follow_ups),
        failed_operations=_with_paths(failed_operations, paths),
    )


def _following(follow_ups: Iterable[FollowUp]) -> set[int]:
    return {index for one in follow_ups for index in one.indexes}


def _known_paths(chunk: Chunk, outcomes: Iterable[Outcome], wanted: AbstractSet[int]) -> dict[int, str]:
    """Return the paths of the wanted operations that became known, because what they refer to has succeeded."""
    operations = [operation for operation in chunk.operations if operation.index in wanted]
    results = Results(operations)
    note_results(results, outcomes)
    later, paths = results.unknown, dict(chunk.paths)
    for operation in operations if results else ():
        with suppress(Unresolved):  # then it has failed, and keeps its path
            known = results.resolve(operation, later)
            if known is not operation:
                paths[operation.index] = known.path
    return paths


def note_results(results: Results, verdicts: Iterable[Verdict]) -> None:
    """Note the results of those that have succeeded, if a path refers to them."""
    for verdict in verdicts:
        outcome = as_outcome(verdict)
        if results.are_wanted(outcome.index) and outcome.state is OutcomeState.SUCCEEDED:
            results.note(outcome.index, result_content(outcome.result))


def unresolved_in(unit: Unit, results: Results, later: AbstractSet[int] = NONE) -> dict[int, Outcome]:
    """Return the outcomes of a unit if a path of it cannot be made, whatever the results of those in `later` will be.

    A path may refer to a member of its own group. That is made while the group runs.
    """
    own = later | {operation.index for operation in unit}
    for operation in unit:
        try:
            results.resolve(operation, own)
        except Unresolved as error:
            return _pathless(unit, operation, str(error))
    return {}


def _pathless(unit: Unit, culprit: Operation, why: str) -> dict[int, Outcome]:
    failure = failed(culprit, 424, UNRESOLVED, why, rejected=True)
    others = {one.index: as_outcome(undo(one, culprit.id, failure, 1)) for one in unit}
    return {**others, culprit.index: failure}


def _unresolved(chunk: Chunk, verdicts: Mapping[int, Verdict], states: Mapping[int, bool]) -> dict[int, Outcome]:
    """Return the outcomes of operations whose path cannot be made.

    One that cannot run anyway, because an operation that it depends on has failed, is left out.
    """
    left = [operation for operation in chunk.operations if operation.index not in verdicts]
    results, pathless = Results(left), dict(chunk.pathless)
    if not (results or pathless):
        return {}
    note_results(results, verdicts.values())
    later = results.unknown
    lost = {index for index, has_succeeded in states.items() if not has_succeeded} | dict(chunk.unmet).keys()
    outcomes: dict[int, Outcome] = {}
    for unit in units(chunk.operations):
        if unit[0].index in verdicts:
            continue
        if not lost.isdisjoint(needs(unit)):
            lost.update(operation.index for operation in unit)
            continue
        culprit = next((operation for operation in unit if operation.index in pathless), None)
        outcomes |= (
            unresolved_in(unit, results, later)
            if culprit is None
            else _pathless(unit, culprit, pathless[culprit.index])
        )
        lost.update(outcomes)
    return outcomes
