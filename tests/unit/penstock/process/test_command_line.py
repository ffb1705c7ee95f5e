"""A command ends as other programs do if nobody reads its output, and with a sentence if a disk is full."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import typer
from penstock.process.command_line import run

def program(words: str) -> None:
    {write}

run("test", program, exit_code=2)
"""
# With typer the command fails. Without, the words stay in a buffer until it has ended.
PROGRAMS = [PROGRAM.format(write="typer.echo(words)"), PROGRAM.format(write="sys.stdout.write(words)")]


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": request.param}


@pytest.mark.parametrize("program", PROGRAMS)
def test_command_ends_by_sigpipe_if_nobody_reads_its_output(program: str, environment: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-c", program, "words"]
    ended = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, check=False, env=environment)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Only Linux has a device that is always full.")
@pytest.mark.parametrize("program", PROGRAMS)
def test_full_disk_is_told_in_one_sentence_and_is_no_failed_operation(
    program: str, environment: dict[str, str]
) -> None:
    with Path("/dev/full").open("wb") as full:
        words = [sys.executable, "-c", program, "words"]
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False, text=True, env=environment)
    sentence = "penstock test: The output could not be written: No space left on device.\n"
    assert (ended.returncode, ended.stderr) == (2, sentence)
