"""The life of a batch in any order of steps, on every store. Hypothesis chooses the steps; a small model checks them.

Chunks are delivered any number of times, in any order, by consumers that crash between any two steps. At the same time
the batch is accepted or abandoned, cancelled, swept, finished, redriven. The state that a store must reach follows from
little: which record was first for each chunk, which chunks are counted, and which groups are closed.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ulid import ULID

from penstock.aws.clients import open_clients
from penstock.aws.store import DynamoDbStore
from penstock.backoff import Backoff
from penstock.batch import (
    FINAL_STATES,
    OPEN_STATES,
    UNACCEPTED_STATES,
    Batch,
    BatchState,
    Counts,
    Ending,
    final_state,
    sum_counts,
)
from penstock.chunk import Chunk, Operation, group_of, planned_number, redriven_from, sort_key
from penstock.consumer.finisher import Finisher
from penstock.errors import AcceptanceLost
from penstock.infra.provision import provision
from penstock.outcome import (
    ChunkRecord,
    Ended,
    TryAgain,
    Verdict,
    dead_letters,
    failed,
    follow_up_chunks,
    record_attempt,
    record_halves,
    succeeded,
)
from penstock.record import decode_record
from penstock.settings import Settings
from penstock.store import Group, Store
from penstock.testing import FakeClock, MemoryStore
from tests.support.aws import Aws
from tests.support.full import full

NOW = 4_000_000_000.0
PLANNED = {"0": range(3), "1": range(3, 5), "64": range(5, 7)}  # in two groups
GROUP_TOTALS = (5, 2)
GROUPS = range(len(GROUP_TOTALS))
REASON = "On request."

Fate = Callable[[Operation], Verdict | None]

FATES: Mapping[str, Fate] = {
    "succeeds": lambda operation: succeeded(operation, 200, None),
    "fails": lambda operation: failed(operation, 500, "Broke"),
    "is rejected": lambda operation: failed(operation, 409, "Rejected", rejected=True),
    "is tried again": lambda operation: TryAgain(failed(operation, 503, "Busy"), max_attempts=3),
    "does not begin": lambda _: None,
}


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@dataclass
class Model:
    """Everything that a store must know. It keeps no counts: they follow from the chunks that are counted."""

    batch: Batch
    chunks: dict[str, Chunk] = field(default_factory=dict)  # that may be on the queue
    records: dict[str, ChunkRecord] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    closed: dict[int, Ending] = field(default_factory=dict)
    closing: dict[int, Counts] = field(default_factory=dict)  # counts that were added when a group was closed

    def commit(self, chunk: Chunk, record: ChunkRecord) -> ChunkRecord:
        standing = self.records.setdefault(chunk.id, record)
        self._send(follow_up_chunks(chunk, standing))
        if chunk.group in self.closed:
            # No program sends dead letters of chunks that are not counted, but a store must not rely on that.
            self._send(dead_letters(self.batch.id, standing))
        return standing

    def count(self, chunk_id: str) -> None:
        may_count = group_of(chunk_id) not in self.closed or redriven_from(chunk_id) in self.counted
        if may_count:
            self.counted.add(chunk_id)
            self._send(dead_letters(self.batch.id, self.records[chunk_id]))

    def close(self, number: int, ending: Ending) -> None:
        rest = GROUP_TOTALS[number] - self.group(number).counts.completed
        self.closing[number] = Counts(**{ending: rest})
        self.closed[number] = ending

    def group(self, number: int) -> Group:
        done = frozenset(chunk_id for chunk_id in self.counted if group_of(chunk_id) == number)
        return Group(
            counts=sum_counts([self.closing.get(number, Counts()), *(self.records[one].counts for one in done)]),
            redelivered=sum(self.records[one].redelivered for one in done),
            closed=self.closed.get(number),
            done=done,
        )

    def is_full(self, number: int) -> bool:
        return self.group(number).counts.completed == GROUP_TOTALS[number]

    def finish(self, number: int) -> None:
        self.batch = replace(self.batch, finished_groups=self.batch.finished_groups | {number})
        if len(self.batch.finished_groups) < len(GROUP_TOTALS) or self.batch.state not in OPEN_STATES | FINAL_STATES:
            return
        counts = sum_counts(self.group(one).counts for one in GROUPS)
        state = final_state(counts, self.batch.ending)
        has_run = counts.succeeded + counts.failed > 0
        if has_run and self.batch.started_at is None and not self.batch.is_final:
            self.batch = replace(self.batch, started_at=self.batch.accepted_at)
        self.batch = replace(self.batch, state=state, finished_at=self.batch.finished_at or NOW)

    def families(self, number: int) -> list[list[str]]:
        ids = sorted((chunk_id for chunk_id in self.records if group_of(chunk_id) == number), key=sort_key)
        planned = sorted({planned_number(chunk_id) for chunk_id in ids})
        return [[chunk_id for chunk_id in ids if planned_number(chunk_id) == one] for one in planned]

    def _send(self, chunks: Sequence[Chunk]) -> None:
        self.chunks.update({chunk.id: chunk for chunk in chunks})


class Life(RuleBasedStateMachine):
    """The life of one batch. Every returned value, and all that can be read after each step, must match the model."""

    def __init__(self, run: Run, store: Store) -> None:
        super().__init__()
        self.run = run
        self.store = store
        self.finisher = Finisher(store, FakeClock(NOW))
        self.most_completed = 0

    @initialize(accept_after=st.sampled_from([1, 1, 1, 61, None]))
    def create(self, accept_after: int | None) -> None:
        batch = Batch(
            id=str(ULID()),
            tenant="acme",
            state=BatchState.ACCEPTING,
            total=sum(GROUP_TOTALS),
            chunk_count=len(PLANNED),
            group_totals=GROUP_TOTALS,
            created_at=NOW,
            accept_by=NOW + 60,
            deadline_at=NOW + 3_600,
            expires_at=NOW + 86_400,
        )
        self.created = batch
        self.model = Model(batch)
        for chunk_id, places in PLANNED.items():
            operations = tuple(Operation(index, f"id-{index}", "POST", "/do") for index in places)
            self.model.chunks[chunk_id] = Chunk(batch.id, chunk_id, 1, operations)
        self.run(self.store.create_batch(batch))
        if accept_after is not None:
            self.accept(accept_after)

    @property
    def batch(self) -> Batch:
        return self.model.batch

    def change(self, **changes: Any) -> None:
        self.model.batch = replace(self.model.batch, **changes)

    # --- Acceptance

    @rule(call=st.sampled_from(["create", "accept", "accept late", "abandon", "start"]))
    def call_of_whoever_comes_late(self, call: str) -> None:
        """Create the batch, perhaps again: a delayed call may arrive after everything that followed."""
        match call:
            case "create":
                self.run(self.store.create_batch(self.created))
            case "accept":
                self.accept(2)
            case "accept late":
                self.accept(61)
            case "abandon":
                self.abandon()
            case _:
                self.start()

    def accept(self, after_seconds: int) -> None:
        at = NOW + after_seconds
        if self.batch.state is BatchState.ACCEPTING and at <= self.batch.accept_by:
            self.change(state=BatchState.QUEUED, accepted_at=at)
        assert self.run(self.is_accepted(at)) is (self.batch.accepted_at == at)

    async def is_accepted(self, at: float) -> bool:
        try:
            await self.store.accept_batch(self.batch.id, at)
        except AcceptanceLost:
            return False
        return True

    def abandon(self) -> None:
        is_unaccepted = self.batch.state in UNACCEPTED_STATES
        if is_unaccepted:
            self.change(state=BatchState.ABANDONED)
        assert self.run(self.store.abandon_batch(self.batch.id)) is is_unaccepted

    def start(self) -> None:
        if self.batch.state is BatchState.QUEUED:
            self.change(state=BatchState.PROCESSING, started_at=NOW + 3)
        self.run(self.store.start_batch(self.batch.id, NOW + 3))

    # --- Deliveries

    def draw_chunk(self, data: st.DataObject) -> Chunk:
        """Choose a chunk; twice as often from those without a record as from all."""
        open_chunks = sorted(self.model.chunks.keys() - self.model.records.keys())
        some = st.sampled_from(sorted(self.model.chunks))
        chosen = st.one_of(st.sampled_from(open_chunks), st.sampled_from(open_chunks), some) if open_chunks else some
        return self.model.chunks[data.draw(chosen, label="chunk")]

    def draw_record(self, data: st.DataObject, chunk: Chunk) -> ChunkRecord:
        """Choose the outcome of an attempt. A redriven chunk runs whatever the state of its batch is."""
        if len(chunk.operations) > 1 and data.draw(st.booleans(), label="its consumer died"):
            return replace(record_halves(chunk), redelivered=len(chunk.operations))
        fates = {
            operation.index: data.draw(st.sampled_from(sorted(FATES)), label=operation.id)
            for operation in chunk.operations
        }
        made = {operation.index: FATES[fates[operation.index]](operation) for operation in chunk.operations}
        return self.attempt(chunk, {index: verdict for index, verdict in made.items() if verdict is not None})

    def attempt(self, chunk: Chunk, verdicts: Mapping[int, Verdict]) -> ChunkRecord:
        ending = self.batch.ending if redriven_from(chunk.id) is None else None
        ended = None if ending is None else Ended(ending, REASON)
        return record_attempt(chunk, verdicts, backoff=Backoff(0, 0), draw=0, now=NOW, ended=ended)

    @rule(data=st.data(), deliveries=st.integers(1, 6))
    def deliver(self, data: st.DataObject, deliveries: int) -> None:
        """Deliver chunks, for the first time or again, to consumers that may crash at any step."""
        for _ in range(deliveries):
            chunk = self.draw_chunk(data)
            record = self.model.records.get(chunk.id) or self.draw_record(data, chunk)
            crash = data.draw(st.sampled_from(["none", "none", "recorded", "counted"]), label="crash once")
            self.carry_out(chunk, record, crash)

    def carry_out(self, chunk: Chunk, record: ChunkRecord, crash: str = "none") -> None:
        standing = self.run(self.store.commit_chunk(self.batch, record))
        assert standing == self.model.commit(chunk, record)
        if crash == "recorded":
            return
        self.model.count(chunk.id)
        group = self.run(self.store.count_chunk(self.batch, standing))
        assert group == self.model.group(chunk.group)
        if crash == "counted":
            return
        self.finish_group(chunk.group)

    @rule(data=st.data())
    def commit_twice_at_once(self, data: st.DataObject) -> None:
        """Two consumers have the same chunk. Both get the same record: the one that was written first."""
        chunk = self.draw_chunk(data)
        records = [self.draw_record(data, chunk) for _ in range(2)]
        first, second = self.run(_all(self.store.commit_chunk(self.batch, record) for record in records))
        assert first == second
        assert first in [self.model.records.get(chunk.id), *records]
        assert self.model.commit(chunk, first) == first

    @precondition(lambda self: self.model.records)
    @rule(data=st.data())
    def count_several_at_once(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model.records)), min_size=2, max_size=5), label="chunks")
        for chunk_id in ids:
            self.model.count(chunk_id)
        calls = (self.store.count_chunk(self.batch, self.model.records[chunk_id]) for chunk_id in ids)
        groups = self.run(_all(calls))
        assert [one in group.done for one, group in zip(ids, groups, strict=True)] == [
            one in self.model.counted for one in ids
        ]

    # --- Endings

    @rule(ending=st.sampled_from(Ending))
    def end(self, ending: Ending) -> None:
        if self.batch.state in {BatchState.QUEUED, BatchState.PROCESSING}:
            self.change(state=BatchState.CANCELLING, ending=ending, reason=REASON)
        took = self.run(self.store.end_batch(self.batch.id, ending, REASON, settle_by=NOW + 600))
        assert took is (self.batch.ending is ending)

    @precondition(lambda self: self.batch.state in OPEN_STATES and self.model.records)
    @rule(numbers=st.sampled_from([[0], [1], [0, 1]]), ending=st.sampled_from(Ending), missed=st.booleans())
    def sweep(self, numbers: Sequence[int], ending: Ending, *, missed: bool) -> None:
        """Sweep the batch, as at its deadline. No chunk that is counted at the same time may be lost."""
        for number in numbers:
            seen = self.model.group(number).counts
            if not self.model.is_full(number):
                self.close(number, replace(seen, succeeded=seen.succeeded + missed), ending)
            self.finish_group(number)

    def close(self, number: int, seen: Counts, ending: Ending) -> None:
        may_close = number not in self.model.closed and seen == self.model.group(number).counts
        if may_close:
            self.model.close(number, ending)
        assert self.run(self.store.close_group(self.batch, number, seen, ending)) is may_close

    def finish_group(self, number: int) -> None:
        if self.model.is_full(number):
            self.model.finish(number)
        self.run(self.finisher.finish(self.batch, number, self.run(self.store.read_group(self.batch.id, number))))

    @rule(state=st.sampled_from(sorted(FINAL_STATES)), ending=st.sampled_from(Ending))
    def finish_by_what_was_read_before(self, state: BatchState, ending: Ending) -> None:
        """Finish the batch for a caller who does not know its ending, or that it is final already."""
        if self.batch.ending is ending and self.batch.state is BatchState.CANCELLING:
            return  # this caller knows the ending, and must not call before all groups are complete
        assert not self.run(self.store.finish_batch(self.batch.id, state, NOW, ending=ending))

    # --- What must hold after each step

    @invariant()
    def what_is_read_is_exact(self) -> None:
        reads = [self.store.read_batch(self.batch.id), *(self.store.read_group(self.batch.id, one) for one in GROUPS)]
        batch, *groups = self.run(_all(reads))
        assert batch == self.batch
        assert groups == [self.model.group(number) for number in GROUPS]
        counts = sum_counts(group.counts for group in groups)
        assert counts.succeeded + counts.failed + counts.cancelled + counts.expired == counts.completed
        assert min(counts.succeeded, counts.failed, counts.cancelled, counts.expired) >= 0
        assert self.most_completed <= counts.completed <= batch.total
        self.most_completed = counts.completed
        if batch.is_final:
            assert counts.completed == batch.total

    @invariant()
    def each_operation_is_counted_once(self) -> None:
        """Apart from closings, a group counts exactly the operations that have a counted outcome."""
        for number in GROUPS:
            records = [record for chunk_id, record in self.model.records.items() if chunk_id in self.model.counted]
            ended = {one.index for record in records if group_of(record.chunk_id) == number for one in record.outcomes}
            completed = self.model.group(number).counts.completed
            assert completed - self.model.closing.get(number, Counts()).completed == len(ended)

    def teardown(self) -> None:
        """After any life, a batch can be finished, by itself or by a sweep; and its records show the same outcomes."""
        if self.batch.state is BatchState.ACCEPTING:
            self.accept(1)
        if self.batch.state is not BatchState.ABANDONED:
            self.work_off()
            assert self.run(self.store.read_batch(self.batch.id)).is_final
        assert self.batch.id not in self.run(_due(self.store))
        self.what_is_read_is_exact()
        self.each_operation_is_counted_once()
        for number in GROUPS:
            families = self.run(_read_records(self.store, self.batch, number))
            assert [[record.chunk_id for record in family] for family in families] == self.model.families(number)
            assert [record for family in families for record in family] == [
                self.model.records[chunk_id] for family in self.model.families(number) for chunk_id in family
            ]

    def work_off(self) -> None:
        while left := [chunk for chunk_id, chunk in self.model.chunks.items() if chunk_id not in self.model.records]:
            for chunk in left:
                self.carry_out(
                    chunk, self.attempt(chunk, {one.index: succeeded(one, 200, None) for one in chunk.operations})
                )
        for chunk_id in sorted(self.model.records):
            self.carry_out(self.model.chunks[chunk_id], self.model.records[chunk_id])


async def _all(calls: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    return list(await asyncio.gather(*calls))


async def _due(store: Store) -> list[str]:
    return [batch_id async for batch_id in store.due_batches(NOW * 2)]


async def _read_records(store: Store, batch: Batch, number: int) -> list[list[ChunkRecord]]:
    found = [decode_record(one.chunk_id, one.content) async for one in store.read_records(batch, number, 0)]
    return [list(family) for _, family in groupby(found, key=lambda record: planned_number(record.chunk_id))]


@dataclass(frozen=True, slots=True)
class Stores:
    run: Run
    make: Callable[[], Store]


@pytest.fixture(scope="module")
def stores(aws: Aws, environment: None) -> Iterator[Stores]:
    """Yield what makes a new store for each life. On servers, all stores share one table."""
    with asyncio.Runner() as runner:
        if aws.kind == "memory":
            yield Stores(runner.run, MemoryStore)
            return
        settings = Settings(name="lives")
        provision(settings)
        stack = AsyncExitStack()
        clients = runner.run(stack.enter_async_context(open_clients(settings)))
        try:
            yield Stores(runner.run, lambda: DynamoDbStore(clients.dynamodb, settings.table))
        finally:
            runner.run(stack.aclose())


def live(stores: Stores, make: Callable[[], Store], lives: int, phases: Sequence[Phase]) -> None:
    run_state_machine_as_test(
        lambda: Life(stores.run, make()),  # type: ignore[arg-type] # it accepts any factory
        settings=settings(
            max_examples=lives,
            stateful_step_count=30,
            phases=phases,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Bugs that a store may have, each of one or two lines.


class CountsWithoutCondition(MemoryStore):
    async def count_chunk(self, batch: Batch, record: ChunkRecord, at: float | None = None) -> Group:
        key = batch.id, group_of(record.chunk_id)
        group = self._groups.get(key, Group())
        if record.chunk_id in group.done:
            self._groups[key] = replace(group, counts=group.counts + record.counts)
        return await super().count_chunk(batch, record, at)


class CountsInClosedGroups(MemoryStore):
    async def count_chunk(self, batch: Batch, record: ChunkRecord, at: float | None = None) -> Group:
        key = batch.id, group_of(record.chunk_id)
        closed = self._groups.get(key, Group()).closed
        self._groups[key] = replace(self._groups.get(key, Group()), closed=None)
        self._groups[key] = replace(await super().count_chunk(batch, record, at), closed=closed)
        return self._groups[key]


class CountsNoRedrivesOfClosedGroups(MemoryStore):
    async def count_chunk(self, batch: Batch, record: ChunkRecord, at: float | None = None) -> Group:
        group = await self.read_group(batch.id, group_of(record.chunk_id))
        return group if group.closed else await super().count_chunk(batch, record, at)


class CommitsOver(MemoryStore):
    async def commit_chunk(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        self._records[batch.id, record.chunk_id] = record
        return record


class TellsTheLoserThatItWon(MemoryStore):
    async def commit_chunk(self, batch: Batch, record: ChunkRecord) -> ChunkRecord:
        await super().commit_chunk(batch, record)
        return record


class ClosesByOldCounts(MemoryStore):
    async def close_group(self, batch: Batch, group: int, seen: Counts, ending: Ending) -> bool:
        return await super().close_group(batch, group, (await self.read_group(batch.id, group)).counts, ending)


class ForgetsThatGroupsAreFinished(MemoryStore):
    async def finish_group(self, batch_id: str, group: int) -> Batch | None:
        self._batches[batch_id] = replace(self._batches[batch_id], finished_groups=frozenset())
        return await super().finish_group(batch_id, group)


class AbandonsWhatIsAccepted(MemoryStore):
    async def abandon_batch(self, batch_id: str) -> bool:
        self._batches[batch_id] = replace(self._batches[batch_id], state=BatchState.ACCEPTING)
        return await super().abandon_batch(batch_id)


class AcceptsLate(MemoryStore):
    async def accept_batch(self, batch_id: str, at: float) -> None:
        batch = self._batches[batch_id]
        await super().accept_batch(batch_id, min(at, batch.accept_by))


class CreatesOver(MemoryStore):
    async def create_batch(self, batch: Batch) -> None:
        self._batches.pop(batch.id, None)
        await super().create_batch(batch)


class FinishesByAnOldEnding(MemoryStore):
    async def finish_batch(self, batch_id: str, state: BatchState, at: float, **options: Any) -> bool:
        return await super().finish_batch(batch_id, state, at, **options | {"ending": self._batches[batch_id].ending})


FAULTY = (
    CountsWithoutCondition,
    CountsInClosedGroups,
    CountsNoRedrivesOfClosedGroups,
    CommitsOver,
    TellsTheLoserThatItWon,
    ClosesByOldCounts,
    ForgetsThatGroupsAreFinished,
    AbandonsWhatIsAccepted,
    AcceptsLate,
    CreatesOver,
    FinishesByAnOldEnding,
)


LIVES = {"memory": 50, "embedded": 5, "real": 5}
LIVES_OF_FAULTY = 80


@pytest.mark.parametrize("aws", ["memory", *full(["embedded", "real"])], indirect=True)
def test_store_keeps_a_batch_through_any_life(stores: Stores, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.aws.store.FOLD_AT", 2)
    live(stores, stores.make, LIVES[aws.kind], (Phase.generate, Phase.shrink))


@pytest.mark.parametrize("aws", ["memory"], indirect=True)
@pytest.mark.parametrize("faulty", FAULTY)
def test_faulty_store_is_caught(stores: Stores, faulty: type[MemoryStore]) -> None:
    with pytest.raises(AssertionError):
        live(stores, faulty, LIVES_OF_FAULTY, (Phase.generate,))


@pytest.mark.parametrize("aws", full(["embedded"]), indirect=True)
def test_adapter_that_counts_without_its_condition_is_caught(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.aws.items.conditions_of_count", lambda *_: (["attribute_not_exists(nonsense)"], {}))
    with pytest.raises(AssertionError):
        live(stores, stores.make, LIVES["embedded"], (Phase.generate,))
