"""Groups failures by their cause: the status and the title of the error. Pure.

A batch may have as many causes as operations, so only some of them are kept. If there are too many, the rarest half is
counted as "other" from then on.
"""

from dataclasses import dataclass, field
from typing import Any

MOST_CAUSES = 100  # in an answer; twice as many are kept
SAMPLES = 3
LONGEST_TITLE = 200
LONGEST_DETAIL = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed operation with the cause of its failure. `at` is None if nobody knows when it failed."""

    index: int
    id: str
    status: int
    title: str
    detail: str | None = None
    at: float | None = None


@dataclass(slots=True)
class Cause:
    """A cause with its failures: how many there are, when the first and the last one happened, and some of them."""

    status: int
    title: str
    count: int = 0
    retryable: int = 0  # those of them that can run again: the others were never started, and have no record
    first_at: float | None = None
    last_at: float | None = None
    samples: list[Failure] = field(default_factory=list)

    def add(self, failure: Failure) -> None:
        self.count += 1
        self.retryable += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(failure)
        if failure.at is not None:
            self.first_at = failure.at if self.first_at is None else min(self.first_at, failure.at)
            self.last_at = failure.at if self.last_at is None else max(self.last_at, failure.at)


class Causes:
    """The causes of the failures that were added. `counted` is the number of failures."""

    def __init__(self) -> None:
        self.counted = 0
        self._kept: dict[tuple[int, str], Cause] = {}

    def add(self, failure: Failure) -> None:
        self.counted += 1
        self._cause(failure.status, failure.title).add(failure)

    def add_many(self, status: int, title: str, count: int, samples: list[Failure]) -> None:
        """Add failures of one cause that cannot run again, and of which only some are known."""
        self.counted += count
        cause = self._cause(status, title)
        cause.count += count
        cause.samples += samples[: SAMPLES - len(cause.samples)]

    def listed(self) -> tuple[list[Cause], int]:
        """Return the causes with the most failures, and the number of all other failures."""
        first = self._by_count()[:MOST_CAUSES]
        return first, self.counted - sum(cause.count for cause in first)

    def _cause(self, status: int, title: str) -> Cause:
        cause = self._kept.get((status, title))
        if cause is None:
            if len(self._kept) == 2 * MOST_CAUSES:
                self._kept = {(cause.status, cause.title): cause for cause in self._by_count()[:MOST_CAUSES]}
            cause = self._kept[status, title] = Cause(status, title)
        return cause

    def _by_count(self) -> list[Cause]:
        return sorted(self._kept.values(), key=lambda cause: (-cause.count, cause.status, cause.title))


def title_of(error: Any) -> str:
    """Return the title of an error under which its failures are grouped."""
    title = error.get("title") if isinstance(error, dict) else None
    return shortened(title, LONGEST_TITLE) if isinstance(title, str) else ""


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
