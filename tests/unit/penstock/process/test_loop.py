"""The event loop of a program ends with its main task: neither earlier, nor because of what handlers leave behind."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from penstock.process import loop
from penstock.telemetry import Event
from tests.support.waiting import UNIT_SECONDS


@pytest.fixture(autouse=True)
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "ENDING_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def handled_ctrl_c() -> Iterator[None]:
    """Handle SIGINT, as every program does."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)


async def raise_it(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_task_that_raises_what_ends_programs_ends_only_itself(error: BaseException) -> None:
    async def main() -> list[object]:
        child = asyncio.create_task(raise_it(error))
        others = [asyncio.create_task(asyncio.sleep(0, number)) for number in range(3)]
        return [*await asyncio.gather(child, return_exceptions=True), *await asyncio.gather(*others)]

    with capture_logs() as logs:
        assert loop.run(main()) == [error, 0, 1, 2]
    assert [line["event"] for line in logs] == [Event.EXIT_IGNORED]


def test_main_task_ends_the_program() -> None:
    with pytest.raises(SystemExit):
        loop.run(raise_it(SystemExit(3)))


def test_ctrl_c_ends_a_program_that_does_not_handle_it_yet() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        await asyncio.sleep(10 * UNIT_SECONDS)

    with pytest.raises(KeyboardInterrupt):
        loop.run(main())


def test_tasks_that_are_left_are_cancelled() -> None:
    ended: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def rest() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("rest")

    async def main() -> None:
        tasks.append(asyncio.create_task(rest()))
        await asyncio.sleep(0)
        ended.append("main")

    loop.run(main())
    assert ended == ["main", "rest"]


PROGRAM = """
import asyncio, sys, time
from penstock.process import ending, loop

async def stubborn():
    while True:
        try:
            await asyncio.sleep(600)
        except:
            pass

async def generate():
    try:
        yield
    finally:
        await stubborn()

async def main():
    kept.append(generate())
    await anext(kept[0])
    kept.append(asyncio.create_task(stubborn()))
    kept.append(asyncio.create_task(asyncio.to_thread(time.sleep, 600)))
    await asyncio.sleep(0.1)
    {end}

kept = []
with ending.ending_process():
    loop.run(main())
    sys.exit({code})
"""


@pytest.mark.parametrize(
    ("end", "code", "exit_code", "words"),
    [
        ("", "None", 0, ""),
        ("", "7", 7, ""),
        ("", "'It was stuck.'", 1, "It was stuck."),
        ("raise ValueError('a bug')", "0", 1, "ValueError: a bug"),
    ],
)
def test_program_ends_whatever_handlers_have_left_behind(end: str, code: str, exit_code: int, words: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(end=end, code=code)]
    program = subprocess.run(command, capture_output=True, text=True, timeout=30 * UNIT_SECONDS, check=False)
    assert (program.returncode, words in program.stderr) == (exit_code, True), program.stderr
