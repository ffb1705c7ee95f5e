"""Faults that are put into Penstock on purpose. Each is a mistake that a developer could make.

They patch the step that they break from outside, so that they survive changes of the code around it.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import pytest

from penstock.aws.items import Fold
from penstock.aws.sqs import SqsQueue
from penstock.aws.store import DynamoDbStore
from penstock.batch import Batch, BatchState, Counts, Ending
from penstock.chunk import Chunk, Operation
from penstock.chunk_ids import ChunkIds
from penstock.consumer import giving_back
from penstock.consumer.attempt import ChunkAttempt, Decision, Discard, Evidence
from penstock.consumer.batches import Batches, NotAdmitted
from penstock.consumer.count_box import CountBox
from penstock.consumer.journal import Entry
from penstock.consumer.lease import Leases
from penstock.consumer.processor import Processor
from penstock.consumer.suspects import Start, Suspects
from penstock.consumer.sweeper import Tenure
from penstock.latest import Latest
from penstock.outcome import ChunkRecord
from penstock.queue import Delivery, Message, SentAhead
from penstock.record import EncodedRecord
from penstock.running.left_behind import LeftTasks, TimeLimits
from penstock.running.result_memory import ResultMemory
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.service import schemas
from penstock.service.batches import status
from penstock.service.intake.submit import Course
from penstock.service.schemas import BatchOptions
from penstock.store import Group, KeyClaim, Store, SweepLease, Traces
from tests.simulation import ahead_mutations as ahead
from tests.simulation import end_mutations as ends
from tests.simulation import export_mutations as exports
from tests.simulation import follow_up_mutations as follow_ups
from tests.simulation import large_result_mutations as large_results
from tests.simulation import link_mutations as links
from tests.simulation import list_mutations as lists
from tests.simulation import open_mutations as open_operations
from tests.simulation import quota_mutations as quotas
from tests.simulation import retry_mutations as retries
from tests.simulation import steering_mutations as steering
from tests.simulation import upload_mutations as uploads
from tests.simulation import webhook_mutations as webhooks
from tests.simulation.rewriting import drop_condition, rewrite
from tests.simulation.situations import Hit

Patching = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Mutation:
    """A fault that seeded runs find. `seed` is a seed of the fault mix `mix` that finds it."""

    mix: str
    seed: int
    patch: Callable[[Patching], None]


@dataclass(frozen=True, slots=True)
class MutationAtCall:
    """A fault that is found if `hit` happens at the call with this number in this situation."""

    situation: str
    call: int
    hit: Hit
    patch: Callable[[Patching], None]


class _Released(Exception):
    """The delivery was released, and nothing more happens to it."""


_PROCESSING: ContextVar[tuple[Processor, Delivery, Chunk]] = ContextVar("_PROCESSING")


def _remember_delivery(patching: Patching) -> None:
    """Make the delivery known to mutations of steps that do not get it."""
    process = Processor.process

    async def remembering(
        self: Processor, delivery: Delivery, chunk: Chunk, ended: Callable[[int], None], *rest: Any
    ) -> None:
        _PROCESSING.set((self, delivery, chunk))
        with contextlib.suppress(_Released):
            await process(self, delivery, chunk, ended, *rest)

    patching.setattr(Processor, "process", remembering)


def trust_counts_that_are_older_than_the_batch(patching: Patching) -> None:
    patching.setattr(status, "_is_result_of", lambda _batch, _groups: True)


# The seven of the issue


def count_before_commit(patching: Patching) -> None:
    commit = DynamoDbStore.commit_chunk

    async def mutant(self: DynamoDbStore, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        await self.count_chunk(batch, record)
        return await commit(self, batch, record)

    patching.setattr(DynamoDbStore, "commit_chunk", mutant)


def delete_before_count(patching: Patching) -> None:
    _remember_delivery(patching)
    count = DynamoDbStore.count_chunk

    async def mutant(self: DynamoDbStore, batch: Batch, record: ChunkRecord) -> Group:
        if working := _PROCESSING.get(None):
            processor, delivery, _ = working
            await processor._queues[delivery.priority].delete(delivery)
        return await count(self, batch, record)

    patching.setattr(DynamoDbStore, "count_chunk", mutant)


def acknowledge_while_counts_wait(patching: Patching) -> None:
    """Delete the message of a chunk although it still waits to be counted."""
    _remember_delivery(patching)
    wait = CountBox.wait

    async def mutant(self: CountBox, delivery: Delivery, batch: Batch, group: int) -> None:
        processor, _, _ = _PROCESSING.get()
        await processor._queues[delivery.priority].delete(delivery)
        await wait(self, delivery, batch, group)

    patching.setattr(CountBox, "wait", mutant)


def let_counts_wait_for_what_kills_consumers(patching: Patching) -> None:
    """Forget that a batch which has lost a delivery may have poison."""
    wait = CountBox.wait

    async def mutant(self: CountBox, delivery: Delivery, batch: Batch, group: int) -> None:
        await wait(self, delivery, replace(batch, is_suspect=False), group)

    patching.setattr(CountBox, "wait", mutant)


def drop_the_condition_on_the_counter(patching: Patching) -> None:
    rewrite(patching, "count_chunk", drop_condition)


def count_by_increment_alone(patching: Patching) -> None:
    def change(request: dict[str, Any]) -> None:
        if "UpdateExpression" in request:  # not the put of a group that is counted at once
            drop_condition(request)
            request["UpdateExpression"] = request["UpdateExpression"].replace("done :chunks, ", "")

    rewrite(patching, "count_chunk", change)


def forget_the_follow_ups_on_redelivery(patching: Patching) -> None:
    read = DynamoDbStore.read_traces

    async def mutant(self: DynamoDbStore, batch_id: str, chunk_id: str) -> Traces:
        traces = await read(self, batch_id, chunk_id)
        return traces if traces.record is None else replace(traces, record=replace(traces.record, follow_ups=()))

    patching.setattr(DynamoDbStore, "read_traces", mutant)


def finish_without_looking_at_all_groups(patching: Patching) -> None:
    finish = DynamoDbStore.finish_group

    async def mutant(self: DynamoDbStore, batch_id: str, group: int) -> Batch | None:
        batch = await finish(self, batch_id, group)
        return batch and replace(batch, finished_groups=frozenset(range(len(batch.group_totals))))

    patching.setattr(DynamoDbStore, "finish_group", mutant)


def finish_whatever_the_ending_is(patching: Patching) -> None:
    """Finish a batch by the ending that was seen, although it may have another one by now."""

    def change(request: dict[str, Any]) -> None:
        request["ConditionExpression"] = request["ConditionExpression"].split(" AND ")[0]
        request["ExpressionAttributeValues"].pop(":ending", None)

    rewrite(patching, "finish_batch", change)


def finish_without_the_time_of_the_start(patching: Patching) -> None:
    finish = DynamoDbStore.finish_batch

    async def mutant(self: DynamoDbStore, *place: Any, **rest: Any) -> bool:
        return await finish(self, *place, **rest | {"started_at": None, "likely_start": None})

    patching.setattr(DynamoDbStore, "finish_batch", mutant)


def show_as_queued_what_is_counted(patching: Patching) -> None:
    patching.setattr(schemas, "shown_state", lambda batch, *_: batch.state)
    patching.setattr(status, "as_ended", lambda batch, _: batch)


def release_instead_of_commit_on_stop(patching: Patching) -> None:
    _remember_delivery(patching)
    commit = DynamoDbStore.commit_chunk

    async def mutant(self: DynamoDbStore, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        working = _PROCESSING.get(None)
        if working is None or not working[0]._stop.begun.is_set():
            return await commit(self, batch, record)
        processor, delivery, chunk = working
        await processor.release(delivery, chunk)
        raise _Released

    patching.setattr(DynamoDbStore, "commit_chunk", mutant)


# And more


def commit_without_a_condition(patching: Patching) -> None:
    rewrite(patching, "commit_chunk", drop_condition)


def run_without_looking_for_a_record(patching: Patching) -> None:
    read = DynamoDbStore.read_traces

    async def mutant(self: DynamoDbStore, batch_id: str, chunk_id: str) -> Traces:
        return replace(await read(self, batch_id, chunk_id), record=None)

    patching.setattr(DynamoDbStore, "read_traces", mutant)


def accept_before_the_chunks_are_sent(patching: Patching) -> None:
    create = DynamoDbStore.create_batch

    async def mutant(self: DynamoDbStore, batch: Batch) -> None:
        await create(self, batch)
        await self.accept_batch(batch.id, batch.created_at)

    patching.setattr(DynamoDbStore, "create_batch", mutant)


def abandon_by_the_clock_alone(patching: Patching) -> None:
    admit = Batches.admit

    async def mutant(self: Batches, batch_id: str, sent_ahead: SentAhead | None = None) -> Batch | NotAdmitted:
        batch = await self.read(batch_id)
        overdue = batch is not None and batch.is_overdue(self._clock.now())
        return NotAdmitted.ABANDONED if overdue else await admit(self, batch_id, sent_ahead)

    patching.setattr(Batches, "admit", mutant)


def forget_the_heartbeats(patching: Patching) -> None:
    async def mutant(_self: Leases, _priority: Any) -> None: ...

    patching.setattr(Leases, "beat", mutant)


def start_after_the_lease(patching: Patching) -> None:
    patching.setattr(Leases, "is_kept", lambda _self, _delivery: True)


def overlook_refused_entries(patching: Patching) -> None:
    """Take the failed entries of a SendMessageBatch call for sent ones."""
    send = SqsQueue._send_call

    async def mutant(self: SqsQueue, messages: Sequence[Message]) -> list[Exception | None]:
        client = self._client

        class Blind:
            async def send_message_batch(self, **request: Any) -> Any:
                answer = await client.send_message_batch(**request)
                return {"Successful": [*answer.get("Successful", ()), *answer.get("Failed", ())]}

        blind: Any = Blind()
        other = SqsQueue(blind, self._url, polls=self._polls, call_bytes=self._call_bytes)
        return await send(other, messages)

    patching.setattr(SqsQueue, "_send_call", mutant)


def close_a_group_without_a_condition(patching: Patching) -> None:
    """Let the sweep count operations as open that were counted after its read."""
    rewrite(patching, "close_group", drop_condition)


def count_in_a_closed_group(patching: Patching) -> None:
    def change(request: dict[str, Any]) -> None:
        conditions = request["ConditionExpression"].split(" AND ")
        request["ConditionExpression"] = " AND ".join(one for one in conditions if "closed" not in one)

    rewrite(patching, "count_chunk", change)


def run_whatever_a_message_says(patching: Patching) -> None:
    def mutant(*_: Any) -> None:
        """Check nothing."""

    for check in ("origin_error", "redrive_error"):
        patching.setattr(f"penstock.consumer.processor.{check}", mutant)


def take_a_key_over_without_abandoning(patching: Patching) -> None:
    async def mutant(store: DynamoDbStore, standing: KeyClaim, now: float) -> bool:
        return False

    patching.setattr("penstock.service.idempotency._was_accepted", mutant)


def run_a_taken_over_small_batch_immediately(patching: Patching) -> None:
    """Run a small batch again in a front end, although it may have killed the one before."""

    def mutant(course: Course, _claim: KeyClaim, _options: BatchOptions) -> Course:
        return course

    patching.setattr("penstock.service.intake.submit._course_after_deaths", mutant)


def forget_what_failed_before_a_redrive(patching: Patching) -> None:
    """Let a redriven chunk add its outcomes without subtracting failures."""

    def counts(self: ChunkRecord) -> Counts:
        states = [outcome.state for outcome in self.outcomes]
        return Counts(*(states.count(state) for state in type(self.outcomes[0].state))) if states else Counts()

    patching.setattr(ChunkRecord, "counts", property(counts))


def cancel_what_has_finished(patching: Patching) -> None:
    """When a batch ends early, record its running chunks as if none of their operations had finished."""
    record = Processor._record

    def mutant(self: Processor, attempt: ChunkAttempt, verdicts: Any) -> ChunkRecord:
        ending = attempt.ending_at(self._clock.now())
        return record(self, attempt, {} if ending is Ending.CANCELLED else verdicts)

    patching.setattr(Processor, "_record", mutant)


def commit_a_suspect_after_its_quarantine(patching: Patching) -> None:
    """Let the next suspect start, and perhaps kill the process, before this one is recorded."""
    run_with_care, commit = Processor._run_with_care, Processor._commit
    is_inside = ContextVar("is_inside", default=False)

    async def commit_later(self: Processor, attempt: ChunkAttempt, record: ChunkRecord) -> ChunkRecord | Discard:
        return record if is_inside.get() else await commit(self, attempt, record)

    async def mutant(self: Processor, attempt: ChunkAttempt) -> Decision:
        if not attempt.is_suspect(self._process):
            return await run_with_care(self, attempt)
        is_inside.set(True)
        decision = await run_with_care(self, attempt)
        is_inside.set(False)
        return await commit(self, attempt, decision) if isinstance(decision, ChunkRecord) else decision

    patching.setattr(Processor, "_commit", commit_later)
    patching.setattr(Processor, "_run_with_care", mutant)


def wait_for_a_token_in_the_quarantine(patching: Patching) -> None:
    """Let a suspect wait for its token, however long that takes, while no other suspect may run."""
    token, slot = Runner.token, Runner.slot

    @asynccontextmanager
    async def with_token(self: Runner, operation: Operation, source: Source) -> AsyncIterator[None]:
        async with token(self, operation, source, may_be_postponed=False), slot(self, operation, source):
            yield

    run_a_suspect_without_a_token(patching)
    patching.setattr(Runner, "slot", with_token)


def run_a_suspect_without_a_token(patching: Patching) -> None:
    @asynccontextmanager
    async def mutant(*_: Any, **__: Any) -> AsyncIterator[Callable[[], None]]:
        yield lambda: None

    patching.setattr(Runner, "token", mutant)


def run_a_suspect_without_looking_again(patching: Patching) -> None:
    note = DynamoDbStore.note_start

    async def mutant(self: DynamoDbStore, batch: Batch, chunk_id: str, mark: str) -> None:
        await note(self, batch, chunk_id, mark)

    patching.setattr(DynamoDbStore, "note_start", mutant)


def run_a_last_attempt_beside_others(patching: Patching) -> None:
    patching.setattr(Runner, "all_slots", Runner.slot)


def count_deliveries_as_deaths(patching: Patching) -> None:
    """Take each lost delivery for the death of a process, whatever became of it."""

    def mutant(self: ChunkAttempt, process: str) -> frozenset[str]:
        return frozenset(f"{self.delivery.message_id}#{number}" for number in range(1, self.delivery.receive_count))

    patching.setattr(ChunkAttempt, "dead_processes", mutant)


def suspect_what_was_only_held(patching: Patching) -> None:
    patching.setattr(ChunkAttempt, "is_suspect", lambda self, _: self.lost_deliveries > 0)


def note_a_start_before_the_slot(patching: Patching) -> None:
    start_among_others = Suspects._start_among_others

    @asynccontextmanager
    async def mutant(self: Suspects, attempt: ChunkAttempt) -> AsyncIterator[Start]:
        await self._note_start(attempt, Evidence.RUNNING)
        async with start_among_others(self, attempt) as start:
            yield start

    patching.setattr(Suspects, "_start_among_others", mutant)


def blame_those_that_ran_beside_poison(patching: Patching) -> None:
    """Count a death among others as an attempt, as if nothing else had run."""

    def mutant(self: ChunkAttempt, process: str) -> ChunkAttempt:
        deaths = sum(note.evidence is not Evidence.NONE for note in self.lost_starts(process))
        return replace(self, chunk=replace(self.chunk, attempt=self.chunk.attempt + deaths), deaths=deaths)

    patching.setattr(ChunkAttempt, "with_noted_deaths", mutant)


def tell_what_is_not_counted(patching: Patching) -> None:
    def mutant(records: AsyncIterator[EncodedRecord], group: Group) -> AsyncIterator[EncodedRecord]:
        return records

    patching.setattr("penstock.service.batches.results._counted_records", mutant)


def wait_for_a_handler_that_never_ends(patching: Patching) -> None:
    def mutant(limit: TimeLimits) -> None:
        limit.is_over = True
        limit.worker.task.cancel()

    patching.setattr("penstock.running.left_behind._Limit._expire", mutant)


def go_on_without_slots(patching: Patching) -> None:
    patching.setattr(LeftTasks, "_block", lambda _: False)


def forget_a_chunk_when_folding(patching: Patching) -> None:
    """Leave out the first of the chunks of which others followed."""

    def change(request: dict[str, Any]) -> None:
        values = request.get("ExpressionAttributeValues", {})
        if ":folded" in values:
            ids = sorted(ChunkIds.decode(values[":folded"]["B"]))
            values[":folded"] = {"B": ChunkIds(ids[1:]).encode()}

    rewrite(patching, "count_chunk", change)


def fold_what_was_counted_meanwhile(patching: Patching) -> None:
    """Fold without checking that nothing was counted after the read."""

    def change(request: dict[str, Any]) -> None:
        if "folded = :folded" in request.get("UpdateExpression", ""):
            drop_condition(request)

    rewrite(patching, "count_chunk", change)


def count_without_looking_into_the_fold(patching: Patching) -> None:
    """Count a late duplicate of a chunk that is folded."""
    put = Latest.put

    def mutant(self: Latest[Any, Any], key: Any, value: Any) -> Any:
        return put(self, key, replace(value, ids=ChunkIds()) if isinstance(value, Fold) else value)

    patching.setattr(Latest, "put", mutant)


def never_take_the_sweep_over(patching: Patching) -> None:
    take_sweep = DynamoDbStore.take_sweep

    async def mutant(self: DynamoDbStore, owner: str, until: float, *, stale: SweepLease | None = None) -> SweepLease:
        return await take_sweep(self, owner, until)

    patching.setattr(DynamoDbStore, "take_sweep", mutant)


def take_the_sweep_over_without_waiting(patching: Patching) -> None:
    take = Tenure.take

    async def mutant(self: Tenure) -> bool:
        self._unchanged_since = float("-inf")
        return await take(self)

    patching.setattr(Tenure, "take", mutant)


def take_over_a_sweep_that_was_extended(patching: Patching) -> None:
    """Take the sweep over though its consumer has extended it after the waiting one looked for the last time."""

    def change(request: dict[str, Any]) -> None:
        condition = request["ConditionExpression"]
        request["ConditionExpression"] = condition.replace(" AND #until = :unchanged", "")

    rewrite(patching, "take_sweep", change)


def settle_a_key_that_was_taken_over(patching: Patching) -> None:
    rewrite(patching, "_update_own_claim", drop_condition)


def keep_the_state_after_a_redrive(patching: Patching) -> None:
    async def mutant(self: DynamoDbStore, batch_id: str, before: BatchState, after: BatchState) -> None:
        """Change nothing."""

    patching.setattr(DynamoDbStore, "revise_batch", mutant)


def drop_the_rest_of_a_chunk_that_is_cut(patching: Patching) -> None:
    run_chunk, record = Runner.run_chunk, Processor._record
    cut: set[tuple[str, str]] = set()

    async def remembering(self: Runner, chunk: Chunk, *arguments: Any, **options: Any) -> Any:
        verdicts = await run_chunk(self, chunk, *arguments, **options)
        if options["results"].is_cut:
            cut.add((chunk.batch_id, chunk.id))
        return verdicts

    def mutant(self: Processor, attempt: ChunkAttempt, *rest: Any) -> ChunkRecord:
        recorded = record(self, attempt, *rest)
        chunk = attempt.chunk
        if (chunk.batch_id, chunk.id) not in cut:
            return recorded
        retried = tuple(one for one in recorded.follow_ups if one.attempt > chunk.attempt)
        return replace(recorded, follow_ups=retried)

    patching.setattr(Runner, "run_chunk", remembering)
    patching.setattr(Processor, "_record", mutant)


def reserve_memory_for_ever(patching: Patching) -> None:
    patching.setattr(ResultMemory, "end", lambda _self, _call: None)


def give_back_as_if_nothing_had_started(patching: Patching) -> None:
    _give_back_as_if(patching, has_started=False)


def give_back_as_if_all_had_started(patching: Patching) -> None:
    _give_back_as_if(patching, has_started=True)


def _give_back_as_if(patching: Patching, *, has_started: bool) -> None:
    note = giving_back._note

    async def mutant(process: str, entry: Entry, _has_started: bool, batch: Batch, store: Store) -> None:
        await note(process, entry, has_started, batch, store)

    patching.setattr(giving_back, "_note", mutant)


# The seeds and calls find their faults today. `python -m tests.simulation --teeth` searches for others.
MUTATIONS = {
    patch.__name__: Mutation(mix, seed, patch)
    for mix, seed, patch in [
        ("kills", 146, count_before_commit),
        ("kills", 258, delete_before_count),
        ("queue", 69, drop_the_condition_on_the_counter),
        ("queue", 5, count_by_increment_alone),
        ("kills", 258, forget_the_follow_ups_on_redelivery),
        ("calm", 128, finish_without_looking_at_all_groups),
        ("poison, stopped", 25, finish_whatever_the_ending_is),
        ("rollouts", 81, release_instead_of_commit_on_stop),
        ("pauses", 6, finish_without_the_time_of_the_start),
        ("kills", 1394, show_as_queued_what_is_counted),
        ("queue", 5, commit_without_a_condition),
        ("queue", 277, run_without_looking_for_a_record),
        ("kills", 82, accept_before_the_chunks_are_sent),
        ("kills", 2, ahead.write_before_the_chunks_are_sent),
        ("late", 580, ahead.accept_in_place_of_what_is_abandoned),
        ("clocks", 167, ahead.drop_chunks_without_a_stand_in),
        ("late", 452, ahead.write_a_stand_in_over_the_batch),
        ("results in the bucket", 80, large_results.name_files_by_operation),
        ("long results", 0, drop_the_rest_of_a_chunk_that_is_cut),
        ("long results", 0, reserve_memory_for_ever),
        ("parents", 1, give_back_as_if_nothing_had_started),
        ("parents", 128, give_back_as_if_all_had_started),
        ("clocks", 263, abandon_by_the_clock_alone),
        ("calm", 128, forget_the_heartbeats),
        ("pauses", 1174, start_after_the_lease),
        ("queue", 69, overlook_refused_entries),
        ("sweeps", 397, close_a_group_without_a_condition),
        ("sweeps", 141, count_in_a_closed_group),
        ("late", 996, take_a_key_over_without_abandoning),
        ("storm", 207, run_a_taken_over_small_batch_immediately),
        ("redrives", 62, forget_what_failed_before_a_redrive),
        ("endings", 43, cancel_what_has_finished),
        ("poison", 360, run_a_last_attempt_beside_others),
        ("pauses", 1814, run_a_suspect_without_looking_again),
        ("losses", 156, tell_what_is_not_counted),
        ("rollouts", 17, wait_for_a_handler_that_never_ends),
        ("calm", 128, forget_a_chunk_when_folding),
        ("kills", 1170, fold_what_was_counted_meanwhile),
        ("queue", 69, count_without_looking_into_the_fold),
        ("mass deaths", 7, count_deliveries_as_deaths),
        ("sweeps", 45, take_the_sweep_over_without_waiting),
        ("pauses", 262, take_over_a_sweep_that_was_extended),
        ("kills", 82, suspect_what_was_only_held),
        ("poison", 264, blame_those_that_ran_beside_poison),
        ("calm", 0, follow_ups.dead_letter_what_is_not_counted),
        ("calm", 48, follow_ups.count_before_the_follow_ups),
        ("rollouts", 1, follow_ups.split_what_was_released),
        ("kills", 194, follow_ups.lose_attempts_when_splitting),
        ("rollouts", 1, follow_ups.lose_attempts_at_a_stop),
        ("endings", 3115, follow_ups.lose_attempts_when_handing_over),
        ("calm", 128, follow_ups.wait_twice_as_long),
        ("calm", 192, follow_ups.wait_half_as_long_as_asked),
        ("calm", 0, follow_ups.hold_a_message_back_for_a_quarter_of_an_hour),
        ("poison, stopped", 25, follow_ups.allow_one_death_less),
        ("poison, while counts wait", 384, follow_ups.let_chunks_with_follow_ups_wait_to_be_counted),
        ("poison, while counts wait", 1, let_counts_wait_for_what_kills_consumers),
        ("network", 3811, trust_counts_that_are_older_than_the_batch),
        ("late", 404, settle_a_key_that_was_taken_over),
        ("steering", 1, steering.start_although_paused),
        ("steering", 34, steering.finish_chunks_although_paused),
        ("steering", 63, steering.drop_what_was_received_often_while_paused),
        ("steering", 1056, steering.hold_paused_chunks_while_stopping),
        ("steering", 192, steering.hide_paused_chunks_without_a_note),
        ("steering, storm", 51, steering.change_batches_that_are_over),
        ("steering", 2, steering.move_the_deadline_without_the_sweep),
        ("steering", 1, steering.start_chunks_of_paused_queues),
        ("steering, storm", 43, steering.leave_a_queue_paused),
        ("quotas", 16, quotas.give_back_when_it_lapses),
        ("quotas", 48, quotas.give_back_what_has_come_back),
        ("quotas", 192, quotas.give_back_without_a_condition),
        ("quotas", 144, quotas.charge_again_when_repeated),
        ("webhooks", 1, webhooks.write_the_event_apart),
        ("webhooks", 1, webhooks.clear_events_first),
        ("webhooks", 48, webhooks.deliver_again_when_written_again),
        ("webhooks", 48, webhooks.leave_retries_to_the_consumer_that_failed),
        ("webhooks", 12, webhooks.use_old_marks),
        ("uploads", 1280, uploads.replace_a_plan),
        ("uploads", 336, uploads.go_on_sending_one_group_too_late),
        ("uploads", 1, uploads.go_on_validating_one_line_too_late),
        ("uploads", 32, uploads.accept_before_everything_is_sent),
        ("uploads", 672, uploads.read_whatever_file_is_there),
        ("uploads", 1, uploads.run_what_is_not_accepted),
        ("uploads", 176, uploads.compare_no_ids),
        ("uploads", 19, uploads.count_the_lines_of_a_group_alone),
        ("uploads", 576, uploads.compare_only_the_ids_that_are_written),
        ("uploads", 21, uploads.forget_the_errors_of_earlier_groups),
    ]
}
MUTATIONS_AT_CALLS = {
    mutation.patch.__name__: mutation
    for mutation in [
        MutationAtCall("a suspect beside poison", 39, Hit.FAIL_BEFORE, commit_a_suspect_after_its_quarantine),
        MutationAtCall(
            "suspects, and the upstream of some pauses", 0, Hit.FAIL_BEFORE, wait_for_a_token_in_the_quarantine
        ),
        MutationAtCall("suspects, and the upstream of some pauses", 0, Hit.FAIL_BEFORE, run_a_suspect_without_a_token),
        MutationAtCall("some tried again", 13, Hit.CRASH_AFTER, forget_the_follow_ups_on_redelivery),
        MutationAtCall("a handler never ends", 9, Hit.FAIL_BEFORE, go_on_without_slots),
        MutationAtCall("several groups", 10, Hit.CRASH_BEFORE, finish_without_looking_at_all_groups),
        MutationAtCall(
            "expired after a consumer died whose clock was fast", 0, Hit.FAIL_BEFORE, never_take_the_sweep_over
        ),
        MutationAtCall("accepted late", 42, Hit.SLOW, steering.release_beside_a_heartbeat),
        MutationAtCall("forged chunks", 0, Hit.CRASH_BEFORE, run_whatever_a_message_says),
        MutationAtCall("it kills too many consumers", 0, Hit.FAIL_BEFORE, follow_ups.allow_one_death_more),
        MutationAtCall(
            "it is slow, and the rest is cut into pieces", 0, Hit.FAIL_BEFORE, follow_ups.cut_pieces_that_overlap
        ),
        MutationAtCall(
            "it is slow, and the rest is cut into pieces",
            0,
            Hit.FAIL_BEFORE,
            follow_ups.lose_an_operation_between_pieces,
        ),
        MutationAtCall("turned away often", 0, Hit.FAIL_BEFORE, follow_ups.forget_the_keys_of_follow_ups),
        MutationAtCall("failures redriven", 0, Hit.FAIL_BEFORE, follow_ups.forget_the_keys_of_dead_letters),
        MutationAtCall("failures retried", 0, Hit.FAIL_BEFORE, follow_ups.forget_the_keys_in_records),
        MutationAtCall("counts wait while poison runs", 0, Hit.FAIL_BEFORE, acknowledge_while_counts_wait),
        MutationAtCall(
            "some tried again while poison runs",
            0,
            Hit.CRASH_BEFORE,
            follow_ups.let_chunks_with_follow_ups_wait_to_be_counted,
        ),
        MutationAtCall(
            "some tried again while poison runs", 8, Hit.CRASH_AFTER, let_counts_wait_for_what_kills_consumers
        ),
        MutationAtCall(
            "dead letters wait while poison runs", 0, Hit.FAIL_BEFORE, follow_ups.acknowledge_while_letters_wait
        ),
        MutationAtCall("all well", 4, Hit.FAIL_BEFORE, ahead.set_chunks_aside_that_come_before_their_batch),
        MutationAtCall("same key for later", 8, Hit.CRASH_LONG_BEFORE, ahead.take_a_key_over_without_a_stand_in),
        MutationAtCall("all well", 0, Hit.FAIL_BEFORE, lists.list_a_batch_once_it_is_accepted),
        MutationAtCall("all well", 4, Hit.FAIL_AFTER, lists.list_what_was_not_accepted),
        MutationAtCall("failures redriven", 0, Hit.FAIL_BEFORE, keep_the_state_after_a_redrive),
        MutationAtCall("in the background, with a quota", 6, Hit.CRASH_AFTER, quotas.charge_without_a_condition),
        MutationAtCall("in the background, with a quota", 6, Hit.CRASH_AFTER, quotas.charge_whatever_is_left),
        MutationAtCall("in the background, with a quota", 6, Hit.CRASH_AFTER, quotas.keep_what_lapses),
        MutationAtCall("in the background, with a quota", 3, Hit.CRASH_BEFORE, quotas.forget_to_charge),
        MutationAtCall(
            "two in the background, of which one may be open", 0, Hit.CRASH_BEFORE, open_operations.open_without_room
        ),
        MutationAtCall(
            "two in the background, of which one may be open",
            6,
            Hit.FAIL_BEFORE,
            open_operations.count_out_without_a_condition,
        ),
        MutationAtCall(
            "two in the background, of which one may be open",
            0,
            Hit.CRASH_BEFORE,
            open_operations.count_out_what_is_running,
        ),
        MutationAtCall(
            "two in the background, of which one may be open", 0, Hit.CRASH_BEFORE, open_operations.forget_to_open
        ),
        MutationAtCall(
            "two in the background, of which one may be open",
            3,
            Hit.CRASH_LONG_BEFORE,
            open_operations.count_out_what_may_be_accepted,
        ),
        MutationAtCall(
            "two in the background, of which one may be open",
            6,
            Hit.CRASH_AFTER,
            open_operations.keep_what_was_not_accepted,
        ),
        MutationAtCall(
            "some failures retried at the same time",
            34,
            Hit.CRASH_AFTER,
            retries.forget_what_another_retry_has_not_chosen,
        ),
        MutationAtCall(
            "some failures retried at the same time",
            34,
            Hit.CRASH_AFTER,
            retries.run_what_two_retries_have_chosen_twice,
        ),
        MutationAtCall(
            "some failures retried at the same time",
            0,
            Hit.CRASH_BEFORE,
            retries.record_what_two_retries_have_run_twice,
        ),
        MutationAtCall(
            "some failures retried at the same time",
            0,
            Hit.CRASH_BEFORE,
            retries.drop_what_has_run_while_another_retry_ran,
        ),
        MutationAtCall(
            "looked at when it ends, with a limit", 0, Hit.FAIL_BEFORE, ends.tell_the_end_although_it_may_be_stopped
        ),
        MutationAtCall("looked at when it ends", 0, Hit.FAIL_BEFORE, ends.finish_by_the_clock_of_the_consumer),
        MutationAtCall("looked at when it ends", 14, Hit.CRASH_BEFORE, ends.finish_with_the_start_of_the_last_consumer),
        MutationAtCall("looked at when it ends", 0, Hit.FAIL_BEFORE, ends.tell_the_end_without_the_start),
        MutationAtCall("retried when it ends", 0, Hit.FAIL_BEFORE, ends.retry_without_waiting_for_the_end),
        MutationAtCall("retried when it ends", 0, Hit.FAIL_BEFORE, ends.cancel_what_is_told_as_final),
        MutationAtCall("retried when it ends", 0, Hit.FAIL_BEFORE, ends.change_what_is_told_as_final),
        MutationAtCall("results in the bucket", 0, Hit.FAIL_BEFORE, large_results.commit_before_the_files_are_written),
        MutationAtCall("exported", 31, Hit.CRASH_AFTER, exports.add_a_part_before_its_file_is_there),
        MutationAtCall("exported", 41, Hit.CRASH_AFTER, exports.forget_where_a_part_ends),
        MutationAtCall("exported, and its front end pauses", 0, Hit.FAIL_BEFORE, exports.export_whoever_has_the_lease),
        MutationAtCall("redrive told by webhooks", 0, Hit.FAIL_BEFORE, webhooks.forget_the_event_of_a_retry),
        MutationAtCall("a group tried again", 0, Hit.FAIL_BEFORE, links.commit_a_group_with_a_failure),
        MutationAtCall("a group tried again", 0, Hit.FAIL_BEFORE, links.try_a_part_of_a_group_again),
        MutationAtCall("a group tried again", 0, Hit.FAIL_BEFORE, links.run_the_members_of_a_group_apart),
        MutationAtCall("a group tried again", 0, Hit.FAIL_BEFORE, links.release_dependants_within_a_group),
        MutationAtCall("a chain whose consumer dies", 0, Hit.FAIL_BEFORE, links.halve_through_what_is_connected),
        MutationAtCall("a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.forget_links_on_the_way),
        MutationAtCall("a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.start_early),
        MutationAtCall("a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.take_any_verdict_for_success),
        MutationAtCall("a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.let_dependants_wait_for_ever),
        MutationAtCall(
            "a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.let_connected_operations_follow_apart
        ),
        MutationAtCall(
            "a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.fail_dependants_of_what_is_tried_again
        ),
        MutationAtCall("a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.plan_connected_operations_apart),
        MutationAtCall("a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.share_the_attempts_of_a_chunk),
        MutationAtCall(
            "a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.start_when_the_first_has_succeeded
        ),
        MutationAtCall(
            "linked failures of different chunks retried", 0, Hit.FAIL_BEFORE, links.take_what_is_needed_for_granted
        ),
        MutationAtCall(
            "linked failures of different chunks, whose consumer dies",
            0,
            Hit.FAIL_BEFORE,
            links.run_what_needs_a_failure_of_another_record,
        ),
        MutationAtCall("poison in a chain", 0, Hit.FAIL_BEFORE, links.blame_a_whole_component),
        MutationAtCall("a failure in the middle of a chain", 0, Hit.FAIL_BEFORE, links.forget_paths_on_the_way),
        MutationAtCall(
            "a reference to nothing, and to what is tried again", 0, Hit.FAIL_BEFORE, links.run_what_has_no_path
        ),
        MutationAtCall(
            "a reference to nothing, retried", 0, Hit.FAIL_BEFORE, links.leave_what_has_no_path_to_the_runner
        ),
        MutationAtCall("a failure in the middle of a chain", 11, Hit.CRASH_AFTER, links.record_no_paths),
        MutationAtCall(
            "references to what has succeeded since, retried",
            0,
            Hit.FAIL_BEFORE,
            links.forget_results_of_other_chunks,
        ),
        MutationAtCall(
            "references to what has succeeded since, whose consumer dies",
            0,
            Hit.FAIL_BEFORE,
            links.halve_without_paths,
        ),
    ]
}
