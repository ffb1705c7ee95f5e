"""Patches for moto's CloudWatch, which creates an object for each single value of an entry and keeps it for ever.

A minute of a busy program has hundreds of thousands of values, and all other requests would wait while moto stores
them. The patch stores the statistics of an entry instead. Nothing is lost: moto cannot compute percentiles anyway.
"""

from typing import Any

from moto.cloudwatch.models import CloudWatchBackend

_moto_put_metric_data = CloudWatchBackend.put_metric_data


def _put_metric_data(backend: CloudWatchBackend, namespace: str, metric_data: list[dict[str, Any]]) -> None:
    for number, entry in enumerate(metric_data, 1):
        backend._validate_parameters_put_metric_data(entry, number)  # noqa: SLF001 - moto would see only the statistics
    _moto_put_metric_data(backend, namespace, [_with_statistics(entry) for entry in metric_data])


def _with_statistics(entry: dict[str, Any]) -> dict[str, Any]:
    values = [float(value) for value in entry.get("Values") or ()]
    if not values:
        return entry
    counts = [float(count) for count in entry.get("Counts") or [1.0] * len(values)]
    statistics = {
        "SampleCount": sum(counts),
        "Sum": sum(value * count for value, count in zip(values, counts, strict=True)),
        "Minimum": min(values),
        "Maximum": max(values),
    }
    return {
        **{name: value for name, value in entry.items() if name not in {"Values", "Counts"}},
        "StatisticValues": statistics,
    }


PATCHES: tuple[tuple[object, str, object], ...] = ((CloudWatchBackend, "put_metric_data", _put_metric_data),)
