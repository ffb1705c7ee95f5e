"""The HTTP program with its parts in memory, and a probe that measures what its requests cost. Run it with -m."""

import asyncio
import ctypes
import gc
import sys
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, Json
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from penstock import Operations
from penstock.api_key import Scope
from penstock.batch import Batch, BatchState, Counts
from penstock.chunk import planned_number
from penstock.clock import SystemClock
from penstock.outcome import ChunkRecord, EncodedResult, Outcome, OutcomeState
from penstock.process import loop
from penstock.process.signals import end_with_parent
from penstock.record import EncodedRecord, encode_record
from penstock.running.collector import spare_what_stays
from penstock.service.app import create_app
from penstock.service.keys import SCOPES
from penstock.service.protocol import ConnectionRunner
from penstock.settings import Settings
from penstock.store import Group
from penstock.testing import MemoryStore, memory_parts

TICK_SECONDS = 0.005
MIB = 1024 * 1024
LARGE_RESULTS = "01ARZ3NDEKTSV4RRFFQ69G5FAV"  # the id of a batch with 200 results of 900 kB
RESULTS_OF_A_CHUNK = "01ARZ3NDEKTSV4RRFFQ69G5FAX"  # the same results, but all of one planned chunk
CHUNKS_OF_A_CHUNK = 50  # its records: they interleave, so no order is worse for a reader
SMALL_RESULTS = "01ARZ3NDEKTSV4RRFFQ69G5FAW"  # the id of a batch with 20,000 results of 10 kB
WATCHED = "01ARZ3NDEKTSV4RRFFQ69G5FAY"  # the id of a batch that runs and never ends
WATCHED_TOTAL = 1_000_000_000

operations = Operations()


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = 0
    inner: "Closed | None" = None


class Cat(BaseModel):
    kind: str
    lives: int


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: int
    teeth: Annotated[int, Field(ge=0)]


class Toy(BaseModel):
    model_config = ConfigDict(extra="forbid")

    price: float = 0


@dataclass(config=ConfigDict(extra="forbid"))
class ClosedData:
    number: int = 0
    inner: "ClosedData | None" = None


@dataclass(config=ConfigDict(extra="forbid"))
class OtherClosedData:
    name: str


class ClosedTuple(NamedTuple):
    number: int
    name: str


