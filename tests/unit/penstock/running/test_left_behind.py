"""A handler that ignores its cancellation is left behind. It costs its operation and a slot, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest

from penstock import Context, Operations, Reject
from penstock.chunk import Chunk, Operation
from penstock.clock import SystemClock
from penstock.errors import HandlersStuck
from penstock.limit import Limit
from penstock.metrics.meter import Meter
from penstock.outcome import TryAgain, Verdict, Verdicts, as_outcome
from penstock.running import left_behind
from penstock.running.left_behind import TimeLimits, Worker
from penstock.running.limit_gate import LimitGate
from penstock.running.limit_gates import LimitGates
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from penstock.testing import FakeClock, MemoryStore
from tests.support.waiting import UNIT_SECONDS, eventually

SOURCE = Source("01J", "01J")
SHORT = 0.01
NOTICE = 0.02
MARK: ContextVar[str] = ContextVar("MARK", default="")


async def until(condition: Callable[[], bool]) -> None:
    await eventually(lambda: asyncio.sleep(0, condition()))


class Ledger:
    """The transactions of the application, and what became of them."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        self.events.append("begin")
        try:
            yield
        except BaseException:
            self.events.append("roll back")
            raise
        self.events.append("commit")


class Gate:
    """Handlers wait here, and ignore their cancellation until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.here = 0

    async def wait_stubbornly(self) -> None:
        self.here += 1
        while not self.opened.is_set():
            with suppress(BaseException):
                await self.opened.wait()
        self.here -= 1

    async def wait_in_finally(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await self.wait_stubbornly()


@pytest.fixture(autouse=True)
def short_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_behind, "NOTICE_SECONDS", NOTICE)


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()
    await until(lambda: gate.here == 0)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def toys(gate: Gate, transaction: Any = None) -> Operations[Any]:
    operations: Operations[Any] = Operations(transaction=transaction)

    @operations.post("/stuck", timeout_seconds=SHORT)
    async def stuck() -> str:
        MARK.set("of a stuck handler")
        await gate.wait_stubbornly()
        return "late"

    @operations.post("/finally", timeout_seconds=SHORT)
    async def stuck_in_finally() -> None:
        await gate.wait_in_finally()

    @operations.post("/long")
    async def long() -> str:
        await gate.wait_stubbornly()
        return "late"

    @operations.post("/succeed")
    async def succeed() -> str:
        return MARK.get()

    @operations.post("/rows/{name}", bulk=True, timeout_seconds=SHORT)
    async def rows(name: list[str]) -> list[str]:
        if "bad" in name:
            await gate.wait_stubbornly()
        return name

    return operations


def make_operation(path: str, index: int = 0) -> Operation:
    return Operation(index, f"op-{index}", "POST", path)


def make_chunk(*paths: str) -> Chunk:
    return Chunk("01J", "0", 1, tuple(make_operation(path, index) for index, path in enumerate(paths)))


async def run_chunk(runner: Runner, *paths: str, **options: Any) -> dict[int, Verdict]:
    async with asyncio.timeout(20 * UNIT_SECONDS):
        return await runner.run_chunk(make_chunk(*paths), SOURCE, Stop(), lambda _: None, **options)


def statuses(verdicts: dict[int, Verdict]) -> list[int]:
    return [as_outcome(verdict).status for _, verdict in sorted(verdicts.items())]


async def free_slots(runner: Runner) -> int:
    """Return how many slots can be taken now."""
    async with AsyncExitStack() as stack:
        for free in range(9):
            try:
                async with asyncio.timeout(SHORT):
                    await stack.enter_async_context(runner.slot(make_operation("/succeed"), SOURCE))
            except TimeoutError:
                return free
    raise AssertionError("There are more slots than expected.")


@pytest.mark.parametrize("path", ["/stuck", "/finally"])
async def test_handler_that_never_ends_times_out_and_its_chunk_goes_on(gate: Gate, path: str) -> None:
    meter, ended = Meter(), list[int]()
    runner = Runner(toys(gate), 2, meter=meter)
    chunk = make_chunk("/succeed", path, "/succeed", "/succeed")
    verdicts = await runner.run_chunk(chunk, SOURCE, Stop(), ended.append)
    assert statuses(verdicts) == [200, 504, 200, 200]
    assert isinstance(verdicts[1], TryAgain)
    assert verdicts[1].failure.error == {
        "title": "Timed out",
        "detail": f"The operation was not done within {SHORT} s.",
    }
    assert gate.here == 1
    assert sum(ended) == 4

    gate.opened.set()
    await until(lambda: gate.here == 0)
    assert statuses(verdicts) == [200, 504, 200, 200]  # what it returns later does not count
    assert sum(ended) == 4
    assert meter.take().handlers[f"POST {path}"].count == 1


async def test_time_limit_cancels_nothing_between_two_attempts() -> None:
    loop = asyncio.get_running_loop()
    limits = TimeLimits(loop.time, Worker.current())
    limits.start(loop.time(), 0.01)
    limits.end()
    await asyncio.sleep(0.03)  # until the timer has gone off
    assert not limits.is_over
    limits.start(loop.time(), 0.01)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    assert limits.is_over
    limits.end()


async def test_worker_that_was_left_behind_performs_nothing_else(gate: Gate) -> None:
    """Nobody reads the verdicts of its further operations, so they would run twice."""
    operations, may_end, here = toys(gate), asyncio.Event(), list[str]()

    @operations.post("/unmarked", timeout_seconds=SHORT)
    async def stuck() -> None:
        await gate.wait_stubbornly()

    @operations.post("/hold/{name}")
    async def hold(name: str) -> None:
        here.append(name)
        await may_end.wait()

    runner = Runner(operations, 2)
    running = asyncio.create_task(run_chunk(runner, "/unmarked", "/hold/a", "/hold/b", "/hold/c", "/hold/d"))
    await until(lambda: bool(runner._left._tasks))
    gate.opened.set()
    await until(lambda: here == ["a", "b"])
    may_end.set()
    assert statuses(await running) == [504, 200, 200, 200, 200]
    assert here == ["a", "b", "c", "d"]


@pytest.mark.parametrize("error", [Reject(409, "Late."), RuntimeError("late"), SystemExit("late")], ids=repr)
async def test_what_a_handler_left_behind_raises_does_not_count(gate: Gate, error: BaseException) -> None:
    operations, may_end, meter = toys(gate), asyncio.Event(), Meter()

    @operations.post("/raise", timeout_seconds=SHORT)
    async def raise_late() -> None:
        await gate.wait_stubbornly()
        raise error

    @operations.post("/hold")
    async def hold() -> None:
        await may_end.wait()

    runner = Runner(operations, 2, meter=meter)
    running = asyncio.create_task(run_chunk(runner, "/raise", "/hold"))
    await until(lambda: bool(runner._left._tasks))
    gate.opened.set()
    await until(lambda: not runner._left._tasks)
    may_end.set()
    assert statuses(await running) == [504, 200]
    assert meter.take().handlers["POST /raise"].count == 1


async def test_what_a_handler_returns_after_its_chunk_was_cut_off_does_not_count(gate: Gate) -> None:
    meter, stop = Meter(), Stop()
    runner = Runner(toys(gate), 2, meter=meter)
    running = asyncio.create_task(runner.run_chunk(make_chunk("/long"), SOURCE, stop, lambda _: None))
    await until(lambda: gate.here == 1)
    stop.cut_off()
    verdicts = await running
    gate.opened.set()
    await until(lambda: not runner._left._tasks)
    assert verdicts == {}
    assert "POST /long" not in meter.take().handlers


async def test_end_of_a_handler_left_behind_is_not_noted_at_the_gate_of_its_limit(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[Verdicts] = []
    monkeypatch.setattr(LimitGate, "note", lambda _gate, verdicts, _started_at: noted.append(verdicts))
    operations = Operations[Any](limits={"upstream": Limit(rate=100)})

    @operations.post("/stuck", timeout_seconds=SHORT, limit="upstream")
    async def stuck() -> None:
        await gate.wait_stubbornly()

    gates = LimitGates(operations.limits, lambda name, limit: LimitGate(name, limit, MemoryStore(), SystemClock()))
    runner = Runner(operations, 1, limits=gates)
    assert statuses(await run_chunk(runner, "/stuck")) == [504]
    gate.opened.set()
    await until(lambda: not runner._left._tasks)
    assert noted == [{}]
    await runner.close()


async def test_handler_left_behind_keeps_its_slot_until_it_ends(gate: Gate) -> None:
    runner = Runner(toys(gate), 2)
    await run_chunk(runner, "/stuck")
    assert await free_slots(runner) == 1
    gate.opened.set()
    await until(lambda: gate.here == 0)
    assert await free_slots(runner) == 2


async def test_handler_left_behind_in_a_slot_of_its_caller_keeps_a_slot(gate: Gate) -> None:
    runner = Runner(toys(gate), 2)
    async with runner.slot(make_operation("/stuck"), SOURCE):
        assert statuses(await run_chunk(runner, "/stuck", has_slot=True)) == [504]
    async with runner.slot(make_operation("/stuck"), SOURCE):
        assert statuses(await runner.run_apart((make_operation("/stuck"),), SOURCE, 1)) == [504]
    assert await free_slots(runner) == 0
    gate.opened.set()
    await until(lambda: gate.here == 0)
    assert await free_slots(runner) == 2


async def test_worker_that_replaces_one_left_behind_does_not_see_its_context(gate: Gate) -> None:
    verdicts = await run_chunk(Runner(toys(gate), 3), *["/stuck", "/succeed"] * 2)
    results = [verdict.result for verdict in map(as_outcome, verdicts.values()) if verdict.status == 200]
    assert results == ["", ""]


async def test_bulk_call_that_never_ends_costs_only_the_row_that_does_it(gate: Gate) -> None:
    verdicts = await run_chunk(Runner(toys(gate), 3), "/rows/a", "/rows/bad", "/rows/b")
    assert statuses(verdicts) == [200, 504, 200]
    assert gate.here == 2  # the call, and the bad row by itself


async def test_caller_that_is_cancelled_leaves_the_handler_behind(gate: Gate) -> None:
    runner = Runner(toys(gate), 2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT), runner.slot(make_operation("/long"), SOURCE):
            await runner.run_apart((make_operation("/long"),), SOURCE, 1)
    assert gate.here == 1
    assert await free_slots(runner) == 1


# The transaction


@pytest.mark.parametrize("path", ["/stuck", "/finally"])
async def test_transaction_of_a_handler_left_behind_is_never_committed(gate: Gate, ledger: Ledger, path: str) -> None:
    await run_chunk(Runner(toys(gate, ledger.transaction), 2), path)
    assert ledger.events == ["begin"]
    gate.opened.set()
    await until(lambda: ledger.events == ["begin", "roll back"])


async def test_handler_left_behind_by_the_end_of_the_program_commits_nothing(gate: Gate, ledger: Ledger) -> None:
    """Its operation is handed over: whoever runs it next must not find it done."""
    stop, runner = Stop(), Runner(toys(gate, ledger.transaction), 1)
    running = asyncio.create_task(runner.run_chunk(make_chunk("/long"), SOURCE, stop, lambda _: None))
    await until(lambda: gate.here == 1)
    stop.begin()
    stop.cut_off()
    assert await running == {}
    gate.opened.set()
    await until(lambda: ledger.events == ["begin", "roll back"])


async def test_handler_left_behind_by_its_caller_commits_nothing(gate: Gate, ledger: Ledger) -> None:
    runner = Runner(toys(gate, ledger.transaction), 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT), runner.slot(make_operation("/long"), SOURCE):
            await runner.run_apart((make_operation("/long"),), SOURCE, 1)
    gate.opened.set()
    await until(lambda: ledger.events == ["begin", "roll back"])


def transaction_that_hangs(gate: Gate, *, opening: bool) -> Any:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[None]:
        if opening:
            await gate.wait_stubbornly()
        try:
            yield
        finally:
            if not opening:
                await gate.wait_stubbornly()

    return transaction


@pytest.mark.parametrize("opening", [True, False])
async def test_transaction_that_never_opens_or_ends_times_out(gate: Gate, opening: bool) -> None:
    operations = Operations(transaction=transaction_that_hangs(gate, opening=opening))
    runs: list[str] = []

    @operations.post("/x", timeout_seconds=SHORT)
    async def handler(context: Context) -> None:
        runs.append(context.operation_id)

    runner = Runner(operations, 2)
    assert statuses(await run_chunk(runner, "/x")) == [504]
    assert len(runs) == (0 if opening else 1)
    assert await free_slots(runner) == 1
    gate.opened.set()
    await until(lambda: gate.here == 0)
    assert len(runs) == (0 if opening else 1)  # a transaction that opens too late is not used


# The end of the program


@pytest.fixture
def watching() -> Iterator[list[asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []
    yield tasks
    for task in tasks:
        task.cancel()


async def pass_seconds() -> None:
    for _ in range(200):
        await asyncio.sleep(0)  # each is a second of that clock


@pytest.mark.parametrize(("concurrency", "is_stuck"), [(1, True), (2, False)])
async def test_process_is_given_up_when_handlers_left_behind_hold_every_slot(
    gate: Gate, watching: list[asyncio.Task[None]], concurrency: int, is_stuck: bool
) -> None:
    runner = Runner(toys(gate), concurrency)
    watching.append(asyncio.create_task(runner.watch(60, FakeClock())))
    assert runner.trouble is None
    await run_chunk(runner, "/stuck")
    assert (runner.trouble == "Handlers that ignore their cancellation hold all slots.") is is_stuck
    await pass_seconds()
    assert watching[0].done() is is_stuck
    if is_stuck:
        with pytest.raises(HandlersStuck, match=r"^1 `async def` handler has not returned .* `except Exception:`\.$"):
            await watching[0]


async def test_process_is_given_up_when_a_suspect_waits_for_a_handler_left_behind(
    gate: Gate, watching: list[asyncio.Task[None]]
) -> None:
    runner = Runner(toys(gate), 2)

    async def run_alone() -> None:
        async with runner.all_slots(make_operation("/succeed"), SOURCE):
            pass

    await run_chunk(runner, "/stuck")
    watching += [asyncio.create_task(runner.watch(60, FakeClock())), asyncio.create_task(run_alone())]
    await pass_seconds()
    assert watching[0].done()
    assert not watching[1].done()
    runner.let_go()
    await watching[1]
