"""Checks a chunk against its batch before any of its operations runs. Pure.

Whoever may send to a queue can send any message. A chunk that cannot come from its batch must not run: its outcomes
would replace those of other operations, and the counters of the batch would be wrong.
"""

from collections.abc import Sequence

from penstock.batch import Batch
from penstock.chunk import GROUP_CHUNKS, Chunk, parent_of, planned_number
from penstock.outcome import ChunkRecord, dead_letters


def origin_error(batch: Batch, chunk: Chunk, record: ChunkRecord | None, parent: ChunkRecord | None) -> str | None:
    """Return why the chunk cannot come from its batch, or None if it can.

    `record` is the chunk's own record, if it has one. `parent` is the record of the chunk that it follows from.
    """
    number = planned_number(chunk.id)
    if number >= batch.chunk_count:
        return f"Batch {batch.id} has {batch.chunk_count:,} chunks, so it has no chunk {chunk.id}."
    indexes = [operation.index for operation in chunk.operations]
    if record is not None and sorted(indexes) != sorted(_indexes_of(record)):
        return f"Chunk {chunk.id} of batch {batch.id} is recorded with other operations."
    if parent_of(chunk.id) is None:
        return None if _can_be_planned(batch, number, indexes) else _not_its_operations(batch, chunk)
    if parent is None:
        return f"Batch {batch.id} has no record of the chunk that chunk {chunk.id} follows from."
    return (
        None if sorted(indexes) == sorted(_follow_up_indexes(parent, chunk.id)) else _not_its_operations(batch, chunk)
    )


def _not_its_operations(batch: Batch, chunk: Chunk) -> str:
    return f"Chunk {chunk.id} of batch {batch.id} cannot have these operations."


def _can_be_planned(batch: Batch, number: int, indexes: Sequence[int]) -> bool:
    """Return True if the indexes are neighbours in the chunk's group and leave one for every other chunk there."""
    group, place = divmod(number, GROUP_CHUNKS)
    chunks_after = min(GROUP_CHUNKS, batch.chunk_count - group * GROUP_CHUNKS) - place - 1
    start = batch.first_index(group)
    first, last = indexes[0], indexes[-1]
    before, after = first - start, start + batch.group_totals[group] - 1 - last
    is_run = list(indexes) == list(range(first, first + len(indexes)))
    return is_run and _leaves(before, place) and _leaves(after, chunks_after)


def _leaves(operations: int, chunks: int) -> bool:
    """Return True if the number of operations fits the number of chunks that have them: at least one each."""
    return operations >= chunks if chunks else operations == 0


def _indexes_of(record: ChunkRecord) -> list[int]:
    """Return the indexes of all operations of a recorded chunk."""
    followed = [index for follow_up in record.follow_ups for index in follow_up.indexes]
    return [outcome.index for outcome in record.outcomes] + followed


def _follow_up_indexes(parent: ChunkRecord, chunk_id: str) -> list[int]:
    """Return the indexes that a record lists for one of its follow-ups or dead letters; none if it lists no such."""
    for follow_up in parent.follow_ups:
        if follow_up.id == chunk_id:
            return list(follow_up.indexes)
    for letter in dead_letters("", parent):
        if letter.id == chunk_id:
            return [operation.index for operation in letter.operations]
    return []
