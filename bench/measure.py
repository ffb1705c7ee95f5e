"""Measure a contender, which is Penstock or a floor. All contenders of a case run in turn on one installation."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel

from bench.bare import count_key
from bench.bodies import operations_file, request_body
from bench.counting import Tallies, Usage, total
from bench.installation import ALONE, BARE_NAME, BARE_PROGRAMS, PROGRAMS, SENDER, Installation, Watcher
from penstock.batch import BatchState

PENSTOCK = "Penstock"
FLOOR_A = "floor (a)"  # without a queue
FLOOR_B = "floor (b)"  # one record and one counter update for each chunk
FLOOR_B10 = "floor (b), by tens"  # one record and one counter update for each receive of ten chunks
SETTLE_SECONDS = 0.2  # time for the last deletes
LONGEST_ALONE_WAIT = 10_000  # for more operations the time of one waiting process can be computed


class Used(BaseModel):
    """The usage of one program for one batch. Memory is the peak so far minus the memory when it was ready."""

    cpu_seconds: float
    memory_bytes: int
    calls: Tallies = {}


class Case(BaseModel, frozen=True):
    server: str
    size: int
    handler: str
    consumers: int

    @property
    def server_programs(self) -> list[str]:
        return self.server.split(" + ")

    def contenders(self) -> list[str]:
        if self.handler == "noop":
            return [PENSTOCK, FLOOR_A, FLOOR_B, FLOOR_B10]
        if self.handler == "wait" and self.size <= LONGEST_ALONE_WAIT:
            return [PENSTOCK, FLOOR_A]
        return [PENSTOCK]


class Sample(BaseModel):
    case: Case
    contender: str
    seconds: float  # from the POST, or the start command, to the last result
    first_seconds: float  # until the 202; for floor (a) until all is validated, for floor (b) until all is sent
    programs: dict[str, Used]

    @property
    def calls(self) -> Tallies:
        return total(*(used.calls for used in self.programs.values()))


class Bench:
    """Runs the measurements on one installation."""

    def __init__(self, installation: Installation, watcher: Watcher) -> None:
        self._installation = installation
        self._watcher = watcher
        self._runs = 0
        self.batch_ids: dict[int, str] = {}  # the last batch of each size

    async def measure(self, case: Case, contender: str) -> Sample:
        ways: dict[str, Callable[[Case], Coroutine[Any, Any, Sample]]] = {
            PENSTOCK: self._measure_penstock,
            FLOOR_A: self._measure_alone,
            FLOOR_B: lambda case: self._measure_bare(case, FLOOR_B, chunks_per_record=1),
            FLOOR_B10: lambda case: self._measure_bare(case, FLOOR_B10, chunks_per_record=10),
        }
        async with asyncio.timeout(120 + case.size / 100):
            return await ways[contender](case)

    async def _measure_penstock(self, case: Case) -> Sample:
        body = request_body(operations_file(case.handler, case.size), case.size)
        async with self._counted(PROGRAMS, case) as used:
            began_at, began = time.time(), time.perf_counter()
            headers = {"Content-Type": body.content_type, "Prefer": "respond-async"}
            async with self._watcher.http.post("/batch", data=body.data, headers=headers) as answer:
                accepted = await answer.json(content_type=None)
                if answer.status != 202:
                    raise RuntimeError(f"The front end answered {answer.status}: {accepted}")
            accepted_seconds = time.perf_counter() - began
            finished_at = await self._finished_at(accepted["batchId"], case.size)
        self.batch_ids[case.size] = accepted["batchId"]
        return _sample(case, PENSTOCK, finished_at - began_at, accepted_seconds, used)

    async def _finished_at(self, batch_id: str, size: int) -> float:
        """Wait for the end of a batch and return its own timestamp. It reads the table, seldom, to disturb nothing."""
        async for _ in _patiently(size):
            batch = await self._watcher.store.read_batch(batch_id)
            if batch is not None and batch.finished_at is not None:
                if batch.state is not BatchState.COMPLETED:
                    raise RuntimeError(f"Batch {batch_id} finished as {batch.state}: {batch.reason}")
                return batch.finished_at
        raise AssertionError("unreachable")

    async def _measure_alone(self, case: Case) -> Sample:
        file = operations_file(case.handler, case.size)
        said = await self._installation.programs[ALONE].ask(case.handler, file, case.size)
        used = {ALONE: Used(cpu_seconds=said["cpu_seconds"], memory_bytes=0)}
        return _sample(case, FLOOR_A, said["seconds"], said["first_seconds"], used)

    async def _measure_bare(self, case: Case, contender: str, chunks_per_record: int) -> Sample:
        self._runs += 1
        run, sender = f"run{self._runs}", self._installation.programs[SENDER]
        await sender.ask(run, chunks_per_record, operations_file(case.handler, case.size))
        async with self._counted(BARE_PROGRAMS, case) as used:
            said = await sender.ask("go")
            finished_at = await self._counted_at(run, case.size)
        return _sample(case, contender, finished_at - said["began_at"], said["first_seconds"], used)

    async def _counted_at(self, run: str, size: int) -> float:
        """Wait until the floor has counted everything. Its counter is unsafe: a repeated update counts twice."""
        async for _ in _patiently(size):
            answer = await self._watcher.dynamodb.get_item(TableName=BARE_NAME, Key=count_key(run), ConsistentRead=True)
            if "Item" in answer and int(answer["Item"]["completed"]["N"]) >= size:
                return float(answer["Item"]["last_at"]["N"])
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _counted(self, programs: tuple[str, ...], case: Case) -> AsyncIterator[dict[str, Used]]:
        """Yield the usage of these programs and of the servers in this block. It is filled at the end of the block."""
        used: dict[str, Used] = {}
        start = await self._installation.usage()
        yield used
        await asyncio.sleep(SETTLE_SECONDS)
        end = await self._installation.usage()
        used |= {
            name: _used(self._installation.idle[name], start[name], end[name])
            for name in end
            if name.startswith((*programs, *case.server_programs))
        }


async def _patiently(size: int) -> AsyncIterator[None]:
    while True:
        await asyncio.sleep(0.05 if size <= 10_000 else 0.5)
        yield


def _used(idle: Usage, start: Usage, end: Usage) -> Used:
    calls = total(end.calls, {name: tally.times(-1) for name, tally in start.calls.items()})
    return Used(
        cpu_seconds=end.cpu_seconds - start.cpu_seconds,
        memory_bytes=end.peak_bytes - idle.memory_bytes,
        calls={name: tally for name, tally in calls.items() if tally.requests},
    )


def _sample(case: Case, contender: str, seconds: float, first_seconds: float, used: dict[str, Used]) -> Sample:
    return Sample(case=case, contender=contender, seconds=seconds, first_seconds=first_seconds, programs=used)
