"""Bulk handlers: many operations in one call, each with an outcome of its own, whatever becomes of the call."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from penstock import Context, Operations, Reject, Retry, Throttled
from penstock.chunk import Chunk, Operation
from penstock.metrics.meter import Meter
from penstock.outcome import Outcome, OutcomeState, TryAgain, Verdict, failed
from penstock.running.bulk import CallFailed
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from penstock.telemetry import Event
from tests.support.attempts import run_one
from tests.support.garbage import without_collections
from tests.support.waiting import UNIT_SECONDS, eventually, settle

SOURCE = Source("01J", "01J")
Logs = list[MutableMapping[str, Any]]

EACH = "Return an outcome for each operation, in their order."
LIST = "Return a list with an outcome for each of its 3 operations."


class Row(BaseModel):
    n: int


class Calls:
    """A bulk handler that notes what it is called with: the numbers of each call."""

    def __init__(self, behave: Callable[[list[int]], Any] = lambda numbers: numbers) -> None:
        self.made: list[list[int]] = []
        self.contexts: list[Context] = []
        self._behave = behave

    async def perform(self, rows: list[Row], contexts: list[Context]) -> Any:
        numbers = [row.n for row in rows]
        self.made.append(numbers)
        self.contexts += contexts
        return self._behave(numbers)

    def operations(self, **options: Any) -> Operations[Any]:
        operations = Operations()
        operations.post("/rows", **{"status": 201, "bulk": True, **options})(self.perform)

        @operations.post("/single")
        async def single() -> None: ...

        return operations


@pytest.fixture(autouse=True)
def logs() -> Iterator[Logs]:
    with capture_logs() as captured:
        yield captured


def make_operation(index: int, path: str = "/rows", body: Any = None) -> Operation:
    body = {"n": index} if body is None and path == "/rows" else body
    return Operation(index, f"op-{index}", "POST", path, body)


def rows(count: int) -> tuple[Operation, ...]:
    return tuple(make_operation(index) for index in range(count))


async def run(
    operations: Operations[Any],
    chunk: tuple[Operation, ...],
    *,
    stop: Stop | None = None,
    concurrency: int = 4,
    ended: Callable[[int], None] = lambda _: None,
) -> dict[int, Verdict]:
    runner = Runner(operations, concurrency)
    return await runner.run_chunk(Chunk("01J", "17", 2, chunk), SOURCE, stop or Stop(), ended)


def statuses(verdicts: dict[int, Verdict]) -> dict[int, int]:
    return {
        index: verdict.status if isinstance(verdict, Outcome) else verdict.failure.status
        for index, verdict in sorted(verdicts.items())
    }


def success(index: int, result: Any) -> Outcome:
    return Outcome(index, f"op-{index}", OutcomeState.SUCCEEDED, 201, result=result)


# --- Calls


async def test_chunk_is_one_call_with_a_result_for_each() -> None:
    calls = Calls(lambda numbers: [2 * n for n in numbers])
    assert await run(calls.operations(), rows(100)) == {n: success(n, 2 * n) for n in range(100)}
    assert calls.made == [list(range(100))]


async def test_each_operation_has_its_context() -> None:
    calls = Calls()
    await run(calls.operations(), rows(3))
    assert calls.contexts == [Context(f"op-{n}", "01J", 2, f"01J/op-{n}", None) for n in range(3)]


@pytest.mark.parametrize(("max_size", "sizes"), [(None, [5]), (5, [5]), (2, [2, 2, 1]), (1, [1, 1, 1, 1, 1]), (9, [5])])
async def test_call_takes_no_more_than_max_size(max_size: int | None, sizes: list[int]) -> None:
    calls = Calls()
    await run(calls.operations(max_size=max_size), rows(5), concurrency=1)
    assert sorted(map(len, calls.made), reverse=True) == sizes


async def test_operations_of_other_handlers_run_beside_it() -> None:
    calls = Calls()
    chunk = (make_operation(0), make_operation(1, "/single"), make_operation(2), make_operation(3, "/gone"))
    assert statuses(await run(calls.operations(), chunk)) == {0: 201, 1: 200, 2: 201, 3: 404}
    assert calls.made == [[0, 2]]


async def test_single_operation_is_a_list_of_one() -> None:
    calls = Calls()
    verdict = await run_one(Runner(calls.operations(), 1), make_operation(7), SOURCE, 1)
    assert verdict == success(7, 7)
    assert calls.made == [[7]]


async def test_path_parameters_are_lists_too() -> None:
    operations = Operations()

    @operations.patch("/users/{user_id}", bulk=True)
    async def change(user_id: list[int], changes: list[Row]) -> list[Any]:
        return [[number, row.n] for number, row in zip(user_id, changes, strict=True)]

    chunk = tuple(Operation(n, str(n), "PATCH", f"/users/{n + 10}", {"n": n}) for n in range(2))
    verdicts = await run(operations, chunk)
    assert [verdict.result for verdict in verdicts.values() if isinstance(verdict, Outcome)] == [[10, 0], [11, 1]]


async def test_operation_that_the_handler_no_longer_takes_is_left_out_of_the_call() -> None:
    calls = Calls()
    chunk = (make_operation(0), make_operation(1, body={"n": "x"}), make_operation(2))
    assert statuses(await run(calls.operations(), chunk)) == {0: 201, 1: 422, 2: 201}
    assert calls.made == [[0, 2]]


async def test_def_handler_is_called_in_a_thread() -> None:
    operations = Operations()

    @operations.post("/rows", bulk=True)
    def insert(rows: list[Row]) -> list[str]:
        return [threading.current_thread().name] * len(rows)

    verdicts = await run(operations, rows(3))
    assert {verdict.result for verdict in verdicts.values() if isinstance(verdict, Outcome)} == {"handlers-1"}


async def test_call_takes_one_slot_and_is_counted_operation_by_operation() -> None:
    calls, ended = Calls(), list[int]()
    runner = Runner(calls.operations(max_size=10), 1)
    await runner.run_chunk(Chunk("01J", "17", 1, rows(20)), SOURCE, Stop(), ended.append)
    assert sum(ended) == 20
    assert runner.take_spent()["POST /rows"].count == 20


# --- Outcomes of rows


async def test_rejects_and_retries_are_the_outcomes_of_their_rows() -> None:
    outcomes = ["fine", Reject(409, "Taken."), Retry("Not yet.", after_seconds=7), ValueError("no"), Throttled("Fast.")]
    verdicts = await run(Calls(lambda _: outcomes).operations(), rows(5))
    assert verdicts == {
        0: success(0, "fine"),
        1: failed(make_operation(1), 409, "Rejected", "Taken.", rejected=True),
        2: TryAgain(failed(make_operation(2), 503, "Not performed", "Not yet."), 3, 7),
        3: TryAgain(failed(make_operation(3), 500, "Broke", "ValueError: no"), 3),
        4: TryAgain(failed(make_operation(4), 429, "Throttled", "Fast."), 3, uses_attempt=False),
    }


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ([1, 2], f"was given 3 operations and returned 2 outcomes. {EACH}"),
        ([], f"was given 3 operations and returned 0 outcomes. {EACH}"),
        ([1, 2, 3, 4], f"was given 3 operations and returned 4 outcomes. {EACH}"),
        (None, f"returned a value of type NoneType. {LIST}"),
        ("abc", f"returned a value of type str. {LIST}"),
        ({0: 1, 1: 2, 2: 3}, f"returned a value of type dict. {LIST}"),
    ],
)
async def test_wrong_number_of_outcomes_fails_all_and_says_what_would_be_right(returned: Any, why: str) -> None:
    calls = Calls(lambda _: returned)
    verdicts = await run(calls.operations(), rows(3))
    assert len(calls.made) == 1
    for verdict in verdicts.values():
        assert isinstance(verdict, Outcome)
        assert verdict.error is not None
        assert verdict.error["title"] == "Wrong number of outcomes"
        assert verdict.error["detail"].startswith("The bulk handler of POST /rows ")
        assert verdict.error["detail"].endswith(why)
    assert statuses(verdicts) == dict.fromkeys(range(3), 500)


# --- Calls that raise


def unless(bad: int, error: BaseException) -> Callable[[list[int]], list[int]]:
    def behave(numbers: list[int]) -> list[int]:
        if bad in numbers:
            raise error
        return numbers

    return behave


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("one bad row"), 500), (Reject(409, "Taken."), 409), (SystemExit(3), 500)]
)
async def test_one_bad_row_does_not_fail_ninety_nine(logs: Logs, error: BaseException, status: int) -> None:
    calls = Calls(unless(42, error))
    assert statuses(await run(calls.operations(), rows(100))) == dict.fromkeys(range(100), 201) | {42: status}
    assert calls.made[0] == list(range(100))
    assert sorted(calls.made[1:]) == [[n] for n in range(100)]  # once each
    assert [line["operations"] for line in logs if line["event"] == Event.BULK_CALL_BROKE] == [100]


async def test_result_that_json_cannot_hold_fails_its_row_alone() -> None:
    calls = Calls(lambda numbers: [object() if n == 1 else n for n in numbers])
    assert statuses(await run(calls.operations(), rows(3))) == {0: 201, 1: 500, 2: 201}


@pytest.mark.parametrize("error", [Retry("Busy.", after_seconds=9), Throttled(after_seconds=9)])
async def test_retry_that_the_call_raises_is_for_all_and_nothing_is_tried_singly(error: Exception) -> None:
    calls = Calls(unless(1, error))
    verdicts = await run(calls.operations(), rows(3))
    assert [verdict.after_seconds for verdict in verdicts.values() if isinstance(verdict, TryAgain)] == [9, 9, 9]
    assert len(calls.made) == 1


async def test_row_that_hangs_times_out_alone() -> None:
    operations = Operations()

    @operations.post("/rows", bulk=True, timeout_seconds=0.05 * UNIT_SECONDS)
    async def insert(rows: list[Row]) -> list[int]:
        if any(row.n == 1 for row in rows):
            await asyncio.Event().wait()
        return [row.n for row in rows]

    assert statuses(await run(operations, rows(3))) == {0: 200, 1: 504, 2: 200}


async def test_handler_that_cancels_its_own_task_is_cornered_too() -> None:
    operations = Operations()

    @operations.post("/rows", bulk=True)
    async def insert(rows: list[Row]) -> list[int]:
        if any(row.n == 1 for row in rows):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return [row.n for row in rows]

    ended: list[int] = []
    verdicts = await run(operations, rows(3), ended=ended.append)
    assert statuses(verdicts) == {0: 200, 1: 500, 2: 200}
    assert sum(ended) == 3


async def test_each_call_has_a_transaction_and_one_that_raises_is_rolled_back() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def transaction() -> AsyncIterator[list[str]]:
        try:
            yield log
        except BaseException:
            log.append("rollback")
            raise
        log.append("commit")

    operations: Operations[list[str]] = Operations(transaction=transaction)

    @operations.post("/rows", bulk=True)
    async def insert(rows: list[Row], contexts: list[Context[list[str]]]) -> list[None]:
        contexts[0].transaction.append(f"insert {len(rows)}")
        if any(row.n == 1 for row in rows):
            raise ValueError
        return [None] * len(rows)

    await run(operations, rows(3), concurrency=1)
    assert log == ["insert 3", "rollback", "insert 1", "commit", "insert 1", "rollback", "insert 1", "commit"]
    log.clear()
    await run(operations, (make_operation(0), make_operation(2)))
    assert log == ["insert 2", "commit"]


async def test_wrong_number_is_rolled_back() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:
            log.append(type(error).__name__)
            raise

    operations: Operations[None] = Operations(transaction=transaction)

    @operations.post("/rows", bulk=True)
    async def insert(rows: list[Row]) -> list[None]:
        return [None] * (len(rows) + 1)

    await run(operations, rows(3))
    assert log == ["WrongNumber"]


# --- Stopping


class Gated:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = 0
        self.operations = Operations[Any]()
        self.operations.post("/rows", bulk=True, max_size=2)(self.insert)

    async def insert(self, rows: list[Row]) -> list[int]:
        self.begun += 1
        await self.gate.wait()
        return [row.n for row in rows]

    async def until_begun(self) -> None:
        await eventually(lambda: asyncio.sleep(0, self.begun))


@pytest.mark.parametrize(("is_cut", "ended_with"), [(False, {0, 1}), (True, set())])
async def test_stop_lets_calls_finish_and_begins_none_and_a_cut_ends_them(is_cut: bool, ended_with: set[int]) -> None:
    toys, stop, ended = Gated(), Stop(), list[int]()
    running = asyncio.create_task(run(toys.operations, rows(6), stop=stop, concurrency=1, ended=ended.append))
    await toys.until_begun()
    stop.begin()
    if is_cut:
        stop.cut_off()
    else:
        toys.gate.set()
    assert set(await running) == ended_with
    assert toys.begun == 1
    assert sum(ended) == 6


@pytest.mark.parametrize("converts", [False, True])
async def test_cancelled_run_counts_each_operation_as_ended_and_judges_none(converts: bool) -> None:
    """A run is cancelled without a cut if another part of its chunk fails unexpectedly."""
    operations, begun, ended, meter = Operations(), asyncio.Event(), list[int](), Meter()

    @operations.post("/rows", bulk=True, max_size=2)
    async def insert(rows: list[Row]) -> list[int]:
        if rows[0].n == 0:
            raise ValueError
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not converts:
                raise
            raise ConnectionError from None
        return []

    runner = Runner(operations, 1, meter=meter)
    chunk = Chunk("01J", "17", 1, rows(6))
    running = asyncio.create_task(runner.run_chunk(chunk, SOURCE, Stop(), ended.append))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: asyncio.sleep(0, sum(ended) == 6))
    assert meter.take().handlers == {}


async def test_stop_ends_the_trying_singly_too() -> None:
    stop = Stop()

    def behave(numbers: list[int]) -> list[int]:
        if len(numbers) > 1:
            stop.begin()
            raise ValueError
        return numbers

    calls, ended = Calls(behave), list[int]()
    assert await run(calls.operations(), rows(3), stop=stop, ended=ended.append) == {}
    assert sum(ended) == 3


async def test_operations_of_a_failed_call_do_not_wait_for_single_operations() -> None:
    operations, isolated = Operations(), asyncio.Event()

    @operations.post("/rows", bulk=True)
    async def insert(rows: list[Row]) -> list[int]:
        if len(rows) > 1:
            raise ValueError
        isolated.set()
        return [row.n for row in rows]

    @operations.post("/wait")
    async def wait() -> None:
        await isolated.wait()

    async with asyncio.timeout(20 * UNIT_SECONDS):
        verdicts = await run(operations, (*rows(3), make_operation(3, "/wait")))
    assert statuses(verdicts) == dict.fromkeys(range(4), 200)


async def test_spent_time_begins_no_call_but_the_trying_singly_goes_on() -> None:
    """Or a call that takes all the time there is, and fails, would be made for ever."""
    stop = Stop()

    def behave(numbers: list[int]) -> list[int]:
        if len(numbers) > 1:
            stop.spend()
            raise ValueError
        return numbers

    calls, ended = Calls(behave), list[int]()
    verdicts = await run(calls.operations(max_size=2), rows(6), stop=stop, concurrency=1, ended=ended.append)
    assert statuses(verdicts) == {0: 201, 1: 201}
    assert calls.made == [[0, 1], [0], [1]]
    assert sum(ended) == 6


async def test_each_row_is_counted_once_with_its_share_of_the_time() -> None:
    meter, calls = Meter(), Calls(unless(1, Reject(409, "Taken.")))
    runner = Runner(calls.operations(), 4, meter=meter)
    await runner.run_chunk(Chunk("01J", "17", 1, rows(5)), SOURCE, Stop(), lambda _: None)
    figures = meter.take().handlers["POST /rows"]
    assert (figures.succeeded, figures.failed, figures.retried, figures.seconds.count) == (4, 1, 0, 5)


async def test_nothing_of_a_failed_call_is_left_to_the_collector(logs: Logs) -> None:
    def reject(_numbers: list[int]) -> None:
        raise Reject(409, "One of them is taken.")

    runner = Runner(Calls(reject).operations(), 1)

    async def fail() -> None:
        with suppress(CallFailed):
            await runner.run_apart(rows(3), SOURCE, 1)
        logs.clear()  # they have the error
        await settle()

    await fail()
    gc.collect()
    with without_collections():
        await fail()
        assert gc.collect() < 10
