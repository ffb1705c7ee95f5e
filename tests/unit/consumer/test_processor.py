"""A chunk from its delivery to its end: what is recorded, what follows, what is counted, and each of them once."""

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from penstock import Context, Operations, Reject, Retry
from penstock.batch import BatchState, Counts, Ending, FailureLimit
from penstock.chunk import Chunk, Operation
from penstock.consumer import patience, quarantine
from penstock.consumer.attempt import Evidence, StartNote
from penstock.consumer.batches import ACCEPT_WAIT_SECONDS
from penstock.consumer.count_box import CountBox
from penstock.consumer.processor import ACCEPTING_RELEASE_SECONDS
from penstock.consumer.readers_first import ReadersFirst
from penstock.errors import AcceptanceLost, LostItem, NewerVersion, RejectedCall, Unavailable
from penstock.message import decode_chunk, encode_chunk
from penstock.outcome import ChunkRecord, OutcomeState, record_too_early, succeeded
from penstock.priority import Priority
from penstock.queue import Delivery, Message, SentAhead
from penstock.running.stop import Stop
from penstock.store import Group
from penstock.telemetry import Event
from tests.support.builders import (
    BATCH_ID,
    NOW,
    build_batch,
    build_chunk,
    build_operation,
    build_operations,
    build_settings,
)
from tests.support.faults import Moment, Outage, Watch
from tests.support.garbage import without_collections
from tests.support.rig import Rig
from tests.support.waiting import eventually, settle

HOUR = 3600


def build_rig(**settings: Any) -> Rig:
    """A rig with the toy handlers; each tells the rig that it ran."""
    rig = Rig(settings=build_settings(**settings))

    @rig.operations.post("/succeed", status=201)
    async def succeed(context: Context, body: Any = None) -> Any:
        rig.note(context)
        return body

    @rig.operations.post("/reject")
    async def reject(context: Context) -> None:
        rig.note(context)
        raise Reject(409, "Not this one.")

    @rig.operations.post("/break")
    async def break_(context: Context) -> None:
        rig.note(context)
        raise RuntimeError(f"attempt {context.attempt}")

    @rig.operations.post("/break-once", max_attempts=1)
    async def break_once(context: Context) -> None:
        rig.note(context)
        raise RuntimeError

    @rig.operations.post("/second-time-right", status=201)
    async def second_time_right(context: Context) -> int:
        rig.note(context)
        if context.attempt == 1:
            raise Retry
        return context.attempt

    @rig.operations.post("/in-an-hour")
    async def in_an_hour(context: Context) -> None:
        rig.note(context)
        if context.attempt == 1:
            raise Retry(after_seconds=HOUR)

    return rig


@pytest.fixture
def rig() -> Rig:
    return build_rig()


async def test_what_succeeds_is_recorded_counted_and_acknowledged(rig: Rig) -> None:
    await rig.submit([build_operation(0, body={"a": 1}), build_operation(1, body=None)])
    await rig.process_next()
    assert [(outcome.status, outcome.result) for outcome in rig.outcomes()] == [(201, {"a": 1}), (201, None)]
    assert await rig.counts() == Counts(succeeded=2)
    assert (await rig.batch()).state is BatchState.COMPLETED
    assert (rig.parts.chunks.messages, rig.parts.chunks.deleted, rig.dead_letters) == ([], 1, [])


async def test_message_that_this_consumer_deletes_is_not_called_lost(
    rig: Rig, logs: list[MutableMapping[str, Any]]
) -> None:
    """A heartbeat may find it deleted before the answer to the deletion has come."""
    await rig.submit(build_operations("/succeed"))
    processor = rig.processor()
    await rig.process_next(processor)
    await processor._leases.beat(Priority.NORMAL)
    assert Event.LEASE_LOST not in [line["event"] for line in logs]


async def test_end_of_each_operation_is_told(rig: Rig) -> None:
    await rig.submit(build_operations("/succeed", "/reject", "/break", "/second-time-right"))
    delivery, chunk = await rig.receive()
    ended: list[int] = []
    await rig.processor().process(delivery, chunk, ended.append)
    assert sum(ended) == 4


async def test_context_has_the_same_key_at_each_attempt() -> None:
    operations = Operations()
    seen: list[Context] = []

    @operations.post("/look")
    async def look(context: Context) -> None:
        seen.append(context)
        raise Retry

    rig = Rig(operations)
    await rig.submit([build_operation(0, "/look")])
    await rig.work_off()
    assert [context.attempt for context in seen] == [1, 2, 3]
    assert {(context.batch_id, context.operation_id, context.key, context.transaction) for context in seen} == {
        (BATCH_ID, "id-0", f"{BATCH_ID}/id-0", None)
    }


async def test_only_what_failed_is_tried_again(rig: Rig) -> None:
    await rig.submit(build_operations("/succeed", "/second-time-right", "/reject", "/break"))
    await rig.process_next()
    [following] = rig.chunks
    assert (following.id, following.attempt) == ("0.0.1.1", 2)
    assert [operation.id for operation in following.operations] == ["id-1", "id-3"]
    assert await rig.counts() == Counts(succeeded=1, failed=1)
    await rig.work_off()
    assert rig.statuses() == {"id-0": 201, "id-1": 201, "id-2": 409, "id-3": 500}
    assert rig.runs == {"id-0": 1, "id-1": 2, "id-2": 1, "id-3": 3}
    assert await rig.counts() == Counts(succeeded=2, failed=2)
    assert (await rig.batch()).state is BatchState.COMPLETED


async def test_batch_of_which_nothing_succeeds_fails(rig: Rig) -> None:
    await rig.submit(build_operations("/reject", "/break-once"))
    await rig.work_off()
    assert (await rig.batch()).state is BatchState.FAILED


async def test_attempts_are_used_up_and_the_last_error_stays() -> None:
    rig = build_rig(show_errors=True)
    await rig.submit([build_operation(0, "/break")])
    await rig.work_off()
    assert rig.attempts == [("id-0", 1), ("id-0", 2), ("id-0", 3)]
    assert rig.outcomes()[0].error == {"title": "Broke", "detail": "RuntimeError: attempt 3"}


async def test_backoff_holds_the_next_attempt_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.5)
    rig = build_rig(backoff_seconds=60)
    await rig.submit([build_operation(0, "/break")])
    await rig.process_next()
    assert [message.delay_seconds for message in rig.parts.chunks.messages] == [30]
    assert await rig.parts.chunks.depth() == 0
    rig.clock.advance(30)
    await rig.process_next()
    assert [message.delay_seconds for message in rig.parts.chunks.messages] == [60]


