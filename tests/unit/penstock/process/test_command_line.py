"""A command ends as other programs do if nobody reads its output, and with a sentence if a disk is full."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import typer
from penstock.process.command_line import run

def program(words: str) -> None:
    typer.echo(words)

run("test", program, exit_code=2)
"""


def test_command_ends_by_sigpipe_if_nobody_reads_its_output() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-c", PROGRAM, "words"]
    ended = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Only Linux has a device that is always full.")
def test_full_disk_is_told_in_one_sentence_and_is_no_failed_operation() -> None:
    with Path("/dev/full").open("wb") as full:
        words = [sys.executable, "-c", PROGRAM, "words"]
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False, text=True)
    sentence = "penstock test: The output could not be written: No space left on device.\n"
    assert (ended.returncode, ended.stderr) == (2, sentence)
