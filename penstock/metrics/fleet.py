"""The handlers' figures of all processes of the fleet, for people who look at the console.

Each process writes the attempts of its last minutes to the table, once a minute and only if there were any. A reader
adds up what the processes have written. The metrics are exact, and this is a view of the present.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic_core import from_json, to_json

from penstock.clock import Clock
from penstock.errors import PenstockError
from penstock.metrics.histogram import Histogram
from penstock.metrics.meter import Figures, HandlerFigures
from penstock.metrics.reporting import PERIOD_SECONDS
from penstock.telemetry import Event, get_log

MINUTES = 15
WINDOW_SECONDS = MINUTES * PERIOD_SECONDS
KEPT_SECONDS = 3_600  # in the table
MOST_HANDLERS = 100  # the busiest ones: an item has some hundred bytes for each


@dataclass(frozen=True, slots=True)
class FigureReport:
    """The attempts of a process, by handler, in the minutes before a time."""

    process: str
    at: float
    handlers: Mapping[str, HandlerFigures]


class FigureStore(Protocol):
    """The part of the store that has the figures of the processes."""

    async def write_figures(self, report: FigureReport) -> None:
        """Replace what this process has reported before."""

    async def read_figures(self, since: float) -> list[FigureReport]:
        """Return the reports of all processes from this time on."""


class FleetFigures:
    """Reports the attempts of this process in the last minutes."""

    def __init__(self, store: FigureStore, process: str, clock: Clock) -> None:
        self._store = store
        self._process = process
        self._clock = clock
        self._minutes: deque[Figures] = deque(maxlen=MINUTES)

    async def publish(self, figures: Figures, within_seconds: float) -> None:
        """Write what this process has done of late. It never raises: the next minute tries again."""
        self._minutes.append(figures)
        handlers = add_up(minute.handlers for minute in self._minutes)
        if not handlers:
            return
        try:
            async with asyncio.timeout(within_seconds):
                await self._store.write_figures(FigureReport(self._process, self._clock.now(), handlers))
        except (PenstockError, TimeoutError) as error:
            get_log().info(Event.FIGURES_UNSENT, error=str(error) or "The table did not answer in time.")


def add_up(reports: Iterable[Mapping[str, HandlerFigures]]) -> dict[str, HandlerFigures]:
    """Return the sum of figures by handler, for the busiest handlers, in the order of their names."""
    sums: dict[str, HandlerFigures] = {}
    for handlers in reports:
        for name, figures in handlers.items():
            sums.setdefault(name, HandlerFigures()).merge(figures)
    busiest = Counter({name: figures.count for name, figures in sums.items()}).most_common(MOST_HANDLERS)
    return {name: sums[name] for name, _ in sorted(busiest)}


def encode_handlers(handlers: Mapping[str, HandlerFigures]) -> bytes:
    return to_json({name: _to_json(figures) for name, figures in handlers.items()})


def decode_handlers(content: bytes) -> dict[str, HandlerFigures]:
    return {name: _from_json(values) for name, values in from_json(content).items()}


def _to_json(figures: HandlerFigures) -> dict[str, Any]:
    seconds = figures.seconds
    return {
        "succeeded": figures.succeeded,
        "failed": figures.failed,
        "retried": figures.retried,
        "total": seconds.total,
        "largest": seconds.largest,
        "buckets": list(seconds.buckets.items()),
    }


def _from_json(values: Mapping[str, Any]) -> HandlerFigures:
    seconds = Histogram()
    seconds.total, seconds.largest = values["total"], values["largest"]
    seconds.buckets = dict(values["buckets"])
    return HandlerFigures(values["succeeded"], values["failed"], values["retried"], seconds)