async def test_wait_longer_than_the_queue_can_hold_is_kept(rig: Rig) -> None:
    await rig.submit([build_operation(0, "/in-an-hour")])
    await rig.process_next()
    for _ in range(3):  # the queue holds a message back for a quarter of an hour
        assert [message.delay_seconds for message in rig.parts.chunks.messages] == [900]
        rig.clock.advance(900)
        await rig.process_next()
    assert rig.attempts == [("id-0", 1)]
    rig.clock.advance(900)
    await rig.process_next()
    assert rig.attempts == [("id-0", 1), ("id-0", 2)]
    assert await rig.counts() == Counts(succeeded=1)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_batch_is_started_before_anything_of_it_is_counted(rig: Rig, moment: Moment) -> None:
    """If the start fails, it is repeated before the count."""
    outage, effects = Outage("store.start_batch", moment, times=1), list[str]()

    def watch(call: str, moment: Moment) -> None:
        outage(call, moment)
        if moment == "after" and call in {"store.start_batch", "store.commit_chunk", "store.count_chunk"}:
            effects.append(call.removeprefix("store."))

    await rig.submit(build_operations("/second-time-right"))
    await rig.process_next(rig.processor(watch))
    assert effects == ["commit_chunk", "start_batch", "count_chunk"]
    assert (await rig.batch()).started_at == NOW


async def test_batch_that_one_chunk_completes_is_started_by_the_call_that_finishes_it(rig: Rig) -> None:
    calls = list[str]()

    def watch(call: str, moment: Moment) -> None:
        if moment == "before" and call.startswith("store."):
            calls.append(call.removeprefix("store."))
        if (call, moment) == ("store.commit_chunk", "before"):
            rig.clock.advance(1)

    await rig.submit(build_operations("/succeed", "/reject"))
    await rig.process_next(rig.processor(watch))
    reads = ["read_traces", "read_paused_queues", "read_batch"]  # one call of DynamoDB reads all of them
    assert calls == [*reads, "commit_chunk", "count_chunk", "finish_batch"]
    batch = await rig.batch()
    assert (batch.state, batch.started_at, batch.finished_at) == (BatchState.COMPLETED, NOW, NOW + 1)


def recorder(
    monkeypatch: pytest.MonkeyPatch, place: type[CountBox | ReadersFirst], moment: Moment, calls: set[str]
) -> tuple[list[str], Watch]:
    """Return a list, and a watch that adds these calls to it. Chunks that would wait in `place` only add "wait"."""
    seen = list[str]()

    async def wait(*_: Any) -> None:
        seen.append("wait")

    def watch(call: str, now: Moment) -> None:
        if now == moment and call in calls:
            seen.append(call)

    monkeypatch.setattr(place, "wait", wait)
    return seen, watch


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("/reject", ["store.commit_chunk", "wait", "store.count_chunk"]),
        ("/second-time-right", ["store.commit_chunk", "chunks.send", "store.count_chunk"]),
    ],
)
async def test_chunk_waits_to_be_counted_unless_it_has_follow_ups(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, path: str, steps: list[str]
) -> None:
    """Until it is counted, each delivery after a crash sends them once more. An operation in them may be the reason."""
    calls = {"store.commit_chunk", "chunks.send", "store.count_chunk"}
    seen, watch = recorder(monkeypatch, CountBox, "after", calls)
    await rig.submit(build_operations(path, "/succeed"))
    await rig.process_next(rig.processor(watch))
    assert seen == steps


@pytest.mark.parametrize(
    ("chunk_operations", "steps"),
    [
        pytest.param(2, ["wait", "dead_letters.send", "store.finish_batch", "chunks.delete"], id="the last chunk"),
        pytest.param(1, ["dead_letters.send", "chunks.delete"], id="another chunk"),
    ],
)
async def test_end_of_a_batch_is_written_a_moment_after_its_last_count(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, chunk_operations: int, steps: list[str]
) -> None:
    seen, watch = recorder(monkeypatch, ReadersFirst, "before", {"store.count_chunk", *steps})
    await rig.submit(build_operations("/reject", "/reject"), chunk_operations=chunk_operations)
    await rig.process_next(rig.processor(watch))
    assert seen == ["store.count_chunk", *steps]


