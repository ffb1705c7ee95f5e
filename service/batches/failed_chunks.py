"""Finds the failed operations of a batch, as the chunks that run them again.

The failures in a record run again in rounds (ARCHITECTURE.md, "Retries"). The first round is the dead letter itself. A
later one has failures that no earlier round has run, because the retries before had chosen others.
"""

from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from penstock.batch import Batch
from penstock.chunk import Chunk, next_round_id, planned_number
from penstock.dependencies import with_connected
from penstock.outcome import ChunkRecord, dead_letters
from penstock.record import decode_without_results
from penstock.service.batches.choice import Chosen
from penstock.store import Store


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A dead letter whose first round is counted: its record, and which of its operations are chosen."""

    letter_id: str
    record_of: str
    chosen: frozenset[int]


class _Family:
    """The rounds of a planned chunk and its follow-ups, and the dead letters that had at least one."""

    def __init__(self, planned: int) -> None:
        self.planned = planned
        self._rounds: dict[str, frozenset[int]] = {}  # the operations that each has run
        self._letters: list[_Remembered] = []

    def add_record(self, record: ChunkRecord) -> None:
        if next_round_id(record.chunk_id) is not None:
            self._rounds[record.chunk_id] = record.indexes

    def remember(self, letter: Chunk, record: ChunkRecord) -> None:
        chosen = frozenset(operation.index for operation in letter.operations)
        self._letters.append(_Remembered(letter.id, record.chunk_id, chosen))

    def left(self, counted: AbstractSet[str]) -> Iterator[tuple[_Remembered, str]]:
        """Yield the letters with what no round has run of them, and the id of their next round."""
        for letter in self._letters:
            round_id: str | None = letter.letter_id
            left = letter.chosen
            while left and round_id is not None and round_id in counted:
                left -= self._rounds.get(round_id, frozenset())
                round_id = next_round_id(round_id)
            if left and round_id is not None:
                yield replace(letter, chosen=left), round_id


async def failed_chunks(store: Store, batch: Batch, chosen: Chosen) -> AsyncIterator[Chunk]:
    """Yield the chosen failures of a batch, except those that have run again."""
    for number in chosen.groups(batch):
        group = await store.read_group(batch.id, number)
        if group.counts.failed:
            async for chunk in _of_group(store, batch, number, group.done, chosen):
                yield chunk


async def _of_group(
    store: Store, batch: Batch, number: int, counted: AbstractSet[str], chosen: Chosen
) -> AsyncIterator[Chunk]:
    family = _Family(-1)
    async for encoded in store.read_records(batch, number, 0):
        if encoded.chunk_id not in counted:
            continue
        planned = planned_number(encoded.chunk_id)
        if planned != family.planned:
            async for chunk in _later_rounds(store, batch, family, counted):
                yield chunk
            family = _Family(planned)
        record = decode_without_results(encoded.chunk_id, encoded.content)
        family.add_record(record)
        for letter in _chosen_letters(batch, record, chosen, number):
            if letter.id in counted:
                family.remember(letter, record)
            else:
                yield letter
    async for chunk in _later_rounds(store, batch, family, counted):
        yield chunk


async def _later_rounds(store: Store, batch: Batch, family: _Family, counted: AbstractSet[str]) -> AsyncIterator[Chunk]:
    """Yield what is left of the letters of a family. Their records are read again: most letters have nothing left."""
    for left, round_id in family.left(counted):
        encoded = await store.read_record(batch.id, left.record_of)
        record = decode_without_results(encoded.chunk_id, encoded.content)
        operations = tuple(operation for operation in record.failed_operations if operation.index in left.chosen)
        yield Chunk(batch.id, round_id, 1, operations)


def _chosen_letters(batch: Batch, record: ChunkRecord, chosen: Chosen, group: int) -> list[Chunk]:
    """Return the dead letters of a record with the chosen failures only, and what is connected with them."""
    indexes = {outcome.index for outcome in record.outcomes if chosen.has(outcome, group)}
    return [
        replace(letter, operations=operations)
        for letter in dead_letters(batch.id, record)
        if (operations := with_connected(letter.operations, indexes))
    ]
