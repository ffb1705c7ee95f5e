"""The last group makes the batch final, once, in whatever order and however often groups are told."""

import asyncio
import itertools
from collections import Counter
from collections.abc import MutableMapping
from typing import Any

import pytest

from penstock.batch import Batch, BatchState, Counts, Ending
from penstock.consumer.finisher import Finisher
from penstock.store import Group
from penstock.telemetry import Event
from penstock.testing import FakeClock, MemoryStore, memory_parts
from tests.support.builders import NOW, build_batch, build_record
from tests.support.faults import Moment, watched


class Groups:
    """A batch of groups that are counted one after another."""

    def __init__(self, *totals: int) -> None:
        self.clock = FakeClock(NOW)
        self.store = MemoryStore()
        self.batch = build_batch(*totals, state=BatchState.PROCESSING)
        self.finisher = Finisher(self.store, self.clock)
        self.numbers = itertools.count(1)

    async def count(self, group: int, counts: Counts) -> None:
        """Another chunk of a group is counted, and the finisher is told."""
        await self.store.create_batch(self.batch)
        counted = await self.store.count_chunk(self.batch, build_record(f"{64 * group}.{next(self.numbers)}", counts))
        await self.finisher.finish(self.batch, group, counted)

    async def now(self) -> Batch:
        batch = await self.store.read_batch(self.batch.id)
        assert batch is not None
        return batch


async def test_batch_goes_on_while_something_is_open() -> None:
    groups = Groups(10)
    await groups.count(0, Counts(9))
    assert (await groups.now()).state is BatchState.PROCESSING


async def test_last_chunk_of_the_only_group_makes_it_final() -> None:
    groups = Groups(10)
    await groups.count(0, Counts(9))
    groups.clock.advance(5)
    await groups.count(0, Counts(0, 1))
    batch = await groups.now()
    assert (batch.state, batch.finished_at) == (BatchState.COMPLETED, NOW + 5)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_last_group_makes_it_final_whichever_that_is(order: tuple[int, int, int]) -> None:
    groups = Groups(5, 5, 1)
    for group in order:
        await groups.count(group, Counts(groups.batch.group_totals[group]))
        assert (await groups.now()).is_final == (group == order[-1])


async def test_batch_has_finished_when_its_last_operation_was_counted() -> None:
    """Front ends tell this time before the batch is final, so its event and its item must have the same."""
    groups = Groups(1, 1)
    await groups.store.create_batch(groups.batch)
    for group, at in ((0, NOW + 5), (1, NOW + 3)):
        counted = await groups.store.count_chunk(groups.batch, build_record(f"{64 * group}", Counts(1)), at)
        groups.clock.advance(10)
        await groups.finisher.finish(groups.batch, group, counted)
    assert (await groups.now()).finished_at == NOW + 5


async def test_batch_of_a_closed_group_has_finished_when_this_is_noticed() -> None:
    groups = Groups(2)
    await groups.store.create_batch(groups.batch)
    await groups.store.count_chunk(groups.batch, build_record("0", Counts(1)), NOW + 1)
    await groups.store.close_group(groups.batch, 0, Counts(1), Ending.EXPIRED)
    groups.clock.advance(10)
    await groups.finisher.finish(groups.batch, 0, await groups.store.read_group(groups.batch.id, 0))
    assert (await groups.now()).finished_at == NOW + 10


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ((Counts(5), Counts(5)), BatchState.COMPLETED),
        ((Counts(0, 5), Counts(1, 4)), BatchState.COMPLETED),
        ((Counts(0, 5), Counts(0, 5)), BatchState.FAILED),
        ((Counts(0, 3, 1, 1), Counts(0, 0, 5)), BatchState.CANCELLED),
        ((Counts(3, 1, 0, 1), Counts(0, 5)), BatchState.EXPIRED),
    ],
)
async def test_one_success_in_any_group_completes_the_batch(counts: tuple[Counts, Counts], state: BatchState) -> None:
    groups = Groups(5, 5)
    for group, counted in enumerate(counts):
        await groups.count(group, counted)
    assert (await groups.now()).state is state