async def test_end_of_a_redrive_is_written_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batch is final already, so its status tells what the table has. The consumer may not know yet that it is."""
    seen, watch = recorder(monkeypatch, ReadersFirst, "before", {"store.finish_batch"})
    await rig.submit(build_operations("/break"))
    processor = rig.processor(watch)
    while not rig.dead_letters:
        await rig.process_next(processor)
    assert seen == ["wait", "store.finish_batch"]
    await rig.parts.chunks.send([Message(rig.dead_letters[0].body)])
    await rig.process_next(processor)
    assert seen == ["wait", "store.finish_batch", "store.finish_batch"]


async def test_batch_that_is_cancelled_while_it_finishes_has_the_time_of_its_start(rig: Rig) -> None:
    async def cancel_before_the_end() -> None:
        await rig.parts.store.end_batch(BATCH_ID, Ending.CANCELLED, "Asked for.", settle_by=NOW + 9)

    cancelling = list[asyncio.Task[None]]()

    def watch(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.count_chunk", "after"):
            cancelling.append(asyncio.create_task(cancel_before_the_end()))

    await rig.submit(build_operations("/succeed"))
    await rig.process_next(rig.processor(watch))
    batch = await rig.batch()
    assert (batch.ending, batch.is_final, batch.started_at) == (Ending.CANCELLED, True, NOW)


async def test_failures_are_dead_lettered_with_their_errors(rig: Rig) -> None:
    await rig.submit(build_operations("/succeed", "/break-once", "/reject"))
    await rig.process_next()
    broke, rejected = rig.dead_letters
    chunks = [decode_chunk(letter.body) for letter in (broke, rejected)]
    assert [(chunk.batch_id, chunk.id, chunk.attempt) for chunk in chunks] == [
        (BATCH_ID, "0.d1", 1),
        (BATCH_ID, "0.d2", 1),
    ]
    assert [[operation.id for operation in chunk.operations] for chunk in chunks] == [["id-1"], ["id-2"]]
    assert json.loads(broke.body)["failures"] == [[1, 500, {"title": "Broke", "detail": "RuntimeError"}]]
    assert json.loads(rejected.body)["failures"] == [[2, 409, {"title": "Rejected", "detail": "Not this one."}]]


@pytest.mark.parametrize("is_closed", [False, True])
async def test_failures_that_are_not_counted_are_no_dead_letters(rig: Rig, *, is_closed: bool) -> None:
    """A redrive subtracts them from the counter. If a sweep has closed the group, they have another outcome."""
    letters_before: list[int] = []

    def watch(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.count_chunk", "before"):
            letters_before.append(len(rig.dead_letters))
            if is_closed:
                rig.parts.store._groups[BATCH_ID, 0] = Group(counts=Counts(expired=1), closed=Ending.EXPIRED)

    await rig.submit(build_operations("/reject"))
    await rig.process_next(rig.processor(watch))
    assert letters_before == [0]
    assert len(rig.dead_letters) == (0 if is_closed else 1)


@pytest.mark.parametrize(("kept", "failures"), [(True, [("id-0", 409), ("id-1", 500)]), (False, [("id-1", 500)])])
async def test_rejections_are_dead_lettered_if_asked_for(kept: bool, failures: list[tuple[str, int]]) -> None:
    rig = build_rig(dead_letter_rejections=kept)
    await rig.submit(build_operations("/reject", "/break-once"))
    await rig.process_next()
    assert rig.failures() == failures
    assert await rig.counts() == Counts(failed=2)


async def test_operation_that_the_application_no_longer_takes_fails_for_good(rig: Rig) -> None:
    await rig.submit([build_operation(0, "/gone"), build_operation(1, "/reject", body="unasked")])
    await rig.process_next()
    assert rig.statuses() == {"id-0": 404, "id-1": 422}
    assert rig.chunks == []


async def test_each_operation_has_a_transaction_of_its_own() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def transaction() -> AsyncIterator[int]:
        log.append("begin")
        try:
            yield len(log)
        except Reject:
            log.append("rollback")
            raise
        log.append("commit")

    operations = Operations(transaction=transaction)

    @operations.post("/succeed")
    async def succeed(context: Context[int]) -> int:
        return context.transaction

    @operations.post("/reject")
    async def reject() -> None:
        raise Reject(409, "Not this one.")

    rig = Rig(operations)
    await rig.submit(build_operations("/succeed", "/reject", "/succeed"))
    await rig.process_next()
    assert log == ["begin", "commit", "begin", "rollback", "begin", "commit"]
    assert [outcome.result for outcome in rig.outcomes()] == [1, None, 5]


# Delivered more than once.


async def deliver_again(rig: Rig, chunk_id: str = "0") -> None:
    """The same chunk under another message id, as when a send was repeated because its answer was lost."""
    for chunk in rig.chunks:
        if chunk.id == chunk_id:
            await rig.parts.chunks.send([Message(encode_chunk(chunk))])


async def test_chunk_sent_twice_runs_and_counts_once(rig: Rig) -> None:
    await rig.submit(build_operations("/succeed", "/second-time-right", "/reject"))
    await deliver_again(rig)
    await rig.work_off()
    assert rig.statuses() == {"id-0": 201, "id-1": 201, "id-2": 409}
    assert rig.late_runs == []
    assert await rig.counts() == Counts(succeeded=2, failed=1)


async def test_duplicate_arriving_after_the_end_changes_nothing(rig: Rig) -> None:
    operations = build_operations("/succeed", "/second-time-right", "/reject")
    await rig.submit(operations)
    await rig.work_off()
    finished, outcomes, runs = await rig.batch(), rig.outcomes(), dict(rig.runs)
    await rig.parts.chunks.send([Message(encode_chunk(build_chunk(operations)))])
    rig.clock.advance(60)
    await rig.work_off()
    assert (await rig.batch(), rig.outcomes(), rig.runs) == (finished, outcomes, runs)
    assert await rig.counts() == Counts(succeeded=2, failed=1)


async def test_two_consumers_at_the_same_chunk_count_it_once() -> None:
    """The first one's lease is lost; both run the handlers, and whoever records first is right for both."""
    operations = Operations()
    arrived = asyncio.Barrier(2)

    @operations.post("/meet")
    async def meet() -> int:
        return await arrived.wait()

    rig = Rig(operations)
    await rig.submit([build_operation(0, "/meet")])
    first = await rig.receive()
    rig.clock.advance(rig.settings.visibility_seconds + 1)
    second, chunk = await rig.receive()
    as_if_first = replace(second, receive_count=1)  # or it would count as a death, and the attempts would differ
    await asyncio.gather(rig.process(*first), rig.process(as_if_first, chunk))
    assert len(rig.outcomes()) == 1
    assert await rig.counts() == Counts(succeeded=1)
    assert rig.chunks == []


