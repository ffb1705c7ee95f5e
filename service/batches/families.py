"""Reads the outcomes of a planned chunk and its follow-ups from their records, in limited memory.

These records are a family. Consumers cut records at a few MiB, so a family with large results has many of them, and may
be larger than the memory. So the records are read once to see which of them has the latest outcome of which operation.
Those that do not fit into HELD_BYTES are dropped, and are read again when the outcomes are told, which is in the order
of the operations. Most families are small and are read only once.

The outcomes are told in windows of WINDOW_BYTES. For each window every record is read again at most once. So a record
is never read more often than the family has windows, in whatever order the records have the operations. If each
follow-up has operations that come after those of the record before it, as after a hand-over, it is read twice.

Large results are in the bucket. A window has up to WINDOW_BYTES of them, too, and one more. While they are loaded, they
take twice as much memory, which is counted before.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Protocol

from penstock.backend import Backend
from penstock.batch import Batch
from penstock.chunk import planned_number
from penstock.large_results import LargeResults
from penstock.record import EncodedRecord, OutcomeColumns, decode_columns
from penstock.service.batches.lines import (
    line_sizes,
    line_with_result,
    line_without_result,
    outcome_lines,
    size_of_lines,
)
from penstock.service.memory import Memory, Share
from penstock.service.turns import Turns
from penstock.settings import MIB

HELD_BYTES = 8 * MIB
WINDOW_BYTES = 4 * MIB
WINDOW_OUTCOMES = 1_000
_POSITIONS = 2**24  # more than a record has outcomes
TURN_BYTES = MIB  # of records that are decoded in one turn, which takes a few milliseconds


@dataclass(frozen=True, slots=True)
class Window:
    """Outcomes of a family that follow each other, as lines of JSON. Each of the texts has one line or several.

    `memory_bytes` is about how much memory the window takes, with the records that are held for the next one.
    """

    indexes: Sequence[int]
    texts: Sequence[bytes]
    memory_bytes: int

    @property
    def lines(self) -> Iterator[bytes]:
        return lines_in(self.texts)


def lines_in(texts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield one line after the other. A text that is a single line, which may be a large one, is not copied."""
    for text in texts:
        yield from map(bytes.rstrip, BytesIO(text)) if b"\n" in text else (text,)


class Held:
    """The decoded records that are in memory. Those that were not used for longest are dropped first."""

    def __init__(self, most_bytes: int) -> None:
        self.bytes = 0
        self._most_bytes = most_bytes
        self._columns: OrderedDict[str, OutcomeColumns] = OrderedDict()

    def __contains__(self, chunk_id: str) -> bool:
        return chunk_id in self._columns

    def has_room_for(self, columns: OutcomeColumns) -> bool:
        return not self._columns or self.bytes + columns.memory_bytes <= self._most_bytes

    def add(self, chunk_id: str, columns: OutcomeColumns) -> None:
        while not self.has_room_for(columns):
            _, dropped = self._columns.popitem(last=False)
            self.bytes -= dropped.memory_bytes
        self._columns[chunk_id] = columns
        self.bytes += columns.memory_bytes

    def use(self, chunk_id: str) -> OutcomeColumns:
        self._columns.move_to_end(chunk_id)
        return self._columns[chunk_id]


class Source(Protocol):
    """Where the records and the large results of a batch are."""

    async def record(self, chunk_id: str) -> EncodedRecord: ...

    async def large_lines(self, columns: OutcomeColumns, positions: Sequence[int]) -> list[bytes]:
        """Return the lines of outcomes whose results are in the bucket."""

    def counting(self, size: int) -> AbstractContextManager[object]:
        """Count so much memory inside the block."""


@dataclass(frozen=True, slots=True)
class BatchSource:
    backend: Backend
    batch: Batch
    memory: Memory

    def counting(self, size: int) -> Share:
        share = self.memory.share()
        share.take(size)
        return share

    async def record(self, chunk_id: str) -> EncodedRecord:
        return await self.backend.store.read_record(self.batch.id, chunk_id)

    async def large_lines(self, columns: OutcomeColumns, positions: Sequence[int]) -> list[bytes]:
        large, results = LargeResults(self.backend.bucket), [columns.stored[position] for position in positions]

        def line(number: int, content: bytes | None) -> bytes:
            if content is None:
                return line_without_result(columns, positions[number], large.why_missing(results[number]))
            return line_with_result(columns, positions[number], content)

        return await large.load(self.batch.tenant, self.batch.id, results, line)


