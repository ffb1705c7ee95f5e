"""CPU-bound handlers: in processes that are killed when their time is up, and whose deaths concern nobody else."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
from structlog.testing import capture_logs

from penstock import Operations
from penstock.chunk import Chunk, Operation
from penstock.errors import Misconfigured
from penstock.metrics.meter import UNKNOWN_HANDLER, Meter
from penstock.outcome import Outcome, OutcomeState, TryAgain, Verdict, failed, result_value
from penstock.priority import Priority
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.running.stop import Stop
from penstock.running.verdict import error_id
from penstock.testing import FakeClock
from tests.support.attempts import run_one
from tests.support.cpu_toys import operations
from tests.support.waiting import UNIT_SECONDS, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")  # starting processes takes most of the time

SOURCE = Source("01J", "01J", tenant="shop")
TICK_SECONDS = 0.005


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runner() -> AsyncIterator[Runner]:
    runner = Runner(operations, 4, cpu_processes=1)
    yield runner
    await runner.close()


def make_operation(path: str, body: Any = None, index: int = 0) -> Operation:
    return Operation(index, f"op-{index}", "POST", path, body)


def make_chunk(*paths: str, body: Any = None) -> Chunk:
    return Chunk("01J", "17", 1, tuple(make_operation(path, body, index) for index, path in enumerate(paths)))


async def run(runner: Runner, path: str, body: Any = None) -> Verdict:
    async with runner.slot(operation := make_operation(path, body), SOURCE):
        return await run_one(runner, operation, SOURCE, 2)


async def result_of(runner: Runner, path: str, body: Any = None) -> Any:
    verdict = await run(runner, path, body)
    assert isinstance(verdict, Outcome)
    assert verdict.state is OutcomeState.SUCCEEDED, verdict
    return result_value(verdict.result)


def failure(status: int, title: str, detail: str, *, rejected: bool = False) -> Outcome:
    return failed(make_operation("/"), status, title, detail, rejected=rejected)


def is_running(pid: int) -> bool:
    """Not a zombie either, though whoever should wait for it may not have done so yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read_pid(note: Path) -> int:
    return int(note.read_text() or 0) if note.exists() else 0


async def noted(note: Path) -> int:
    return await eventually(lambda: asyncio.sleep(0, read_pid(note)))


async def until_ended(pid: int) -> None:
    await eventually(lambda: asyncio.sleep(0, not is_running(pid)))


async def test_handler_runs_in_another_process_that_serves_the_next_one_too(runner: Runner) -> None:
    assert await run(runner, "/double", {"n": 4}) == Outcome(0, "op-0", OutcomeState.SUCCEEDED, 201, result={"n": 8})
    first, second = await result_of(runner, "/where"), await result_of(runner, "/where")
    assert first == second != os.getpid()


async def test_process_imports_nothing_that_only_a_program_needs(runner: Runner) -> None:
    assert await result_of(runner, "/imported") == []


async def test_context_comes_along_without_the_transaction(runner: Runner) -> None:
    assert await result_of(runner, "/context") == ["op-0", "01J", 2, "01J/op-0", None, "shop"]


async def test_log_lines_of_the_process_say_what_they_are_about(runner: Runner) -> None:
    with structlog.contextvars.bound_contextvars(batch_id="01J", chunk_id="17"):
        assert await result_of(runner, "/log-fields") == {"program": "cpu worker", "batch_id": "01J", "chunk_id": "17"}


@pytest.mark.parametrize(
    ("path", "body", "verdict"),
    [
        ("/reject", None, failure(409, "Rejected", "Taken.", rejected=True)),
        ("/retry", None, TryAgain(failure(503, "Not performed", "Not yet."), 3, 7)),
        ("/throttled", None, TryAgain(failure(429, "Throttled", "Too fast."), 3, 2, uses_attempt=False)),
        ("/break", None, TryAgain(failure(500, "Broke", "ValueError: no"), 3)),
        ("/exit", None, TryAgain(failure(500, "Broke", "SystemExit: 3"), 3)),
        ("/interrupt", None, TryAgain(failure(500, "Broke", "KeyboardInterrupt"), 3)),
        ("/double", None, failure(422, "Invalid operation", "POST /double needs a body.", rejected=True)),
        # The process ends.
        ("/die/9", None, TryAgain(failure(500, "Broke", "Its process ended: exit code 9"), 3)),
        ("/die/0", None, TryAgain(failure(500, "Broke", "Its process ended: exit code 0"), 3)),
        ("/crash", None, TryAgain(failure(500, "Broke", "Its process ended: SIGSEGV"), 3)),
    ],
)
async def test_whatever_happens_in_the_process_becomes_a_verdict(
    runner: Runner, path: str, body: Any, verdict: Verdict
) -> None:
    with capture_logs():
        assert await run(runner, path, body) == verdict
    assert await result_of(runner, "/double", {"n": 1}) == {"n": 2}


