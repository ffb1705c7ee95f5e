"""Several consumers on one machine, `penstock consume --processes N`: a process has one loop, so it uses one core.

The parent starts them, starts anew whichever dies, and passes on the request to stop. It receives nothing itself.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import Sequence

from penstock.backoff import Backoff
from penstock.clock import Clock
from penstock.signals import stop_signals
from penstock.telemetry import Event, get_log

RESTART = Backoff(base_seconds=1, max_seconds=30)
ENDED_WELL = {0, -signal.SIGTERM}  # asked to stop, it drained; or it had not got so far as to listen, nor to receive
HEALTHY_SECONDS = 60.0  # one that lived so long did not die of how it was started: its deaths are counted anew


class Processes:
    """Its life: `run` until `stop` is called, then wait for all of them to drain."""

    def __init__(self, commands: Sequence[Sequence[str]], clock: Clock, restart: Backoff = RESTART) -> None:
        self._commands = commands
        self._clock = clock
        self._restart = restart
        self._stopping = asyncio.Event()
        self._running: dict[int, asyncio.subprocess.Process] = {}

    def stop(self) -> None:
        """Ask all to drain. May be called twice."""
        self._stopping.set()
        for process in self._running.values():
            process.terminate()

    async def run(self) -> bool:
        """Whether all that were asked to stop ended well."""
        codes = await asyncio.gather(*map(self._keep, range(len(self._commands))))
        return ENDED_WELL.issuperset(codes)

    async def _keep(self, number: int) -> int:
        """Keep one process running; its exit code once we are to stop."""
        deaths = 0
        while True:
            begun_at = self._clock.monotonic()
            code = await self._run(number)
            if self._stopping.is_set():
                return code
            deaths = 1 if self._clock.monotonic() - begun_at >= HEALTHY_SECONDS else deaths + 1
            wait = self._restart.delay_seconds(deaths, random.random())  # noqa: S311 - spreads restarts
            get_log().error(Event.CONSUMER_DIED, number=number, exit_code=code, restart_in_seconds=round(wait, 1))
            try:
                async with asyncio.timeout(wait):
                    await self._stopping.wait()
                return 0
            except TimeoutError:
                pass

    async def _run(self, number: int) -> int:
        # A session of its own: Ctrl-C reaches the parent alone, which passes it on.
        process = await asyncio.create_subprocess_exec(*self._commands[number], start_new_session=True)
        self._running[number] = process
        try:
            if self._stopping.is_set():
                process.terminate()
            return await process.wait()
        finally:
            del self._running[number]


async def run_processes(count: int, arguments: Sequence[str], health_port: int | None, clock: Clock) -> int:
    """The exit code. Process k answers for its health on port `health_port + k`, k from 0."""
    base = [sys.executable, "-m", "penstock.consumer", *arguments, "--exit-with-parent", str(os.getpid())]
    ports = [[] if health_port is None else ["--health-port", str(health_port + number)] for number in range(count)]
    processes = Processes([[*base, *port] for port in ports], clock)
    stopping = asyncio.create_task(stop_signals(), name="signals")
    stopping.add_done_callback(lambda _: processes.stop())
    await asyncio.sleep(0)  # signals are listened to before the first one is started
    try:
        return 0 if await processes.run() else 1
    finally:
        stopping.cancel()
