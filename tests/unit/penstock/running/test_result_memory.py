"""The memory for results: what is held and reserved, which chunk is cut, and what waits."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from penstock import Operations
from penstock.chunk import Chunk, Operation
from penstock.clock import SystemClock
from penstock.outcome import EncodedResult, Outcome, OutcomeState, Verdict, size_of
from penstock.running import result_memory
from penstock.running.result_memory import ChunkResults, ResultMemory
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop

SIZE = 1_000  # of a result
MOST, OF_CHUNK = 10_000, 4_000
SOURCE = Source("b", "b")


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_memory, "MOST_BYTES", MOST)
    monkeypatch.setattr(result_memory, "CHUNK_BYTES", OF_CHUNK)


@pytest.fixture
def memory() -> ResultMemory:
    return ResultMemory()


@pytest.fixture
def chunks(memory: ResultMemory) -> Iterator[Callable[[], ChunkResults]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(memory.for_chunk())


def result_of(size: int) -> Verdict:
    return Outcome(0, "0", OutcomeState.SUCCEEDED, 200, result=EncodedResult(b"x" * size))


# --- Counting


def test_size_is_that_of_a_long_result_or_of_the_error() -> None:
    assert size_of(result_of(SIZE)) == SIZE
    assert size_of(Outcome(0, "0", OutcomeState.SUCCEEDED, 200, result="short")) == 0
    assert size_of(Outcome(0, "0", OutcomeState.FAILED, 500, error={"title": "t"})) == len('{"title":"t"}')


def test_memory_is_free_again_when_a_chunk_is_recorded(memory: ResultMemory) -> None:
    with memory.for_chunk() as results:
        results.add(SIZE)
        assert memory.used == SIZE
    assert memory.used == 0


def test_those_who_wait_for_memory_are_notified_only_when_it_is_no_longer_full(memory: ResultMemory) -> None:
    freed: list[int] = []
    memory.when_free(lambda: freed.append(memory.used))
    memory.learn("x", {0: result_of(SIZE)})
    memory.start("x", MOST // SIZE, "large call")
    memory.start("x", 1, "call")
    assert memory.is_full
    memory.end("call")
    assert memory.is_full
    assert freed == []
    with memory.for_chunk() as results:
        results.add(SIZE)
        memory.end("large call")
        assert freed == [SIZE]
    memory.start("x", 1, "call")
    memory.end("call")
    assert (memory.used, freed) == (0, [SIZE])


def test_handler_that_runs_reserves_what_its_results_took_lately(memory: ResultMemory) -> None:
    memory.learn("big", {0: result_of(SIZE)})
    memory.learn("small", {})
    memory.start("big", 3, "call 1")
    memory.start("small", 3, "call 2")
    assert memory.used == 3 * SIZE
    memory.end("call 1")
    memory.end("call 2")
    assert memory.used == 0


def test_estimate_follows_a_larger_result_at_once_and_smaller_ones_slowly(memory: ResultMemory) -> None:
    def reserved() -> int:
        memory.start("x", 1, "call")
        size = memory.used
        memory.end("call")
        return size

    memory.learn("x", {0: result_of(SIZE)})
    memory.learn("x", {0: result_of(0)})
    assert 0.9 * SIZE < reserved() < SIZE
    for _ in range(500):
        memory.learn("x", {0: result_of(0)})
    assert reserved() == 0
    memory.learn("x", {0: result_of(5 * SIZE)})
    assert reserved() == 5 * SIZE


@pytest.mark.parametrize(("characters", "expects_much"), [(10, False), (900, False), (2_000, True)])
def test_short_error_makes_its_handler_reserve_nothing(
    memory: ResultMemory, characters: int, expects_much: bool
) -> None:
    error = {"title": "Rejected", "detail": "x" * characters}
    memory.learn("x", {0: Outcome(0, "0", OutcomeState.FAILED, 422, error=error)})
    assert memory.expects_much("x") is expects_much


def test_handler_that_has_not_returned_yet_reserves_less_each_second(memory: ResultMemory) -> None:
    for call in range(result_memory.FIRST_CALLS):
        memory.start("x", 1, call)
    assert memory.is_full
    memory.lower_guesses()
    assert not memory.is_full
    for _ in range(100):
        memory.lower_guesses()
    assert memory.used == 0


# --- What is full


def test_nothing_may_start_while_results_and_reservations_fill_the_memory(
    memory: ResultMemory, chunks: Callable[[], ChunkResults]
) -> None:
    memory.learn("x", {0: result_of(5 * SIZE)})
    memory.start("x", 1, "call 1")
    assert not memory.is_full
    for _ in range(5):
        chunks().add(SIZE)
    assert memory.is_full
    memory.end("call 1")
    assert not memory.is_full


def test_nothing_may_start_until_a_chunk_that_is_cut_is_recorded(memory: ResultMemory) -> None:
    with memory.for_chunk() as results:
        results.add(MOST)
        assert memory.is_full
    assert not memory.is_full


def test_handler_may_start_if_nothing_else_would_free_memory(
    memory: ResultMemory, chunks: Callable[[], ChunkResults]
) -> None:
    for _ in range(MOST // SIZE):
        chunks().held += SIZE
    memory.used = MOST
    assert not memory.is_full


# --- What is cut


def test_chunk_that_holds_much_is_cut(chunks: Callable[[], ChunkResults]) -> None:
    results, cuts = chunks(), []
    with results.when_cut(lambda: cuts.append(1)):
        results.add(OF_CHUNK - 1)
        assert not results.is_cut
        results.add(1)
        results.add(1)
    assert results.is_cut
    assert cuts == [1]


def test_chunks_that_hold_most_are_cut_when_the_memory_is_full(chunks: Callable[[], ChunkResults]) -> None:
    held = [chunks() for _ in range(6)]
    for number, results in enumerate(held):
        results.add(1_000 + 200 * number)
    assert [results.is_cut for results in held] == [False] * 6
    chunks().add(1_500)
    assert [results.is_cut for results in held] == [False, False, False, True, True, True]


# --- With a runner


def running(*, count: int, concurrency: int, bulk: bool = False) -> tuple[Runner, Chunk]:
    operations: Operations[Any] = Operations()

    @operations.post("/one")
    async def one(body: dict[str, bool]) -> str:
        await asyncio.sleep(0)
        return "x" * SIZE

    @operations.post("/many", bulk=True, max_size=count // 2)
    async def many(bodies: list[dict[str, bool]]) -> list[str]:
        await asyncio.sleep(0)
        if len(bodies) > 1 and any(body["fails"] for body in bodies):
            raise RuntimeError
        return ["x" * SIZE for _ in bodies]

    path = "/many" if bulk else "/one"
    members = tuple(Operation(n, str(n), "POST", path, {"fails": n >= count // 2}) for n in range(count))
    return Runner(operations, concurrency), Chunk("b", "0", 1, members)


async def test_rest_of_a_chunk_that_is_cut_gets_no_verdict() -> None:
    runner, chunk = running(count=20, concurrency=1)
    ended: list[int] = []
    with runner.result_memory.for_chunk() as results:
        verdicts = await runner.run_chunk(chunk, SOURCE, Stop(), ended.append, results=results)
    assert len(verdicts) == 4
    assert sum(ended) == 20


async def test_failed_bulk_call_of_a_chunk_that_is_cut_is_left_to_the_next_chunk() -> None:
    runner, chunk = running(count=20, concurrency=1, bulk=True)
    with runner.result_memory.for_chunk() as results:
        verdicts = await runner.run_chunk(chunk, SOURCE, Stop(), lambda _: None, results=results)
    assert sorted(verdicts) == list(range(10))


async def test_operations_wait_until_another_chunk_is_recorded() -> None:
    runner, chunk = running(count=3, concurrency=5)
    memory = runner.result_memory
    with memory.for_chunk() as mine:
        with memory.for_chunk() as waiting:
            waiting.add(MOST)
            task = asyncio.create_task(runner.run_chunk(chunk, SOURCE, Stop(), lambda _: None, results=mine))
            for _ in range(20):
                await asyncio.sleep(0)
            assert mine.held == 0
        assert len(await task) == 3


async def test_chunk_that_waits_for_memory_ends_when_it_is_cut() -> None:
    """Otherwise its results would wait for memory that only their record can free."""
    runner, chunk = running(count=8, concurrency=5)
    memory = runner.result_memory
    memory.learn("POST /other", {0: result_of(MOST)})
    memory.start("POST /other", 1, "call")
    with memory.for_chunk() as results:
        task = asyncio.create_task(runner.run_chunk(chunk, SOURCE, Stop(), lambda _: None, results=results))
        await asyncio.sleep(0)
        results.cut()
        async with asyncio.timeout(5):
            assert await task == {}


async def test_many_operations_share_the_memory() -> None:
    """All of twenty chunks end. What is above the limit are first results, which nobody could expect."""
    runner, chunk = running(count=10, concurrency=50)
    most = 0

    async def run_until_done() -> None:
        nonlocal most
        left = chunk
        while left.operations:
            with runner.result_memory.for_chunk() as results:
                verdicts = await runner.run_chunk(left, SOURCE, Stop(), lambda _: None, results=results)
                most = max(most, runner.result_memory.used)
                await asyncio.sleep(0)  # its record is written
            left = Chunk("b", "0", 1, tuple(one for one in left.operations if one.index not in verdicts))

    async with asyncio.timeout(10):
        await asyncio.gather(*(run_until_done() for _ in range(20)))
    assert most < 2 * MOST
    assert runner.result_memory.used == 0


async def test_handler_that_is_left_behind_reserves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.running.left_behind.NOTICE_SECONDS", 0.01)
    operations: Operations[Any] = Operations()
    may_end = asyncio.Event()

    @operations.post("/endless", timeout_seconds=0.01, max_attempts=1)
    async def never_end() -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    runner = Runner(operations, 2, SystemClock().monotonic)
    chunk = Chunk("b", "0", 1, (Operation(0, "0", "POST", "/endless", None),))
    with runner.result_memory.for_chunk() as results:
        await runner.run_chunk(chunk, SOURCE, Stop(), lambda _: None, results=results)
        assert runner.result_memory.used == 0
    may_end.set()


async def test_short_result_is_learned_from_if_another_was_long_while_its_handler_waited() -> None:
    operations: Operations[Any] = Operations()
    is_waiting, may_end = asyncio.Event(), asyncio.Event()

    @operations.post("/act")
    async def act(body: str) -> str:
        if body == "wait":
            is_waiting.set()
            await may_end.wait()
        return "x" * 3 * SIZE if body == "long" else ""

    runner = Runner(operations, 2)

    async def run(*names: str) -> None:
        run = tuple(Operation(index, str(index), "POST", "/act", name) for index, name in enumerate(names))
        with runner.result_memory.for_chunk() as results:
            await runner.run_chunk(Chunk("b", "0", 1, run), SOURCE, Stop(), lambda _: None, results=results)

    waiting = asyncio.create_task(run("short", "short", "wait"))
    await is_waiting.wait()
    await run("long")
    after_long = runner.result_memory._estimates["POST /act"]
    may_end.set()
    await waiting
    assert 0 < runner.result_memory._estimates["POST /act"] < after_long
