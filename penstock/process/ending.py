"""The end of a process whose tasks or threads may not end. The command line imports this, so it loads quickly."""

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

ENDING_SECONDS = 1.0  # for what the main task has left to end after its cancellation, and then for threads

unfinished: list[asyncio.Runner] = []  # runners with tasks that do not end. When freed, they would be run once more


@contextlib.contextmanager
def ending_process() -> Iterator[None]:
    """Exit at the end of the block as Python does, but do not wait for its tasks and threads if they never end."""
    others = threading.enumerate()
    try:
        yield
    except SystemExit as exit_:
        if not _has_ended(others):
            _exit(exit_.code)
        raise
    except BaseException:
        if not _has_ended(others):
            sys.excepthook(*sys.exc_info())
            _exit(1)
        raise


def _has_ended(others: Sequence[threading.Thread]) -> bool:
    """Return True if no task and no thread keeps this process from ending, apart from the other threads."""
    if unfinished:
        return False
    until = time.monotonic() + ENDING_SECONDS
    for thread in threading.enumerate():
        if not thread.daemon and thread not in others:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                return False
    return True


def _exit(code: object) -> NoReturn:
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)  # noqa: T201 - as Python does
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
