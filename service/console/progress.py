"""How the progress of a batch is drawn: as a bar, as a rate, and over time. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from penstock.batch import FINAL_STATES
from penstock.service.console.live import Point
from penstock.service.console.texts import to_seconds

LEAST_WIDTH = 0.4  # percent of the bar: a single failure among 100,000 operations is still visible


class Segment(NamedTuple):
    """A part of a bar, in percent of its width."""

    kind: str
    start: float
    width: float
    operations: int


def bar_of(status: Mapping[str, Any]) -> list[Segment]:
    """Return the segments of a bar, failures first: a long bar of successes must not push them out of sight."""
    segments, start = [], 0.0
    for kind in ("failed", "cancelled", "expired", "succeeded"):
        count = status[kind]
        if count:
            width = max(LEAST_WIDTH, 100 * count / status["total"])
            width = min(width, 100 - start)
            segments.append(Segment(kind, round(start, 2), round(width, 2), count))
            start += width
    return segments


def rate_of(status: Mapping[str, Any], recent: float | None, now: float) -> float | None:
    """Return the operations per second: of late while the batch runs, and on average if that is not known."""
    if not status["startedAt"] or not status["completed"]:
        return None
    if recent is not None and status["status"] not in FINAL_STATES:
        return recent
    end = to_seconds(status["finishedAt"]) if status["finishedAt"] else now
    seconds = end - to_seconds(status["startedAt"])
    return status["completed"] / seconds if seconds > 0 else None


def chart_of(points: Sequence[Point]) -> dict[str, list[float]] | None:
    """Return the columns of the chart: times, completed operations and rates. Return None if there are none."""
    steps = [(earlier, later) for earlier, later in itertools.pairwise(points) if later.at > earlier.at]
    if not steps:
        return None
    rates = [round((later.completed - earlier.completed) / (later.at - earlier.at), 2) for earlier, later in steps]
    return {
        "at": [round(steps[0][0].at, 1), *(round(later.at, 1) for _, later in steps)],
        "completed": [steps[0][0].completed, *(later.completed for _, later in steps)],
        "rate": [max(0.0, rates[0]), *(max(0.0, one) for one in rates)],
    }
