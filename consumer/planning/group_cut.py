"""Cuts the operations of a group into chunks. Pure."""

import itertools

from penstock.chunk import Fit, Planner, is_whole_group

# The item of a batch has a number for each group, and another one once the group is finished: 120 KB for so many. Each
# of these writes is billed for the whole item.
MOST_GROUPS = 20_000
# The largest file has less groups than that with so many operations in a chunk. Consumers cut a chunk that turns out to
# be slow.
LEAST_OPERATIONS = 8


class GroupCut:
    """Call `add` with each operation of a file until it returns False: that operation belongs to the next group."""

    def __init__(self, fit: Fit, handler_seconds: float = 0.0) -> None:
        """Create the cut of the next group. `handler_seconds` are those of all groups before it."""
        self.handler_seconds = handler_seconds
        self._fit = fit
        self._planner = Planner(fit)
        self._is_full = False

    @property
    def total(self) -> int:
        return self._planner.total - self._is_full

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the numbers of operations in the chunks."""
        starts = self._planner.starts[:-1] if self._is_full else self._planner.starts
        return tuple(end - start for start, end in itertools.pairwise([*starts, self.total]))

    def expect(self, share: float) -> None:
        """Let further chunks be cut for a file of which this share was read."""
        self._planner.expect(self.handler_seconds / share if share else float("inf"))

    def add(self, size: int, seconds: float) -> bool:
        """Add an operation with its size on the queue and the expected time of its handler."""
        seconds = min(seconds, self._fit.seconds / LEAST_OPERATIONS)
        was_whole = is_whole_group(len(self._planner.starts))
        if self._planner.begins_chunk(size, seconds) and was_whole:
            self._is_full = True
            return False
        self.handler_seconds += seconds
        return True
