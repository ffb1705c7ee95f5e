"""Ends a process whose event loop has been blocked by a handler for too long.

A consumer with a blocked loop sends no heartbeats, so its chunks go to other consumers. A front end answers nothing,
and its clients repeat their requests. But the process itself would hang forever. The watchdog ends it as if it had
crashed, and prints the stack of every thread. The operation that blocked the loop is then isolated like any other
poison.

A loop in C that holds Python's lock, as `re` and `sum` do, blocks the thread of the watchdog, too. So the kernel counts
the CPU time since that thread last ran, and ends the process by a signal. A process that was suspended as a whole uses
none.
"""

import asyncio
import faulthandler
import os
import signal
import sys
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
        # Threads that do not need Python's lock may use all cores in the meantime.
        self._most_cpu_seconds = stall_seconds * (os.cpu_count() or 1)
        self._ticks = 0
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the running event loop inside the `with` block."""
        _print_stacks_at_cpu_limit()
        _limit_cpu(self._most_cpu_seconds)
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
            _limit_cpu(self._most_cpu_seconds)
            self._ticks += 1
            if self._ticks > self._most_ticks:
                get_log().error(Event.LOOP_BLOCKED, seconds=self._ticks * TICK_SECONDS)
                faulthandler.dump_traceback()
                os._exit(EXIT_CODE)
        _limit_cpu(0)


if sys.platform == "win32":  # it has no such timer

    def _print_stacks_at_cpu_limit() -> None: ...

    def _limit_cpu(seconds: float) -> None: ...

else:

    def _print_stacks_at_cpu_limit() -> None:
        """Print the stack of every thread before the signal of the limit ends the process. This needs no lock."""
        faulthandler.register(signal.SIGVTALRM, chain=True)

    def _limit_cpu(seconds: float) -> None:
        """Let the kernel end this process after it has computed for so many seconds. 0 removes the limit."""
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
