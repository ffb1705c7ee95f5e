"""Checks what the deaths of consumers cost a batch: follow-ups do not multiply, and no outcome is held back for long.

A recorded chunk that is not counted yet comes back if its consumer dies, and its follow-ups are sent once more. One of
them may be what kills consumers: then there is one more of it after each death.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.promises import BatchFacts

ChunkKey = tuple[str, str]  # a batch and a chunk
Check = Callable[[bool, int, str], None]

MOMENT_SECONDS = 0.25  # a few calls: from the record of a chunk, or from its next delivery, to its count
ACTS_AFTER_SECONDS = 2.1  # a consumer reads a batch every second, from a cache that is up to a second old


@dataclass(frozen=True, slots=True)
class Holding:
    """The last delivery of a message: to whom, and since when."""

    process: str
    since: float


@dataclass
class Losses:
    """The checks. Nothing is checked unless `is_quick`: otherwise calls may fail or take long, or processes pause."""

    now: Callable[[], float]
    check: Check
    facts_of: Callable[[str], "BatchFacts"]
    is_quick: bool = False
    _ended_at: dict[str, float] = field(default_factory=dict)  # when processes died, or were blocked for ever
    _holdings: defaultdict[ChunkKey, dict[str, Holding]] = field(default_factory=lambda: defaultdict(dict))

    def on_end(self, process: str) -> None:
        """Note that a process dies, or that a handler blocks it."""
        self._ended_at.setdefault(process, self.now())

    def on_receive(self, key: ChunkKey, message_id: str, process: str) -> None:
        self._holdings[key][message_id] = Holding(process, self.now())

    def on_lapse(self, key: ChunkKey) -> None:
        """Check that the consumer of a chunk died before it could count it, if the count must not wait for others.

        If the chunk has several messages, nobody knows which of them lapsed.
        """
        batch_id, chunk_id = key
        facts, holdings = self.facts_of(batch_id), list(self._holdings[key].values())
        if not self.is_quick or not facts.can_count(chunk_id) or len(holdings) != 1:
            return
        [held], recorded = holdings, facts.records[chunk_id]
        could_count_from = max(held.since, recorded.at)
        late = self._ended_at.get(held.process, could_count_from) - could_count_from
        words = f"chunk {key} could be counted for {late:.3f} s when {held.process} died, and was not"
        if recorded.record.follow_ups:
            self.check(late <= MOMENT_SECONDS, 6, f"{words}. Its follow-ups are sent again")
        elif facts.suspected_at + ACTS_AFTER_SECONDS < could_count_from:
            self.check(late <= MOMENT_SECONDS, 6, f"{words}. It waits for what kills consumers")
