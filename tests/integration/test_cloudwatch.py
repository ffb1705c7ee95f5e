"""What is published arrives: the embedded AWS has it as it was measured, under the names and dimensions we say."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.cloudwatch.models import cloudwatch_backends

from penstock.aws.cloudwatch import NAMESPACE, open_publisher
from penstock.clock import SystemClock
from penstock.metrics.histogram import upper_bound
from penstock.metrics.meter import Figures, Meter
from penstock.metrics.names import Metric, Program, metrics_of
from penstock.settings import Settings

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient

pytestmark = pytest.mark.parametrize("aws", ["embedded"], indirect=True)


@pytest.fixture
def cloudwatch(settings: Settings) -> "Iterator[CloudWatchClient]":
    client = boto3.client("cloudwatch", region_name=settings.aws_region)
    yield client
    client.close()


def dimensions(settings: Settings, program: Program) -> list[Any]:
    return [{"Name": "Service", "Value": settings.name}, {"Name": "Program", "Value": program.value}]


def statistics(client: "CloudWatchClient", settings: Settings, metric: Metric) -> Any:
    now = datetime.now(UTC)
    [point] = client.get_metric_statistics(
        Namespace=NAMESPACE,
        MetricName=metric,
        Dimensions=dimensions(settings, Program.CONSUMER),
        StartTime=now - timedelta(minutes=5),
        EndTime=now + timedelta(minutes=5),
        Period=3600,
        Statistics=["SampleCount", "Sum", "Minimum", "Maximum"],
        Unit=metric.unit.value,
    )["Datapoints"]
    return point


async def publish(settings: Settings, program: Program, figures: Figures) -> None:
    async with open_publisher(settings, program, SystemClock()) as publisher:
        assert publisher is not None
        await publisher.publish(figures, within_seconds=10)


def busy_minute() -> Figures:
    meter = Meter()
    for _ in range(300_000):
        meter.succeeded("POST /a", 0.01)
    for _ in range(100):
        meter.failed("POST /b", 3.0)
    meter.count(Metric.DEAD_LETTERS, 5)
    meter.observe(Metric.CHUNK_SECONDS, 1.0)
    meter.observe(Metric.CHUNK_AGE_SECONDS, 1.0)
    meter.watch(Metric.IN_FLIGHT, lambda: 4)
    meter.sample()
    return meter.take()


async def test_busy_minute_arrives_as_it_was(settings: Settings, cloudwatch: "CloudWatchClient") -> None:
    await publish(settings, Program.CONSUMER, busy_minute())
    succeeded = statistics(cloudwatch, settings, Metric.OPERATIONS_SUCCEEDED)
    assert succeeded["Sum"] == 300_000
    seconds = statistics(cloudwatch, settings, Metric.HANDLER_SECONDS)
    assert seconds["SampleCount"] == 300_100
    assert seconds["Minimum"] == pytest.approx(0.01, rel=0.05)
    assert seconds["Maximum"] == pytest.approx(3, rel=0.05)
    assert seconds["Sum"] == pytest.approx(3_300, rel=0.05)
    assert statistics(cloudwatch, settings, Metric.DEAD_LETTERS)["Sum"] == 5
    assert statistics(cloudwatch, settings, Metric.IN_FLIGHT)["Maximum"] == 4
    assert statistics(cloudwatch, settings, Metric.BATCHES_SWEPT)["Sum"] == 0


async def test_embedded_aws_keeps_one_entry_for_all_values(settings: Settings) -> None:
    """Or a busy minute would be hundreds of thousands, and all else would wait for them."""
    await publish(settings, Program.CONSUMER, busy_minute())
    assert entries_kept(settings) == len(metrics_of(Program.CONSUMER))


def entries_kept(settings: Settings) -> int:
    """Return how many entries of this service the embedded AWS keeps. Programs of other tests may publish meanwhile."""
    regions = [region for account in cloudwatch_backends.values() for region in account.values()]
    entries = [entry for region in regions for entry in region.metric_data]
    return sum(any(dimension.value == settings.name for dimension in entry.dimensions) for entry in entries)


async def test_values_of_every_size_arrive(settings: Settings, cloudwatch: "CloudWatchClient") -> None:
    """In several entries, since one takes 150 values; and packed, since it is a large call."""
    meter = Meter()
    sizes = [upper_bound(bucket) for bucket in range(1, 260)]
    for seconds in sizes:
        meter.succeeded("POST /a", seconds)
        meter.observe(Metric.CHUNK_SECONDS, seconds)
        meter.observe(Metric.CHUNK_AGE_SECONDS, seconds)
    await publish(settings, Program.CONSUMER, meter.take())
    for metric in (Metric.HANDLER_SECONDS, Metric.CHUNK_SECONDS, Metric.CHUNK_AGE_SECONDS):
        found = statistics(cloudwatch, settings, metric)
        assert found["SampleCount"] == len(sizes)
        assert found["Maximum"] == pytest.approx(max(sizes), rel=0.05)
        assert found["Minimum"] == pytest.approx(min(sizes), rel=0.05)


def test_values_and_counts_that_do_not_fit_are_refused(cloudwatch: "CloudWatchClient") -> None:
    entry: Any = {"MetricName": "X", "Values": [1.0, 2.0], "Counts": [1.0]}
    with pytest.raises(ClientError, match="same size"):
        cloudwatch.put_metric_data(Namespace=NAMESPACE, MetricData=[entry])


async def test_processes_of_a_program_add_up(settings: Settings, cloudwatch: "CloudWatchClient") -> None:
    for _ in range(2):
        await publish(settings, Program.CONSUMER, busy_minute())
    assert statistics(cloudwatch, settings, Metric.OPERATIONS_FAILED)["Sum"] == 200


async def test_names_are_those_of_the_list(settings: Settings, cloudwatch: "CloudWatchClient") -> None:
    await publish(settings, Program.CONSUMER, busy_minute())
    listed = cloudwatch.list_metrics(Namespace=NAMESPACE, Dimensions=dimensions(settings, Program.CONSUMER))["Metrics"]
    assert {metric["MetricName"] for metric in listed} == set(metrics_of(Program.CONSUMER))
