"""Says how long the next count of a group waits, so that one call counts more chunks. Pure.

The last count makes a batch final, and nobody should wait for it. So counts wait for a part of the time that the group
will still take, as far as its last two counts tell, and not for long. Without two counts, nothing waits.
"""

from collections.abc import Hashable
from dataclasses import dataclass

MOST_SECONDS = 0.5  # progress is visible this much later, and the message is deleted as much later
SHARE = 0.25  # of the time until the end of the group. At an even speed, its last chunk comes after the pause
GROUPS_KEPT = 50


@dataclass(frozen=True, slots=True)
class _Pace:
    """What the last count of a group found: how many operations are completed, when, and how many per second."""

    completed: int
    at: float
    per_second: float = 0.0  # 0 if it is unknown

    def followed_by(self, completed: int, at: float) -> "_Pace":
        more, seconds = completed - self.completed, at - self.at
        return _Pace(completed, at, more / seconds if more > 0 and seconds > 0 else 0.0)


class CountPaces:
    """Remembers the last counts of the groups that this process counts. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._paces: dict[Hashable, _Pace] = {}

    def note(self, group: Hashable, completed: int, at: float) -> None:
        """Remember that a count of the group found so many completed operations.

        Chunks that are counted together find the same.
        """
        before = self._paces.get(group)
        if before is not None and completed == before.completed:
            return
        self._paces.pop(group, None)
        self._paces[group] = before.followed_by(completed, at) if before else _Pace(completed, at)
        if len(self._paces) > GROUPS_KEPT:
            del self._paces[next(iter(self._paces))]

    def pause(self, group: Hashable, total: int, now: float) -> float:
        """Return for how many seconds the next count of a group of `total` operations waits."""
        pace = self._paces.get(group)
        if pace is None or not pace.per_second:
            return 0.0
        left = (total - pace.completed) / pace.per_second
        return max(0.0, pace.at + min(MOST_SECONDS, SHARE * left) - now)
