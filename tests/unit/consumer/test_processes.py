"""A parent keeps its consumers running, and stops them all."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from penstock.backoff import Backoff
from penstock.clock import SystemClock
from penstock.consumer.processes import IDLE_DEATHS, Deaths, Life, Processes
from penstock.consumer.progress import STARTED, WORKED, Progress
from penstock.telemetry import Event
from tests.support.waiting import eventually

KILLED = -9
AT_ONCE = Backoff(base_seconds=0.001, max_seconds=0.001)
HOURS = Backoff(base_seconds=1e6, max_seconds=1e6)

# Each run leaves a line with its process id.
LIVE = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'a'), flush=True); time.sleep(60)"
DIE = "import os, sys; print(os.getpid(), file=open(sys.argv[1], 'a'), flush=True); sys.exit(3)"
END = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[2])))
print("begun", file=open(sys.argv[1], "a"), flush=True)
time.sleep(60)
"""


def command(program: str, journal: Path) -> list[str]:
    return [sys.executable, "-c", program, str(journal)]


def runs(journal: Path) -> list[str]:
    return journal.read_text().split() if journal.exists() else []


async def until_runs(journal: Path, count: int) -> None:
    async def has_run() -> bool:
        return len(runs(journal)) >= count

    await eventually(has_run)


async def test_dead_are_started_anew_and_the_others_left_alone(tmp_path: Path) -> None:
    dying, living = tmp_path / "dying", tmp_path / "living"
    processes = Processes([command(DIE, dying), command(LIVE, living)], SystemClock(), AT_ONCE)
    with capture_logs() as logs:
        running = asyncio.create_task(processes.run())
        await until_runs(dying, 3)
        await until_runs(living, 1)
        processes.stop()
        await running
    assert len(runs(living)) == 1
    died = [log for log in logs if log["event"] == Event.CONSUMER_DIED]
    assert len(died) >= 2
    assert {(log["number"], log["exit_code"]) for log in died} == {(0, 3)}


async def test_stop_reaches_the_others_if_one_has_just_died(tmp_path: Path) -> None:
    living = tmp_path / "living"
    processes = Processes([command(LIVE, living)], SystemClock(), AT_ONCE)
    running = asyncio.create_task(processes.run())
    await until_runs(living, 1)
    dead = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await dead.wait()
    processes._running = {-1: dead, **processes._running}  # the dead one comes first
    processes.stop()
    async with asyncio.timeout(10):
        await running


async def test_stop_ends_them_all_and_does_not_wait_for_a_restart(tmp_path: Path) -> None:
    dead, living = tmp_path / "dead", tmp_path / "living"
    processes = Processes([command(DIE, dead), command(LIVE, living)], SystemClock(), HOURS)
    running = asyncio.create_task(processes.run())
    await until_runs(dead, 1)
    await until_runs(living, 1)
    processes.stop()
    processes.stop()
    async with asyncio.timeout(10):
        await running
    assert len(runs(dead)) == 1


async def test_one_that_has_only_begun_to_start_may_die_of_being_asked(tmp_path: Path) -> None:
    """It does not listen to signals yet, and has received nothing."""
    journal = tmp_path / "journal"
    processes = Processes([command(LIVE, journal)], SystemClock(), HOURS)
    running = asyncio.create_task(processes.run())
    await until_runs(journal, 1)
    processes.stop()
    assert await running is True


