"""Finds what failures that run again depend on: what has not succeeded of it, and results that paths refer to."""

import asyncio
from dataclasses import replace

from pydantic_core import from_json

from penstock.batch import Batch
from penstock.chunk import Chunk, Operation, next_round_id, planned_number
from penstock.dependencies import needed_outside
from penstock.outcome import OutcomeState
from penstock.record import decode_columns
from penstock.references import Results, Unresolved
from penstock.store import Store


class Needed:
    """Reads the outcomes of the operations outside of a chunk that operations of it depend on.

    What has succeeded stays so. What is open may be running again: then what depends on it fails again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def check(self, batch: Batch, chunk: Chunk) -> Chunk:
        """Return the chunk with the operations that have not succeeded, as its `unmet`, and with its paths.

        Only the first chunk of a redrive can have some: those that follow from it have only operations whose needs are
        in them, or have succeeded. All that is connected is in chunks that follow from the same planned chunk.
        """
        if next_round_id(chunk.id) is None or not chunk.has_links or not (needed := needed_outside(chunk)):
            return chunk
        ids: dict[int, str] = {}
        results = Results(chunk.operations)
        number = planned_number(chunk.id)
        async for encoded in self._store.read_records(batch, chunk.group, number):
            if planned_number(encoded.chunk_id) != number:
                break
            columns = decode_columns(encoded.content, with_results=not needed.isdisjoint(results.unknown))
            found = [(position, index) for position, index in enumerate(columns.indexes) if index in needed]
            for position, index in found:
                ids[index] = str(index) if columns.ids is None else from_json(bytes(columns.ids[position]))
                if columns.states[position] == OutcomeState.SUCCEEDED:
                    needed.discard(index)
                    if results.are_wanted(index):
                        results.note(index, columns.result_at(position))
                        await asyncio.sleep(0)  # parsing it has taken a moment
        unmet = tuple((index, ids.get(index, str(index))) for index in sorted(needed))
        return _with_paths(replace(chunk, unmet=unmet), results)


def _with_paths(chunk: Chunk, results: Results) -> Chunk:
    """Return the chunk with the paths that can be made from these results, and why others cannot."""
    operations: list[Operation] = []
    paths: list[tuple[int, str]] = []
    pathless: list[tuple[int, str]] = []
    later = results.unknown
    for operation in chunk.operations:
        known = operation
        try:
            known = results.resolve(operation, later)
        except Unresolved as error:
            pathless.append((operation.index, str(error)))
        if known is not operation:
            paths.append((known.index, known.path))
        operations.append(known)
    return replace(chunk, operations=tuple(operations), paths=tuple(paths), pathless=tuple(pathless))
