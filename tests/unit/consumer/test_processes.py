"""A parent keeps its consumers running, and stops them all."""

import asyncio
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from penstock.backoff import Backoff
from penstock.clock import SystemClock
from penstock.consumer.processes import Processes
from penstock.telemetry import Event
from tests.support.waiting import eventually

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
