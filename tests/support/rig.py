"""A test rig: queues and a store in memory, a fake clock, and consumers that work on them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.batch import Batch, Counts, sum_counts
from penstock.chunk import Chunk, Operation
from penstock.consumer.consumer import Consumer
from penstock.consumer.lease import Leases
from penstock.consumer.processor import Processor
from penstock.context import Context
from penstock.message import decode_chunk
from penstock.operations import Operations
from penstock.outcome import Outcome
from penstock.queue import Delivery, Message
from penstock.running.runner import Runner
from penstock.running.stop import Stop
from penstock.settings import Settings
from penstock.testing import FakeClock, MemoryParts, memory_parts
from tests.support.builders import BATCH_ID, build_settings, submit
from tests.support.faults import Watch, watched

MOST_TURNS = 1_000


@dataclass
class Rig:
    """`runs` counts the runs of each operation. `late_runs` names operations that ran after their outcome was recorded.

    Handlers report both by calling `note`.
    """

    operations: Operations[Any] = field(default_factory=Operations)
    settings: Settings = field(default_factory=build_settings)
    clock: FakeClock = field(default_factory=FakeClock)
    runs: Counter[str] = field(default_factory=Counter)
    attempts: list[tuple[str, int]] = field(default_factory=list)
    late_runs: list[str] = field(default_factory=list)
    parts: MemoryParts = field(init=False)

    def __post_init__(self) -> None:
        self.parts = memory_parts(self.clock, self.settings.visibility_seconds)

    def note(self, context: Context) -> None:
        self.runs[context.operation_id] += 1
        self.attempts.append((context.operation_id, context.attempt))
        if any(context.operation_id == outcome.id for outcome in self._recorded()):
            self.late_runs.append(context.operation_id)

    async def submit(self, operations: Sequence[Operation], chunk_operations: int = 100) -> Batch:
        return await submit(self.parts, operations, chunk_operations)

    def consumer(self, watch: Watch | None = None) -> Consumer:
        backend = watched(self.parts, watch) if watch else self.parts.backend
        return Consumer(backend, self.operations, self.settings, self.clock)

    def processor(self, watch: Watch | None = None, stop: Stop | None = None) -> Processor:
        backend = watched(self.parts, watch) if watch else self.parts.backend
        return Processor(
            backend,
            self.operations,
            runner=Runner(self.operations, self.settings.concurrency),
            leases=Leases(backend.queues, self.settings.visibility_seconds, self.clock),
            stop=stop or Stop(),
            settings=self.settings,
            clock=self.clock,
        )

    async def receive(self) -> tuple[Delivery, Chunk]:
        [delivery] = await self.parts.chunks.receive(1, 0)
        return delivery, decode_chunk(delivery.body)

    async def process_next(self, processor: Processor | None = None) -> None:
        await self.process(*await self.receive(), processor)

    async def process(self, delivery: Delivery, chunk: Chunk, processor: Processor | None = None) -> None:
        """Process a delivery under a lease, as a consumer does."""
        processor = processor or self.processor()
        processor._leases.hold(delivery)
        await processor.process(delivery, chunk, lambda _: None)

    async def work_off(self, consumer: Consumer | None = None) -> None:
        """Run turns until the queue is empty. Move the clock forward when every message is delayed or leased."""
        consumer = consumer or self.consumer()
        for _ in range(MOST_TURNS):
            if not self.parts.chunks.messages:
                return
            if not await self.parts.chunks.depth():
                self.clock.advance(self.settings.visibility_seconds + 1)
            await take_turn(consumer)
        raise AssertionError(f"After {MOST_TURNS} turns there is still work: {self.parts.chunks.messages}")

    async def batch(self) -> Batch:
        batch = await self.parts.store.read_batch(BATCH_ID)
        assert batch is not None
        return batch

    async def counts(self) -> Counts:
        batch = await self.batch()
        groups = await self.parts.store.read_groups(batch.id, range(len(batch.group_totals)))
        return sum_counts(group.counts for group in groups.values())

    async def redelivered(self) -> int:
        return (await self.parts.store.read_group(BATCH_ID, 0)).redelivered

    def outcomes(self) -> list[Outcome]:
        """Return all recorded outcomes in the order of the operations. One that is recorded twice appears twice."""
        return sorted(self._recorded(), key=lambda outcome: outcome.index)

    def statuses(self) -> dict[str, int]:
        """Return each operation's status. Fail if an operation has more than one outcome."""
        outcomes = self.outcomes()
        assert len({outcome.index for outcome in outcomes}) == len(outcomes), outcomes
        return {outcome.id: outcome.status for outcome in outcomes}

    @property
    def chunks(self) -> list[Chunk]:
        """Return the chunks on the queue, delivered or not."""
        return [decode_chunk(message.body) for message in self.parts.chunks.messages]

    @property
    def dead_letters(self) -> list[Message]:
        return self.parts.dead_letters.messages

    def failures(self) -> list[tuple[str, int]]:
        """Return the failed operations in the dead letters, with their statuses."""
        found = []
        for letter in self.dead_letters:
            statuses = {index: status for index, status, _ in json.loads(letter.body)["failures"]}
            found += [(operation.id, statuses[operation.index]) for operation in decode_chunk(letter.body).operations]
        return sorted(found)

    def _recorded(self) -> list[Outcome]:
        return [outcome for record in self.parts.store._records.values() for outcome in record.outcomes]


async def take_turn(consumer: Consumer) -> None:
    """Run one turn of the consumer's loop, and wait until all the chunks that it started are finished."""
    await consumer.take_turn()
