"""Cuts a batch into chunks while its operations arrive, and buffers them until the whole batch has been validated."""

import bisect
from array import array
from collections.abc import Container, Iterator, Sequence

from penstock.chunk import Planner, plan_groups
from penstock.message import VERSION, join_message, size_together
from penstock.service.intake.ids import IDS_IN_LINE
from penstock.service.spool import Spool
from penstock.settings import Settings


class Plan:
    """The chunks of a batch. Call `add` for every operation, then `finish`; afterwards the chunks can be read."""

    def __init__(self, batch_id: str, settings: Settings) -> None:
        self._batch_id = batch_id
        self._fit = settings.fit
        self.room = self._fit.most_bytes  # the largest size of an operation
        self.most_together = min(self._fit.most_operations, IDS_IN_LINE)  # operations that can depend on each other
        self._version = VERSION  # of the messages
        self._planner = Planner(self._fit)
        self._written = 0  # number of chunks
        self.message_bytes = array("L")  # of each chunk
        self._chunk: list[bytes] = []  # the operations of the chunk that is being filled
        self._spool = Spool()

    def needs_version(self, version: int) -> None:
        """Write messages of at least this version. Call it before the first operation that needs it is added."""
        self._version = max(self._version, version)

    def expect(self, batch_seconds: float) -> None:
        self._planner.expect(batch_seconds)

    def unmeasured_seconds(self, batch_operations: float) -> float:
        """Return the handler time to assume for an operation that was never measured, in a batch of this size."""
        return self._fit.unmeasured_seconds(batch_operations)

    def add(self, encoded: Sequence[bytes], sizes: Sequence[int], seconds: Sequence[float]) -> None:
        """Add the next operations, with their sizes on the queue and the expected times of their handlers."""
        done = 0
        for start in self._planner.cut(sizes, seconds):
            self._chunk.extend(encoded[done:start])
            self.finish()
            done = start
        self._chunk.extend(encoded[done:])

    def add_together(self, encoded: Sequence[bytes], sizes: Sequence[int], seconds: float) -> None:
        """Add the next operations, which must be in the same chunk."""
        if self._planner.begins_chunk(size_together(sizes), seconds, len(encoded)):
            self.finish()
        self._chunk.extend(encoded)

    def finish(self) -> None:
        if self._chunk:
            message = join_message(self._batch_id, str(self._written), self._chunk, version=self._version).encode()
            self._spool.write(message)  # contains no line break, as JSON or as base64
            self.message_bytes.append(len(message))
            self._written += 1
            self._chunk = []

    @property
    def chunk_count(self) -> int:
        return len(self._planner.starts)

    @property
    def group_totals(self) -> tuple[int, ...]:
        return plan_groups(self._planner.starts, self._planner.total)

    def chunk_at(self, index: int) -> int:
        """Return the number of the chunk that contains operation `index`."""
        return bisect.bisect_right(self._planner.starts, index) - 1

    def indexes(self, number: int) -> range:
        """Return the indexes of the operations in a chunk."""
        starts = self._planner.starts
        return range(starts[number], starts[number + 1] if number + 1 < len(starts) else self._planner.total)

    def messages(self, *, without: Container[int]) -> Iterator[bytes]:
        """Yield the messages of all chunks in their order, without the chunks of these numbers."""
        return (message for number, message in enumerate(self._spool) if number not in without)

    def close(self) -> None:
        self._spool.close()
