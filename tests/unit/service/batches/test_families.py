"""The outcomes of a planned chunk and its follow-ups are merged in limited memory, and records are not read often."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from penstock.outcome import ChunkRecord, Outcome, OutcomeState, StoredResult
from penstock.record import EncodedRecord, OutcomeColumns, encode_record
from penstock.service.batches import families
from penstock.service.batches.families import Family, read_families
from penstock.service.json_answer import encode
from penstock.service.schemas import outcome_body
from penstock.service.turns import Turns

RESULT = "r" * 1_000


def make_record(chunk_id: str, indexes: Iterable[int], result: str = RESULT) -> ChunkRecord:
    return ChunkRecord(chunk_id, tuple(Outcome(i, str(i), OutcomeState.SUCCEEDED, 200, result) for i in indexes))


def follow_ups(runs: Iterable[Iterable[int]]) -> list[ChunkRecord]:
    return [make_record(f"0.0.{step}.{step}" if step else "0", run) for step, run in enumerate(runs)]


class Read:
    """Records in a table that counts how often each of them is read again."""

    def __init__(self, records: Iterable[ChunkRecord]) -> None:
        self.records = {one.chunk_id: EncodedRecord(one.chunk_id, encode_record(one)) for one in records}
        self.times = Counter[str]()
        self.loads: list[int] = []  # how many large results were loaded for each record and window
        self.most_bytes = 0
        self.counted_bytes = 0
        self.counts: list[int] = []  # the memory that was counted for each window
        self.windows = 0

    async def record(self, chunk_id: str) -> EncodedRecord:
        self.times[chunk_id] += 1
        return self.records[chunk_id]

    async def large_lines(self, columns: OutcomeColumns, positions: Sequence[int]) -> list[bytes]:
        self.loads += [len(positions)]
        assert self.counted_bytes >= 2 * sum(columns.stored[position].size for position in positions)
        return [b"large %d" % columns.indexes[position] for position in positions]

    @contextmanager
    def counting(self, size: int) -> Iterator[None]:
        self.counted_bytes = size
        self.counts.append(size)
        yield
        self.counted_bytes = 0

    async def all(self) -> AsyncIterator[EncodedRecord]:
        for record in self.records.values():
            yield record

    async def lines(self) -> list[bytes]:
        found: list[bytes] = []
        async for family in read_families(self.all(), self, Turns()):
            async for window in family.windows(family.indexes):
                assert window.indexes == sorted(window.indexes)
                found += window.lines
                self.most_bytes = max(self.most_bytes, window.memory_bytes)
                self.windows += 1
        return found


def expected_lines(records: Iterable[ChunkRecord]) -> list[bytes]:
    latest = {outcome.index: outcome for record in records for outcome in record.outcomes}
    return [encode(outcome_body(latest[index])) for index in sorted(latest)]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "HELD_BYTES", 12_000)
    monkeypatch.setattr(families, "WINDOW_BYTES", 5_000)


async def test_small_family_is_read_once() -> None:
    records = follow_ups([range(0, 100, 2), range(0), range(1, 100, 2)])
    read = Read(records)
    assert await read.lines() == expected_lines(records)
    assert not read.times


@pytest.mark.usefixtures("little_memory")
async def test_records_in_order_are_read_twice() -> None:
    records = follow_ups(range(start, start + 4) for start in range(0, 200, 4))
    read = Read(records)
    assert await read.lines() == expected_lines(records)
    assert set(read.times.values()) == {1}
    assert read.most_bytes <= 12_000 + 5_000 + 2_000


@pytest.mark.usefixtures("little_memory")
async def test_records_that_interleave_are_read_once_for_each_window() -> None:
    records = follow_ups(range(start, 200, 50) for start in range(50))
    read = Read(records)
    assert await read.lines() == expected_lines(records)
    assert max(read.times.values()) <= read.windows
    assert read.most_bytes <= 12_000 + 5_000 + 2_000


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("seed", range(10))
async def test_latest_outcomes_are_told_in_whatever_order(seed: int) -> None:
    draw = random.Random(seed)
    records = [
        make_record(f"0.{number}" if number else "0", draw.sample(range(40), 10), str(number) * draw.randrange(3_000))
        for number in range(12)
    ]
    assert await Read(records).lines() == expected_lines(records)


@pytest.mark.usefixtures("little_memory")
async def test_reader_of_the_first_outcomes_reads_only_their_records_again() -> None:
    records = follow_ups(range(start, 200, 50) for start in range(50))
    read = Read(records)
    [family] = [one async for one in read_families(read.all(), read, Turns())]
    window = await anext(family.windows(family.indexes, most_outcomes=3))
    assert list(window.lines) == expected_lines(records)[:3]
    assert read.times.total() <= 3


async def test_record_that_does_not_fit_is_held_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "HELD_BYTES", 100)
    read = Read([make_record("0", range(5))])
    assert len(await read.lines()) == 5
    assert not read.times


@pytest.mark.usefixtures("little_memory")
async def test_windows_are_cut_by_the_size_of_results_that_a_record_has_only_once() -> None:
    read = Read([make_record("0", range(100))])
    assert await read.lines() == expected_lines([make_record("0", range(100))])
    assert read.windows == 20


async def test_missing_operations_have_lines_of_their_own() -> None:
    read = Read([])
    family = Family(0, read)
    family.add(EncodedRecord("0", encode_record(make_record("0", [1], "r"))))
    [window] = [one async for one in family.windows(range(3), lambda index: b"missing %d" % index)]
    assert window.indexes == [0, 1, 2]
    assert list(window.lines) == [b"missing 0", b'{"id":"1","status":200,"result":"r"}', b"missing 2"]


async def test_large_results_are_loaded_for_one_window_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "WINDOW_BYTES", 5_000)
    large = [
        Outcome(i, str(i), OutcomeState.SUCCEEDED, 200, StoredResult("name", 2_000) if i != 4 else "small")
        for i in range(6)
    ]
    read = Read([ChunkRecord("0", tuple(large))])
    lines = await read.lines()
    assert lines[:4] == [b"large 0", b"large 1", b"large 2", b"large 3"]
    assert lines[4:] == [b'{"id":"4","status":200,"result":"small"}', b"large 5"]
    assert read.loads == [3, 2]
    assert not read.times


@pytest.mark.parametrize(("result", "size"), [(RESULT, 1_000), (StoredResult("name", 300_000), 300_000)])
async def test_page_of_a_line_is_counted_without_the_other_lines(result: str | StoredResult, size: int) -> None:
    first = Outcome(0, "0", OutcomeState.SUCCEEDED, 200, result)
    read = Read([ChunkRecord("0", (first, *make_record("0", range(1, 900)).outcomes))])
    [family] = [one async for one in read_families(read.all(), read, Turns())]
    await anext(family.windows(family.indexes, most_outcomes=1))
    assert 2 * size <= read.counts[0] <= 2 * size + 300


async def test_one_outcome_that_is_chosen_is_counted_without_the_large_results() -> None:
    large = [Outcome(i, str(i), OutcomeState.SUCCEEDED, 200, StoredResult("name", 300_000)) for i in range(1, 9)]
    failed = Outcome(0, "0", OutcomeState.FAILED, 422, error={"title": "Wrong"})
    read = Read([ChunkRecord("0", (failed, *large))])
    [family] = [one async for one in read_families(read.all(), read, Turns())]
    await anext(family.windows([0]))
    assert read.counts[0] <= 300
