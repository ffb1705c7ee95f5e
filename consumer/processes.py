"""Runs several consumers on one machine (`penstock consume --processes N`), each in a process of its own.

One process has one event loop, so it uses one core. The parent starts the consumers, restarts those that die, and
passes on the request to stop. It receives no chunks itself.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.backoff import Backoff
from penstock.clock import Clock
from penstock.consumer.journal import open_file
from penstock.consumer.progress import STARTED, WORKED
from penstock.process import programs
from penstock.process.signals import stop_signals
from penstock.telemetry import Event, get_log
from penstock.waiting import happens

RESTART = Backoff(base_seconds=1, max_seconds=30)
CLEAN_EXITS = {0, -signal.SIGTERM}  # it drained; or SIGTERM came before it listened to signals and received chunks
HEALTHY_SECONDS = 60.0  # if a consumer lived this long, its start was not the problem: its deaths count from 1 again
IDLE_DEATHS = 5
IDLE_DEATHS_SECONDS = 60.0
PROGRESS_BYTES = 16


@dataclass(frozen=True, slots=True)
class Life:
    """One run of a consumer process: how it ended, how long it lived, and the progress that it reported."""

    exit_code: int
    seconds: float
    progress: bytes

    @property
    def could_not_start(self) -> bool:
        """Return True if it ended with an error before it received chunks. The next run would end in the same way."""
        return self.exit_code > 0 and STARTED not in self.progress

    @property
    def was_idle(self) -> bool:
        """Return True if it never received a chunk, so that no operation can have killed it."""
        return WORKED not in self.progress


@dataclass(slots=True)
class Deaths:
    """The deaths of one consumer. They decide how long a restart waits, and whether there is a restart at all. Pure.

    The wait grows only with runs that did no work. A consumer that died at work can start, and its work waits.
    """

    in_a_row: int = 0
    _idle_at: deque[float] = field(default_factory=lambda: deque(maxlen=IDLE_DEATHS))

    def add(self, life: Life, now: float) -> None:
        could_run = life.seconds >= HEALTHY_SECONDS or not life.was_idle
        self.in_a_row = 1 if could_run else self.in_a_row + 1
        if life.was_idle:
            self._idle_at.append(now)
        else:
            self._idle_at.clear()

    def are_hopeless(self, life: Life, now: float) -> bool:
        """Return True if a restart cannot help: the last run could not start, or five idle runs died in a minute."""
        too_many = len(self._idle_at) == IDLE_DEATHS and now - self._idle_at[0] <= IDLE_DEATHS_SECONDS
        return life.could_not_start or too_many


class Processes:
    """Runs one process for each of `commands`: `run` until `stop` is called and all of them have drained.

    With `gives_up`, a consumer that cannot run stops all of them. Without it, restarts go on for ever.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        clock: Clock,
        restart: Backoff = RESTART,
        *,
        gives_up: bool = False,
    ) -> None:
        self._commands = commands
        self._clock = clock
        self._restart = restart
        self._gives_up = gives_up
        self._stopping = asyncio.Event()
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._journals: dict[int, int] = {}  # of the last run of each process: its successor gives back what it held

    def stop(self) -> None:
        """Ask all processes to drain. May be called again."""
        self._stopping.set()
        for process in self._running.values():
            _terminate(process)

    async def run(self) -> bool:
        """Return True if every process that was asked to stop exited cleanly, False also after giving up."""
        try:
            codes = await asyncio.gather(*map(self._keep_running, range(len(self._commands))))
        finally:
            for journal in self._journals.values():
                os.close(journal)
        return CLEAN_EXITS.issuperset(codes)

    async def _keep_running(self, number: int) -> int:
        """Keep one process running; return its exit code once all of them stop."""
        deaths = Deaths()
        while True:
            life = await self._run(number)
            if self._stopping.is_set():
                return life.exit_code
            now = self._clock.monotonic()
            deaths.add(life, now)
            if self._gives_up and deaths.are_hopeless(life, now):
                get_log().error(Event.CONSUMER_HOPELESS, number=number, exit_code=life.exit_code)
                self.stop()
                return 1  # also if somebody killed it with SIGTERM, which is a clean exit after a request to stop
            if await self._stops_before_restart(number, life, deaths.in_a_row):
                return 0

    async def _stops_before_restart(self, number: int, life: Life, deaths: int) -> bool:
        """Wait before a restart; return True if the request to stop came first."""
        wait = self._restart.delay_seconds(deaths, random.random())  # noqa: S311 - spreads restarts
        get_log().error(Event.CONSUMER_DIED, number=number, exit_code=life.exit_code, restart_in_seconds=round(wait, 1))
        return await happens(self._stopping, wait)

    async def _run(self, number: int) -> Life:
        started_at = self._clock.monotonic()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        journal = open_file()
        try:
            code = await self._run_process(number, writing, journal)
            return Life(code, self._clock.monotonic() - started_at, _read_progress(reading))
        finally:
            os.close(reading)
            self._replace_journal(number, journal)

    def _replace_journal(self, number: int, journal: int) -> None:
        before = self._journals.get(number)
        self._journals[number] = journal
        if before is not None:
            os.close(before)

    async def _run_process(self, number: int, progress: int, journal: int) -> int:
        predecessor = self._journals.get(number)
        giving_back = [] if predecessor is None else ["--give-back", str(predecessor)]
        options = [*giving_back, "--journal-to", str(journal), "--progress-to", str(progress)]
        try:
            process = await asyncio.create_subprocess_exec(
                *(*self._commands[number], *options),
                pass_fds=[progress, journal, *([] if predecessor is None else [predecessor])],
                # A session of its own: Ctrl-C reaches the parent alone, which passes it on.
                start_new_session=True,
            )
        finally:
            os.close(progress)
        self._running[number] = process
        try:
            if self._stopping.is_set():
                _terminate(process)
            return await process.wait()
        finally:
            del self._running[number]


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just died by itself, and its task has not run since
        process.terminate()


def _read_progress(descriptor: int) -> bytes:
    """Return the steps that a process has written so far, without waiting for more."""
    try:
        return os.read(descriptor, PROGRESS_BYTES)
    except BlockingIOError:
        return b""


async def run_processes(
    count: int, arguments: Sequence[str], health_port: int | None, clock: Clock, *, gives_up: bool = False
) -> int:
    """Run `count` consumers until a signal asks to stop, and return the exit code of the program.

    Consumer k, counted from 0, answers for its health on port `health_port + k`.
    """
    base = programs.command("penstock.consumer", *arguments, "--exit-with-parent", str(os.getpid()))
    ports = [[] if health_port is None else ["--health-port", str(health_port + number)] for number in range(count)]
    processes = Processes([[*base, *port] for port in ports], clock, gives_up=gives_up)
    stopping = asyncio.create_task(stop_signals(), name="signals")
    stopping.add_done_callback(lambda _: processes.stop())
    await asyncio.sleep(0)  # signals are listened to before the first process starts
    try:
        return 0 if await processes.run() else 1
    finally:
        stopping.cancel()
