"""How the progress of a batch is drawn: as a bar, as a rate, and over time. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from penstock.batch import FINAL_STATES
from penstock.service.console.live import Point
from penstock.service.console.texts import to_seconds

LEAST_POINTS = 3  # of a chart: a line between two points says no more than the average rate
SMOOTH_SECONDS = 5.0  # over which the chart shows a rate
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
    """Return the operations per second: of late while the batch runs, and on average if that is not known.

    A paused batch has no rate.
    """
    if not status["startedAt"] or not status["completed"] or status["status"] == "paused":
        return None
    if recent is not None and status["status"] not in FINAL_STATES:
        return recent
    end = to_seconds(status["finishedAt"]) if status["finishedAt"] else now
    seconds = end - to_seconds(status["startedAt"])
    return status["completed"] / seconds if seconds > 0 else None


def chart_of(points: Sequence[Point]) -> dict[str, list[float]] | None:
    """Return the columns of the chart: times, completed operations and rates. Return None if there are too few."""
    shown = [points[0]] if points else []
    shown += [later for earlier, later in itertools.pairwise(points) if later.at > earlier.at]
    if len(shown) < LEAST_POINTS:
        return None
    rates = [_rate_at(shown, place) for place in range(1, len(shown))]
    return {
        "at": [round(point.at, 1) for point in shown],
        "completed": [point.completed for point in shown],
        "rate": [rates[0], *rates],
    }


def _rate_at(points: Sequence[Point], place: int) -> float:
    """Return the operations per second up to this point, over a few seconds: outcomes arrive in chunks."""
    last, start = points[place], place - 1
    while start > 0 and last.at - points[start].at < SMOOTH_SECONDS:
        start -= 1
    first = points[start]
    return max(0.0, round((last.completed - first.completed) / (last.at - first.at), 2))
