"""Counts and measures what a process does: one per process, and one call for each attempt.

`/metrics` shows the totals since the start (`exposition.py`); once a minute what is new is taken (`reporting.py`).
"""

import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from penstock.metrics.histogram import Histogram
from penstock.metrics.names import Metric

UNKNOWN_HANDLER = "unknown"  # of an operation that the application, changed since, does not offer any more

_STATUS = Path("/proc/self/status")


@dataclass(slots=True)
class HandlerFigures:
    """`seconds` is of the attempts that ran; what failed without running has none."""

    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    seconds: Histogram = field(default_factory=Histogram)

    @property
    def count(self) -> int:
        """Attempts that came to an end. One that was cut short counts where it runs again."""
        return self.succeeded + self.failed + self.retried

    def merge(self, other: "HandlerFigures") -> None:
        self.succeeded += other.succeeded
        self.failed += other.failed
        self.retried += other.retried
        self.seconds.merge(other.seconds)


@dataclass(slots=True)
class Figures:
    """What some time has brought. `samples` are how often a gauge stood where."""

    handlers: dict[str, HandlerFigures] = field(default_factory=dict)
    counts: Counter[Metric] = field(default_factory=Counter)
    spreads: dict[Metric, Histogram] = field(default_factory=dict)
    samples: dict[Metric, Counter[int]] = field(default_factory=dict)

    def merge(self, other: "Figures") -> None:
        for name, handler in other.handlers.items():
            self.handlers.setdefault(name, HandlerFigures()).merge(handler)
        self.counts.update(other.counts)
        for metric, spread in other.spreads.items():
            self.spreads.setdefault(metric, Histogram()).merge(spread)
        for metric, samples in other.samples.items():
            self.samples.setdefault(metric, Counter()).update(samples)


class Meter:
    def __init__(self) -> None:
        self._new = Figures()
        self._taken = Figures()
        self._gauges: dict[Metric, Callable[[], int]] = {}

    def succeeded(self, handler: str, seconds: float) -> None:
        figures = self._handler(handler)
        figures.succeeded += 1
        figures.seconds.add(seconds)

    def failed(self, handler: str, seconds: float | None) -> None:
        """For good. Without seconds: it did not come to run."""
        figures = self._handler(handler)
        figures.failed += 1
        if seconds is not None:
            figures.seconds.add(seconds)

    def retried(self, handler: str, seconds: float | None) -> None:
        """It failed, and may be tried again. Without seconds, as above."""
        figures = self._handler(handler)
        figures.retried += 1
        if seconds is not None:
            figures.seconds.add(seconds)

    def count(self, metric: Metric, times: int = 1) -> None:
        self._new.counts[metric] += times

    def observe(self, metric: Metric, seconds: float) -> None:
        self._new.spreads.setdefault(metric, Histogram()).add(seconds)

    def watch(self, metric: Metric, gauge: Callable[[], int]) -> None:
        """From here on `gauge` says where a metric stands."""
        self._gauges[metric] = gauge

    def sample(self) -> None:
        """Note where every gauge stands."""
        for metric, level in self.levels().items():
            self._new.samples.setdefault(metric, Counter())[level] += 1

    def levels(self) -> dict[Metric, int]:
        return {metric: gauge() for metric, gauge in self._gauges.items()}

    def take(self) -> Figures:
        """What is new since this was last asked for."""
        new, self._new = self._new, Figures()
        self._taken.merge(new)
        return new

    def totals(self) -> Figures:
        """All since the start."""
        totals = Figures()
        totals.merge(self._taken)
        totals.merge(self._new)
        return totals

    def _handler(self, name: str) -> HandlerFigures:
        figures = self._new.handlers.get(name)
        if figures is None:
            figures = self._new.handlers[name] = HandlerFigures()
        return figures


def together(handlers: Iterable[HandlerFigures]) -> HandlerFigures:
    """Of all handlers as if they were one."""
    figures = HandlerFigures()
    for one in handlers:
        figures.merge(one)
    return figures


def peak_memory_bytes() -> int:
    """The most that this process has had in memory at once.

    From /proc where it tells: Linux's getrusage includes what the process was before it became this program.
    """
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
