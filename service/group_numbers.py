"""Knows how many groups a batch has, so that its status can be read in one call. Pure."""

from penstock.batch import Batch

MOST_BATCHES = 1_000
MOST_GROUPS = 16  # their counters are read with the ids of all their chunks. For more groups, another call takes less


class GroupNumbers:
    """The numbers of groups of the batches that were read lately. The number of a batch never changes."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}  # only batches with more than one group

    def of(self, batch_id: str) -> int:
        """Return how many groups to read together with a batch."""
        return self._known.get(batch_id, 1)

    def note(self, batch: Batch) -> None:
        if 1 < len(batch.group_totals) <= MOST_GROUPS and batch.id not in self._known:
            self._known[batch.id] = len(batch.group_totals)
            if len(self._known) > MOST_BATCHES:
                del self._known[next(iter(self._known))]
