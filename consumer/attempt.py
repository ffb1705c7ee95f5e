"""An attempt: one delivery of a chunk while a consumer works on it, and the decisions about it. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from penstock.batch import Batch, Ending
from penstock.chunk import Chunk, redriven_from
from penstock.dependencies import to_run, with_more_attempts
from penstock.outcome import ChunkRecord
from penstock.queue import Delivery
from penstock.running.source import Source
from penstock.store import Traces

_DEAD = "dead"
_NO_TRACES = Traces(record=None, released=frozenset())


class Evidence(StrEnum):
    """What the note of a start proves about the operations of its chunk if the process died."""

    NONE = "none"  # they may have waited for a slot
    RUNNING = "running"  # the only operation ran, among others
    ALONE = "alone"  # the only operation ran, and no other suspect did


@dataclass(frozen=True, slots=True)
class StartNote:
    """The note that a process starts to run a delivery. It is stored as one text, and older ones have no process."""

    delivery: str  # its mark
    process: str | None = None
    evidence: Evidence = Evidence.ALONE
    is_dead: bool = False  # the parent of the process knows that it has died

    @classmethod
    def parse(cls, text: str) -> "StartNote":
        delivery, *rest = text.split("@")
        if not rest:
            return cls(delivery)
        evidence = next((evidence for evidence in Evidence if evidence in rest[1:]), Evidence.NONE)
        return cls(delivery, rest[0], evidence, _DEAD in rest[1:])

    def __str__(self) -> str:
        if self.process is None:
            return self.delivery
        evidence = [] if self.evidence is Evidence.NONE else [self.evidence]
        return "@".join([self.delivery, self.process, *evidence, *([_DEAD] if self.is_dead else [])])


@dataclass(frozen=True, slots=True)
class ChunkAttempt:
    """One delivery of a chunk, with what is known about it so far. Each step passes a changed copy to the next."""

    delivery: Delivery
    chunk: Chunk
    batch: Batch  # as it was when it was last read
    ended: Callable[[int], None]  # called with the numbers of operations that have run
    traces: Traces = _NO_TRACES  # what earlier deliveries of the chunk have left in the table
    deaths: int = 0  # how many lost deliveries are blamed on the only operation of this chunk that runs

    @property
    def runs_alone(self) -> bool:
        """Return True if a single operation of the chunk runs, or a single group: the only one, or one at a time."""
        return self.chunk.one_at_a_time or len(self.chunk.operations) == 1

    @property
    def running(self) -> Chunk:
        """Return the chunk with the operations that run in this attempt. The others follow."""
        return replace(self.chunk, operations=to_run(self.chunk)) if self.chunk.one_at_a_time else self.chunk

    @property
    def number(self) -> int:
        """Return the number of this attempt at the first operation that runs."""
        chunk = self.chunk
        return chunk.attempts()[chunk.operations[0].index] if chunk.one_at_a_time else chunk.attempt

    @property
    def source(self) -> Source:
        """Return the source that the runner gives slots to.

        It has the priority of the batch, whatever queue the delivery came from: a client may have changed it since.
        """
        return Source(
            self.batch.id,
            self.batch.key_prefix,
            priority=self.batch.priority,
            tenant=self.batch.tenant,
            headers=dict(self.batch.headers),
            concurrency=self.batch.concurrency,
        )

    @property
    def lost_deliveries(self) -> int:
        """Return how many earlier deliveries of this message ended without a record or a release.

        Perhaps a consumer died each time.
        """
        return self.delivery.receive_count - 1 - self.delivery.count_own(self.traces.released)

    @property
    def redelivered(self) -> int:
        """Return the number of operations of this chunk, times the number of deliveries of this message that were lost.

        A released delivery is not lost, unless it has a note of its start. Then its process lost the lease while it
        ran, and reported later that it is alive.
        """
        started = {StartNote.parse(text).delivery for text in self.traces.begun}
        lost = self.delivery.receive_count - 1 - self.delivery.count_own(self.traces.released - started)
        return lost * len(self.chunk.operations)

    @property
    def is_redrive(self) -> bool:
        """Return True if this is a redrive. It runs although its batch has ended: somebody has just asked for it."""
        return redriven_from(self.chunk.id) is not None

    @property
    def is_too_late(self) -> bool:
        """Return True if the batch is final, so that this chunk would not be counted any more."""
        return self.batch.is_final and not self.is_redrive

    def with_chunk_of(self, record: ChunkRecord) -> Self:
        """Return the attempt as one at the chunk of this record.

        That is another chunk if a part of this one was recorded in a later round of a retry.
        """
        if record.chunk_id == self.chunk.id:
            return self
        recorded = record.indexes
        operations = tuple(operation for operation in self.chunk.operations if operation.index in recorded)
        return replace(self, chunk=replace(self.chunk, id=record.chunk_id, operations=operations))

    def ending_at(self, now: float) -> Ending | None:
        """Return how the batch ends the operations that have not started, or None if they may still start."""
        return None if self.is_redrive else self.batch.ending_at(now)

    def is_over_at(self, now: float) -> bool:
        """Return True if no further operation of this chunk may start."""
        return self.is_too_late or self.ending_at(now) is not None

    def lost_starts(self, process: str) -> list[StartNote]:
        """Return the notes of earlier deliveries of this message that started to run and were lost.

        A delivery that this process noted is left out: this process is alive.
        """
        own = [StartNote.parse(text) for text in self.traces.begun if self.delivery.count_own([text])]
        return [note for note in own if note.process != process and note.delivery not in self.traces.released]

    def are_deaths_certain(self, process: str) -> bool:
        """Return True if the parents of all processes that seem to have died know it, so that none can deny it."""
        notes = self.lost_starts(process)
        known = {note.process for note in notes if note.is_dead}
        return all(note.process in known for note in notes if note.evidence is Evidence.ALONE)

    def dead_processes(self, process: str) -> frozenset[str]:
        """Return the processes that seem to have died while they ran this chunk."""
        return frozenset(note.process for note in self.lost_starts(process) if note.process is not None)

    def is_suspect(self, process: str) -> bool:
        """Return True if processes seem to have died of the only operation of this chunk.

        One death is not enough: most operations that were under way then are innocent. So each runs among others once
        more. One that was only held has no note of its start, and is never a suspect.
        """
        evidence = {note.evidence for note in self.lost_starts(process)}
        return Evidence.ALONE in evidence or (Evidence.RUNNING in evidence and self.lost_deliveries > 1)

    def with_noted_deaths(self, process: str) -> Self:
        """Count each earlier delivery of this message that ran the operation alone and was lost as one more attempt.

        A lost delivery without that note does not count. It may never have started to run the operation, or its
        process may have died of another one.
        """
        deaths = sum(note.evidence is Evidence.ALONE for note in self.lost_starts(process))
        return replace(self, chunk=with_more_attempts(self.chunk, deaths), deaths=deaths)


@dataclass(frozen=True, slots=True)
class Release:
    """The decision to release the delivery, so that it is received again after some time."""

    after_seconds: int


@dataclass(frozen=True, slots=True)
class Discard:
    """The decision to acknowledge the delivery without a record, since its chunk would not be counted."""


@dataclass(frozen=True, slots=True)
class MoveToDeadLetters:
    """The decision to move the message to the dead letter queue unchanged, since it cannot be a chunk of its batch."""

    reason: str


@dataclass(frozen=True, slots=True)
class SendAgain:
    """The decision to send the operations that another retry has not run as the next round, and to acknowledge."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Again:
    """The decision to decide again, from what is in the table now."""


Decision = ChunkRecord | Release | Discard | MoveToDeadLetters | SendAgain | Again
