"""Runs `cpu_bound` handlers, each in a process of a pool.

A process can be killed, unlike a thread. If a handler times out or is cut off, its process is killed and another one
replaces it. If a process dies by itself, only the operation it was running fails or is retried.

    parent: import a handler ──► worker imports it ──► parent: perform an operation ──► worker returns its verdict

The workers are a program of our own. `multiprocessing` would import the parent's main program in each of them, and its
executor stops working when one worker dies. The event loop exchanges messages with the workers over pipes.
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
from penstock.process import programs
from penstock.route import InvalidOperation, Place, Policy, Route
from penstock.running.slots import Slots
from penstock.running.verdict import WorkerDied

IMPORT_SECONDS = 60.0  # for starting a process and importing a handler; not part of the operation's time
ENDING_SECONDS = 5.0  # a process that crashes may write a core dump
HEADER_BYTES = 8


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """Asks a worker to import a handler.

    `handler` is pickled, so it holds just the name to import it by. `paths` are those of the parent's `sys.path`.
    """

    handler: bytes
    paths: tuple[str, ...]
    method: str
    path: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Job:
    """Asks a worker to perform an operation with the handler of `route`. `fields` go into the log lines about it."""

    route: str
    operation: Operation
    batch_id: str
    attempt: int
    key: str
    has_transaction: bool
    has_state: bool
    fields: dict[str, Any]
    headers: dict[str, str]
    tenant: str
    error_id: str | None  # stands for the words of an exception; None if the verdict has the words


class CpuPool:
    """At most `size` processes, which start when they are needed. Call `acquire`, use a `worker`, call `release`."""

    def __init__(
        self,
        size: int,
        routes: Iterable[Route],
        weights: Mapping[Priority, int] = DEFAULT_WEIGHTS,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        tenants_share: bool = False,
    ) -> None:
        """Raise Misconfigured if a handler cannot be imported by its name."""
        self._room = Slots(size, weights, monotonic, tenants_share=tenants_share)
        self._idle: list[Worker] = []
        self._ending: set[asyncio.Task[int]] = set()
        self._imports = {route.name: _import_request(route) for route in routes if route.place is Place.PROCESS}

    @property
    def are_wanted(self) -> bool:
        return self._room.are_wanted

    async def acquire(self, priority: Priority, tenant: str) -> None:
        await self._room.acquire(priority, tenant)

    def release(self, priority: Priority, tenant: str) -> None:
        self._room.release(priority, tenant)

    @asynccontextmanager
    async def worker(self, route: Route) -> AsyncIterator["Worker"]:
        """Lend a process that has imported the handler. It is killed if the caller leaves with an exception."""
        worker = await self._take()
        try:
            await worker.import_handler(route.name, self._import_of(route))
            yield worker
        except BaseException:
            self._kill(worker)
            raise
        self._idle.append(worker)

    async def close(self) -> None:
        """Kill all processes and wait until they have ended."""
        while self._idle:
            self._kill(self._idle.pop())
        if self._ending:
            await asyncio.wait(self._ending)

    def _import_of(self, route: Route) -> ImportRequest:
        request = self._imports.get(route.name)
        if request is None:  # the handler was registered after the pool was created
            request = self._imports[route.name] = _import_request(route)
        return request

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
    """A process that performs one operation at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._imported: set[str] = set()

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def import_handler(self, name: str, request: ImportRequest) -> None:
        """Import the handler, unless it has been imported before. Raise ImportError if that fails."""
        if name in self._imported:
            return
        try:
            async with asyncio.timeout(IMPORT_SECONDS):
                failure = await self._ask(request)
        except TimeoutError:
            failure = f"it took more than {IMPORT_SECONDS:g} s"
        if failure is not None:
            raise ImportError(f"The process could not import the handler: {failure}.")
        self._imported.add(name)

    async def perform(self, job: Job) -> Verdict | InvalidOperation:
        """Return the verdict, or the reason why the operation is invalid for the handler."""
        answer: Verdict | InvalidOperation = await self._ask(job)
        return answer

    async def kill(self) -> int:
        """Kill this process group: the process, even if it has died already, and all that its handlers have started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return await self._process.wait()

    async def _end(self) -> int:
        """Wait for the end of a process that has closed its pipes. If we killed it now, its exit code would be lost."""
        try:
            async with asyncio.timeout(ENDING_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            return await self.kill()

    async def _ask(self, request: ImportRequest | Job) -> Any:
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
        return pickle.loads(answer)  # noqa: S301 - from our own process


async def start_worker() -> Worker:
    process = await asyncio.create_subprocess_exec(
        *programs.command("penstock.running.cpu_worker", "--exit-with-parent", str(os.getpid())),
        stdin=PIPE,
        stdout=PIPE,
        # In a session of its own it does not get the parent's Ctrl-C, since the parent decides what happens to the
        # operations. And it can be killed together with everything it has started.
        start_new_session=True,
    )
    return Worker(process)


def count_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _import_request(route: Route) -> ImportRequest:
    try:
        return ImportRequest(pickle.dumps(route.handler), tuple(sys.path), route.method, route.path, route.policy)
    except (pickle.PicklingError, AttributeError) as error:
        raise Misconfigured(
            f"The handler of {route.name} cannot be imported by its name: {error}. cpu_bound=True runs it in another "
            "process, which imports it. Define it at the top of its module, and put no other decorator around it."
        ) from error


def _how_it_ended(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
