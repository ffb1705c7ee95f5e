"""The publisher sends a minute in a call, keeps minutes that could not be sent for a while, and never raises."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from structlog.testing import capture_logs
from types_aiobotocore_cloudwatch import CloudWatchClient

from penstock.aws import cloudwatch
from penstock.aws.cloudwatch import MINUTES_KEPT, CloudWatch
from penstock.metrics.meter import Figures, Meter
from penstock.metrics.names import Program
from penstock.settings import Settings
from penstock.telemetry import Event
from penstock.testing import FakeClock
from tests.support.builders import build_settings

DENIED = ClientError(
    {"Error": {"Code": "AccessDenied", "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}},  # type: ignore[typeddict-item]
    "PutMetricData",
)
TROUBLES = [DENIED, EndpointConnectionError(endpoint_url="http://nowhere"), TimeoutError(), RuntimeError("a fault")]


@dataclass
class Recorder:
    """Stands in for CloudWatch: it keeps what it is sent, or fails, or hangs."""

    trouble: Exception | None = None
    hangs: bool = False
    calls: list[Sequence[Any]] = field(default_factory=list)

    async def put_metric_data(self, *, Namespace: str, MetricData: Sequence[Any]) -> None:  # noqa: N803
        assert Namespace == "Penstock"
        if self.hangs:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        self.calls.append(MetricData)

    def succeeded(self) -> dict[float, float]:
        """Return the number of operations by the time that they were published with."""
        return {
            entry["Timestamp"].timestamp(): entry["Values"][0]
            for call in self.calls
            for entry in call
            if entry["MetricName"] == "OperationsSucceeded"
        }


class Bench:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.clock = FakeClock(0)
        self.publisher = CloudWatch(cast("CloudWatchClient", recorder), Program.CONSUMER, "shop", self.clock)

    async def minute(self, succeeded: int, within_seconds: float = 10) -> None:
        self.clock.advance(60)
        await self.publisher.publish(minute_of(succeeded), within_seconds)


def minute_of(succeeded: int) -> Figures:
    meter = Meter()
    for _ in range(succeeded):
        meter.succeeded("POST /a", 0.1)
    return meter.take()


async def test_minute_goes_in_one_call() -> None:
    bench = Bench(Recorder())
    await bench.minute(3)
    await bench.minute(5)
    assert len(bench.recorder.calls) == 2
    assert bench.recorder.succeeded() == {60: 3, 120: 5}


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: type(trouble).__name__)
async def test_trouble_is_said_once_and_its_end_once(trouble: Exception) -> None:
    bench = Bench(Recorder(trouble))
    with capture_logs() as logs:
        await bench.minute(1)
        await bench.minute(1)
        bench.recorder.trouble = None
        await bench.minute(1)
        await bench.minute(1)
    assert [log["event"] for log in logs] == [Event.METRICS_UNSENT, Event.METRICS_SENT_AGAIN]
    assert logs[0]["error"]
    assert logs[1]["lost_minutes"] == 0


async def test_unsent_minutes_follow_under_their_own_time() -> None:
    bench = Bench(Recorder(DENIED))
    await bench.minute(3)
    await bench.minute(5)
    bench.recorder.trouble = None
    await bench.minute(7)
    assert bench.recorder.succeeded() == {60: 3, 120: 5, 180: 7}


async def test_no_more_is_kept_than_a_bound_and_what_was_lost_is_told() -> None:
    bench = Bench(Recorder(DENIED))
    with capture_logs() as logs:
        for _ in range(MINUTES_KEPT + 2):
            await bench.minute(1)
        bench.recorder.trouble = None
        await bench.minute(1)
    assert len(bench.recorder.succeeded()) == MINUTES_KEPT
    assert max(bench.recorder.succeeded()) == 60 * (MINUTES_KEPT + 3)
    assert logs[-1]["lost_minutes"] == 3


@pytest.mark.parametrize(
    ("settings", "by_tenant"),
    [({}, False), ({"auth": "none"}, False), ({"auth": "keys"}, True), ({"tenant_header": "X-Tenant"}, True)],
)
async def test_counts_by_tenant_are_published_only_if_there_can_be_several(
    settings: dict[str, Any], by_tenant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()

    @asynccontextmanager
    async def open_recorder(settings: Settings) -> AsyncIterator[Recorder]:
        yield recorder

    monkeypatch.setattr(cloudwatch, "open_cloudwatch", open_recorder)
    meter = Meter()
    meter.accepted("default", 1)
    async with cloudwatch.open_publisher(build_settings(**settings), Program.SERVICE, FakeClock()) as publisher:
        assert publisher is not None
        await publisher.publish(meter.take(), 10)
    [call] = recorder.calls
    assert ("TenantOperations" in [entry["MetricName"] for entry in call]) is by_tenant


async def test_one_that_does_not_answer_is_not_waited_for() -> None:
    bench = Bench(Recorder(hangs=True))
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            await bench.minute(1, within_seconds=0.01)
    assert [log["event"] for log in logs] == [Event.METRICS_UNSENT]
    assert logs[0]["error"]


async def test_what_was_cut_short_is_sent_with_the_next() -> None:
    bench = Bench(Recorder(hangs=True))
    publishing = asyncio.create_task(bench.minute(3))
    await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    bench.recorder.hangs = False
    await bench.minute(5)
    assert bench.recorder.succeeded() == {60: 3, 120: 5}
