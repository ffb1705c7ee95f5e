"""A chunk is checked against its batch: what the front end and the consumers send passes, and forged chunks do not."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from msgspec.structs import replace as with_changes

from penstock.batch import Batch, Counts
from penstock.chunk import Chunk, Links, Operation, Reference, with_path
from penstock.consumer.origin import origin_error, record_error, redrive_error
from penstock.message import encode_chunk
from penstock.outcome import (
    ChunkRecord,
    FollowUp,
    Outcome,
    OutcomeState,
    dead_letters,
    failed,
    follow_up_chunks,
    record_halves,
    succeeded,
)
from penstock.queue import Message
from tests.support.builders import build_chunk, build_operation, build_operations, plan
from tests.support.rig import Rig
from tests.unit.consumer.test_processor import build_rig

# 66 chunks of 2 operations: 64 are in the first group.
BATCH, PLANNED = plan([build_operation(index) for index in range(132)], 2)


def chunk_of(chunk_id: str, indexes: Sequence[int]) -> Chunk:
    return build_chunk([build_operation(index) for index in indexes], chunk_id=chunk_id)


def record_of(chunk: Chunk) -> ChunkRecord:
    """Return a record in which the first operation failed, the second was rejected and the others follow."""
    first, second, *rest = chunk.operations
    outcomes = (failed(first, 500, "Broke"), failed(second, 409, "No", rejected=True))
    indexes = tuple(operation.index for operation in rest)
    return ChunkRecord(chunk.id, outcomes, (FollowUp(f"{chunk.id}.1", 2, indexes),), (first, second))


def test_every_planned_chunk_passes() -> None:
    assert [origin_error(BATCH, chunk) for chunk in PLANNED] == [None] * 66


def test_everything_that_a_record_lists_passes() -> None:
    chunk = chunk_of("0", range(5))
    for record in (record_of(chunk), record_halves(chunk)):
        assert record_error(chunk, record) is None
        for following in follow_up_chunks(chunk, record):
            assert origin_error(BATCH, following) is None
        for letter in dead_letters(chunk.batch_id, record):
            assert origin_error(BATCH, letter) is None
            assert redrive_error(letter, record) is None


@pytest.mark.parametrize(("fewer", "is_right"), [(2, True), (3, False), (10**9, False)])
def test_attempt_of_an_operation_is_at_least_1(fewer: int, is_right: bool) -> None:
    chunk = replace(chunk_of("0", [0, 1]), attempt=3, behind=((1, fewer),))
    error = None if is_right else "Chunk 0 has an operation with an attempt below 1."
    assert origin_error(BATCH, chunk) == error


@pytest.mark.parametrize(
    ("chunk_id", "indexes"),
    [
        ("66", [131]),  # there is no such chunk
        ("99999999", [0]),
        ("66.1", [131]),
        ("00", [0]),  # each chunk has one spelling
        ("01.d1", [0]),
        ("0", [-1]),
        ("64", [127]),  # chunk 64 is in the other group
        ("63", [128]),
        ("63.d1", [0, 128]),
        ("65", [132]),
        ("65", [10**30]),
        ("1", [2, 2]),
    ],
)
def test_what_cannot_belong_to_the_batch_is_reported(chunk_id: str, indexes: list[int]) -> None:
    error = origin_error(BATCH, chunk_of(chunk_id, indexes))
    assert error is not None
    assert error.endswith(".")
    assert len(error) < 300


def test_second_copy_of_a_recorded_chunk_has_the_same_operations() -> None:
    record = record_of(chunk_of("0", range(5)))
    for indexes in ([0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 3]):
        assert record_error(chunk_of("0", indexes), record) is not None


def test_redrive_has_only_operations_that_failed() -> None:
    record = record_of(chunk_of("0", range(5)))
    assert redrive_error(chunk_of("0.d1", [0]), record) is None
    assert redrive_error(chunk_of("0.d1", [0, 2]), record) is not None
    assert redrive_error(chunk_of("0.d1", [0]), None) is not None


def test_redrive_of_an_open_path_has_its_references() -> None:
    references = (Reference(0, "a", ("id",)), Reference(1, "b", ("id",)))
    open_ = Operation(2, "2", "DELETE", "/{a}/{b}", links=Links((0, 1), None, references))
    record = ChunkRecord("0", failed_operations=(open_,))

    def error(operation: Operation) -> str | None:
        return redrive_error(Chunk(BATCH.id, "0.d1", 1, (operation,)), record)

    assert error(open_) is None
    assert error(with_path(open_, "/7/{b}")) is None
    assert error(with_path(open_, "/7/8")) is None
    without = with_changes(open_, links=Links((0, 1)))
    assert "an open path without its references" in str(error(without))
    assert error(with_changes(without, path="/7/{b}")) is not None


# --- The consumer


async def send(rig: Rig, *chunks: Chunk) -> None:
    await rig.parts.chunks.send([Message(encode_chunk(chunk)) for chunk in chunks])


async def finish(rig: Rig, *paths: str) -> Batch:
    await rig.submit(build_operations(*paths))
    await rig.work_off()
    rig.runs.clear()
    return await rig.batch()


@pytest.mark.parametrize(
    "forged",
    [
        chunk_of("0.1", range(7)),
        chunk_of("0.d1", range(3)),
        chunk_of("0.d1", [0]),
        chunk_of("0.d1", [0, 0, 0, 0, 0, 0, 0]),
        chunk_of("0.d1.1", [0]),
        chunk_of("0.1.d1", [0]),
        chunk_of("1", [0]),
        chunk_of("00", [0]),
    ],
    ids=lambda chunk: chunk.id,
)
async def test_forged_chunk_runs_nothing_and_is_moved_unchanged_with_the_reason(forged: Chunk) -> None:
    rig = build_rig()
    await finish(rig, "/succeed", "/succeed", "/succeed")
    outcomes = rig.outcomes()
    await send(rig, forged)
    await rig.work_off()
    assert rig.runs == {}
    assert rig.outcomes() == outcomes
    assert await rig.counts() == Counts(succeeded=3)
    [letter] = rig.dead_letters
    assert letter.body == encode_chunk(forged)
    assert letter.reason is not None
    assert f"chunk {forged.id}" in letter.reason.lower()


async def test_redrive_runs_once_and_one_with_more_operations_does_not() -> None:
    rig = build_rig()
    await finish(rig, "/break-once", "/succeed", "/reject")
    await send(rig, chunk_of("0.d1", [0, 1]), chunk_of("0.d1", [0]), chunk_of("0.d1", [0]))
    await rig.work_off()
    assert rig.runs == {"id-0": 1}
    assert await rig.counts() == Counts(succeeded=2, failed=1)


async def test_chunk_that_its_group_has_no_room_for_is_not_counted() -> None:
    """Somebody else has counted its operations while it ran."""
    rig = build_rig()
    batch, [chunk] = plan(build_operations("/succeed", "/succeed"), 2)
    await rig.parts.store.create_batch(batch)
    others = tuple(Outcome(index, f"id-{index}", OutcomeState.SUCCEEDED, 200) for index in range(2))
    await rig.parts.store.count_chunk(batch, ChunkRecord("0.7", others))
    await send(rig, chunk)
    await rig.work_off()
    assert await rig.counts() == Counts(succeeded=2)
    [letter] = rig.dead_letters
    assert letter.reason == f"Group 0 of batch {batch.id} has no operations left that chunk 0 could count."
    assert letter.body == encode_chunk(chunk)


async def test_follow_ups_of_real_chunks_still_run() -> None:
    rig = build_rig()
    await finish(rig, "/second-time-right", "/succeed")
    assert await rig.counts() == Counts(succeeded=2)
    assert rig.dead_letters == []
    assert succeeded(build_operation(1), 201, None) in rig.outcomes()
