"""Finds what failures that run again depend on: what has not succeeded of it, and results that paths refer to."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from penstock.batch import Batch
from penstock.chunk import Chunk, next_round_id, planned_number
from penstock.dependencies import needed_outside
from penstock.outcome import Outcome, OutcomeState, results_for
from penstock.record import decode_columns, decode_record
from penstock.store import Store


class Needed:
    """Reads the outcomes of the operations outside of a chunk that operations of it depend on.

    What has succeeded stays so. What is open may be running again: then what depends on it fails again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def check(self, batch: Batch, chunk: Chunk) -> Chunk:
        """Return the chunk with the operations that have not succeeded, as its `unmet`, and with the `results`.

        Only the first chunk of a redrive can have some: those that follow from it have only operations whose needs are
        in them, or have succeeded. All that is connected is in chunks that follow from the same planned chunk.
        """
        if next_round_id(chunk.id) is None or not chunk.has_links or not (needed := needed_outside(chunk)):
            return chunk
        ids: dict[int, str] = {}
        results: list[tuple[int, Any]] = []
        wanted = results_for(chunk.operations)
        number = planned_number(chunk.id)
        async for encoded in self._store.read_records(batch, chunk.group, number):
            if planned_number(encoded.chunk_id) != number:
                break
            columns = decode_columns(encoded.content, with_results=False)
            if any(map(wanted.are_wanted, needed.intersection(columns.indexes))):
                record = decode_record(encoded.chunk_id, encoded.content)
                results += [(one.index, one.result) for one in record.outcomes if _has_succeeded(one, needed)]
            for position, (index, state) in enumerate(zip(columns.indexes, columns.states, strict=True)):
                if index not in needed:
                    continue
                ids[index] = str(index) if columns.ids is None else from_json(bytes(columns.ids[position]))
                if state == OutcomeState.SUCCEEDED:
                    needed.discard(index)
        unmet = tuple((index, ids.get(index, str(index))) for index in sorted(needed))
        return replace(chunk, unmet=unmet, results=tuple(results))


def _has_succeeded(outcome: Outcome, needed: Collection[int]) -> bool:
    return outcome.index in needed and outcome.state is OutcomeState.SUCCEEDED