async def test_words_of_an_exception_stay_in_the_log_of_the_process() -> None:
    runner = Runner(operations, 1, shows_errors=False)
    try:
        see_log = f"The log has the error under error_id {error_id('01J/op-0', 2)}."
        assert await run(runner, "/break") == TryAgain(failure(500, "Broke", f"The handler failed. {see_log}"), 3)
    finally:
        await runner.close()


async def test_result_that_json_cannot_hold_fails_for_good(runner: Runner) -> None:
    verdict = await run(runner, "/nonsense")
    assert isinstance(verdict, Outcome)
    assert (verdict.status, verdict.error and verdict.error["title"]) == (500, "Result is not JSON")


async def test_what_a_handler_prints_or_reads_is_none_of_ours(runner: Runner) -> None:
    assert not await result_of(runner, "/print")


async def test_large_results_come_whole(runner: Runner) -> None:
    assert len(await result_of(runner, "/large/1000000")) == 1_000_000


async def test_death_concerns_no_other_operation() -> None:
    runner = Runner(operations, 4, cpu_processes=2)
    with capture_logs():
        verdicts = await runner.run_chunk(
            make_chunk("/die/1", *["/where"] * 5, "/die/1", *["/where"] * 5), SOURCE, Stop(), lambda _: None
        )
    await runner.close()
    broke = [index for index, verdict in sorted(verdicts.items()) if isinstance(verdict, TryAgain)]
    assert broke == [0, 6]
    assert len(verdicts) == 12


# --- Really stopped


