"""The meter counts and measures the work of a process. Each attempt of an operation is one call to it.

`/metrics` shows the totals since the start (`exposition.py`). Once a minute the new figures are reported
(`reporting.py`).
"""

import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from penstock.metrics.histogram import Histogram
from penstock.metrics.names import Metric, TenantMetric
from penstock.metrics.tenants import NO_TENANT, Busiest

UNKNOWN_HANDLER = "unknown"  # for an operation whose handler the application does not have any more

_STATUS = Path("/proc/self/status")


@dataclass(slots=True)
class HandlerFigures:
    """The counts and times of a handler's attempts. An attempt that failed without running has no time."""

    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    seconds: Histogram = field(default_factory=Histogram)

    @property
    def count(self) -> int:
        """Return the number of finished attempts. An interrupted attempt counts when it runs again."""
        return self.succeeded + self.failed + self.retried

    def merge(self, other: "HandlerFigures") -> None:
        self.succeeded += other.succeeded
        self.failed += other.failed
        self.retried += other.retried
        self.seconds.merge(other.seconds)


class TenantCount(NamedTuple):
    """What a counter by tenant counts. `kind` is the value of the metric's label, or empty."""

    metric: TenantMetric
    tenant: str
    kind: str


@dataclass(slots=True)
class Figures:
    """The figures of a period. `samples` counts, for each gauge, how often it had which value."""

    handlers: dict[str, HandlerFigures] = field(default_factory=dict)
    counts: Counter[Metric] = field(default_factory=Counter)
    spreads: dict[Metric, Histogram] = field(default_factory=dict)
    samples: dict[Metric, Counter[int]] = field(default_factory=dict)
    tenants: Counter[TenantCount] = field(default_factory=Counter)

    def merge(self, other: "Figures") -> None:
        for name, handler in other.handlers.items():
            self.handlers.setdefault(name, HandlerFigures()).merge(handler)
        self.counts.update(other.counts)
        for metric, spread in other.spreads.items():
            self.spreads.setdefault(metric, Histogram()).merge(spread)
        for metric, samples in other.samples.items():
            self.samples.setdefault(metric, Counter()).update(samples)
        self.tenants.update(other.tenants)


class Meter:
    """Counts and measures the work of one process."""

    def __init__(self) -> None:
        self._new = Figures()
        self._taken = Figures()
        self._gauges: dict[Metric, Callable[[], int]] = {}
        self._busiest = Busiest()

    def succeeded(self, handler: str, seconds: float) -> None:
        """Count an attempt that succeeded."""
        figures = self._new.handlers.get(handler) or self._handler(handler)
        figures.succeeded += 1
        figures.seconds.add(seconds)

    def all_succeeded(self, handler: str, seconds: Sequence[float]) -> None:
        """Count attempts that succeeded, with the seconds of each."""
        figures = self._handler(handler)
        figures.succeeded += len(seconds)
        figures.seconds.add_all(seconds)

    def failed(self, handler: str, seconds: float | None) -> None:
        """Count an attempt that failed the operation. `seconds` is None if the handler did not run."""
        figures = self._handler(handler)
        figures.failed += 1
        if seconds is not None:
            figures.seconds.add(seconds)

    def retried(self, handler: str, seconds: float | None) -> None:
        """Count an attempt that failed and is followed by another. `seconds` is None if the handler did not run."""
        figures = self._handler(handler)
        figures.retried += 1
        if seconds is not None:
            figures.seconds.add(seconds)

    def count(self, metric: Metric, times: int = 1) -> None:
        """Add to a counter."""
        self._new.counts[metric] += times

    def observe(self, metric: Metric, seconds: float) -> None:
        """Add a duration to a histogram."""
        self._new.spreads.setdefault(metric, Histogram()).add(seconds)

    def accepted(self, tenant: str, operations: int) -> None:
        """Count operations that were accepted, or answered with their results."""
        if operations:
            self._busiest.add(tenant, operations)
            self._count_for(tenant, TenantMetric.TENANT_OPERATIONS, operations)

    def finished(self, tenant: str, operations: int) -> None:
        """Note that operations have finished. In a program that accepts none, this shows which tenants are busy."""
        if operations:
            self._busiest.add(tenant, operations)

    def failures(self, tenant: str, operations: int) -> None:
        """Count operations that have failed."""
        if operations:
            self._count_for(tenant, TenantMetric.TENANT_FAILURES, operations)

    def rejected(self, tenant: str | None, status: int) -> None:
        """Count a request that was rejected. `tenant` is None if the caller is not known."""
        self._count_for(tenant, TenantMetric.TENANT_REJECTIONS, 1, str(status))

    def acted(self, tenant: str | None, action: str) -> None:
        """Count an action of a caller."""
        self._count_for(tenant, TenantMetric.TENANT_ACTIONS, 1, action)

    def watch(self, metric: Metric, gauge: Callable[[], int]) -> None:
        """Register the function that returns the present value of a gauge."""
        self._gauges[metric] = gauge

    def sample(self) -> None:
        """Record the present value of every gauge."""
        for metric, level in self.levels().items():
            self._new.samples.setdefault(metric, Counter())[level] += 1

    def levels(self) -> dict[Metric, int]:
        """Return the present value of every gauge."""
        return {metric: gauge() for metric, gauge in self._gauges.items()}

    def take(self) -> Figures:
        """Return the figures since the previous call."""
        new, self._new = self._new, Figures()
        self._taken.merge(new)
        return new

    def choose_tenants(self, now: float) -> None:
        """Choose the tenants with figures of their own, if a new hour has begun. The totals of others are dropped."""
        dropped = self._busiest.choose(now)
        for figures in (self._taken, self._new):
            for count in [count for count in figures.tenants if count.tenant in dropped]:
                del figures.tenants[count]

    def totals(self) -> Figures:
        """Return the figures since the start of the process."""
        totals = Figures()
        totals.merge(self._taken)
        totals.merge(self._new)
        return totals

    def _handler(self, name: str) -> HandlerFigures:
        figures = self._new.handlers.get(name)
        if figures is None:
            figures = self._new.handlers[name] = HandlerFigures()
        return figures

    def _count_for(self, tenant: str | None, metric: TenantMetric, times: int, kind: str = "") -> None:
        name = NO_TENANT if tenant is None else self._busiest.name_of(tenant)
        self._new.tenants[TenantCount(metric, name, kind)] += times


def together(handlers: Iterable[HandlerFigures]) -> HandlerFigures:
    """Return the figures of several handlers as if they were one."""
    figures = HandlerFigures()
    for one in handlers:
        figures.merge(one)
    return figures


def peak_memory_bytes() -> int:
    """Return the maximum memory of this process in bytes.

    It comes from /proc if available: on Linux, getrusage includes the memory of the process before it ran exec.
    """
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
