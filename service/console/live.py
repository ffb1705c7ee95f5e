"""What open pages share: recent answers of the table, and the progress that was seen while somebody watched a batch.

Twenty pages that show the same thing cost as many calls as one page.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

from penstock.batch import FINAL_STATES
from penstock.clock import Clock
from penstock.latest import Latest
from penstock.service.keys import CLOCK

T = TypeVar("T")

SHARED_SECONDS = 1.0
MOST_SHARED = 100
MOST_BATCHES = 200
MOST_POINTS = 240  # of a batch. With more, every second one is dropped
LEAST_SECONDS = 0.5  # between two points: what is nearer shows a rate that jumps
RATE_SECONDS = 15.0  # the rate of a batch is that of the last points in this time


class Point(NamedTuple):
    """How many operations of a batch had an outcome at a time, in seconds since the epoch."""

    at: float
    completed: int


class Live:
    """The parts that open pages share."""

    def __init__(self, clock: Clock) -> None:
        self.history = History()
        self._clock = clock
        self._shared = Latest[tuple[Hashable, ...], tuple[float, asyncio.Future[Any]]](MOST_SHARED)

    async def read(
        self, key: tuple[Hashable, ...], read: Callable[[], Awaitable[T]], seconds: float = SHARED_SECONDS
    ) -> T:
        """Return the answer that another page has just read with the same key, or read it."""
        until, reading = self._shared.pop(key, (0.0, None))
        if reading is None or until <= self._clock.monotonic() or _failed(reading):
            self._drop_expired()
            until, reading = self._clock.monotonic() + seconds, asyncio.ensure_future(read())
        self._shared.put(key, (until, reading))
        return await asyncio.shield(reading)

    def _drop_expired(self) -> None:
        now = self._clock.monotonic()
        for key in [key for key, (until, _) in self._shared.items() if until <= now]:
            del self._shared[key]

    def forget(self, *start: Hashable) -> None:
        """Forget the answers whose keys start like this, because somebody has changed something."""
        for key in [key for key in self._shared if key[: len(start)] == start]:
            del self._shared[key]


def _failed(reading: "asyncio.Future[Any]") -> bool:
    return reading.done() and (reading.cancelled() or reading.exception() is not None)


class History:
    """The progress of the batches that somebody watches. The table does not keep it."""

    def __init__(self) -> None:
        self._points = Latest[str, list[Point]](MOST_BATCHES)

    def note(self, batch_id: str, at: float, completed: int) -> None:
        points = self._points.put(batch_id, self._points.get(batch_id, []))
        if not points or at >= points[-1].at + LEAST_SECONDS:
            points.append(Point(at, completed))
        if len(points) > MOST_POINTS:
            del points[1::2]

    def of(self, batch_id: str) -> list[Point]:
        return list(self._points.get(batch_id, ()))

    def rate(self, batch_id: str) -> float | None:
        """Return the operations per second of late, or None if the batch was not watched for long enough."""
        points = self._points.get(batch_id, [])
        recent = [point for point in points if point.at >= points[-1].at - RATE_SECONDS]
        if len(recent) < 2:
            return None
        return max(0.0, (recent[-1].completed - recent[0].completed) / (recent[-1].at - recent[0].at))


LIVE = web.AppKey("live", Live)


def note_progress(app: web.Application, status: Mapping[str, Any]) -> None:
    """Note how far a batch is that has just been read."""
    if status["status"] not in FINAL_STATES:
        app[LIVE].history.note(status["batchId"], app[CLOCK].now(), status["completed"])
