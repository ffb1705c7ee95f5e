"""A whole installation in one process: front end and consumers on queues and a store in memory, with a fake clock."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_aiohttp import AiohttpClient

from penstock import Context, Operations, Reject, Retry
from penstock.backend import Backend
from penstock.batch import Batch, BatchState
from penstock.consumer.consumer import Consumer
from penstock.consumer.sweeper import Sweeper
from penstock.message import decode_chunk
from penstock.queue import Message
from penstock.service.app import create_app
from penstock.settings import Settings
from penstock.testing import FakeClock, MemoryParts, memory_parts
from penstock.testing.http import Answer
from penstock.tracing.hooks import TracedQueue
from penstock.tracing.spans import Spans
from tests.support.builders import NOW, build_settings
from tests.support.faults import Moment, Watch, watched
from tests.support.rig import take_turn
from tests.support.service import Service, ask_for, open_service
from tests.support.waiting import UNIT_SECONDS

MOST_TURNS = 200


@dataclass
class Toys:
    """An application whose handlers record each run. Handlers that hang do so until `gate` is set."""

    runs: list[Context] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    is_mended: bool = False

    @property
    def times(self) -> Counter[str]:
        """Return how often each operation ran."""
        return Counter(context.operation_id for context in self.runs)

    @property
    def keys(self) -> set[str]:
        return {context.key for context in self.runs}

    def operations(self, **of_registry: Any) -> Operations[Any]:
        operations = Operations(**of_registry)

        @operations.post("/succeed/{name}", status=201)
        async def succeed(name: str, context: Context, body: Any = None) -> str:
            self.runs.append(context)
            return name

        @operations.post("/reject/{name}")
        async def reject(name: str, context: Context) -> None:
            self.runs.append(context)
            raise Reject(409, "Not this one.")

        @operations.post("/break/{name}", max_attempts=1)
        async def break_(name: str, context: Context) -> None:
            self.runs.append(context)
            if not self.is_mended:
                raise RuntimeError("It is broken.")

        @operations.post("/second-time-right/{name}")
        async def second_time_right(name: str, context: Context) -> None:
            self.runs.append(context)
            if context.attempt == 1:
                raise Retry(after_seconds=3600)

        @operations.post("/hang/{name}", timeout_seconds=3600)
        async def hang(name: str, context: Context) -> str:
            self.arrived.set()
            await self.gate.wait()
            self.runs.append(context)
            return name

        return operations


@dataclass(frozen=True, slots=True)
class Plant:
    service: Service
    operations: Operations[Any]
    settings: Settings
    clock: FakeClock
    sweeper: Sweeper
    spans: Spans | None = None

    @property
    def parts(self) -> MemoryParts:
        return self.service.parts

    @property
    def messages(self) -> list[Message]:
        """Return the messages on all queues of chunks."""
        return [message for queue in self.parts.queues.values() for message in queue.messages]

    def consumer(self, watch: Watch | None = None, **changes: Any) -> Consumer:
        backend = traced(watched(self.parts, watch) if watch else self.parts.backend, self.spans)
        return Consumer(backend, self.operations, self.settings.model_copy(update=changes), self.clock)

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        return await self.service.ask(method, path, **options)

    async def submit(self, *paths: str, headers: Mapping[str, str] | None = None, **members: Any) -> str:
        """Submit a batch that runs in the background, and return its id."""
        prefer = {"Prefer": "respond-async", **(headers or {})}
        answer = await self.service.post(ask_for(*paths), prefer, **members)
        assert answer.status == 202, answer.content
        batch_id: str = answer.body["batchId"]
        return batch_id

    async def work_off(self, consumer: Consumer | None = None) -> None:
        """Run turns until the queues are empty. Move the clock forward when every message is delayed or leased."""
        consumer = consumer or self.consumer()
        for _ in range(MOST_TURNS):
            if not self.messages:
                return
            if not any([await queue.depth() for queue in self.parts.queues.values()]):
                self.clock.advance(self.settings.visibility_seconds + 1)
            async with asyncio.timeout(20 * UNIT_SECONDS):
                await take_turn(consumer)
        raise AssertionError(f"After {MOST_TURNS} turns there is still work: {self.messages}")

    async def work_off_one_by_one(self) -> None:
        """Do the same as `work_off`, but start a chunk only after the previous one has finished."""
        while self.parts.chunks.messages:
            await take_turn(self.consumer(concurrency=1, chunk_operations=2))

    async def sweep(self) -> None:
        await self.sweeper.sweep()

    async def batch(self, batch_id: str) -> Batch:
        batch = await self.parts.store.read_batch(batch_id)
        assert batch is not None
        return batch

    async def forget_end(self, batch_id: str) -> Batch:
        """Leave a final batch as a consumer does that dies after its last count. Return what the table has then."""
        batch = await self.batch(batch_id)
        self.parts.store._batches[batch_id] = replace(batch, state=BatchState.PROCESSING, finished_at=None)
        return await self.batch(batch_id)

    async def status(self, batch_id: str) -> Any:
        """Return the status of a batch. Every read must be exact, so this checks it, for all tests."""
        answer = await self.service.get(f"/batch/{batch_id}/status")
        assert answer.status == 200, answer.content
        body = answer.body
        ended = sum(body[name] for name in ("succeeded", "failed", "cancelled", "expired"))
        assert ended == body["completed"] <= body["total"], body
        return body

    async def counts(self, batch_id: str) -> tuple[str, dict[str, int]]:
        """Return the state, and all counts that are not zero."""
        body = await self.status(batch_id)
        names = ("succeeded", "failed", "cancelled", "expired")
        return body["status"], {name: body[name] for name in names if body[name]}

    async def statuses(self, batch_id: str) -> dict[str, int]:
        """Return the status of each operation's outcome, by the operation's id."""
        answer = await self.service.get(f"/batch/{batch_id}/results")
        assert answer.status == 200
        found = {outcome["id"]: outcome["status"] for outcome in answer.lines}
        assert len(found) == len(answer.lines), answer.lines
        return found

    def waiting_operations(self) -> list[str]:
        """Return the ids of the operations on the queue of chunks."""
        chunks = [decode_chunk(message.body) for message in self.parts.chunks.messages]
        return sorted(operation.id for chunk in chunks for operation in chunk.operations)


async def build_plant(
    aiohttp_client: AiohttpClient,
    operations: Operations[Any],
    *,
    watch: Watch | None = None,
    parts: MemoryParts | None = None,
    clock: FakeClock | None = None,
    spans: Spans | None = None,
    **settings: Any,
) -> Plant:
    clock = clock or FakeClock(NOW)
    built = build_settings(**settings)
    parts = parts or memory_parts(clock, built.visibility_seconds)
    backend = traced(watched(parts, watch) if watch else parts.backend, spans)
    service = await open_service(aiohttp_client, create_app(built, operations, backend, clock), parts)
    sweeper = Sweeper(parts.store, built.sweep_seconds, clock)
    return Plant(service, operations, built, clock, sweeper, spans)


def traced(backend: Backend, spans: Spans | None) -> Backend:
    """Put traced queues into the backend, as `open_backend` does."""
    if spans is None:
        return backend
    return replace(
        backend,
        queues={
            priority: TracedQueue(queue, f"chunks-{priority}", spans) for priority, queue in backend.queues.items()
        },
        dead_letters=TracedQueue(backend.dead_letters, "dead-letters", spans),
        spans=spans,
    )


def all_of(*watches: Watch) -> Watch:
    def watch(call: str, moment: Moment) -> None:
        for one in watches:
            one(call, moment)

    return watch