@pytest.mark.parametrize("group_totals", [(2,), (1, 1)])
async def test_ending_that_comes_as_the_batch_is_finished_decides(
    monkeypatch: pytest.MonkeyPatch, group_totals: tuple[int, ...]
) -> None:
    groups = Groups(*group_totals)
    finish_batch = groups.store.finish_batch

    async def end_meanwhile(batch_id: str, *rest: Any, **options: Any) -> bool:
        await groups.store.end_batch(batch_id, Ending.FAILED, "Too many deaths.", settle_by=NOW + 60)
        return await finish_batch(batch_id, *rest, **options)

    monkeypatch.setattr(groups.store, "finish_batch", end_meanwhile)
    for number, counts in enumerate([Counts(1, 1)] if len(group_totals) == 1 else [Counts(1), Counts(0, 1)]):
        await groups.count(number, counts)
    batch = await groups.now()
    assert (batch.state, batch.reason) == (BatchState.FAILED, "Too many deaths.")


async def test_batch_of_one_group_takes_one_write() -> None:
    parts, batch, calls = memory_parts(), build_batch(2, state=BatchState.PROCESSING), list[str]()
    await parts.store.create_batch(batch)

    def note(call: str, moment: Moment) -> None:
        if moment == "before":
            calls.append(call)

    await Finisher(watched(parts, note).store, FakeClock(NOW)).finish(batch, 0, Group(Counts(2)))
    assert calls == ["store.finish_batch"]
    assert parts.store._batches[batch.id].state is BatchState.COMPLETED


@pytest.mark.parametrize("group_totals", [(2,), (2, 2)])
async def test_chunks_that_were_counted_together_finish_their_group_once(group_totals: tuple[int, ...]) -> None:
    parts, batch, calls = memory_parts(), build_batch(*group_totals, state=BatchState.PROCESSING), Counter[str]()
    await parts.store.create_batch(batch)

    def note(call: str, moment: Moment) -> None:
        calls[call] += moment == "after"

    finisher = Finisher(watched(parts, note).store, FakeClock(NOW))
    await asyncio.gather(*(finisher.finish(batch, 0, Group(Counts(2))) for _ in range(10)))
    assert calls.total() == 1
    await finisher.finish(batch, 0, Group(Counts(1, 1)))  # a redrive was counted after them
    assert calls.total() > 1


async def test_chunk_that_is_given_up_does_not_keep_the_others_from_finishing() -> None:
    groups = Groups(2)
    await groups.store.create_batch(groups.batch)
    finish = [asyncio.create_task(groups.finisher.finish(groups.batch, 0, Group(Counts(2)))) for _ in range(2)]
    await asyncio.sleep(0)
    finish[0].cancel()
    await finish[1]
    assert (await groups.now()).state is BatchState.COMPLETED


async def test_batch_whose_start_was_left_out_by_a_consumer_that_died_has_started() -> None:
    groups = Groups(10)
    groups.batch = build_batch(10, state=BatchState.QUEUED, accepted_at=NOW - 5)
    await groups.count(0, Counts(10))
    assert (await groups.now()).started_at == NOW - 5


async def test_finishing_again_moves_nothing(logs: list[MutableMapping[str, Any]]) -> None:
    groups = Groups(1, 1)
    for group in range(2):
        await groups.count(group, Counts(1))
    finished = await groups.now()
    groups.clock.advance(60)
    for group in (1, 0, 1):
        await groups.finisher.finish(groups.batch, group, Group(Counts(1)))
    assert await groups.now() == finished
    assert [line["event"] for line in logs] == [Event.BATCH_FINISHED]


async def test_group_told_twice_does_not_stand_for_two() -> None:
    groups = Groups(1, 1)
    await groups.count(0, Counts(1))
    await groups.finisher.finish(groups.batch, 0, Group(Counts(1)))
    assert (await groups.now()).state is BatchState.PROCESSING


async def test_batch_that_the_table_has_forgotten_stays_forgotten() -> None:
    groups = Groups(1)
    await groups.finisher.finish(groups.batch, 0, Group(Counts(1)))
    assert await groups.store.read_batch(groups.batch.id) is None
