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
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

from penstock.backend import Backend
from penstock.batch import Batch
from penstock.chunk import planned_number
from penstock.large_results import LargeResults
from penstock.record import EncodedRecord, OutcomeColumns, decode_columns
from penstock.service.batches.lines import line_sizes, line_with_result, line_without_result, outcome_lines
from penstock.service.memory import Memory, Share
from penstock.service.turns import Turns
from penstock.settings import MIB

HELD_BYTES = 8 * MIB
WINDOW_BYTES = 4 * MIB
WINDOW_OUTCOMES = 1_000
TURN_BYTES = MIB  # of records that are decoded in one turn, which takes a few milliseconds


@dataclass(frozen=True, slots=True)
class Window:
    """Outcomes of a family that follow each other, as lines of JSON.

    `memory_bytes` is about how much memory the window takes, with the records that are held for the next one.
    """

    indexes: list[int]
    lines: list[bytes]
    memory_bytes: int


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
        # The chunk and the position of each operation's latest outcome, its state, and about the size of its line. They
        # are tuples, because a family can have 10,000 of them.
        self._latest: dict[int, tuple[str, int, str, int]] = {}
        self._held = Held(HELD_BYTES)

    def add(self, record: EncodedRecord) -> OutcomeColumns:
        """Add the next record. Its outcomes are later than those in the records before it."""
        columns = decode_columns(record.content)
        places = zip(repeat(record.chunk_id), range(len(columns.states)), columns.states, line_sizes(columns))
        self._latest.update(zip(columns.indexes, places, strict=True))
        if self._held.has_room_for(columns):  # otherwise keep the earlier ones: their outcomes are told first
            self._held.add(record.chunk_id, columns)
        return columns

    @property
    def indexes(self) -> list[int]:
        """Return the operations that have an outcome, in their order."""
        return sorted(self._latest)

    def state_of(self, index: int) -> str | None:
        """Return the state of an operation, or None if it has no outcome."""
        return self._latest[index][2] if index in self._latest else None

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
                lines = await self._lines(window)
            if missing_line is not None:
                lines = {index: lines[index] if index in lines else missing_line(index) for index in window}
            told = [lines[index] for index in window]
            yield Window(window, told, self._held.bytes + sum(map(len, told)))

    def _cut(self, indexes: Iterable[int], most_outcomes: int) -> Iterator[tuple[list[int], int]]:
        """Yield the operations of each window, and about the size of their lines."""
        window: list[int] = []
        size = 0
        for index in indexes:
            window.append(index)
            size += self._latest[index][3] if index in self._latest else 0
            if size >= WINDOW_BYTES or len(window) == most_outcomes:
                yield window, size
                window, size = [], 0
        if window:
            yield window, size

    async def _lines(self, window: list[int]) -> dict[int, bytes]:
        """Return the lines of the operations that have an outcome. Read each record at most once."""
        wanted: dict[str, dict[int, int]] = {}
        for index in window:
            if index in self._latest:
                chunk_id, position, _, _ = self._latest[index]
                wanted.setdefault(chunk_id, {})[index] = position
        lines: dict[int, bytes] = {}
        for chunk_id in sorted(wanted, key=self._is_dropped):  # before those that are read again take their place
            positions = wanted[chunk_id]
            columns = await self._columns(chunk_id)
            lines.update(zip(positions, outcome_lines(columns, list(positions.values())), strict=True))
            if columns.stored:
                lines |= await self._large_lines(columns, positions)
        return lines

    async def _large_lines(self, columns: OutcomeColumns, positions: Mapping[int, int]) -> dict[int, bytes]:
        large = {index: position for index, position in positions.items() if position in columns.stored}
        lines = await self._source.large_lines(columns, list(large.values()))
        return dict(zip(large, lines, strict=True))

    def _is_dropped(self, chunk_id: str) -> bool:
        return chunk_id not in self._held

    async def _columns(self, chunk_id: str) -> OutcomeColumns:
        if self._is_dropped(chunk_id):
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
