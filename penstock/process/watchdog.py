"""Ends a process whose event loop has been blocked by a handler for too long.

A consumer with a blocked loop sends no heartbeats, so its chunks go to other consumers. A front end answers nothing,
and its clients repeat their requests. But the process itself would hang forever. The watchdog ends it as if it had
crashed, and prints the stack of every thread. The operation that blocked the loop is then isolated like any other
poison.
"""

import asyncio
import faulthandler
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.telemetry import Event, get_log

EXIT_CODE = 70  # "internal software error" of sysexits.h
TICK_SECONDS = 1.0


class Watchdog:
    """Counts its own ticks since the loop last ran.

    It does not compare times: a process that was suspended as a whole (SIGSTOP) is not blocked, and does not tick.
    """

    def __init__(self, stall_seconds: float) -> None:
        self._most_ticks = max(2, round(stall_seconds / TICK_SECONDS))
        self._ticks = 0
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the running event loop inside the `with` block."""
        beating = asyncio.get_running_loop().create_task(self._beat(), name="watchdog")
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            self._ticks = 0
            await asyncio.sleep(TICK_SECONDS)

    def _watch(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            self._ticks += 1
            if self._ticks > self._most_ticks:
                get_log().error(Event.LOOP_BLOCKED, seconds=self._ticks * TICK_SECONDS)
                faulthandler.dump_traceback()
                os._exit(EXIT_CODE)