async def test_process_is_killed_when_its_time_is_up(runner: Runner, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    verdict = await run(runner, "/burn-a-moment", str(note))
    assert verdict == TryAgain(failure(504, "Timed out", "The operation was not done within 0.2 s."), 3)
    pid = await noted(note)
    await until_ended(pid)
    assert await result_of(runner, "/where") != pid


@pytest.mark.parametrize("path", ["/start-and-hang", "/start-and-die"])
async def test_what_a_handler_has_started_ends_with_its_process(runner: Runner, tmp_path: Path, path: str) -> None:
    note = tmp_path / "pid"
    with capture_logs():
        assert isinstance(await run(runner, path, str(note)), TryAgain)
    await until_ended(await noted(note))


async def test_what_a_handler_has_started_ends_also_when_its_process_died_between_two_operations(
    runner: Runner, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    os.kill(await result_of(runner, "/start", str(note)), signal.SIGKILL)
    [worker] = runner._cpu._idle
    await eventually(lambda: asyncio.sleep(0, not worker.is_alive))
    assert is_running(await noted(note))
    await result_of(runner, "/where")
    await until_ended(await noted(note))


async def test_starting_a_process_is_not_the_operations_time(tmp_path: Path) -> None:
    """Which is a fifth of a second here, less than starting Python and importing takes."""
    runner = Runner(operations, 1)
    await run(runner, "/burn-a-moment", str(tmp_path / "pid"))
    await runner.close()
    assert read_pid(tmp_path / "pid")


async def test_process_is_killed_when_the_run_is_cut(runner: Runner, tmp_path: Path) -> None:
    note, stop = tmp_path / "pid", Stop()
    chunk = make_chunk("/burn-for-ever", "/burn-for-ever", body=str(note))
    running = asyncio.create_task(runner.run_chunk(chunk, SOURCE, stop, lambda _: None))
    pid = await noted(note)
    stop.begin()
    stop.cut_off()
    assert await running == {}
    await until_ended(pid)


async def test_figures_are_of_the_handler_and_not_of_starting_its_process() -> None:
    meter = Meter()
    runner = Runner(operations, 1, meter=meter)
    begun_at = time.monotonic()
    await run(runner, "/where")
    took = time.monotonic() - begun_at
    spent = runner.take_spent()["POST /where"]
    await runner.close()
    [seconds] = [figures.seconds for figures in meter.take().handlers.values()]
    assert (seconds.count, seconds.total) == (1, spent.seconds)
    assert seconds.total < took / 2


async def test_what_the_process_finds_invalid_is_counted_as_on_the_loop() -> None:
    meter = Meter()
    runner = Runner(operations, 1, meter=meter)
    await run(runner, "/double")
    await runner.close()
    [(handler, figures)] = meter.take().handlers.items()
    assert (handler, figures.failed, figures.count, figures.seconds.count) == (UNKNOWN_HANDLER, 1, 1, 0)


async def test_closing_leaves_no_process() -> None:
    runner = Runner(operations, 1)
    pid = await result_of(runner, "/where")
    await runner.close()
    assert not is_running(pid)


async def test_process_that_died_between_two_operations_is_replaced(runner: Runner) -> None:
    pid = await result_of(runner, "/where")
    os.kill(pid, signal.SIGKILL)
    [worker] = runner._cpu._idle
    await eventually(lambda: asyncio.sleep(0, not worker.is_alive))
    with capture_logs():
        verdicts = [await run(runner, "/where") for _ in range(3)]
    assert [isinstance(verdict, Outcome) for verdict in verdicts] == [True] * 3


async def test_signals_to_stop_are_for_the_parent(runner: Runner) -> None:
    assert await result_of(runner, "/ignored-signals") == [True, True]
    pid = await result_of(runner, "/where")
    assert os.getpgid(pid) != os.getpgid(0)  # Ctrl-C does not even reach it


async def test_no_process_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    """Not even in the middle of an operation, where it reads nothing that would end."""
    note = tmp_path / "pid"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, str(note))
    pid = await noted(note)
    parent.kill()
    await parent.wait()
    await until_ended(pid)


PARENT = """
import asyncio, sys
from penstock.chunk import Operation
from penstock.priority import Priority
from penstock.running.runner import Runner
from penstock.running.source import Source
from tests.support.cpu_toys import operations

operation = Operation(0, "op-0", "POST", "/burn-for-ever", sys.argv[1])
asyncio.run(Runner(operations, 1).run((operation,), Source("01J", "01J"), 1))
"""


# --- Nobody starves


async def test_what_waits_for_a_process_holds_no_slot() -> None:
    runner = Runner(operations, 2, cpu_processes=1)
    chunk = make_chunk(*["/burn"] * 4, body=0.3)
    burning = asyncio.create_task(runner.run_chunk(chunk, SOURCE, Stop(), lambda _: None))
    verdicts = await runner.run_chunk(make_chunk(*["/async"] * 10), SOURCE, Stop(), lambda _: None)
    assert len(verdicts) == 10
    assert not burning.done()
    assert len(await burning) == 4
    await runner.close()


async def in_turn(path: str, *sources: Source) -> list[Source]:
    """The order in which operations run that all want the one thread, or the one process, at the same time."""
    clock = FakeClock()
    runner = Runner(operations, 4 if path == "/burn" else 1, clock.monotonic, cpu_processes=1)
    ran: list[Source] = []

    async def run_from(source: Source) -> None:
        async with runner.slot(operation := make_operation(path, 0.01), source):
            ran.append(source)
            assert isinstance(await run_one(runner, operation, source, 1), Outcome)
            clock.advance(0.5 if source.tenant == "long" else 0.2)

    await asyncio.gather(*map(run_from, sources))
    await runner.close()
    return ran


@pytest.mark.parametrize("path", ["/nap", "/burn"])
async def test_urgent_operations_are_next_in_threads_and_processes_too(path: str) -> None:
    low, high = (Source("01J", "01J", priority) for priority in (Priority.LOW, Priority.HIGH))
    assert await in_turn(path, low, low, low, high) == [low, high, low, low]


@pytest.mark.parametrize("path", ["/nap", "/burn"])
async def test_tenants_share_the_time_of_threads_and_processes_too(path: str) -> None:
    long, short = (Source("01J", "01J", tenant=tenant) for tenant in ("long", "short"))
    order = [long, short, short, short, long, short, short, long]
    assert await in_turn(path, *[long] * 3, *[short] * 5) == order


@pytest.mark.full
async def test_loop_stays_responsive_while_handlers_burn_every_core() -> None:
    """And more than that: as many processes as cores and two more."""
    runner = Runner(operations, 32, cpu_processes=(os.cpu_count() or 1) + 2)
    chunk = make_chunk(*["/burn"] * 24, body=0.25)
    burning = asyncio.create_task(runner.run_chunk(chunk, SOURCE, Stop(), lambda _: None))
    loop, lags = asyncio.get_running_loop(), []
    while not burning.done():
        due = loop.time() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        lags.append(loop.time() - due)
    assert len(await burning) == 24
    await runner.close()
    lags.sort()
    assert len(lags) > 100
    assert lags[int(0.99 * len(lags))] < 0.05 * UNIT_SECONDS


# --- Handlers that cannot be imported


def double(n: int) -> int:
    return 2 * n


async def test_handler_that_its_module_knows_as_something_else_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Operations()
    registry.post("/x", cpu_bound=True)(double)
    monkeypatch.setitem(globals(), "double", lambda n: n)
    with pytest.raises(Misconfigured, match="The handler of POST /x cannot be imported by its name"):
        Runner(registry, 1)


async def test_handler_that_the_process_cannot_import_is_tried_again_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Operations()
    registry.post("/x", cpu_bound=True)(double)
    monkeypatch.setattr(double, "__module__", "a_module_that_is_only_here")
    monkeypatch.setitem(sys.modules, "a_module_that_is_only_here", sys.modules[__name__])
    runner = Runner(registry, 1)
    with capture_logs():
        verdict = await run(runner, "/x", 1)
    await runner.close()
    assert isinstance(verdict, TryAgain)
    assert verdict.failure.error is not None
    assert "could not import the handler: ModuleNotFoundError" in verdict.failure.error["detail"]
