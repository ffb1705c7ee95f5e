"""A process whose loop is blocked ends itself and says where; one that was stopped as a whole does not."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from penstock.process.watchdog import EXIT_CODE
from tests.support.waiting import UNIT_SECONDS

STALL_SECONDS = 0.5
PROGRAM = """
import asyncio, sys, time
from penstock.process import watchdog

watchdog.TICK_SECONDS = 0.05

def block_the_loop():
    time.sleep(600)

def loop_in_c():
    sum(range(10**12))

async def main():
    with watchdog.Watchdog({stall}).watching():
        print("ready", flush=True)
        order = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if order.strip() == "block":
            block_the_loop()
        if order.strip() == "compute":
            loop_in_c()

asyncio.run(main())
"""


@contextmanager
def program() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM.format(stall=STALL_SECONDS)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def test_blocked_loop_ends_the_process_with_a_trace() -> None:
    with program() as blocked:
        logged, trace = blocked.communicate("block\n", timeout=60 * UNIT_SECONDS)
    assert blocked.returncode == EXIT_CODE
    assert "loop blocked" in logged + trace
    assert "in block_the_loop" in trace


@pytest.mark.full
def test_loop_in_c_that_holds_the_lock_ends_the_process_with_a_trace() -> None:
    with program() as blocked:
        _, trace = blocked.communicate("compute\n", timeout=60 * UNIT_SECONDS)
    assert blocked.returncode == -signal.SIGVTALRM
    assert "in loop_in_c" in trace


def test_loop_that_waits_is_not_blocked() -> None:
    with program() as waiting:
        time.sleep(3 * STALL_SECONDS)  # what is tested is that this much time does no harm
        waiting.communicate("end\n", timeout=60 * UNIT_SECONDS)
    assert waiting.returncode == 0


def test_stopped_process_goes_on_when_it_is_woken() -> None:
    with program() as stopped:
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(3 * STALL_SECONDS)
        stopped.send_signal(signal.SIGCONT)
        _, trace = stopped.communicate("end\n", timeout=60 * UNIT_SECONDS)
    assert (stopped.returncode, trace) == (0, "")