class Family:
    """The counted records of the planned chunk `chunk` and its follow-ups. They come from `source`, again if needed."""

    def __init__(self, chunk: int, source: Source) -> None:
        self.chunk = chunk
        self._source = source
        self._records: list[str] = []
        self._states: list[Sequence[str]] = []  # of the outcomes in each record
        # The number of the record with each operation's latest outcome, and its position there, as one integer: a
        # family can have 10,000 of them.
        self._latest: dict[int, int] = {}
        self._bytes = 0  # of the lines of all records, about
        self._has_large_results = False
        self._sizes: dict[int, list[int]] = {}  # of the lines of a record
        self._held = Held(HELD_BYTES)

    def add(self, record: EncodedRecord) -> OutcomeColumns:
        """Add the next record. Its outcomes are later than those in the records before it."""
        columns, number = decode_columns(record.content), len(self._records)
        places = range(number * _POSITIONS, number * _POSITIONS + len(columns.states))
        self._latest.update(zip(columns.indexes, places, strict=True))
        self._records.append(record.chunk_id)
        self._states.append(columns.states)
        self._bytes += size_of_lines(columns)
        self._has_large_results |= bool(columns.stored)
        if self._held.has_room_for(columns):  # otherwise keep the earlier ones: their outcomes are told first
            self._held.add(record.chunk_id, columns)
        else:
            self._sizes[number] = line_sizes(columns)
        return columns

    @property
    def indexes(self) -> list[int]:
        """Return the operations that have an outcome, in their order."""
        return sorted(self._latest)

    def state_of(self, index: int) -> str | None:
        """Return the state of an operation, or None if it has no outcome."""
        if index not in self._latest:
            return None
        number, position = divmod(self._latest[index], _POSITIONS)
        return self._states[number][position]

    async def windows(
        self,
        indexes: Iterable[int],
        missing_line: Callable[[int], bytes] | None = None,
        *,
        most_outcomes: int = WINDOW_OUTCOMES,
    ) -> AsyncIterator[Window]:
        """Yield the lines of these operations, in windows of up to `most_outcomes`.

        `missing_line` makes the line of an operation that has no outcome.
        """
        for window, size in self._cut(indexes, most_outcomes):
            with self._source.counting(2 * size):
                texts = await self._texts(window, missing_line)
            yield Window(window, texts, self._held.bytes + sum(map(len, texts)))

    def _cut(self, indexes: Iterable[int], most_outcomes: int) -> Iterator[tuple[list[int], int]]:
        """Yield the operations of each window, and about the size of their lines, or of all lines if they are small."""
        if self._must_know_sizes(most_outcomes):
            yield from self._cut_by_size(indexes, most_outcomes)
            return
        rest = iter(indexes)
        while window := list(islice(rest, most_outcomes)):
            yield window, self._bytes

    def _must_know_sizes(self, most_outcomes: int) -> bool:
        """Return False if the size of all lines will do for every window. Then no line is measured.

        A page of a few lines must not be counted as the whole family, nor small results as the large ones of others.
        """
        is_page = most_outcomes < min(WINDOW_OUTCOMES, len(self._latest))
        return is_page or self._has_large_results or self._bytes > WINDOW_BYTES

    def _cut_by_size(self, indexes: Iterable[int], most_outcomes: int) -> Iterator[tuple[list[int], int]]:
        for number, chunk_id in enumerate(self._records):
            if number not in self._sizes:
                self._sizes[number] = line_sizes(self._held.use(chunk_id))
        window: list[int] = []
        size = 0
        for index in indexes:
            window.append(index)
            size += self._size_of(index)
            if size >= WINDOW_BYTES or len(window) == most_outcomes:
                yield window, size
                window, size = [], 0
        if window:
            yield window, size

    def _size_of(self, index: int) -> int:
        if index not in self._latest:
            return 0
        number, position = divmod(self._latest[index], _POSITIONS)
        return self._sizes[number][position]

    async def _texts(self, window: Sequence[int], missing_line: Callable[[int], bytes] | None) -> Sequence[bytes]:
        if len(self._records) == 1 and missing_line is None:  # most families: the positions are those in this record
            return await self._texts_of(0, list(map(self._latest.__getitem__, window)))
        lines = await self._merged_lines(window)
        if missing_line is not None:
            lines = {index: lines[index] if index in lines else missing_line(index) for index in window}
        return [lines[index] for index in window]

    async def _merged_lines(self, window: Sequence[int]) -> dict[int, bytes]:
        """Return the lines of the operations that have an outcome. Read each record at most once."""
        wanted: dict[int, dict[int, int]] = {}
        for index in window:
            if index in self._latest:
                number, position = divmod(self._latest[index], _POSITIONS)
                wanted.setdefault(number, {})[index] = position
        lines: dict[int, bytes] = {}
        for number in sorted(wanted, key=self._is_dropped):  # before those that are read again take their place
            texts = await self._texts_of(number, list(wanted[number].values()))
            lines.update(zip(wanted[number], lines_in(texts), strict=True))
        return lines

    async def _texts_of(self, number: int, positions: Sequence[int]) -> Sequence[bytes]:
        """Return the lines of outcomes in one record."""
        columns = await self._columns(number)
        texts = outcome_lines(columns, positions)
        if columns.stored.keys().isdisjoint(positions):
            return texts
        large = {row: position for row, position in enumerate(positions) if position in columns.stored}
        lines = list(lines_in(texts))
        for row, line in zip(large, await self._source.large_lines(columns, list(large.values())), strict=True):
            lines[row] = line
        return lines

    def _is_dropped(self, number: int) -> bool:
        return self._records[number] not in self._held

    async def _columns(self, number: int) -> OutcomeColumns:
        chunk_id = self._records[number]
        if chunk_id not in self._held:
            record = await self._source.record(chunk_id)
            self._held.add(chunk_id, decode_columns(record.content))
        return self._held.use(chunk_id)


async def read_families(records: AsyncIterator[EncodedRecord], source: Source, turns: Turns) -> AsyncIterator[Family]:
    """Yield the families of these records, which come in the order of `Store.read_records`."""
    family: Family | None = None
    in_turn = 0
    async for record in records:
        chunk = planned_number(record.chunk_id)
        if family is not None and family.chunk != chunk:
            yield family
            family = None
        if family is None:
            family = Family(chunk, source)
        in_turn += family.add(record).memory_bytes
        if in_turn >= TURN_BYTES:
            in_turn = 0
            await turns.next()
    if family is not None:
        yield family
