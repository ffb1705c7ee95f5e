"""`def` handlers: in threads of their own, as many as there are slots; and what becomes of one that does not return."""

import asyncio
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock import Context, Operations, Reject, Retry, Throttled
from penstock.chunk import Chunk, Operation
from penstock.errors import HandlersStuck
from penstock.outcome import Outcome, TryAgain, Verdict, failed
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from penstock.testing import FakeClock
from tests.support.attempts import run_one
from tests.support.waiting import UNIT_SECONDS, eventually

SOURCE = Source("01J", "01J")
SHORT = 0.05 * UNIT_SECONDS
TAG: ContextVar[str] = ContextVar("TAG")


@dataclass
class Gate:
    """A handler that does not return before it is let; `most` is how many were in it at once."""

    running: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: threading.Event = field(default_factory=threading.Event)

    def hang(self) -> str:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.opened.wait(60)
        with self.lock:
            self.running -= 1
        return "returned"

    async def until_running(self, count: int) -> None:
        async def are() -> bool:
            return self.running == count

        await eventually(are)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def toys(gate: Gate) -> Operations[Any]:
    operations = Operations()
    operations.post("/hang", timeout_seconds=SHORT)(gate.hang)
    operations.post("/wait")(gate.hang)

    @operations.post("/thread")
    def thread() -> str:
        return threading.current_thread().name

    @operations.post("/async")
    async def on_loop() -> str:
        return threading.current_thread().name

    return operations


def make_operation(path: str, index: int = 0) -> Operation:
    return Operation(index, f"op-{index}", "POST", path)


def make_chunk(*paths: str) -> Chunk:
    return Chunk("01J", "17", 1, tuple(make_operation(path, index) for index, path in enumerate(paths)))


async def run(registry: Operations[Any], path: str = "/x") -> Verdict:
    return await run_one(Runner(registry, 1), make_operation(path), SOURCE, 1)


async def run_chunk(runner: Runner, *paths: str, stop: Stop | None = None) -> dict[int, Verdict]:
    return await runner.run_chunk(make_chunk(*paths), SOURCE, stop or Stop(), lambda _: None)


def statuses(verdicts: dict[int, Verdict]) -> list[int]:
    return [
        verdict.status if isinstance(verdict, Outcome) else verdict.failure.status
        for _, verdict in sorted(verdicts.items())
    ]


async def test_def_handler_runs_in_a_thread_and_async_def_on_the_loop(toys: Operations[Any]) -> None:
    verdicts = await run_chunk(Runner(toys, 2), "/thread", "/async")
    results = [verdict.result for _, verdict in sorted(verdicts.items()) if isinstance(verdict, Outcome)]
    assert results == ["handlers-1", threading.current_thread().name]


def failure(status: int, title: str, detail: str, *, rejected: bool = False) -> Outcome:
    return failed(make_operation("/x"), status, title, detail, rejected=rejected)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Reject(409, "Taken."), failure(409, "Rejected", "Taken.", rejected=True)),
        (Retry("Not yet.", after_seconds=7), TryAgain(failure(503, "Not performed", "Not yet."), 3, 7)),
        (Throttled("Fast."), TryAgain(failure(429, "Throttled", "Fast."), 3, uses_attempt=False)),
        (ValueError("no"), TryAgain(failure(500, "Broke", "ValueError: no"), 3)),
        (SystemExit(3), TryAgain(failure(500, "Broke", "SystemExit: 3"), 3)),
        (KeyboardInterrupt(), TryAgain(failure(500, "Broke", "KeyboardInterrupt"), 3)),
        (GeneratorExit(), TryAgain(failure(500, "Broke", "GeneratorExit"), 3)),
        # A future would not hold it, and a coroutine turns it into something else.
        (StopIteration(), TryAgain(failure(500, "Broke", "RuntimeError: coroutine raised StopIteration"), 3)),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_a_thread_raises_becomes_a_verdict(error: BaseException, verdict: Verdict) -> None:
    registry = Operations()

    @registry.post("/x")
    def handler() -> None:
        raise error

    with capture_logs():
        assert await run(registry) == verdict


async def test_thread_sees_context_variables_and_changes_only_a_copy() -> None:
    registry = Operations()

    @registry.post("/x")
    def handler() -> str:
        seen = TAG.get()
        TAG.set("changed")
        return seen

    TAG.set("as it was")
    verdict = await run(registry)
    assert isinstance(verdict, Outcome)
    assert (verdict.result, TAG.get()) == ("as it was", "as it was")


async def test_result_is_made_json_in_the_thread() -> None:
    registry = Operations()

    @registry.post("/x")
    def handler() -> Any:
        return (threading.current_thread().name for _ in range(1))

    verdict = await run(registry)
    assert isinstance(verdict, Outcome)
    assert verdict.result == ["handlers-1"]


async def test_def_that_returns_a_coroutine_is_told_what_to_do() -> None:
    registry = Operations()

    async def behind_a_decorator() -> None: ...

    @registry.post("/x")
    def handler() -> Any:
        return behind_a_decorator()

    verdict = await run(registry)
    assert isinstance(verdict, Outcome)
    assert verdict.error is not None
    assert verdict.error["detail"].startswith(
        "The handler of POST /x is a `def` that returned a coroutine. Write it as `async def`."
    )


