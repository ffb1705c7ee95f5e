"""The response of `/metrics`: all figures since the start, as Prometheus or OpenMetrics text, or as JSON.

Each process reports only its own figures. Counters and histograms of several processes can be added.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from pydantic_core import to_json

from penstock.metrics.histogram import BUCKETS_PER_DECADE, Histogram, upper_bound
from penstock.metrics.meter import Figures, HandlerFigures, Meter, peak_memory_bytes
from penstock.metrics.metric_data import count_of
from penstock.metrics.names import (
    BY_HANDLER,
    GAUGES,
    Metric,
    Program,
    TenantMetric,
    Unit,
    metrics_of,
    tenant_metrics_of,
)
from penstock.negotiation import choose_type

TEXT, OPEN_METRICS, JSON = "text/plain", "application/openmetrics-text", "application/json"
TYPES = (TEXT, OPEN_METRICS, JSON)

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_DECIMALS = 6  # seconds are rounded to microseconds
# Every eighth of our buckets: three in each decade, from a millisecond to about a quarter of an hour.
_BOUNDS = range(3 * BUCKETS_PER_DECADE, 9 * BUCKETS_PER_DECADE, BUCKETS_PER_DECADE // 3)


def expose(meter: Meter, program: Program, accept: str | None) -> tuple[bytes, str]:
    """Return the body of the response and its content type. Raises NotAcceptable."""
    match choose_type(accept, TYPES):
        case "application/json":
            return to_json(as_document(meter, program)), JSON
        case "application/openmetrics-text":
            content: bytes = openmetrics.generate_latest(_registry(meter, program))  # type: ignore[no-untyped-call]
            return content, openmetrics.CONTENT_TYPE_LATEST
        case _:
            return generate_latest(_registry(meter, program)), CONTENT_TYPE_PLAIN_0_0_4


def figures_of(handler: HandlerFigures) -> dict[str, float]:
    """Return the figures of a handler by name, as they are logged."""
    return {
        "count": handler.count,
        "succeeded": handler.succeeded,
        "failed": handler.failed,
        "retried": handler.retried,
        **{f"{name}_seconds": seconds for name, seconds in _spread(handler.seconds).items()},
    }


def as_document(meter: Meter, program: Program) -> dict[str, Any]:
    """Return all figures as a JSON document."""
    totals, levels = meter.totals(), meter.levels()
    return {
        "program": program,
        "peakMemoryBytes": peak_memory_bytes(),
        "handlers": {
            name: {_camel_case(figure): value for figure, value in figures_of(handler).items()}
            for name, handler in sorted(totals.handlers.items())
        },
        "metrics": {
            metric: _value(metric, totals, levels) for metric in metrics_of(program) if metric not in BY_HANDLER
        },
        "tenants": _tenants(totals),
    }


def _tenants(totals: Figures) -> dict[str, Any]:
    """Return the counters of each tenant. A counter with a label is an object with a count for each of its values."""
    tenants: dict[str, Any] = {}
    for (metric, tenant, kind), count in sorted(totals.tenants.items()):
        counters = tenants.setdefault(tenant, {})
        if metric.label is None:
            counters[metric] = count
        else:
            counters.setdefault(metric, {})[kind] = count
    return tenants


def _value(metric: Metric, totals: Figures, levels: dict[Metric, int]) -> Any:
    if metric in GAUGES:
        return levels.get(metric, 0)
    if metric.unit is Unit.COUNT:
        return totals.counts[metric]
    spread = totals.spreads.get(metric, Histogram())
    return {"count": spread.count, **{f"{name}Seconds": seconds for name, seconds in _spread(spread).items()}}


def _spread(seconds: Histogram) -> dict[str, float]:
    quantiles = {name: seconds.quantile(share) for name, share in _QUANTILES.items()}
    values = {"mean": seconds.mean, **quantiles, "max": seconds.largest}
    return {name: round(value, _DECIMALS) for name, value in values.items()}


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


class _Figures(Collector):
    """A collector that prometheus_client calls for each response. prometheus_client itself stores no figures."""

    def __init__(self, meter: Meter, program: Program) -> None:
        self._meter = meter
        self._program = program

    def collect(self) -> Iterator[Family]:
        totals, levels = self._meter.totals(), self._meter.levels()
        for metric in metrics_of(self._program):
            yield _family(metric, totals, levels)
        for tenant_metric in tenant_metrics_of(self._program):
            yield _tenant_family(tenant_metric, totals)
        yield _handler_figures(totals)
        peak = "The maximum memory of this process since its start."
        yield GaugeMetricFamily("penstock_peak_memory_bytes", peak, peak_memory_bytes())


def _registry(meter: Meter, program: Program) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(meter, program))
    return registry


def _family(metric: Metric, totals: Figures, levels: dict[Metric, int]) -> Family:
    name = f"penstock_{metric.name.lower()}"
    labels = ("handler",) if metric in BY_HANDLER else ()
    if metric in GAUGES:
        return GaugeMetricFamily(name, metric.meaning, levels.get(metric, 0))
    if metric.unit is Unit.SECONDS:
        histogram = HistogramMetricFamily(name, metric.meaning, labels=labels)
        for values, seconds in _spreads(metric, totals):
            histogram.add_metric(values, _buckets(seconds), seconds.total)
        return histogram
    counter = CounterMetricFamily(name, metric.meaning, labels=labels)
    for values, count in _counts(metric, totals):
        counter.add_metric(values, count)
    return counter


def _tenant_family(metric: TenantMetric, totals: Figures) -> Family:
    labels = ("tenant",) if metric.label is None else ("tenant", metric.label)
    counter = CounterMetricFamily(f"penstock_{metric.name.lower()}", metric.meaning, labels=labels)
    for (counted, tenant, kind), count in sorted(totals.tenants.items()):
        if counted is metric:
            counter.add_metric([tenant, kind][: len(labels)], count)
    return counter


def _counts(metric: Metric, totals: Figures) -> Iterator[tuple[list[str], int]]:
    if metric in BY_HANDLER:
        for name, handler in sorted(totals.handlers.items()):
            yield [name], count_of(metric, totals, handler)
    else:
        yield [], totals.counts[metric]


def _spreads(metric: Metric, totals: Figures) -> Iterator[tuple[list[str], Histogram]]:
    if metric in BY_HANDLER:
        for name, handler in sorted(totals.handlers.items()):
            yield [name], handler.seconds
    else:
        yield [], totals.spreads.get(metric, Histogram())


def _buckets(seconds: Histogram) -> list[tuple[str, float]]:
    bounded = [(str(float(f"{upper_bound(n):.3g}")), float(seconds.count_up_to(n))) for n in _BOUNDS]
    return [*bounded, ("+Inf", float(seconds.count))]


def _handler_figures(totals: Figures) -> Family:
    meaning = "Duration of one attempt of a handler since the start: mean, quantiles and maximum."
    family = GaugeMetricFamily("penstock_handler_figure_seconds", meaning, labels=("handler", "figure"))
    for name, handler in sorted(totals.handlers.items()):
        for figure, seconds in _spread(handler.seconds).items():
            family.add_metric([name, figure], seconds)
    return family
