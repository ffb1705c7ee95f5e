"""Convert the figures of a minute to calls of PutMetricData, within CloudWatch's limits. Pure.

Durations are sent as the values of their histogram with a count for each, so that CloudWatch can compute percentiles
with the histogram's error. A count of 0 is sent, too: it shows that nothing failed. Counts by tenant are sent only if
they are not 0, because CloudWatch bills them for the hours in which they are sent.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from penstock.metrics.meter import Figures, HandlerFigures, together
from penstock.metrics.names import GAUGES, Metric, Program, TenantMetric, Unit, metrics_of
from penstock.runs import in_runs

if TYPE_CHECKING:
    from types_aiobotocore_cloudwatch.type_defs import DimensionTypeDef, MetricDatumTypeDef

VALUES_IN_ENTRY = 150
ENTRIES_IN_CALL = 1_000
CALL_BYTES = 1_000_000
_ENTRY_BYTES = 1_000  # upper bound for an entry without its values: a name, a time and two dimensions
_VALUE_BYTES = 100  # upper bound for a value with its count, in any of CloudWatch's protocols

Values = Sequence[tuple[float, int]]  # each value with the number of its occurrences


def entries(
    figures: Figures, program: Program, service: str, at: float, *, by_tenant: bool = False
) -> Iterator["MetricDatumTypeDef"]:
    """Yield the entries for CloudWatch. `service` is PENSTOCK_NAME; `at` is the end of the minute since the epoch."""
    dimensions: list[DimensionTypeDef] = [
        {"Name": "Service", "Value": service},
        {"Name": "Program", "Value": str(program)},
    ]
    overall = together(figures.handlers.values())
    for metric in metrics_of(program):
        values = _values(metric, figures, overall)
        for start in range(0, len(values), VALUES_IN_ENTRY):
            piece = values[start : start + VALUES_IN_ENTRY]
            yield {
                "MetricName": str(metric),
                "Dimensions": dimensions,
                "Timestamp": datetime.fromtimestamp(at, UTC),
                "Unit": metric.unit.value,
                "Values": [value for value, _ in piece],
                "Counts": [float(count) for _, count in piece],
            }
    if by_tenant:
        yield from _entries_by_tenant(figures, service, at)


def _entries_by_tenant(figures: Figures, service: str, at: float) -> Iterator["MetricDatumTypeDef"]:
    counts: Counter[tuple[TenantMetric, str]] = Counter()
    for (metric, tenant, _), count in figures.tenants.items():
        counts[metric, tenant] += count
    for (metric, tenant), count in counts.items():
        if count:
            yield {
                "MetricName": str(metric),
                "Dimensions": [{"Name": "Service", "Value": service}, {"Name": "Tenant", "Value": tenant}],
                "Timestamp": datetime.fromtimestamp(at, UTC),
                "Unit": Unit.COUNT.value,
                "Value": float(count),
            }


def _values(metric: Metric, figures: Figures, overall: HandlerFigures) -> Values:
    if metric is Metric.HANDLER_SECONDS:
        return list(overall.seconds.values())
    if metric.unit is Unit.SECONDS:
        return list(figures.spreads[metric].values()) if metric in figures.spreads else []
    if metric in GAUGES:
        return sorted(figures.samples.get(metric, Counter()).items())
    return [(count_of(metric, figures, overall), 1)]


def count_of(metric: Metric, figures: Figures, overall: HandlerFigures) -> int:
    """Return the value of a counter. Counters of attempts come from `overall`, the others from `figures`."""
    match metric:
        case Metric.OPERATIONS_SUCCEEDED:
            return overall.succeeded
        case Metric.OPERATIONS_FAILED:
            return overall.failed
        case Metric.OPERATIONS_RETRIED:
            return overall.retried
        case _:
            return figures.counts[metric]


def calls(data: Iterable["MetricDatumTypeDef"]) -> Iterator[list["MetricDatumTypeDef"]]:
    """Yield lists of entries, each as many as fit into one call."""
    return in_runs(data, _bytes_of, CALL_BYTES, ENTRIES_IN_CALL)


def _bytes_of(entry: "MetricDatumTypeDef") -> int:
    return _ENTRY_BYTES + _VALUE_BYTES * len(entry.get("Values", ()))
