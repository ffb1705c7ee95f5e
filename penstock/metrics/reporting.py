"""Report the new figures once a minute and at the end: one log line for each handler, and metrics to CloudWatch."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from penstock.clock import Clock
from penstock.metrics.exposition import figures_of
from penstock.metrics.meter import Figures, Meter, peak_memory_bytes
from penstock.telemetry import Event, get_log

PERIOD_SECONDS = 60.0
SAMPLE_SECONDS = 1.0
SEND_SECONDS = 15.0
LAST_SEND_SECONDS = 2.0  # short, since the program is stopping


class Publisher(Protocol):
    """The port to CloudWatch, and to the table for the console."""

    async def publish(self, figures: Figures, within_seconds: float) -> None:
        """Send the figures within this time. It raises no exception if this fails."""


class Reporter:
    """Samples the gauges every second and reports the new figures every minute."""

    def __init__(self, meter: Meter, publishers: Iterable[Publisher | None], clock: Clock) -> None:
        self._meter = meter
        self._publishers = [publisher for publisher in publishers if publisher is not None]
        self._clock = clock

    async def keep(self) -> None:
        """Sample and report until the task is cancelled."""
        due_at = self._clock.monotonic() + PERIOD_SECONDS
        while True:
            await self._clock.sleep(SAMPLE_SECONDS)
            self._meter.sample()
            now = self._clock.monotonic()
            if now >= due_at:
                await self.report(SEND_SECONDS)
                due_at = max(due_at + PERIOD_SECONDS, now)  # skip minutes in which the process was suspended

    async def report(self, within_seconds: float) -> None:
        """Log the new figures of every handler and publish all new figures."""
        figures = self._meter.take()
        # What is counted from now on is reported a minute later, so this is the hour that matters.
        self._meter.choose_tenants(self._clock.now() + PERIOD_SECONDS)
        peak = peak_memory_bytes()
        for name, handler in sorted(figures.handlers.items()):
            get_log().info(Event.HANDLER_FIGURES, handler=name, **figures_of(handler), peak_memory_bytes=peak)
        await asyncio.gather(*(publisher.publish(figures, within_seconds) for publisher in self._publishers))


@asynccontextmanager
async def reporting(meter: Meter, publishers: Iterable[Publisher | None], clock: Clock) -> AsyncIterator[None]:
    """Report while the context is open, and once more at its end."""
    reporter = Reporter(meter, publishers, clock)
    regular = _start(reporter.keep())
    try:
        yield
    finally:
        regular.cancel()
        await asyncio.gather(regular, return_exceptions=True)
        await asyncio.gather(_start(reporter.report(LAST_SEND_SECONDS)), return_exceptions=True)


def _start(report: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(report, name="reporter")
    task.add_done_callback(_log_failure)
    return task


def _log_failure(task: asyncio.Task[None]) -> None:
    """Log a bug in the reporter. The program goes on: it is more useful without metrics than not running."""
    if not task.cancelled() and (error := task.exception()) is not None:
        get_log().error(Event.REPORTER_BROKE, exc_info=error)
