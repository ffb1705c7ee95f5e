"""A command whose output nobody reads ends as other programs do."""

import os
import signal
import subprocess
import sys

PROGRAM = """
import typer
from penstock.process.command_line import run

def program(words: str) -> None:
    typer.echo(words)

run("test", program)
"""


def test_command_ends_by_sigpipe_if_nobody_reads_its_output() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-c", PROGRAM, "words"]
    ended = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")
