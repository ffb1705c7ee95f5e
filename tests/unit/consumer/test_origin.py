"""A chunk is held against its batch: what the front end and the consumers send passes, and everything else is told."""

from collections.abc import Sequence

import pytest

from penstock.batch import Batch, Counts
from penstock.chunk import Chunk
from penstock.consumer.origin import origin_error
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
from tests.support.builders import build_batch, build_chunk, build_operation, build_operations, plan
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
    assert [origin_error(BATCH, chunk, None, None) for chunk in PLANNED] == [None] * 66


@pytest.mark.parametrize("sizes", [[1], [3, 1], [1] * 64, [1, 5] * 40])
def test_chunks_of_any_size_pass(sizes: list[int]) -> None:
    groups = [sum(sizes[start : start + 64]) for start in range(0, len(sizes), 64)]
    batch, first = build_batch(*groups, chunk_count=len(sizes)), 0
    for number, size in enumerate(sizes):
        assert origin_error(batch, chunk_of(str(number), range(first, first + size)), None, None) is None
        first += size


@pytest.mark.parametrize(
    ("chunk_id", "indexes"),
    [
        ("66", [0]),  # there is no such chunk
        ("99999999", [0]),
        ("66.1", [0]),
        ("0", [1, 2]),  # the first chunk has the first operation
        ("0", [-1]),
        ("1", [0]),  # chunk 0 has it
        ("62", [127]),  # chunk 63 has it
        ("64", [126, 127]),  # these are of the other group
        ("65", [129, 130]),  # the last chunk has the last operation
        ("65", [131, 132]),
        ("65", [10**30]),
        ("1", [2, 2]),
        ("1", [2, 4]),
        ("1", [3, 2]),
        ("0.1", [0]),  # no chunk 0 is recorded
        ("0.d1", [0]),
    ],
)
def test_what_the_front_end_cannot_have_planned_is_told(chunk_id: str, indexes: list[int]) -> None:
    error = origin_error(BATCH, chunk_of(chunk_id, indexes), None, None)
    assert error is not None
    assert error.endswith(".")


def test_all_that_a_record_lists_passes() -> None:
    chunk = chunk_of("0", range(5))
    for record in (record_of(chunk), record_halves(chunk, 1)):
        for following in follow_up_chunks(chunk, record) + dead_letters(chunk.batch_id, record):
            assert origin_error(BATCH, following, None, record) is None


@pytest.mark.parametrize(
    ("chunk_id", "indexes"),
    [
        ("0.1", [2, 3]),  # it has 2, 3 and 4
        ("0.1", [0, 2, 3, 4]),
        ("0.1", [2, 3, 4, 4]),
        ("0.2", [2, 3, 4]),
        ("0.d1", [0, 0]),
        ("0.d1", [1]),  # was rejected, so it is in 0.d2
        ("0.d1", [2]),  # has not failed
        ("0.d1", [0, 1]),
        ("0.d3", [0]),
    ],
)
def test_what_the_record_of_its_parent_does_not_list_is_told(chunk_id: str, indexes: list[int]) -> None:
    parent = record_of(chunk_of("0", range(5)))
    assert origin_error(BATCH, chunk_of(chunk_id, indexes), None, parent) is not None


def test_second_copy_of_a_recorded_chunk_has_the_same_operations() -> None:
    batch, [chunk] = plan(build_operations(*["/succeed"] * 5), 5)
    assert origin_error(batch, chunk, record_of(chunk), None) is None
    assert origin_error(batch, chunk_of("0", range(4)), record_of(chunk), None) is not None


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
        chunk_of("0.d1", [0, 0, 0, 0, 0, 0, 0]),
        chunk_of("0.d1.1", [0]),
        chunk_of("1", [0]),
        chunk_of("0", [0]),
    ],
    ids=lambda chunk: chunk.id,
)
async def test_forged_chunk_runs_nothing_and_stays_as_it_is_with_the_reason(forged: Chunk) -> None:
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


async def test_redrive_passes_once_and_one_with_more_operations_does_not() -> None:
    rig = build_rig()
    await finish(rig, "/break-once", "/succeed", "/reject")
    await send(rig, chunk_of("0.d1", [0, 1]), chunk_of("0.d1", [0]), chunk_of("0.d1", [0]))
    await rig.work_off()
    assert rig.runs == {"id-0": 1}
    assert await rig.counts() == Counts(succeeded=2, failed=1)


async def test_chunk_that_its_group_has_no_room_for_is_set_aside() -> None:
    """The batch has been counted by somebody else in the meantime: what ran here must not be added to it."""
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
