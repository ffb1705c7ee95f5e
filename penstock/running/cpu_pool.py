"""Runs `cpu_bound` handlers, each in a process of a pool.

Unlike a thread a process can be killed: when a handler's time is up, or the run is cut, its process ends with it, and
another takes its place. When a process dies by itself, that concerns the operation it was at and no other.

    parent: load a handler ──► worker imports it ──► parent: perform an operation ──► worker answers with its verdict

Workers are programs of our own and not of `multiprocessing`, which would import the parent's main program in each of
them, and whose executor is broken as a whole when one worker dies. They are spoken to over pipes, on the event loop.
"""

import asyncio
import contextlib
import os
import pickle
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from penstock.chunk import Operation
from penstock.errors import Misconfigured
from penstock.outcome import Verdict
from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.route import InvalidOperation, Place, Policy, Route
from penstock.running.slots import Slots
from penstock.running.verdict import WorkerDied

LOAD_SECONDS = 60.0  # what starting a process and importing a handler may take; none of it is the operation's time
ENDING_SECONDS = 5.0  # with a core dump
HEADER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Load:
    """Import a handler. `handler` is pickled, which is to say: the name to import it by; `paths` is where to look."""

    handler: bytes
    paths: tuple[str, ...]
    method: str
    path: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Job:
    """Perform an operation with the handler loaded as `route`. `fields` are those of the log lines about it."""

    route: str
    operation: Operation
    batch_id: str
    attempt: int
    key: str
    has_transaction: bool
    fields: dict[str, Any]
    headers: dict[str, str]


class CpuPool:
    """`size` processes at most, started when they are needed. Take room with `acquire`, use a `worker`, `release`."""

    def __init__(
        self,
        size: int,
        routes: Iterable[Route],
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises Misconfigured when a handler cannot be imported by its name."""
        self._room = Slots(size, weights, monotonic)
        self._idle: list[Worker] = []
        self._ending: set[asyncio.Task[int]] = set()
        self._loads = {route.name: _load(route) for route in routes if route.place is Place.PROCESS}

    async def acquire(self, priority: Priority, tenant: str) -> None:
        await self._room.acquire(priority, tenant)

    def release(self, priority: Priority) -> None:
        self._room.release(priority)

    @asynccontextmanager
    async def worker(self, route: Route) -> AsyncIterator["Worker"]:
        """A process that has imported the handler. It is killed when what is done with it does not end well."""
        worker = await self._take()
        try:
            await worker.load(route.name, self._load_of(route))
            yield worker
        except BaseException:
            self._kill(worker)
            raise
        self._idle.append(worker)

    async def close(self) -> None:
        """Kill all processes, and wait until they have ended."""
        while self._idle:
            self._kill(self._idle.pop())
        if self._ending:
            await asyncio.wait(self._ending)

    def _load_of(self, route: Route) -> Load:
        load = self._loads.get(route.name)
        if load is None:  # it was registered after the pool was made
            load = self._loads[route.name] = _load(route)
        return load

    async def _take(self) -> "Worker":
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            self._kill(worker)
        return await start_worker()

    def _kill(self, worker: "Worker") -> None:
        ending = asyncio.create_task(worker.kill(), name="a worker ends")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


class Worker:
    """One process, one operation at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._loaded: set[str] = set()

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def load(self, name: str, load: Load) -> None:
        """Raises whatever stood in the way of importing the handler."""
        if name in self._loaded:
            return
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                failure = await self._ask(load)
        except TimeoutError:
            failure = f"not within {LOAD_SECONDS:g} s"
        if failure is not None:
            raise ImportError(f"The process could not import the handler: {failure}.")
        self._loaded.add(name)

    async def perform(self, job: Job) -> Verdict | InvalidOperation:
        """The verdict, or why the handler does not take the operation."""
        answer: Verdict | InvalidOperation = await self._ask(job)
        return answer

    async def kill(self) -> int:
        """And all that its handlers have started, also when it has died by itself: it leads a group of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return await self._process.wait()

    async def _end(self) -> int:
        """Its pipes are closed, a moment before it has ended of what it dies of: killed now, it would tell of that."""
        try:
            async with asyncio.timeout(ENDING_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            return await self.kill()

    async def _ask(self, request: Load | Job) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        content = pickle.dumps(request)
        try:
            self._process.stdin.write(len(content).to_bytes(HEADER_BYTES) + content)
            await self._process.stdin.drain()
            size = int.from_bytes(await self._process.stdout.readexactly(HEADER_BYTES))
            answer = await self._process.stdout.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise WorkerDied(_how_it_ended(await self._end())) from error
        return pickle.loads(answer)  # noqa: S301 - from a process of our own


async def start_worker() -> Worker:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock.running.cpu_worker", "--exit-with-parent", str(os.getpid())),
        stdin=PIPE,
        stdout=PIPE,
        # A session of its own: Ctrl-C is for the parent, which decides what becomes of the operations. And so that it
        # can be killed with all that it has started.
        start_new_session=True,
    )
    return Worker(process)


def count_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(route: Route) -> Load:
    try:
        return Load(pickle.dumps(route.handler), tuple(sys.path), route.method, route.path, route.policy)
    except (pickle.PicklingError, AttributeError) as error:
        raise Misconfigured(
            f"Let the handler of {route.name} be what its module knows by its name, without another decorator around: "
            f"cpu_bound=True runs it in another process, which imports it ({error})."
        ) from error


def _how_it_ended(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