async def test_what_another_recorded_first_stands(rig: Rig) -> None:
    """While our handlers run another consumer records what came to pass with it: ours is dropped, theirs carried on."""
    batch = await rig.submit(build_operations("/reject", "/reject"))
    theirs = ChunkRecord("0", (succeeded(build_operation(0), 200, "theirs"),))

    def commit_before_us(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.commit_chunk", "before"):
            rig.parts.store._records.setdefault((batch.id, "0"), theirs)

    await rig.process_next(rig.processor(commit_before_us))
    assert rig.outcomes() == list(theirs.outcomes)
    assert await rig.counts() == Counts(succeeded=1)
    assert rig.dead_letters == []


async def test_recorded_chunk_is_carried_on_without_running(rig: Rig) -> None:
    """An earlier delivery died right after its commit: what it recorded is sent, counted and acknowledged."""
    batch = await rig.submit(build_operations("/break", "/reject"))
    await rig.process_next()
    record = rig.parts.store._records[batch.id, "0"]
    fresh = build_rig()
    await fresh.submit(build_operations("/break", "/reject"))
    await fresh.parts.store.commit_chunk(batch, record)
    await fresh.process_next()
    assert fresh.runs == {}
    assert [(chunk.id, chunk.attempt) for chunk in fresh.chunks] == [("0.0.1.0", 2)]
    assert (await fresh.counts(), fresh.failures()) == (Counts(failed=1), [("id-1", 409)])


async def test_counted_chunk_that_comes_again_sends_no_follow_ups_again(rig: Rig) -> None:
    """Or each duplicate would bring duplicates of all that ever followed from it, and the queue could fill for ever."""
    await rig.submit(build_operations("/second-time-right", "/break"))
    await rig.process_next()
    [following] = rig.chunks
    again = build_chunk(build_operations("/second-time-right", "/break"))
    await rig.parts.chunks.send([Message(encode_chunk(again))] * 3)
    await rig.process_next()  # the follow-up itself, which is next in line
    for _ in range(3):
        await rig.process_next()
    assert (following.id, [chunk.id for chunk in rig.chunks]) == ("0.0.1.0", ["0.0.2.1"])
    await rig.work_off()
    assert await rig.counts() == Counts(succeeded=1, failed=1)


async def test_follow_ups_of_what_cannot_be_counted_do_not_multiply(rig: Rig) -> None:
    """Each delivery sent them again, and so did each of their own deliveries: the queue doubled every few minutes."""

    def reject(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.count_chunk", "before"):
            raise RejectedCall("Item size has exceeded the maximum allowed size.")

    await rig.submit(build_operations("/second-time-right"))
    processor = rig.processor(reject)
    for _ in range(6):
        for _ in range(await rig.parts.chunks.depth()):
            with pytest.raises(RejectedCall):
                await rig.process_next(processor)
        rig.clock.advance(rig.settings.visibility_seconds + 1)
    assert [chunk.id for chunk in rig.chunks] == ["0", "0.0.1.0"]
    assert rig.runs == {"id-0": 2}
    await rig.work_off()
    assert await rig.counts() == Counts(succeeded=1)


async def test_follow_ups_of_a_batch_that_cannot_be_started_are_not_sent(rig: Rig) -> None:
    def reject(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.start_batch", "before"):
            raise RejectedCall("Item size has exceeded the maximum allowed size.")

    await rig.submit(build_operations("/second-time-right"))
    processor = rig.processor(reject)
    for _ in range(3):
        with pytest.raises(RejectedCall):
            await rig.process_next(processor)
        rig.clock.advance(rig.settings.visibility_seconds + 1)
    assert [chunk.id for chunk in rig.chunks] == ["0"]
    await rig.work_off()
    assert await rig.counts() == Counts(succeeded=1)


async def test_follow_ups_of_what_came_too_late_are_not_sent_again(rig: Rig) -> None:
    batch = await rig.submit(build_operations("/second-time-right"))
    await rig.process_next()
    [following] = rig.chunks
    await rig.parts.store.close_group(batch, 0, Counts(), Ending.EXPIRED)
    await rig.parts.store.count_chunk(batch, ChunkRecord("1"))
    twin = build_chunk(build_operations("/second-time-right"), chunk_id=following.id)
    await rig.parts.store.commit_chunk(batch, record_too_early(twin))
    rig.clock.advance(rig.settings.visibility_seconds + 1)
    await rig.process_next()
    assert rig.chunks == []


# Deaths.


async def die(rig: Rig, times: int = 1) -> None:
    """A consumer receives the next chunk, notes that it begins where it is to, and is never heard of again."""
    for _ in range(times):
        delivery, chunk = await rig.receive()
        if delivery.receive_count > 1:
            await rig.parts.store.note_start(build_batch(1), chunk.id, delivery.mark)
        rig.clock.advance(rig.settings.visibility_seconds + 1)


async def test_chunk_that_died_is_halved_and_not_run(rig: Rig) -> None:
    await rig.submit(build_operations(*["/succeed"] * 5))
    await die(rig)
    await rig.process_next()
    assert rig.runs == {}
    halves = [(chunk.id, chunk.attempt, len(chunk.operations)) for chunk in rig.chunks]
    assert halves == [("0.0.1.0", 1, 2), ("0.0.1.2", 1, 3)]
    await rig.work_off()
    assert await rig.counts() == Counts(succeeded=5)
    assert rig.runs == {f"id-{index}": 1 for index in range(5)}
    assert await rig.redelivered() == 5


@pytest.mark.parametrize(("is_alive", "redelivered"), [(True, 2), (False, 0)])
async def test_released_delivery_counts_as_a_repeat_only_if_it_had_started(
    rig: Rig, *, is_alive: bool, redelivered: int
) -> None:
    """A process that lost its lease while it ran the chunk reports later that it is alive."""
    batch = await rig.submit(build_operations("/succeed", "/succeed"))
    delivery, chunk = await rig.receive()
    if is_alive:
        await rig.parts.store.note_start(batch, chunk.id, str(StartNote(delivery.mark, "cut off", Evidence.NONE)))
    await rig.processor().release(delivery, chunk)
    await rig.process_next()
    assert await rig.redelivered() == redelivered


@pytest.mark.parametrize(
    ("path", "attempt", "deaths", "status"),
    [
        ("/succeed", 1, 1, 201),  # the first to die had left no note: perhaps it never came to run it
        ("/succeed", 1, 3, 201),
        ("/succeed", 1, 4, 500),  # each noted death was an attempt, and there are three
        ("/succeed", 2, 2, 201),
        ("/succeed", 2, 3, 500),
        ("/succeed", 3, 1, 201),
        ("/succeed", 3, 2, 500),
        ("/break-once", 1, 2, 500),
        ("/gone", 1, 5, 404),  # nothing handles it any more: that is what is told
    ],
)
async def test_operation_that_dies_with_its_consumer_runs_out_of_attempts(
    rig: Rig, path: str, attempt: int, deaths: int, status: int
) -> None:
    batch = build_batch(1)
    await rig.parts.store.create_batch(batch)
    await rig.parts.chunks.send([Message(encode_chunk(build_chunk([build_operation(0, path)], attempt=attempt)))])
    await die(rig, deaths)
    await rig.process_next()
    assert rig.statuses() == {"id-0": status}
    assert rig.attempts == ([("id-0", attempt + deaths - 1)] if status == 201 else [])


async def submit_suspects(rig: Rig, count: int, *, attempt: int = 1) -> list[tuple[Delivery, Chunk]]:
    """Operations alone in their chunks, each of which two consumers died of, as it seems."""
    batch = build_batch(count, chunk_count=count)
    await rig.parts.store.create_batch(batch)
    chunks = [build_chunk([build_operation(n)], chunk_id=str(n), attempt=attempt) for n in range(count)]
    await rig.parts.chunks.send([Message(encode_chunk(chunk)) for chunk in chunks])
    for process in ("first", "second"):
        for delivery in await rig.parts.chunks.receive(count, 0):
            note = StartNote(delivery.mark, process, Evidence.RUNNING)
            await rig.parts.store.note_start(batch, decode_chunk(delivery.body).id, str(note))
        rig.clock.advance(rig.settings.visibility_seconds + 1)
    return [(delivery, decode_chunk(delivery.body)) for delivery in await rig.parts.chunks.receive(count, 0)]


@pytest.mark.parametrize("attempt", [1, 3], ids=["first attempt", "last attempt"])
async def test_suspect_is_recorded_before_the_next_one_begins(rig: Rig, attempt: int) -> None:
    """Dying of the next one before that would look like dying of this one."""
    steps: list[str] = []

    def take_down(call: str, moment: Moment) -> None:
        if (call, moment) in {("store.note_start", "before"), ("store.commit_chunk", "after")}:
            steps.append(call)

    processor = rig.processor(take_down)
    suspects = await submit_suspects(rig, 3, attempt=attempt)
    await asyncio.gather(*(rig.process(delivery, chunk, processor) for delivery, chunk in suspects))
    assert steps == ["store.note_start", "store.commit_chunk"] * 3
    assert await rig.counts() == Counts(succeeded=3)


@pytest.mark.parametrize("evidence", [None, Evidence.RUNNING])
async def test_first_death_is_no_reason_for_a_quarantine(rig: Rig, evidence: Evidence | None) -> None:
    """Most of what was under way at a death is innocent, so it runs side by side again."""
    count = 3
    meeting = asyncio.Barrier(count)

    @rig.operations.post("/meet", max_attempts=1)
    async def meet() -> None:
        await meeting.wait()

    batch = await rig.submit(build_operations(*["/meet"] * count), chunk_operations=1)
    for delivery in await rig.parts.chunks.receive(count, 0):
        if evidence is not None:
            note = StartNote(delivery.mark, "died", evidence)
            await rig.parts.store.note_start(batch, decode_chunk(delivery.body).id, str(note))
    rig.clock.advance(rig.settings.visibility_seconds + 1)
    again, processor = await rig.parts.chunks.receive(count, 0), rig.processor()
    await asyncio.gather(*(rig.process(delivery, decode_chunk(delivery.body), processor) for delivery in again))
    assert await rig.counts() == Counts(succeeded=count)


async def test_operation_that_waits_for_a_slot_has_no_note_of_its_start() -> None:
    """If its process dies, it is no suspect."""
    rig = build_rig(concurrency=1)
    notes: list[int] = []

    @rig.operations.post("/look")
    async def look() -> None:
        traces = [await rig.parts.store.read_traces(BATCH_ID, chunk_id) for chunk_id in ("0", "1")]
        notes.append(sum(len(one.begun) for one in traces))

    batch = await rig.submit(build_operations("/look", "/look"), chunk_operations=1)
    await rig.parts.store.suspect_batch(batch.id)
    processor = rig.processor()
    await asyncio.gather(*[rig.process_next(processor) for _ in range(2)])
    assert await rig.counts() == Counts(succeeded=2)
    assert notes == [1, 2]


async def test_suspect_that_would_wait_long_is_released_for_other_consumers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one that waits is kept, so that its turn comes immediately."""
    monkeypatch.setattr(quarantine, "SHORT_WAIT_SECONDS", 0.01)
    goes_on = asyncio.Event()

    @rig.operations.post("/long")
    async def long() -> None:
        await goes_on.wait()

    processor = rig.processor()
    (first, chunk), *others = await submit_suspects(rig, 4)
    running = [
        asyncio.create_task(rig.process(first, replace(chunk, operations=(build_operation(0, "/long"),)), processor))
    ]
    running += [asyncio.create_task(rig.process(*other, processor)) for other in others]

    async def two_are_released() -> bool:
        return sum(task.done() for task in running) == 2

    await eventually(two_are_released)
    goes_on.set()
    await asyncio.gather(*running)
    assert await rig.counts() == Counts(succeeded=2)
    released = [mark for marks in rig.parts.store._released.values() for mark in marks]
    assert len(released) == len(set(released)) == 2


async def test_nothing_begins_beside_a_last_attempt_before_it_is_recorded(rig: Rig) -> None:
    """Or the process could die of that, and this one would be blamed."""
    has_slots = asyncio.Event()
    run_by_commit: list[set[str]] = []

    def take_down(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.note_start", "before"):
            has_slots.set()
        if (call, moment) == ("store.commit_chunk", "after"):
            run_by_commit.append(set(rig.runs))

    processor = rig.processor(take_down)
    await rig.parts.store.create_batch(build_batch(2, chunk_count=2))
    [suspect] = await submit_suspects(rig, 1, attempt=3)
    suspected = asyncio.create_task(rig.process(*suspect, processor))
    await has_slots.wait()
    await rig.parts.chunks.send([Message(encode_chunk(build_chunk([build_operation(1)], chunk_id="1")))])
    await asyncio.gather(suspected, rig.process_next(processor))
    assert run_by_commit == [{"id-0"}, {"id-0", "id-1"}]


async def test_nothing_comes_between_the_note_of_a_start_and_the_handler(rig: Rig) -> None:
    """Or a consumer that dies there would be blamed on an operation that never started: with one attempt, for good."""
    steps: list[str] = []

    @rig.operations.post("/innocent", max_attempts=1)
    async def innocent() -> None:
        steps.append("handler")

    def take_down(call: str, moment: Moment) -> None:
        steps.append(call)
        if (call, moment) == ("store.commit_chunk", "after"):
            rig.clock.advance(2)  # what was read of the batch is stale

    (first, ordinary), (second, chunk) = await submit_suspects(rig, 2)
    chunk = replace(chunk, operations=(build_operation(1, "/innocent"),))
    processor = rig.processor(take_down)
    await asyncio.gather(rig.process(first, ordinary, processor), rig.process(second, chunk, processor))
    assert steps[steps.index("handler") - 1] == "store.note_start"
    assert await rig.counts() == Counts(succeeded=2)


@pytest.mark.parametrize("losses", [1, 2, 5])
async def test_receives_that_are_lost_use_up_no_attempt(rig: Rig, losses: int) -> None:
    """The answer was lost, or the consumer died of something else before the handler: it is not poison."""

    @rig.operations.post("/once", max_attempts=1)
    async def once(context: Context) -> None:
        rig.note(context)

    await rig.submit([build_operation(0, "/once")])
    for _ in range(losses):
        await rig.receive()
        rig.clock.advance(rig.settings.visibility_seconds + 1)
    await rig.process_next()
    assert rig.attempts == [("id-0", 1)]
    assert await rig.counts() == Counts(succeeded=1)


async def test_redriven_chunk_that_is_there_twice_runs_once_if_the_other_one_ends_first(rig: Rig) -> None:
    """Its record may be written while the record of its origin is read. So its own record is read after that, once."""

    @rig.operations.post("/broken", max_attempts=1)
    async def broken(context: Context) -> None:
        rig.note(context)
        raise ValueError("broken")

    await rig.submit([build_operation(0, "/broken")])
    await rig.process_next()
    redriven = decode_chunk(rig.dead_letters[0].body)
    await rig.parts.chunks.send([Message(encode_chunk(redriven))] * 2)
    first, second = await rig.receive(), await rig.receive()
    await rig.process(*first)
    record = rig.parts.store._records.pop((BATCH_ID, redriven.id))
    reads = 0

    def write_record_after_first_read(call: str, moment: Moment) -> None:
        nonlocal reads
        reads += (call, moment) == ("store.read_traces", "before")
        if (call, moment) == ("store.read_traces", "after"):
            rig.parts.store._records[BATCH_ID, redriven.id] = record

    await rig.process(*second, rig.processor(write_record_after_first_read))
    assert reads == 2
    assert rig.runs == {"id-0": 2}


def deny(rig: Rig, delivery: Delivery, *, after: int) -> Watch:
    """Let the process that noted its start in `delivery` deny its death after some reads of its notes."""
    reads = 0

    def watch(call: str, moment: Moment) -> None:
        nonlocal reads
        reads += (call, moment) == ("store.read_traces", "before")
        if reads == after:
            rig.parts.store._released.setdefault((BATCH_ID, "0"), set()).add(delivery.mark)

    return watch


@pytest.mark.parametrize(("reads", "status"), [(2, 201), (20, 201), (1_000, 500)])
async def test_verdict_waits_until_a_process_that_was_cut_off_can_deny_its_death(
    rig: Rig, reads: int, status: int
) -> None:
    """AWS was away for longer than a lease. The process still runs, and there is only one attempt."""

    @rig.operations.post("/once", max_attempts=1)
    async def once(context: Context) -> None:
        rig.note(context)

    batch = await rig.submit([build_operation(0, "/once")])
    await rig.receive()
    rig.clock.advance(rig.settings.visibility_seconds + 1)
    cut_off, chunk = await rig.receive()
    await rig.parts.store.note_start(batch, chunk.id, str(StartNote(cut_off.mark, "cut off")))
    rig.clock.advance(rig.settings.visibility_seconds + 1)
    await rig.process_next(rig.processor(deny(rig, cut_off, after=reads)))
    assert rig.statuses() == {"id-0": 200 if status == 201 else status}
    assert (await rig.batch()).died == {"cut off"}


async def test_process_that_seems_to_have_died_denies_it(rig: Rig) -> None:
    batch = await rig.submit([build_operation(0)])
    await rig.parts.store.suspect_batch(batch.id)
    processor = rig.processor()
    delivery, chunk = await rig.receive()
    note = StartNote(delivery.mark, processor._process, Evidence.RUNNING)

    @rig.operations.post("/accused")
    async def accused() -> None:
        traces = await rig.parts.store.read_traces(batch.id, chunk.id)
        assert traces.begun == {str(note)}
        await rig.parts.store.note_deaths(batch.id, [processor._process, "another"])
        rig.clock.advance(rig.settings.visibility_seconds + 1)
        await processor._batches.read(batch.id)
        assert (await rig.parts.store.read_traces(batch.id, chunk.id)).released == {delivery.mark}

    await rig.process(delivery, replace(chunk, operations=(build_operation(0, "/accused"),)), processor)
    assert (await rig.batch()).died == {"another"}
    assert [outcome.state for outcome in rig.outcomes()] == [OutcomeState.SUCCEEDED]


@pytest.mark.parametrize(
    "note",
    [StartNote("m#2"), *(StartNote("m#2", "p", evidence) for evidence in Evidence)],
    ids=str,
)
def test_note_of_a_start_reads_as_it_was_written(note: StartNote) -> None:
    assert StartNote.parse(str(note)) == note


async def test_suspect_that_another_delivery_has_recorded_meanwhile_is_not_run(rig: Rig) -> None:
    theirs = ChunkRecord("0", (succeeded(build_operation(0), 200, "theirs"),))

    def record_before_us(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.note_start", "before"):
            rig.parts.store._records[BATCH_ID, "0"] = theirs

    [suspect] = await submit_suspects(rig, 1)
    await rig.process(*suspect, rig.processor(record_before_us))
    assert rig.runs == {}
    assert rig.outcomes() == list(theirs.outcomes)
    assert await rig.counts() == Counts(succeeded=1)
    assert rig.chunks == []


async def test_suspect_that_runs_elsewhere_is_not_taken_for_dead(rig: Rig) -> None:
    """The chunk stands twice on the queue: the notes of one message tell nothing of the other's deaths."""
    [(delivery, chunk)] = await submit_suspects(rig, 1, attempt=3)
    await rig.parts.store.note_start(build_batch(1), chunk.id, delivery.mark)  # and it goes on
    twin = replace(delivery, message_id="twin")
    await rig.process(twin, chunk)
    assert rig.attempts == [("id-0", 3)]
    assert await rig.counts() == Counts(succeeded=1)


async def test_release_of_a_twin_hides_no_death(rig: Rig) -> None:
    await rig.submit(build_operations("/succeed", "/succeed"))
    delivery, chunk = await rig.receive()
    await rig.parts.store.note_release(build_batch(2), chunk.id, replace(delivery, message_id="twin").mark)
    rig.clock.advance(rig.settings.visibility_seconds + 1)
    await rig.process_next()
    assert rig.runs == {}
    assert [chunk.id for chunk in rig.chunks] == ["0.0.1.0", "0.0.1.1"]


@pytest.mark.parametrize("is_final", [False, True], ids=["cancelled", "final"])
async def test_suspect_whose_batch_ends_while_it_waits_is_not_run(rig: Rig, *, is_final: bool) -> None:
    store = rig.parts.store

    @rig.operations.post("/end-it-all")
    async def end_it_all() -> None:
        batch = await rig.batch()
        await store.end_batch(batch.id, Ending.CANCELLED, "Enough.", settle_by=NOW + 600)
        if is_final:
            await store.close_group(batch, 0, Counts(), Ending.CANCELLED)
            await store.finish_batch(batch.id, BatchState.CANCELLED, NOW, ending=Ending.CANCELLED)
        rig.clock.advance(2)  # what was read of the batch is stale

    first, second = await submit_suspects(rig, 2)
    ending = replace(first[1], operations=(build_operation(0, "/end-it-all"),))
    processor = rig.processor()
    await asyncio.gather(rig.process(first[0], ending, processor), rig.process(*second, processor))
    await rig.work_off()
    assert rig.runs == {}
    assert await rig.counts() == (Counts(cancelled=2) if is_final else Counts(succeeded=1, cancelled=1))


async def test_poison_is_dead_lettered_and_its_neighbours_are_not(rig: Rig) -> None:
    """The handler of one of eight operations kills its consumer each time."""
    await rig.submit(build_operations(*["/succeed"] * 8))
    for _ in range(100):
        if not rig.chunks:
            break
        if not await rig.parts.chunks.depth():
            rig.clock.advance(rig.settings.visibility_seconds + 1)
            continue
        delivery, chunk = await rig.receive()
        deaths = delivery.receive_count - 1
        runs_poison = any(operation.id == "id-5" for operation in chunk.operations)
        is_alone = len(chunk.operations) == 1
        is_run = not deaths or (is_alone and deaths < 4)
        if runs_poison and is_alone and 0 < deaths < 4:
            await rig.parts.store.note_start(build_batch(8), chunk.id, delivery.mark)
        if not (runs_poison and is_run):
            await rig.parts.chunks.extend([delivery], 3 * rig.settings.visibility_seconds)  # as heartbeats do
            await rig.process(delivery, chunk)
    assert rig.statuses() == {f"id-{index}": 500 if index == 5 else 201 for index in range(8)}
    assert rig.outcomes()[5].error == {
        "title": "Poison",
        "detail": "The consumer died or lost its lease each time it ran this operation (3 times).",
    }
    assert rig.failures() == [("id-5", 500)]
    assert await rig.counts() == Counts(succeeded=7, failed=1)
    assert rig.runs == {f"id-{index}": 1 for index in range(8) if index != 5}


async def test_released_deliveries_are_no_deaths(rig: Rig) -> None:
    await rig.submit(build_operations("/succeed", "/succeed"))
    for _ in range(5):
        delivery, chunk = await rig.receive()
        await rig.processor().release(delivery, chunk)
    await rig.process_next()
    assert rig.attempts == [("id-0", 1), ("id-1", 1)]


async def test_releases_and_deaths_are_told_apart(rig: Rig) -> None:
    await rig.submit([build_operation(0)])
    delivery, chunk = await rig.receive()
    await rig.processor().release(delivery, chunk)
    await die(rig)
    delivery, chunk = await rig.receive()
    await rig.processor().release(delivery, chunk)
    await rig.process_next()
    assert rig.attempts == [("id-0", 2)]


async def test_delivery_is_known_to_be_released_before_it_is_visible_again(rig: Rig) -> None:
    """A consumer that receives it at that moment does not take it for the delivery of a crashed one."""
    await rig.submit(build_operations("/succeed", "/succeed"))
    delivery, chunk = await rig.receive()
    with pytest.raises(Unavailable):
        await rig.processor(Outage("chunks.extend", "after")).release(delivery, chunk)
    await rig.process_next()
    assert rig.attempts == [("id-0", 1), ("id-1", 1)]


async def test_released_delivery_is_at_hand_again_at_once(rig: Rig) -> None:
    await rig.submit([build_operation(0)])
    delivery, chunk = await rig.receive()
    assert await rig.parts.chunks.depth() == 0
    await rig.processor().release(delivery, chunk)
    assert await rig.parts.chunks.depth() == 1


async def test_operation_does_not_start_if_its_batch_came_over_its_limit_of_deaths_while_it_waited() -> None:
    """It may kill the process, which would be one more than the limit says."""
    rig = build_rig(concurrency=1, max_deaths=1)

    @rig.operations.post("/meanwhile")
    async def meanwhile(context: Context) -> None:
        rig.note(context)
        await rig.parts.store.note_deaths(BATCH_ID, {"one process", "another"})
        rig.clock.advance(2)  # what was read of the batch is stale

    await rig.submit(build_operations("/meanwhile", "/succeed"), 1)
    await rig.parts.store.suspect_batch(BATCH_ID)
    processor = rig.processor()
    await asyncio.gather(*[rig.process(*await rig.receive(), processor) for _ in range(2)])
    assert rig.runs == {"id-0": 1}
    assert (await rig.batch()).state is BatchState.FAILED


async def test_batch_is_not_stopped_if_processes_deny_their_death_within_a_lease() -> None:
    rig = build_rig(max_deaths=1)
    back_at = NOW + 0.9 * rig.settings.visibility_seconds

    def deny(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_batch", "before") and rig.clock.now() >= back_at:
            batches = rig.parts.store._batches
            batches[BATCH_ID] = replace(batches[BATCH_ID], died=frozenset())

    await rig.submit(build_operations("/succeed"))
    await rig.parts.store.suspect_batch(BATCH_ID)
    await rig.parts.store.note_deaths(BATCH_ID, {"one process", "another"})
    await rig.process_next(rig.processor(deny))
    assert rig.runs == {"id-0": 1}
    assert (await rig.batch()).state is BatchState.COMPLETED


async def test_nothing_more_starts_in_the_consumer_that_ends_the_batch(rig: Rig) -> None:
    """It need not read the batch again to know that."""
    batch = await rig.submit(build_operations("/reject", "/succeed"), 1)
    rig.parts.store._batches[BATCH_ID] = replace(batch, failure_limit=FailureLimit(0))
    processor = rig.processor()
    for _ in range(2):
        await rig.process_next(processor)
    assert rig.runs == {"id-0": 1}
    assert await rig.counts() == Counts(failed=1, cancelled=1)


async def test_consumer_that_was_suspended_does_not_run_what_another_has_finished() -> None:
    rig = build_rig(concurrency=1)

    @rig.operations.post("/suspend")
    async def suspend(context: Context) -> None:
        rig.note(context)
        if rig.runs[context.operation_id] == 1:
            rig.clock.advance(rig.settings.visibility_seconds + 1)
            await rig.work_off()

    await rig.submit(build_operations("/suspend", "/succeed"))
    await rig.process_next()
    assert rig.runs == {"id-0": 2, "id-1": 1}
    assert await rig.counts() == Counts(succeeded=2)


# Before the batch is accepted.


async def put_accepting(rig: Rig) -> None:
    await rig.parts.store.create_batch(build_batch(1, state=BatchState.ACCEPTING, accepted_at=None))
    await rig.parts.chunks.send([Message(encode_chunk(build_chunk([build_operation(0)])))])


async def test_nothing_runs_while_the_batch_is_being_accepted(rig: Rig) -> None:
    await put_accepting(rig)
    await rig.process_next()
    assert NOW + ACCEPT_WAIT_SECONDS <= rig.clock.now() <= NOW + ACCEPT_WAIT_SECONDS + 1
    assert (rig.runs, rig.outcomes(), await rig.counts()) == ({}, [], Counts())
    assert await rig.parts.chunks.depth() == 0
    rig.clock.advance(ACCEPTING_RELEASE_SECONDS)
    assert await rig.parts.chunks.depth() == 1


async def test_chunk_that_came_too_early_runs_whole_once_the_batch_is_accepted(rig: Rig) -> None:
    await put_accepting(rig)
    for _ in range(4):
        await rig.process_next()
        rig.clock.advance(ACCEPTING_RELEASE_SECONDS)
    await rig.parts.store.accept_batch(BATCH_ID, rig.clock.now())
    await rig.process_next()
    assert rig.attempts == [("id-0", 1)]
    assert (await rig.batch()).state is BatchState.COMPLETED


async def test_acceptance_is_waited_for_a_moment(rig: Rig) -> None:
    await put_accepting(rig)

    def accept_meanwhile(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_batch", "before") and rig.clock.now() > NOW + 0.5:
            batch = rig.parts.store._batches[BATCH_ID]
            if batch.state is BatchState.ACCEPTING:
                rig.parts.store._batches[BATCH_ID] = replace(batch, state=BatchState.QUEUED, accepted_at=NOW + 0.5)

    await rig.process_next(rig.processor(accept_meanwhile))
    assert rig.runs == {"id-0": 1}
    assert rig.clock.now() < NOW + ACCEPT_WAIT_SECONDS


async def test_copy_of_the_chunk_that_was_recorded_before_acceptance_was_seen_is_not_run_again(rig: Rig) -> None:
    await rig.submit([build_operation(0)])
    [delivery] = await rig.parts.chunks.receive(1, 0)
    rig.parts.store._batches[BATCH_ID] = replace(await rig.batch(), state=BatchState.ACCEPTING, accepted_at=None)

    def accept_and_record(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_batch", "before") and rig.clock.now() > NOW + 1.5:
            batch = rig.parts.store._batches[BATCH_ID]
            rig.parts.store._batches[BATCH_ID] = replace(batch, state=BatchState.QUEUED, accepted_at=NOW)
            record = ChunkRecord("0", (succeeded(build_operation(0), 201, None),))
            rig.parts.store._records[BATCH_ID, "0"] = record

    chunk = decode_chunk(delivery.body)
    await rig.process(delivery, chunk, rig.processor(accept_and_record))
    assert rig.runs == {}
    assert await rig.counts() == Counts(succeeded=1)


async def test_chunk_whose_record_is_half_deleted_after_its_retention_is_set_aside(rig: Rig) -> None:
    def lose(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_traces", "before"):
            raise LostItem("The table has lost the item.")

    await rig.parts.chunks.send([Message(encode_chunk(build_chunk([build_operation(0)])))])
    await rig.process_next(rig.processor(lose))
    assert (len(rig.dead_letters), rig.runs, rig.chunks) == (1, {}, [])


async def test_delivery_of_a_newer_version_does_not_stay_in_memory(rig: Rig) -> None:
    """Until it can be processed again, it comes to this consumer every few seconds."""

    def fail(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.read_batch", "before"):
            raise NewerVersion("state", "paused")

    async def receive() -> "weakref.ref[Callable[[int], None]]":
        def ended(_count: int) -> None: ...

        with suppress(NewerVersion):
            await rig.processor(fail).process(*await rig.receive(), ended)
        return weakref.ref(ended)

    await rig.submit([build_operation(0)])
    with without_collections():
        noted = await receive()
        await settle()
        assert noted() is None


async def test_chunk_of_an_abandoned_batch_is_dropped_unrun(rig: Rig) -> None:
    await put_accepting(rig)
    rig.clock.advance(61)
    await rig.process_next()
    assert (rig.runs, rig.outcomes(), rig.chunks, rig.dead_letters) == ({}, [], [], [])


async def test_batch_accepted_while_it_is_being_abandoned_runs(rig: Rig) -> None:
    """The front end's clock may be slower than ours: what stands in the table decides between us."""
    await put_accepting(rig)
    rig.clock.advance(61)

    def accept_first(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.abandon_batch", "before"):
            batch = rig.parts.store._batches[BATCH_ID]
            rig.parts.store._batches[BATCH_ID] = replace(batch, state=BatchState.QUEUED, accepted_at=NOW + 60)

    await rig.process_next(rig.processor(accept_first))
    assert rig.runs == {"id-0": 1}


async def put_ahead(rig: Rig) -> None:
    message = encode_chunk(build_chunk(build_operations("/succeed", "/succeed")))
    await rig.parts.chunks.send([Message(message, sent_ahead=SentAhead(NOW + 60, NOW + 90_000))])


async def test_chunk_that_came_before_its_batch_runs_whole_once_the_batch_is_written(rig: Rig) -> None:
    await put_ahead(rig)
    for _ in range(4):
        await rig.process_next()
        assert (rig.runs, rig.dead_letters) == ({}, [])
        rig.clock.advance(ACCEPTING_RELEASE_SECONDS)
    await rig.parts.store.accept_new(build_batch(2, state=BatchState.ACCEPTING, accepted_at=None), NOW)
    await rig.process_next()
    assert rig.attempts == [("id-0", 1), ("id-1", 1)]
    assert not (await rig.batch()).is_suspect


async def test_chunk_whose_batch_is_not_written_in_time_is_dropped_unrun(rig: Rig) -> None:
    await put_ahead(rig)
    rig.clock.advance(61)
    await rig.process_next()
    assert (rig.runs, rig.outcomes(), rig.chunks, rig.dead_letters) == ({}, [], [], [])
    with pytest.raises(AcceptanceLost):
        await rig.parts.store.accept_new(build_batch(2, state=BatchState.ACCEPTING, accepted_at=None), NOW)


async def test_chunk_whose_batch_may_be_past_its_retention_is_set_aside(rig: Rig) -> None:
    await put_ahead(rig)
    rig.clock.advance(90_000)
    await rig.process_next()
    assert (len(rig.dead_letters), rig.runs, rig.chunks) == (1, {}, [])


async def test_chunk_of_an_unknown_batch_is_set_aside_with_the_reason(rig: Rig) -> None:
    message = Message(encode_chunk(build_chunk([build_operation(0)])), tenant="acme")
    await rig.parts.chunks.send([message])
    await rig.process_next()
    [letter] = rig.dead_letters
    assert (letter.body, letter.tenant) == (message.body, "acme")
    assert letter.reason is not None
    assert BATCH_ID in letter.reason
    assert (rig.runs, rig.chunks) == ({}, [])


async def test_follow_ups_and_dead_letters_stay_with_their_tenant(rig: Rig) -> None:
    await rig.parts.store.create_batch(build_batch(2, tenant="acme"))
    chunk = build_chunk(build_operations("/break", "/reject"))
    await rig.parts.chunks.send([Message(encode_chunk(chunk), tenant="acme")])
    await rig.process_next()
    assert [message.tenant for message in [*rig.parts.chunks.messages, *rig.dead_letters]] == ["acme", "acme"]


# Stopping.


async def test_once_stopping_begins_what_has_not_begun_follows_untried(rig: Rig) -> None:
    stop = Stop()

    @rig.operations.post("/stop")
    async def begin_to_stop(context: Context) -> None:
        rig.note(context)
        stop.begin()

    rig.settings = build_settings(concurrency=1)
    await rig.submit(build_operations("/succeed", "/stop", "/succeed", "/second-time-right"))
    await rig.process_next(rig.processor(stop=stop))
    assert rig.statuses() == {"id-0": 201, "id-1": 200}
    [rest] = rig.chunks
    assert (rest.id, rest.attempt, rest.not_before) == ("0.0.1.2", 1, None)
    assert [operation.id for operation in rest.operations] == ["id-2", "id-3"]
    await rig.work_off()
    assert rig.runs == {"id-0": 1, "id-1": 1, "id-2": 1, "id-3": 2}


async def test_cut_handlers_follow_untried_and_the_rest_is_recorded(rig: Rig) -> None:
    stop = Stop()
    cut: list[str] = []

    @rig.operations.post("/hang")
    async def hang(context: Context) -> None:
        rig.note(context)
        if rig.runs[context.operation_id] > 1:
            return
        if sum(rig.runs.values()) == 4:
            stop.begin()
            stop.cut_off()
        try:
            await asyncio.Event().wait()
        finally:
            cut.append(context.operation_id)

    await rig.submit(build_operations("/succeed", "/second-time-right", "/hang", "/hang"))
    await rig.process_next(rig.processor(stop=stop))
    assert sorted(cut) == ["id-2", "id-3"]
    assert rig.statuses() == {"id-0": 201}
    assert [(chunk.attempt, [operation.id for operation in chunk.operations]) for chunk in rig.chunks] == [
        (2, ["id-1"]),
        (1, ["id-2", "id-3"]),
    ]
    await rig.work_off()
    assert await rig.counts() == Counts(succeeded=4)
    assert ("id-2", 1) in rig.attempts[4:]


async def test_steps_are_repeated_while_aws_is_in_trouble(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between grow, and no attempt is used up."""
    waits: list[float] = []

    async def note_wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(patience, "FIRST_REPEAT_SECONDS", 0.2)
    monkeypatch.setattr(rig.clock, "sleep", note_wait)
    failures = iter(range(8))

    def fail_for_a_while(call: str, moment: Moment) -> None:
        if (call, moment) == ("store.commit_chunk", "before") and next(failures, None) is not None:
            raise Unavailable("AWS does not answer.")

    await rig.submit([build_operation(0, "/second-time-right")])
    await rig.process_next(rig.processor(fail_for_a_while))
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert rig.attempts == [("id-0", 1)]


async def test_operations_of_a_redelivered_chunk_keep_their_bodies(rig: Rig) -> None:
    bodies: list[Any] = [{"a": [1, None, "é"]}, [], "x", 1.5]
    await rig.submit([Operation(i, f"id-{i}", "POST", "/succeed", body) for i, body in enumerate(bodies)])
    await die(rig)
    await rig.work_off()
    assert [outcome.result for outcome in rig.outcomes()] == bodies