async def test_threads_are_as_many_as_slots(toys: Operations[Any], gate: Gate) -> None:
    running = asyncio.create_task(run_chunk(Runner(toys, 3), *["/wait"] * 9))
    await gate.until_running(3)
    gate.opened.set()
    assert statuses(await running) == [200] * 9
    assert gate.most == 3


# --- Time


async def test_handler_whose_time_is_up_is_told_so_while_its_thread_goes_on(toys: Operations[Any], gate: Gate) -> None:
    verdict = await run(toys, "/hang")
    detail = f"The operation was not done within {SHORT:g} s."
    assert verdict == TryAgain(failed(make_operation("/hang"), 504, "Timed out", detail), 3)
    assert gate.running == 1


async def test_thread_left_behind_keeps_its_place_until_it_returns(toys: Operations[Any], gate: Gate) -> None:
    runner = Runner(toys, 2)
    assert statuses(await run_chunk(runner, "/hang", "/hang")) == [504, 504]
    waiting = asyncio.create_task(run_chunk(runner, "/wait", "/thread"))
    assert statuses(await run_chunk(runner, "/async", "/async")) == [200, 200]  # these need no thread
    assert not waiting.done()
    assert gate.most == 2
    gate.opened.set()
    assert statuses(await waiting) == [200, 200]


async def test_nothing_leaks_however_often_threads_are_left_behind(toys: Operations[Any], gate: Gate) -> None:
    runner = Runner(toys, 2)
    for _ in range(5):
        gate.opened.clear()
        assert statuses(await run_chunk(runner, "/hang", "/hang")) == [504, 504]
        gate.opened.set()
        assert statuses(await run_chunk(runner, *["/thread"] * 4)) == [200] * 4
    gate.opened.clear()
    running = asyncio.create_task(run_chunk(runner, *["/wait"] * 4))
    await gate.until_running(2)
    gate.opened.set()
    await running
    assert gate.most == 2


async def test_cut_leaves_threads_behind_and_their_operations_without_a_verdict(
    toys: Operations[Any], gate: Gate
) -> None:
    runner, stop = Runner(toys, 2), Stop()
    running = asyncio.create_task(run_chunk(runner, "/wait", "/wait", "/wait", stop=stop))
    await gate.until_running(2)
    stop.begin()
    stop.cut_off()
    assert await running == {}
    assert gate.most == 2


async def test_what_must_run_alone_waits_for_threads_left_behind(toys: Operations[Any], gate: Gate) -> None:
    runner = Runner(toys, 2)
    await run_chunk(runner, "/hang")

    async def run_alone() -> None:
        async with runner.all_slots(make_operation("/async"), SOURCE):
            assert gate.running == 0

    alone = asyncio.create_task(run_alone())
    await asyncio.sleep(SHORT)
    assert not alone.done()
    gate.opened.set()
    await alone


async def test_stopping_lets_go_of_those_who_wait_for_a_thread_left_behind(toys: Operations[Any], gate: Gate) -> None:
    runner = Runner(toys, 1)
    await run_chunk(runner, "/hang")

    async def take(path: str) -> None:
        async with runner.slot(make_operation(path), SOURCE):
            pass

    waiting = asyncio.create_task(take("/thread"))
    await asyncio.sleep(0)
    runner.let_go()
    await waiting
    assert gate.running == 1


async def test_what_must_run_alone_does_not_wait_for_threads_that_the_cut_leaves_behind(
    toys: Operations[Any], gate: Gate
) -> None:
    runner, stop = Runner(toys, 2), Stop()
    running = asyncio.create_task(run_chunk(runner, "/wait", "/wait", stop=stop))
    await gate.until_running(2)

    async def run_alone() -> None:
        async with runner.all_slots(make_operation("/thread"), SOURCE):
            pass

    alone = asyncio.create_task(run_alone())
    await asyncio.sleep(0)
    stop.begin()
    stop.cut_off()
    runner.let_go()
    await asyncio.wait_for(alone, 20 * UNIT_SECONDS)
    assert await running == {}
    assert gate.running == 2


@pytest.mark.parametrize(("concurrency", "is_stuck"), [(1, True), (2, False)])
async def test_process_is_given_up_when_threads_left_behind_hold_every_place(
    toys: Operations[Any], gate: Gate, concurrency: int, is_stuck: bool
) -> None:
    runner, clock = Runner(toys, concurrency), FakeClock()
    watching = asyncio.create_task(runner.watch(60, clock))
    await run_chunk(runner, "/hang")
    for _ in range(200):
        await asyncio.sleep(0)  # each is a second of that clock
    assert watching.done() is is_stuck
    if is_stuck:
        with pytest.raises(HandlersStuck, match=r"^1 `def` handler has not returned .* Set timeouts on the calls"):
            await watching
    watching.cancel()
    gate.opened.set()


# --- The application's transaction


async def test_def_handler_runs_without_the_transaction_that_is_the_loops() -> None:
    registry = Operations(transaction=pytest.fail)  # never opened

    @registry.post("/x")
    def handler(context: Context) -> str:
        return context.key

    @registry.post("/y")
    def use(context: Context) -> None:
        context.transaction.execute("SELECT 1")

    verdict = await run(registry)
    assert isinstance(verdict, Outcome)
    assert verdict.result == "01J/op-0"
    refused = await run(registry, "/y")
    assert isinstance(refused, Outcome)
    assert refused.error is not None
    assert refused.error["title"] == "Misconfigured"
    assert refused.error["detail"].startswith("The handler of POST /y is a `def` and uses context.transaction")
