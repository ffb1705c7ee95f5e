"""What is mended in moto's CloudWatch: it keeps an object for every single value, however many there were of each.

A minute of a busy program has hundreds of thousands, which all other requests would wait for, and they are never
forgotten. Kept as the statistics of the entry, which is all that moto can tell of them anyway: it has no percentiles.
"""

from typing import Any

from moto.cloudwatch.models import CloudWatchBackend

_moto_put_metric_data = CloudWatchBackend.put_metric_data


def _put_metric_data(backend: CloudWatchBackend, namespace: str, metric_data: list[dict[str, Any]]) -> None:
    for number, entry in enumerate(metric_data, 1):
        backend._validate_parameters_put_metric_data(entry, number)  # noqa: SLF001 - as moto does, before all are changed
    _moto_put_metric_data(backend, namespace, [_gathered(entry) for entry in metric_data])


def _gathered(entry: dict[str, Any]) -> dict[str, Any]:
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
        **{name: told for name, told in entry.items() if name not in {"Values", "Counts"}},
        "StatisticValues": statistics,
    }


MENDS: tuple[tuple[object, str, object], ...] = ((CloudWatchBackend, "put_metric_data", _put_metric_data),)
