"""Faults in the order of operations that depend on others."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as with_changes

from penstock import dependencies, outcome
from penstock import record as record_module
from penstock.aws import store
from penstock.batch import Batch
from penstock.chunk import Chunk, Operation
from penstock.consumer import processor
from penstock.consumer.attempt import ChunkAttempt
from penstock.consumer.needed import Needed
from penstock.consumer.processor import Processor
from penstock.dependencies import Progress
from penstock.outcome import ChunkRecord
from penstock.running import atomic_group, in_order
from penstock.running.atomic_group import AtomicGroup
from penstock.service.intake.plan import Plan

Patching = pytest.MonkeyPatch


def halve_through_what_is_connected(patching: Patching) -> None:
    """Split a chunk in half in the middle of connected operations."""
    halve = outcome.record_halves

    def mutant(chunk: Chunk) -> ChunkRecord:
        plain = tuple(with_changes(operation, links=None) for operation in chunk.operations)
        return halve(replace(chunk, operations=plain))

    patching.setattr(processor, "record_halves", mutant)


def forget_links_on_the_way(patching: Patching) -> None:
    """Let operations follow without what they depend on."""
    follow = outcome.follow_up_chunks

    def mutant(chunk: Chunk, record: ChunkRecord) -> list[Chunk]:
        return [
            replace(one, operations=tuple(with_changes(operation, links=None) for operation in one.operations))
            for one in follow(chunk, record)
        ]

    patching.setattr("penstock.sending.follow_up_chunks", mutant)


def start_early(patching: Patching) -> None:
    """Start all operations of a chunk at once."""

    def mutant(self: Progress) -> list[Operation]:
        taken = [operation for unit in self._units for operation in unit] if self.left else []
        self.left = 0
        return taken

    patching.setattr(Progress, "take_ready", mutant)


def start_when_the_first_has_succeeded(patching: Patching) -> None:
    """Start an operation when one of several that it depends on has succeeded."""

    def mutant(self: Progress, index: int) -> None:
        for number in self._waiting.pop(index, ()):
            if self._unmet[number]:
                self._unmet[number] = 0
                self._ready.append(self._units[number])

    patching.setattr(Progress, "note_success", mutant)


def take_any_verdict_for_success(patching: Patching) -> None:
    """Go on after an operation that is tried again, or that has failed."""
    patching.setattr(in_order, "states_of", lambda made, _attempt_of: dict.fromkeys(made, True))


def let_dependants_wait_for_ever(patching: Patching) -> None:
    """Do not fail what depends on a failure."""
    patching.setattr(outcome, "dependency_failures", lambda *_arguments: {})


def let_connected_operations_follow_apart(patching: Patching) -> None:
    """Let each open operation follow as if it was not connected with others."""
    patching.setattr(outcome, "components", lambda operations: [(operation,) for operation in operations])


def fail_dependants_of_what_is_tried_again(patching: Patching) -> None:
    """Fail what depends on an operation after its first failed attempt."""

    def mutant(verdicts: Mapping[int, Any], _attempt_of: Any, *, is_ended: bool = False) -> dict[int, bool]:
        return {
            index: outcome.as_outcome(verdict).state is outcome.OutcomeState.SUCCEEDED
            for index, verdict in verdicts.items()
        }

    patching.setattr(outcome, "states_of", mutant)


def take_what_is_needed_for_granted(patching: Patching) -> None:
    """Run failures again without looking if what they depend on in other chunks has succeeded."""

    async def mutant(_self: Needed, _batch: Batch, chunk: Chunk) -> Chunk:
        return chunk

    patching.setattr(Needed, "check", mutant)


def run_what_needs_a_failure_of_another_record(patching: Patching) -> None:
    """Run failures again in the usual way, although some depend on what has not succeeded."""
    decide = Processor._record_without_running

    def mutant(self: Processor, attempt: ChunkAttempt) -> ChunkRecord | None:
        return decide(self, replace(attempt, chunk=replace(attempt.chunk, unmet=())))

    patching.setattr(Processor, "_record_without_running", mutant)


def plan_connected_operations_apart(patching: Patching) -> None:
    """Cut a batch into chunks in the middle of connected operations."""

    def mutant(self: Plan, encoded: Any, sizes: Any, seconds: float) -> None:
        for one, size in zip(encoded, sizes, strict=True):
            self.finish()
            self._planner._full_at = self._planner.total
            self.add([one], [size], [seconds])

    patching.setattr(Plan, "add_together", mutant)


def share_the_attempts_of_a_chunk(patching: Patching) -> None:
    """Count the attempts of an operation also for those that wait for it."""
    follow = outcome.follow_up_chunks
    patching.setattr(
        "penstock.sending.follow_up_chunks",
        lambda chunk, record: [replace(one, behind=()) for one in follow(chunk, record)],
    )


def blame_a_whole_component(patching: Patching) -> None:
    """Fail all operations of a chunk that runs one at a time as poison."""

    def mutant(chunk: Chunk, deaths: int) -> dict[int, Any]:
        alone = replace(chunk, one_at_a_time=False)
        return outcome.poison_verdicts(alone, deaths)

    patching.setattr(processor, "poison_verdicts", mutant)


def commit_a_group_with_a_failure(patching: Patching) -> None:
    """Go on after a failure in a group, and commit the rest."""
    patching.setattr(atomic_group, "_has_succeeded", lambda _verdict: True)


def try_a_part_of_a_group_again(patching: Patching) -> None:
    """Try only the operation again that was not successful."""

    def mutant(_self: AtomicGroup, culprit: Operation, verdict: Any) -> dict[int, Any]:
        return {culprit.index: verdict}

    patching.setattr(AtomicGroup, "stop_at", mutant)


def run_the_members_of_a_group_apart(patching: Patching) -> None:
    """Run each operation of a group in a transaction of its own."""
    patching.setattr(in_order, "is_group", lambda _unit: False)


def release_dependants_within_a_group(patching: Patching) -> None:
    """Let what depends on a member run when that member has run, before its group is committed."""
    patching.setattr(dependencies, "_group_node", lambda operation: operation.index)


def forget_paths_on_the_way(patching: Patching) -> None:
    """Let operations follow without the values that have become known for their paths."""
    follow = outcome.follow_up_chunks

    def mutant(chunk: Chunk, record: ChunkRecord) -> list[Chunk]:
        return follow(chunk, replace(record, follow_ups=tuple(replace(one, paths=()) for one in record.follow_ups)))

    patching.setattr("penstock.sending.follow_up_chunks", mutant)


def record_no_paths(patching: Patching) -> None:
    """Keep the values for paths in memory only, and not in the record."""
    encode = record_module.encode_record

    def mutant(record: ChunkRecord) -> bytes:
        return encode(replace(record, follow_ups=tuple(replace(one, paths=()) for one in record.follow_ups)))

    patching.setattr(store, "encode_record", mutant)


def halve_without_paths(patching: Patching) -> None:
    """Forget the results of operations in other chunks when a chunk is halved."""
    halve = outcome.record_halves

    def mutant(chunk: Chunk) -> ChunkRecord:
        made = halve(chunk)
        return replace(made, follow_ups=tuple(replace(one, paths=()) for one in made.follow_ups))

    patching.setattr(processor, "record_halves", mutant)


def forget_results_of_other_chunks(patching: Patching) -> None:
    """Run failures again without the results of other chunks that their paths refer to."""
    check = Needed.check

    async def mutant(self: Needed, batch: Batch, chunk: Chunk) -> Chunk:
        made = await check(self, batch, chunk)
        return replace(made, operations=chunk.operations, paths=())

    patching.setattr(Needed, "check", mutant)


def run_what_has_no_path(patching: Patching) -> None:
    """Do not fail operations whose paths cannot be made."""
    patching.setattr(outcome, "_unresolved", lambda *_arguments: {})


def leave_what_has_no_path_to_the_runner(patching: Patching) -> None:
    """Run failures again although a path cannot be made, and let the runner refuse them."""
    check = Needed.check

    async def mutant(self: Needed, batch: Batch, chunk: Chunk) -> Chunk:
        return replace(await check(self, batch, chunk), pathless=())

    patching.setattr(Needed, "check", mutant)
