"""Decides whether the promises were kept. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from tests.chaos.evidence import Evidence
from tests.chaos.journal import Run
from tests.support.api import Outcome

NAMED = 3


@dataclass(frozen=True, slots=True)
class Expectation:
    """The expected result of a scenario.

    `batches` are the operation ids of each batch. At most `most_again` runs may be repeated, and only those of the
    processes in `victims`. If `victims` is None, the runs of every process may be repeated.
    """

    batches: Mapping[str, Sequence[str]]
    victims: AbstractSet[int] | None
    most_again: int
    least_abandoned: int = 0
    poison: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    ran_again: int
    outcomes: int
    succeeded: int
    failed: int
    dead_letters: int
    abandoned: int
    dropped: int
    broken: Sequence[str]


def judge(evidence: Evidence, expected: Expectation, already_broken: Sequence[str]) -> Verdict:
    outcomes = [outcome for found in evidence.results.values() for outcome in found]
    broken = [
        *already_broken,
        *_judge_outcomes(evidence, expected),
        *_judge_counters(evidence, expected),
        *_judge_journal(evidence, expected),
        *_judge_repetitions(evidence, expected),
        *_judge_queues(evidence, expected),
        *_judge_acceptance(evidence, expected),
        *evidence.faults,
    ]
    return Verdict(
        ran_again=ran_again(evidence, expected),
        outcomes=len(outcomes),
        succeeded=sum(status.succeeded for status in evidence.statuses.values()),
        failed=sum(status.failed for status in evidence.statuses.values()),
        dead_letters=len(evidence.dead_letters),
        abandoned=evidence.abandoned,
        dropped=evidence.dropped,
        broken=broken,
    )


def ran_again(evidence: Evidence, expected: Expectation) -> int:
    """Return how many runs were not the first of their operation. Poison, which kills, is not counted."""
    return sum(len(runs) - 1 for id_, runs in evidence.runs.items() if id_ not in expected.poison)


def _judge_outcomes(evidence: Evidence, expected: Expectation) -> Iterator[str]:
    for batch_id, ids in expected.batches.items():
        found = [outcome["id"] for outcome in evidence.results[batch_id]]
        if found != list(ids):
            missing, more = set(ids) - set(found), [id_ for id_, times in Counter(found).items() if times > 1]
            yield f"outcomes of {batch_id}: missing {_some(missing)}, repeated {_some(more)}, or out of order"
        wrong = [one["id"] for one in evidence.results[batch_id] if _is_wrong(one, expected)]
        if wrong:
            yield f"outcomes of {batch_id} that are not as expected: {_some(wrong)}"


def _is_wrong(outcome: Outcome, expected: Expectation) -> bool:
    if outcome["id"] in expected.poison:
        return bool(outcome["status"] != 500 or outcome["error"]["title"] != "Poison")
    return bool(outcome["status"] != 200)


def _judge_counters(evidence: Evidence, expected: Expectation) -> Iterator[str]:
    for batch_id, ids in expected.batches.items():
        status = evidence.statuses[batch_id]
        if not status.is_final:
            yield f"the batch {batch_id} is not final: {status}"
        poison = len(expected.poison.intersection(ids))
        counts = (status.total, status.completed, status.succeeded, status.failed)
        if counts != (len(ids), len(ids), len(ids) - poison, poison):
            yield f"counters of {batch_id}: {status}"
        succeeded = sum(outcome["status"] == 200 for outcome in evidence.results[batch_id])
        if succeeded != status.succeeded:
            yield f"counters of {batch_id}: {status.succeeded} succeeded, but {succeeded} outcomes did"


def _judge_journal(evidence: Evidence, expected: Expectation) -> Iterator[str]:
    """Check that every outcome comes from a run, and that nothing ran outside of the accepted batches."""
    known = {id_: batch_id for batch_id, ids in expected.batches.items() for id_ in ids}
    strangers = [id_ for id_, runs in evidence.runs.items() if any(run.batch_id != known.get(id_) for run in runs)]
    if strangers:
        yield f"run in another batch than the one that was accepted: {_some(strangers)}"
    unrun = known.keys() - evidence.runs.keys()
    if unrun:
        yield f"never run: {_some(unrun)}"
    split = [id_ for id_, runs in evidence.runs.items() if len({run.key for run in runs}) > 1]
    if split:
        yield f"given more than one key: {_some(split)}"


def _judge_repetitions(evidence: Evidence, expected: Expectation) -> Iterator[str]:
    again = ran_again(evidence, expected)
    if again > expected.most_again:
        yield f"ran again: {again}, though at most {expected.most_again} were in flight"
    late = [
        f"{id_} by {run.pid} {run.at - evidence.recorded_at[id_]:.3f} s late"
        for id_, runs in evidence.runs.items()
        for run in runs
        if run.at > evidence.recorded_at.get(id_, float("inf"))
    ]
    if late:
        yield f"ran again after their outcome was recorded: {len(late)}, such as {_some(late)}"
    if expected.victims is None:
        return
    bystanders = [id_ for id_, runs in evidence.runs.items() if _is_in_vain(runs, expected.victims)]
    if bystanders:
        yield f"ran again though nothing happened to their consumer: {len(bystanders)}, such as {_some(bystanders)}"


def _is_in_vain(runs: Sequence[Run], victims: AbstractSet[int]) -> bool:
    """Return True if more runs than the one that counts were in processes to which nothing happened."""
    return sum(run.pid not in victims for run in runs) > 1


def _judge_queues(evidence: Evidence, expected: Expectation) -> Iterator[str]:
    dead = Counter(evidence.dead_letters)
    if dead.keys() != expected.poison:
        more, missing = dead.keys() - expected.poison, expected.poison - dead.keys()
        yield f"the dead letter queue holds {_some(more)} that are no poison, and lacks {_some(missing)}"
    if evidence.messages_left:
        yield f"{evidence.messages_left} messages stay on the queue of chunks"


def _judge_acceptance(evidence: Evidence, expected: Expectation) -> Iterator[str]:
    """Check that there were abandoned batches. `_judge_journal` checks that none of their operations ran."""
    if evidence.abandoned < expected.least_abandoned:
        yield f"proves nothing: {evidence.abandoned} batches were abandoned, so no fault hit an acceptance"


def _some(ids: Iterable[str]) -> str:
    listed = sorted(ids)
    return ", ".join(listed[:NAMED]) + (f" and {len(listed) - NAMED} more" if len(listed) > NAMED else "") or "none"