class ClosedDict(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    length: int


@operations.post("/numbers")
async def add_numbers(numbers: list[int]) -> int:
    return len(numbers)


@operations.post("/number-set")
async def count_numbers(numbers: set[int]) -> int:
    return len(numbers)


@operations.post("/decimal-set")
async def count_decimals(numbers: set[Decimal]) -> int:
    return len(numbers)


@operations.post("/uuid-map")
async def count_uuids(members: dict[UUID, int]) -> int:
    return len(members)


@operations.post("/closed-data")
async def take_closed_data(data: ClosedData | OtherClosedData | ClosedTuple | ClosedDict) -> str:
    return type(data).__name__


@operations.post("/queues")
async def take_queues(queue: deque[int] | OrderedDict[str, int] | Counter[str]) -> int:
    return len(queue)


@operations.post("/json")
async def take_json(body: Json[list[Any]]) -> int:
    return len(body)


@operations.post("/map")
async def count_members(members: dict[str, int]) -> int:
    return len(members)


@operations.post("/closed")
async def take_closed(closed: Closed) -> int:
    return closed.number


@operations.post("/closed-ones")
async def take_closed_ones(ones: dict[str, Closed]) -> int:
    return len(ones)


@operations.post("/pets")
async def take_pets(pets: list[Cat | Dog | Closed | int]) -> int:
    return len(pets)


@operations.post("/one-pet")
async def take_one_pet(pet: Closed | Dog | Toy | Cat) -> str:
    return type(pet).__name__


@operations.post("/any")
async def take_any(body: Any) -> int:
    return len(str(type(body)))


@operations.post("/text")
async def take_text(text: Annotated[str, Field(pattern=r"^[a-z]+$", max_length=100)]) -> int:
    return len(text)


@operations.post("/files/{name}")
async def take_file(name: str) -> int:
    return len(name)


class StoreOfResults(MemoryStore):
    """A store that reads results from nowhere: each read makes new ones, as a read of a table does."""

    SIZES: Mapping[str, tuple[int, int]] = {
        LARGE_RESULTS: (200, 900_000),
        RESULTS_OF_A_CHUNK: (200, 900_000),
        SMALL_RESULTS: (20_000, 10_000),
    }

    async def read_batch(self, batch_id: str) -> Batch | None:
        if batch_id == WATCHED:
            return _batch(batch_id, WATCHED_TOTAL, BatchState.PROCESSING)
        if batch_id not in self.SIZES:
            return await super().read_batch(batch_id)
        return _batch(batch_id, self.SIZES[batch_id][0], BatchState.COMPLETED)

    async def read_group(self, batch_id: str, group: int) -> Group:
        if batch_id == WATCHED:
            return Group(Counts(succeeded=round(1_000 * time.monotonic()) % WATCHED_TOTAL))
        if batch_id not in self.SIZES:
            return await super().read_group(batch_id, group)
        return Group(done=frozenset(self._chunks(batch_id)))

    async def read_records(
        self, batch: Batch, group: int, first_chunk: int, *, reads_all: bool = False
    ) -> AsyncIterator[EncodedRecord]:
        if batch.id not in self.SIZES:
            async for record in super().read_records(batch, group, first_chunk, reads_all=reads_all):
                yield record
            return
        for chunk_id, indexes in self._chunks(batch.id).items():
            if planned_number(chunk_id) >= first_chunk:
                yield _record(chunk_id, indexes, self.SIZES[batch.id][1])

    async def read_record(self, batch_id: str, chunk_id: str) -> EncodedRecord:
        if batch_id not in self.SIZES:
            return await super().read_record(batch_id, chunk_id)
        return _record(chunk_id, self._chunks(batch_id)[chunk_id], self.SIZES[batch_id][1])

    def _chunks(self, batch_id: str) -> dict[str, range]:
        """Return the operations of each chunk. A planned chunk that is cut into many leaves every 50th to each."""
        count, _ = self.SIZES[batch_id]
        if batch_id != RESULTS_OF_A_CHUNK:
            return {str(index): range(index, index + 1) for index in range(count)}
        runs = [range(step, count, CHUNKS_OF_A_CHUNK) for step in range(CHUNKS_OF_A_CHUNK)]
        return {f"0.0.{step}.{step}" if step else "0": run for step, run in enumerate(runs)}


def _batch(batch_id: str, count: int, state: BatchState) -> Batch:
    return Batch(
        id=batch_id,
        tenant="default",
        state=state,
        total=count,
        chunk_count=count,
        group_totals=(count,),
        created_at=0,
        accept_by=0,
        deadline_at=4_000_000_000.0,
        expires_at=4_000_000_000.0,
        started_at=0,
    )


def _record(chunk_id: str, indexes: range, size: int) -> EncodedRecord:
    result = EncodedResult(b'"%b"' % (b"r" * size))
    outcomes = tuple(Outcome(index, str(index), OutcomeState.SUCCEEDED, 200, result) for index in indexes)
    return EncodedRecord(chunk_id, encode_record(ChunkRecord(chunk_id, outcomes)))


class Probe:
    """Measures memory, CPU time, and the longest turn of the loop, in CPU time: other processes do not change it."""

    def __init__(self) -> None:
        self._idle_kib = 0
        self._cpu_seconds = 0.0
        self._turn_seconds = 0.0

    async def watch(self) -> None:
        while True:
            before = time.process_time()
            await asyncio.sleep(TICK_SECONDS)
            self._turn_seconds = max(self._turn_seconds, time.process_time() - before)

    async def reset(self, _request: web.Request) -> web.Response:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        _reset_peak()
        self._idle_kib = _status_kib("VmRSS")
        await asyncio.sleep(2 * TICK_SECONDS)  # so that the turn of this request does not count
        self._cpu_seconds, self._turn_seconds = time.process_time(), 0.0
        return web.Response()

    async def read(self, _request: web.Request) -> web.Response:
        await asyncio.sleep(2 * TICK_SECONDS)  # the last turn counts, too
        cost = {
            "mib": (_status_kib("VmHWM") - self._idle_kib) / 1024,
            "cpu_seconds": time.process_time() - self._cpu_seconds,
            "turn_seconds": self._turn_seconds,
        }
        return web.json_response(cost)


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status_kib(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


async def serve(port: int) -> None:
    parts = memory_parts()
    backend = replace(parts.backend, store=StoreOfResults())
    probe = Probe()
    app = create_app(Settings(access_log=False), operations, backend, SystemClock())
    scopes: Mapping[web.AbstractRoute, Scope | None] = app[SCOPES]
    for_everybody = app.router.add_post("/probe", probe.reset), app.router.add_get("/probe", probe.read)
    app[SCOPES] = {**scopes, **dict.fromkeys(for_everybody)}
    runner = ConnectionRunner(app, shutdown_timeout=1)
    await runner.setup()
    spare_what_stays()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await probe.watch()


if __name__ == "__main__":
    port, _, parent = sys.argv[1:]  # 8080 --exit-with-parent 1
    end_with_parent(int(parent))
    loop.run(serve(int(port)))
