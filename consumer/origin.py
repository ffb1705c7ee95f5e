"""Checks a chunk against its batch before anything of it runs. Pure.

Whoever may send to a queue can send any message. A chunk that cannot belong to its batch must not run: its outcomes
would replace those of other operations, and the counters of the batch would be wrong.
"""

from collections.abc import Sequence

from penstock.batch import Batch
from penstock.chunk import Chunk, Operation, next_round_id, references_of
from penstock.dependencies import links_error, with_connected
from penstock.outcome import ChunkRecord


def origin_error(batch: Batch, chunk: Chunk) -> str | None:
    """Return why the chunk cannot belong to its batch, or None if it can."""
    if not names_planned_chunk(batch, chunk.id):
        return (
            f"Batch {batch.id} cannot have a chunk {chunk.id[:100]}. It was planned with {batch.chunk_count:,} chunks."
        )
    indexes = [operation.index for operation in chunk.operations]
    if len(set(indexes)) < len(indexes):
        return f"Chunk {chunk.id} has the same operation twice."
    if not _are_of_group(batch, chunk.group, indexes):
        return f"Chunk {chunk.id} has operations that are not in its group of batch {batch.id}."
    if chunk.behind and min(chunk.attempts().values()) < 1:
        return f"Chunk {chunk.id} has an operation with an attempt below 1."
    return links_error(chunk) if chunk.has_links else None


def names_planned_chunk(batch: Batch, chunk_id: str) -> bool:
    """Return True if an id is that of a chunk that was planned for the batch, or of one that follows from such a chunk.

    A planned chunk has only one spelling. With two, its operations could be counted twice.
    """
    number = chunk_id.partition(".")[0]
    return number == str(int(number)) and int(number) < batch.chunk_count


def record_error(chunk: Chunk, record: ChunkRecord) -> str | None:
    """Return why a delivery cannot be of the chunk that is recorded, or None if it can."""
    if has_same_operations(chunk, record):
        return None
    return f"Chunk {chunk.id} of batch {chunk.batch_id} is recorded with other operations."


def has_same_operations(chunk: Chunk, record: ChunkRecord) -> bool:
    return record.indexes == {operation.index for operation in chunk.operations}


def redrive_error(chunk: Chunk, record: ChunkRecord | None) -> str | None:
    """Return why a chunk cannot be a redrive of the chunk with this record, or None if it can.

    Its outcomes replace failures. In place of another outcome they would be counted wrongly. A front end of an earlier
    version sends an open path without its references. Its placeholder would be taken for a value.
    """
    if record is None:
        return f"Chunk {chunk.id} runs operations again, but batch {chunk.batch_id} has no record of their failures."
    failed = {operation.index: operation for operation in record.failed_operations}
    indexes = {operation.index for operation in chunk.operations}
    if not indexes <= failed.keys():
        return f"Chunk {chunk.id} of batch {chunk.batch_id} runs operations again that have not failed."
    if any(_lacks_references(operation, failed[operation.index]) for operation in chunk.operations):
        return (
            f"Chunk {chunk.id} of batch {chunk.batch_id} has an open path without its references. "
            "Update all front ends, then retry the batch."
        )
    # Only the chunks that follow from a round may have a part of what is connected: the rest has succeeded.
    if next_round_id(chunk.id) is None or len(with_connected(record.failed_operations, indexes)) == len(indexes):
        return None
    return f"Chunk {chunk.id} of batch {chunk.batch_id} runs operations again without others that they depend on."


def _lacks_references(operation: Operation, recorded: Operation) -> bool:
    """Return True if the path has a placeholder of the recorded path, but nothing says what that refers to."""
    known = references_of(operation)
    return any(one.place in operation.path and one not in known for one in references_of(recorded))


def out_of_bounds(batch: Batch, chunk: Chunk) -> str:
    """Return why a chunk was not counted although its group was open."""
    return f"Group {chunk.group} of batch {batch.id} has no operations left that chunk {chunk.id} could count."


def _are_of_group(batch: Batch, group: int, indexes: Sequence[int]) -> bool:
    if group >= len(batch.group_totals):
        return False
    first = batch.first_index(group)
    return first <= min(indexes) and max(indexes) < first + batch.group_totals[group]
