"""Checks the limit of open operations: each accepted batch counts, and as much of it as has not finished."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.expressions import Item
from tests.simulation.truth import Truth

PREFIX = "batch_"
NUMBERS = ("open_total", "open_entries")


@dataclass
class OpenChecks:
    """`facts_of` returns what the table has of a batch, as `BatchFacts`."""

    truth: Truth
    check: Callable[[bool, int, str], None]
    facts_of: Callable[[str], Any]
    most: int | None = None
    entries: dict[str, int] = field(default_factory=dict)  # by the ids of their batches
    left: set[str] = field(default_factory=set)  # batches that were removed

    def on_write(self, before: Item, after: Item) -> None:
        entries_before, entries = _entries(before), _entries(after)
        total, count = (int(after[name]["N"]) for name in NUMBERS)
        is_sum = (total, count) == (sum(entries.values()), len(entries))
        self.check(is_sum, 8, f"{total} operations of {count} batches are open, with the entries {entries}")
        for batch_id in entries.keys() - entries_before.keys():
            self._on_added(batch_id, total)
        for batch_id, seen in entries_before.items():
            if entries.get(batch_id, 0) != seen:
                self._on_lowered(batch_id, seen, entries.get(batch_id, 0))
        self.entries = entries

    def _on_added(self, batch_id: str, total: int) -> None:
        assert self.most is not None
        has_run = any(run_of == batch_id for run_of, _ in self.truth.runs)
        self.check(total <= self.most or has_run, 8, f"{total} operations are open with batch {batch_id}")
        self.check(batch_id not in self.left, 8, f"batch {batch_id} is counted again")

    def _on_lowered(self, batch_id: str, seen: int, left: int) -> None:
        facts = self.facts_of(batch_id)
        words = f"batch {batch_id}, which is {facts.state} with {facts.counts}, is lowered from {seen} to {left}"
        if not left:
            self.left.add(batch_id)
        is_over = not left and not facts.is_accepted
        is_right = is_over or facts.total - facts.counts.completed <= left < seen
        self.check(is_right or facts.was_redriven, 8, words)

    def on_accepted(self, batch_id: str, total: int) -> None:
        if self.most is not None:
            counted = self.entries.get(batch_id)
            self.check(counted == total, 8, f"batch {batch_id} is accepted, and {counted} operations of it count")


def _entries(item: Item) -> dict[str, int]:
    return {
        name.removeprefix(PREFIX).split("_", 1)[1]: int(value["N"])
        for name, value in item.items()
        if name.startswith(PREFIX)
    }
