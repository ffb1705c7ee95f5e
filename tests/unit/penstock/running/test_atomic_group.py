"""One attempt at a group whose operations become known only while it runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace as with_changes

from penstock import Operations, Reject, Retry
from penstock.chunk import Chunk, Links, Operation, Reference
from penstock.metrics.meter import Meter
from penstock.outcome import Outcome, Verdict, as_outcome, failed, succeeded
from penstock.running.atomic_group import AtomicGroup
from penstock.running.attempt import OpenTransaction
from penstock.running.left_behind import Worker
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from tests.support.waiting import settle

LOT = tuple(Operation(index, f"o{index}", "POST", f"/{index}", links=Links((), 4)) for index in (4, 5, 6))


class Attempt:
    """Notes what was performed and how the transaction ended. The operation with the index `unknown` stays so."""

    def __init__(self, unknown: int | None = None) -> None:
        self.unknown = unknown
        self.performed: list[str] = []
        self.noted = ""
        self.ended = ""
        self.group = AtomicGroup(LOT, 1, Worker.current())

    async def perform(self) -> dict[int, Verdict]:
        return await self.group.perform(
            self.transaction, self.perform_one, seconds=5, broke=self.broke, prepare=self.prepare, note=self.note
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            self.ended = "rolled back"
            raise
        self.ended = "committed"

    async def perform_one(self, operation: Operation, transaction: OpenTransaction) -> dict[int, Verdict]:
        self.performed.append(operation.path)
        return {operation.index: succeeded(operation, 200, None)}

    def note(self, verdicts: Iterable[Verdict]) -> None:
        self.noted += "".join(as_outcome(verdict).id for verdict in verdicts)

    def prepare(self, operation: Operation) -> Operation | Outcome:
        if operation.index == self.unknown:
            return failed(operation, 424, "Unresolved reference", rejected=True)
        return with_changes(operation, path=f"/{self.noted}{operation.path}")

    def broke(self, error: BaseException) -> Any:
        raise AssertionError from error


async def test_operation_is_prepared_when_those_before_it_are_noted() -> None:
    attempt = Attempt()
    verdicts = await attempt.perform()
    assert attempt.performed == ["//4", "/o4/5", "/o4o5/6"]
    assert [as_outcome(one).status for one in verdicts.values()] == [200] * 3
    assert attempt.ended == "committed"


async def test_operation_that_cannot_be_prepared_rolls_its_group_back() -> None:
    attempt = Attempt(unknown=5)
    outcomes = {index: as_outcome(one) for index, one in (await attempt.perform()).items()}
    assert attempt.performed == ["//4"]
    assert {index: (one.error or {})["title"] for index, one in outcomes.items()} == {
        4: "Rolled back", 5: "Unresolved reference", 6: "Rolled back",
    }  # fmt: skip
    assert attempt.ended == "rolled back"


async def test_operation_is_given_up_as_it_was_prepared() -> None:
    given_up: list[Operation] = []

    def give_up(operation: Operation) -> Outcome:
        given_up.append(operation)
        return failed(operation, 504, "Late")

    class Hanging(Attempt):
        async def perform_one(self, operation: Operation, transaction: OpenTransaction) -> dict[int, Verdict]:
            if operation.index == 5:
                verdicts = self.group.stop_at_running(give_up)
                assert {index: as_outcome(one).status for index, one in verdicts.items()} == {4: 424, 5: 504, 6: 424}
            return await super().perform_one(operation, transaction)

    await Hanging().perform()
    assert [one.path for one in given_up] == ["/o4/5"]


@pytest.mark.parametrize(
    ("last", "counts"),
    [("succeed", [3, 0, 0]), ("reject", [0, 3, 0]), ("retry", [0, 0, 3]), ("hang", [0, 0, 3])],
)
async def test_members_are_counted_as_what_became_of_their_group(last: str, counts: list[int]) -> None:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        yield

    operations, meter = Operations[Any](transaction=transaction), Meter()

    @operations.post("/{name}", timeout_seconds=0.01)
    async def perform(name: str) -> None:
        if name == "reject":
            raise Reject(409, "No.")
        if name == "retry":
            raise Retry("Not yet.")
        if name == "hang":
            await asyncio.Event().wait()

    lot = [Operation(index, str(index), "POST", f"/{name}", links=Links((), 0)) for index, name in enumerate("ab")]
    lot.append(Operation(2, "2", "POST", f"/{last}", links=Links((), 0)))
    runner = Runner(operations, 1, meter=meter)
    verdicts = await runner.run_apart(tuple(lot), Source("01J", "01J"), 1)
    await runner.close()
    assert len(verdicts) == 3
    [figures] = meter.take().handlers.values()
    assert [figures.succeeded, figures.failed, figures.retried] == counts


@pytest.mark.parametrize("has_slot", [False, True])
async def test_no_handler_gets_a_placeholder(has_slot: bool) -> None:
    operations, called = Operations[Any](), list[str]()

    @operations.delete("/customers/{customer}")
    async def delete(customer: str) -> None:
        called.append(customer)

    links = Links((0,), None, (Reference(0, "x", ("id",)),))
    chunk = Chunk("01J", "0", 1, (Operation(1, "1", "DELETE", "/customers/{x}", links=links),))
    runner = Runner(operations, 1)
    verdicts = await runner.run_chunk(chunk, Source("01J", "01J"), Stop(), lambda _: None, has_slot=has_slot)
    await runner.close()
    assert (as_outcome(verdicts[1]).status, called) == (424, [])


async def run_apart(runner: Runner, chunk: Chunk) -> object:
    return await runner.run_apart(chunk.operations, Source("01J", "01J"), 1)


async def run_as_chunk(runner: Runner, chunk: Chunk, *, has_slot: bool = False) -> object:
    return await runner.run_chunk(chunk, Source("01J", "01J"), Stop(), lambda _: None, has_slot=has_slot)


@pytest.mark.parametrize(
    "run", [run_apart, run_as_chunk, partial(run_as_chunk, has_slot=True)], ids=["alone", "chunk", "chunk with a slot"]
)
async def test_group_that_is_cancelled_does_not_stay_in_memory(run: Callable[[Runner, Chunk], Any]) -> None:
    """For instance, the time for a small batch is over."""

    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        yield

    operations, has_begun = Operations[Any](transaction=transaction), asyncio.Event()

    @operations.post("/hang")
    async def hang() -> None:
        has_begun.set()
        await asyncio.Event().wait()

    runner = Runner(operations, 1)
    lot = tuple(Operation(index, str(index), "POST", "/hang", links=Links((), 0)) for index in range(2))
    running = asyncio.create_task(run(runner, Chunk("01J", "0", 1, lot)))
    await has_begun.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await settle()
    assert runner._groups == {}
    await runner.close()
