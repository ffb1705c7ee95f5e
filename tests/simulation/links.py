"""Checks that no operation runs before what it depends on has succeeded, and what becomes of it if that fails.

A batch draws its links from its label, so that the other draws of a seed stay as they are.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.chunk import redriven_from
from penstock.outcome import ChunkRecord, Outcome, OutcomeState, result_value
from tests.simulation.truth import Run, Submission, Toy, Truth

if TYPE_CHECKING:
    from tests.simulation.promises import BatchFacts

DEPENDENCY_FAILED = 424
INVALID = 422
MOST_LINKED = 6  # operations that can be connected. Chunks are at least as large

Check = Callable[[bool, int, str], None]


def draw_links(label: str, toys: Sequence[Toy], share: float) -> list[Toy]:
    """Let this share of the operations depend on one or several before them."""
    chance = random.Random(f"links of {label}")
    linked: list[Toy] = []
    first = 0
    for index, toy in enumerate(toys):
        if index == first + MOST_LINKED or chance.random() < 0.2:
            first = index
        near = range(first, index)
        after = chance.sample(near, min(len(near), chance.choice([1, 1, 2, 3]))) if chance.random() < share else []
        linked.append(replace(toy, after=tuple(after)))
    return linked


def draw_groups(label: str, toys: Sequence[Toy], share: float) -> list[Toy]:
    """Let neighbours be atomic groups."""
    chance = random.Random(f"groups of {label}")
    grouped: list[Toy] = []
    left, name = 0, ""
    for index, toy in enumerate(toys):
        if left == 0 and chance.random() < share:
            left, name = chance.randint(1, 3), f"group {index}"
        grouped.append(replace(toy, group=name) if left else toy)
        left = max(0, left - 1)
    return grouped


def members(submission: Submission, index: int) -> list[int]:
    """Return the operations of the group of an operation."""
    group = submission.toys[index].group
    return [number for number, toy in enumerate(submission.toys) if toy.group == group]


def draw_references(label: str, toys: Sequence[Toy]) -> list[Toy]:
    """Let the paths of some operations refer to one that they depend on. A large result would not be read."""
    chance = random.Random(f"references of {label}")
    referring: list[Toy] = []
    for toy in toys:
        sources = [index for index in toy.after if toys[index].path != "/large"]
        if sources and toy.path != "/bulk" and chance.random() < 0.6:
            member = "nothing" if chance.random() < 0.1 else "run"
            toy = replace(toy, refers_to=chance.choice(sources), member=member)  # noqa: PLW2901
        referring.append(toy)
    return referring


class LinkChecks:
    def __init__(self, now: Callable[[], float], truth: Truth, check: Check) -> None:
        self._now = now
        self._truth = truth
        self._check = check

    def on_start(self, run: Run, facts: "BatchFacts") -> None:
        """Check that each needed operation has succeeded: as it is recorded, or in this run of the chunk."""
        submission = self._submission_of(run)
        for index in submission.toys[_index_of(run)].after:
            found = facts.outcome(index, counted=False) if facts.total else None  # a small batch is in no table
            is_recorded = found is not None and found[0].state is OutcomeState.SUCCEEDED
            key = run.batch_id, f"{submission.label}-{index}"
            group = submission.toys[index].group
            of_group = group is not None and group != submission.toys[_index_of(run)].group
            has_run = any(
                (other.is_committed if of_group else other.has_succeeded)
                and (other.chunk_id, other.process) == (run.chunk_id, run.process)
                for other in self._truth.runs.get(key, [])
            )
            self._check(is_recorded or has_run, 5, f"{run} runs before operation {index} has succeeded: {found}")
        self._check_told(run, submission, facts)

    def _check_told(self, run: Run, submission: Submission, facts: "BatchFacts") -> None:
        """Check that the path has the result as it is recorded, or of this run of the chunk."""
        toy = submission.toys[_index_of(run)]
        source = toy.refers_to
        self._check(toy.member == "run", 5, f"{run} runs without a path")
        if source is None:
            self._check(run.told is None, 5, f"{run} has a number")
            return
        found = facts.outcome(source, counted=False) if facts.total else None
        own = [
            other.number
            for other in self._truth.runs.get((run.batch_id, f"{submission.label}-{source}"), [])
            if other.has_succeeded and (other.chunk_id, other.process) == (run.chunk_id, run.process)
        ]
        right = [*own, *([] if found is None else [_number_of(found[0])])]
        self._check(run.told in right, 5, f"{run} has another number than operation {source}: {right}")

    def on_record(self, batch_id: str, facts: "BatchFacts", record: ChunkRecord) -> None:
        """Check that each outcome fits the outcomes of what it depends on. These are recorded now, or before."""
        submission = self._truth.submission_of(batch_id)
        for outcome in record.outcomes:
            toy = submission.toys[outcome.index]
            after = toy.after
            if toy.group is not None:  # a failure of another member blocks, too
                group = members(submission, outcome.index)
                after = tuple({other for member in group for other in submission.toys[member].after} - set(group))
            states = {index: _state(facts.outcome(index, counted=False)) for index in after}
            self._check(outcome.status != INVALID, 5, f"a placeholder was a value: {outcome}")
            words = f"operation {outcome.index} of batch {batch_id} has {outcome} in {record.chunk_id}, after {states}"
            have_succeeded = all(state is OutcomeState.SUCCEEDED for state in states.values())
            if outcome.state is OutcomeState.SUCCEEDED:
                self._check(have_succeeded, 5, words)
            elif outcome.status == DEPENDENCY_FAILED:
                has_failed = any(state is OutcomeState.FAILED for state in states.values()) or toy.group is not None
                if not has_failed and toy.refers_to is not None and toy.member == "nothing":
                    detail = (outcome.error or {}).get("detail", "")
                    is_told = states[toy.refers_to] is OutcomeState.SUCCEEDED and detail.endswith("has no nothing.")
                    has_failed = is_told or (redriven_from(record.chunk_id) is not None and not have_succeeded)
                is_redrive = redriven_from(record.chunk_id) is not None  # what it needs may be open, or have ended
                self._check(has_failed or (is_redrive and not have_succeeded), 2, words)
            elif outcome.state is OutcomeState.FAILED and (outcome.error or {}).get("title") != "Stopped":
                self._check(have_succeeded, 5, words)
        self._check_together(batch_id, submission, record)
        self._check_groups(batch_id, submission, record)

    def _check_together(self, batch_id: str, submission: Submission, record: ChunkRecord) -> None:
        """Check that what is open of connected operations follows in the same chunk."""
        chunk_of = {index: follow_up.id for follow_up in record.follow_ups for index in follow_up.indexes}
        for index, chunk_id in chunk_of.items():
            apart = [other for other in submission.toys[index].after if chunk_of.get(other, chunk_id) != chunk_id]
            self._check(not apart, 5, f"{index} of batch {batch_id} follows in {chunk_id}, and {apart} in other chunks")

    def _check_groups(self, batch_id: str, submission: Submission, record: ChunkRecord) -> None:
        """Check that the operations of a group have their outcomes in one record, and succeed all or not at all."""
        outcomes = {outcome.index: outcome for outcome in record.outcomes}
        for index in [index for index in outcomes if submission.toys[index].group is not None]:
            group = members(submission, index)
            recorded = [outcomes.get(other) for other in group]
            words = f"of group {group} of batch {batch_id} {record.chunk_id} records {recorded}"
            states = {None if outcome is None else outcome.state for outcome in recorded}
            self._check(None not in states, 2, words)
            self._check(OutcomeState.SUCCEEDED not in states or len(states) == 1, 2, words)
            if outcomes[index].state is OutcomeState.SUCCEEDED:
                runs = self._truth.runs[batch_id, outcomes[index].id]
                told = [run for run in runs if run.number == outcomes[index].result["run"]]
                self._check(any(run.is_committed for run in told), 2, f"{words}, which is not committed")
        attempts = {
            index: (follow_up.id, follow_up.attempt - dict(follow_up.behind).get(index, 0))
            for follow_up in record.follow_ups
            for index in follow_up.indexes
        }
        for index in [index for index in attempts if submission.toys[index].group is not None]:
            apart = {attempts.get(other) for other in members(submission, index)}
            self._check(len(apart) == 1, 5, f"group of {index} of batch {batch_id} follows as {apart}")

    def on_commit(self, runs: Sequence[Run]) -> None:
        """Check that a group is committed as a whole, and alone."""
        for run in runs:
            submission = self._submission_of(run)
            if submission.toys[_index_of(run)].group is None:
                continue
            committed = [_index_of(other) for other in runs]
            group = members(submission, _index_of(run))
            self._check(committed == group, 5, f"{committed} of {submission.label} were committed, and not {group}")

    def check_end(self, batch_id: str, facts: "BatchFacts", submission: Submission) -> None:
        """Check that nothing has succeeded without what it depends on, and that only a failure blocks an operation."""
        for index, toy in enumerate(submission.toys):
            found = facts.outcome(index, counted=True)
            if found is None or found[0].state is not OutcomeState.SUCCEEDED:
                continue
            states = {other: facts.outcome(other, counted=False) for other in toy.after}
            right = all(_state(state) is OutcomeState.SUCCEEDED for state in states.values())
            self._check(right, 5, f"operation {index} of batch {batch_id} has succeeded, after {states}")
            if toy.refers_to is not None and right:
                number = _number_of(found[0])
                told = next(one.told for one in self._truth.runs[batch_id, found[0].id] if one.number == number)
                source = states[toy.refers_to]
                is_right = source is not None and told == _number_of(source[0])
                self._check(is_right, 5, f"operation {index} of batch {batch_id} was told {told}, and not of {source}")

    def check_answer(self, submission: Submission, statuses: Sequence[int]) -> None:
        """Check the answer of a small batch in the same way."""
        for index, toy in enumerate(submission.toys):
            blocked = any(statuses[other] >= 400 for other in toy.after) or toy.member == "nothing"
            is_right = (statuses[index] == DEPENDENCY_FAILED) == blocked
            if toy.group is not None:
                is_right = len({statuses[other] < 400 for other in members(submission, index)}) == 1
            self._check(is_right, 2, f"operation {index} of {submission.label} is answered {statuses[index]}")

    def _submission_of(self, run: Run) -> Submission:
        label = run.operation_id.rpartition("-")[0]
        return next(one for one in self._truth.submissions if one.label == label)


def _state(found: tuple[Outcome, str] | None) -> OutcomeState | None:
    return None if found is None else found[0].state


def _number_of(outcome: Outcome) -> int | None:
    """Return the number of the run that an outcome is from."""
    result = result_value(outcome.result)
    return result.get("run") if isinstance(result, dict) else None


def _index_of(run: Run) -> int:
    return int(run.operation_id.rpartition("-")[2])