@pytest.mark.parametrize(("codes", "is_well"), [([0, 0], True), ([0, 7], False)])
async def test_what_does_not_end_well_is_told(codes: list[int], is_well: bool, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    processes = Processes([[*command(END, journal), str(code)] for code in codes], SystemClock(), HOURS)
    running = asyncio.create_task(processes.run())
    await until_runs(journal, 2)
    processes.stop()
    assert await running is is_well


# --- Giving up


def deaths_of(*lives: tuple[float, Life]) -> tuple[Deaths, Life, float]:
    deaths = Deaths()
    for at, life in lives:
        deaths.add(life, at)
    at, last = lives[-1]
    return deaths, last, at


CANNOT_START = Life(exit_code=1, seconds=1, progress=b"")
KILLED_EARLY = Life(exit_code=KILLED, seconds=1, progress=b"")
KILLED_IDLE = Life(exit_code=KILLED, seconds=1, progress=STARTED)
KILLED_BUSY = Life(exit_code=KILLED, seconds=1, progress=STARTED + WORKED)


@pytest.mark.parametrize(
    ("lives", "are_hopeless"),
    [
        ([(0, CANNOT_START)], True),
        ([(0, KILLED_EARLY)], False),  # by somebody else, such as the kernel when memory is short
        ([(0, KILLED_IDLE)], False),
        ([(at, KILLED_IDLE) for at in (0, 10, 20, 30)], False),
        ([(at, KILLED_IDLE) for at in (0, 10, 20, 30, 60)], True),
        ([(at, KILLED_IDLE) for at in (0, 10, 20, 30, 60.1)], False),  # more than a minute
        ([(at, KILLED_IDLE) for at in (0, 30, 50, 60, 70, 80)], True),  # the last five
        ([(at, KILLED_BUSY) for at in range(20)], False),  # an operation may be to blame
        ([(0, KILLED_IDLE), (1, KILLED_IDLE), (2, KILLED_BUSY), *[(at, KILLED_IDLE) for at in (3, 4, 5)]], False),
    ],
)
def test_restarts_end_only_where_they_cannot_help(lives: list[tuple[float, Life]], are_hopeless: bool) -> None:
    deaths, last, at = deaths_of(*lives)
    assert deaths.are_hopeless(last, at) is are_hopeless


@pytest.mark.parametrize(
    ("last", "in_a_row"),
    [(KILLED_IDLE, 3), (CANNOT_START, 3), (KILLED_BUSY, 1), (Life(KILLED, seconds=60, progress=STARTED), 1)],
)
def test_wait_for_a_restart_grows_only_with_runs_that_did_no_work(last: Life, in_a_row: int) -> None:
    deaths, _, _ = deaths_of((0, KILLED_IDLE), (1, KILLED_IDLE), (100, last))
    assert deaths.in_a_row == in_a_row


async def test_consumer_that_cannot_start_stops_all_of_them(tmp_path: Path) -> None:
    failing, living = tmp_path / "failing", tmp_path / "living"
    processes = Processes([command(DIE, failing), command(LIVE, living)], SystemClock(), AT_ONCE, gives_up=True)
    with capture_logs() as logs:
        async with asyncio.timeout(30):
            assert await processes.run() is False
    assert len(runs(failing)) == 1
    [said] = [log for log in logs if log["event"] == Event.CONSUMER_HOPELESS]
    assert (said["number"], said["exit_code"]) == (0, 3)


KILL_ITSELF = """
import os, signal, sys
print(os.getpid(), file=open(sys.argv[1], "a"), flush=True)
os.write(int(sys.argv[-1]), sys.argv[2].encode())
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("killed_by", ["SIGKILL", "SIGTERM"])
async def test_five_deaths_without_work_stop_all_of_them(killed_by: str, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    program = KILL_ITSELF.replace("SIGKILL", killed_by)
    processes = Processes([[*command(program, journal), "s"]], SystemClock(), AT_ONCE, gives_up=True)
    async with asyncio.timeout(30):
        assert await processes.run() is False
    assert len(runs(journal)) == IDLE_DEATHS


async def test_consumer_that_dies_at_work_is_always_restarted(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    processes = Processes([[*command(KILL_ITSELF, journal), "sw"]], SystemClock(), AT_ONCE, gives_up=True)
    running = asyncio.create_task(processes.run())
    await until_runs(journal, IDLE_DEATHS + 2)
    processes.stop()
    await running


HAND_DOWN = """
import os, signal, sys
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
predecessor = options.get("--give-back")
if predecessor is not None:
    print(os.pread(int(predecessor), 99, 0).decode(), file=open(sys.argv[1], "a"), flush=True)
os.write(int(options["--journal-to"]), str(os.getpid()).encode())
os.write(int(options["--progress-to"]), b"sw")
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_successor_gets_the_journal_of_the_consumer_that_died_before_it(tmp_path: Path) -> None:
    journals = tmp_path / "journals"
    processes = Processes([command(HAND_DOWN, journals)], SystemClock(), AT_ONCE)
    running = asyncio.create_task(processes.run())
    await until_runs(journals, 3)
    processes.stop()
    await running
    assert len(set(runs(journals))) == len(runs(journals))


def test_each_step_is_reported_once() -> None:
    reading, writing = os.pipe()
    progress = Progress(writing)
    for step in (STARTED, WORKED, STARTED, WORKED):
        progress.report(step)
    assert os.read(reading, 16) == STARTED + WORKED
    os.close(reading)
    progress = Progress(writing)
    progress.report(STARTED)  # nobody reads any more: nothing happens
    os.close(writing)
