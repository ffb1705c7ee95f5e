"""The protocol of a floor's program: it reads commands as lines on standard input and answers with lines of JSON."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from penstock.process import loop
from penstock.process.signals import end_with_parent


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a floor on the same event loop as Penstock. It exits when the named parent process ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--exit-with-parent", type=int, required=True, metavar="PID")
    end_with_parent(parser.parse_args().exit_with_parent)
    loop.run(main)


async def commands() -> AsyncIterator[list[str]]:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield line.split()


def say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()
