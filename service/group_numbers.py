"""Knows how many groups a batch has, and if it has one chunk, so that one call can read all of it. Pure."""

from penstock.batch import Batch
from penstock.latest import Latest

MOST_BATCHES = 1_000
MOST_GROUPS = 16  # their counters are read with the ids of all their chunks. For more groups, another call takes less


class GroupNumbers:
    """The numbers of groups of the batches that were read lately. The numbers of a batch never change."""

    def __init__(self) -> None:
        self._known = Latest[str, int](MOST_BATCHES)  # only batches with several groups, and 1 for those of one chunk

    def of(self, batch_id: str) -> int:
        """Return how many groups to read together with a batch."""
        return self._known.get(batch_id, 1)

    def has_one_chunk(self, batch_id: str) -> bool:
        """Return True if the batch is known to have one chunk."""
        return self._known.get(batch_id) == 1

    def note(self, batch: Batch) -> None:
        is_special = batch.chunk_count == 1 or 1 < len(batch.group_totals) <= MOST_GROUPS
        if is_special and batch.id not in self._known:
            self._known.put(batch.id, len(batch.group_totals))
