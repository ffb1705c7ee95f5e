"""Once a minute, and at the end, what is new goes into the log, a line for each handler, and to CloudWatch."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

from penstock.clock import Clock
from penstock.metrics.exposition import figures_of
from penstock.metrics.meter import Figures, Meter, peak_memory_bytes
from penstock.telemetry import Event, get_log

PERIOD_SECONDS = 60.0
SAMPLE_SECONDS = 1.0
SEND_SECONDS = 15.0
LAST_SEND_SECONDS = 2.0  # the program is about to end, and who stops it waits


class Publisher(Protocol):
    async def publish(self, figures: Figures, within_seconds: float) -> None:
        """Raises nothing."""


class Reporter:
    def __init__(self, meter: Meter, publisher: Publisher | None, clock: Clock) -> None:
        self._meter = meter
        self._publisher = publisher
        self._clock = clock

    async def keep(self) -> None:
        """Runs until it is cancelled."""
        due_at = self._clock.monotonic() + PERIOD_SECONDS
        while True:
            await self._clock.sleep(SAMPLE_SECONDS)
            self._meter.sample()
            now = self._clock.monotonic()
            if now >= due_at:
                await self.report(SEND_SECONDS)
                due_at = max(due_at + PERIOD_SECONDS, now)  # late by much: this process, or its machine, stood still

    async def report(self, within_seconds: float) -> None:
        figures = self._meter.take()
        peak = peak_memory_bytes()
        for name, handler in sorted(figures.handlers.items()):
            get_log().info(Event.HANDLER_FIGURES, handler=name, **figures_of(handler), peak_memory_bytes=peak)
        if self._publisher is not None:
            await self._publisher.publish(figures, within_seconds)


@asynccontextmanager
async def reporting(meter: Meter, publisher: Publisher | None, clock: Clock) -> AsyncIterator[None]:
    reporter = Reporter(meter, publisher, clock)
    keeping = _begin(reporter.keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await asyncio.gather(_begin(reporter.report(LAST_SEND_SECONDS)), return_exceptions=True)


def _begin(telling: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(telling, name="reporter")
    task.add_done_callback(_say_if_it_broke)
    return task


def _say_if_it_broke(task: asyncio.Task[None]) -> None:
    """A fault of ours. The program goes on: it is of more use without figures than not at all."""
    if not task.cancelled() and (error := task.exception()) is not None:
        get_log().error(Event.REPORTER_BROKE, exc_info=error)
