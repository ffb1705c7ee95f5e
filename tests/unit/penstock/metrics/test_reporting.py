"""Once a minute, and at the end, what is new is told: in the log by handler, and to whoever publishes."""

import asyncio
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from penstock.aws.cloudwatch import open_publisher
from penstock.metrics import reporting as reporting_module
from penstock.metrics.meter import Figures, Meter
from penstock.metrics.names import Metric, Program
from penstock.metrics.reporting import LAST_SEND_SECONDS, Reporter, reporting
from penstock.telemetry import Event
from penstock.testing import FakeClock
from tests.support.builders import build_settings
from tests.support.waiting import eventually


@dataclass
class Notes:
    """A publisher; its clock ends the reporter at a certain time."""

    clock: FakeClock
    told: list[tuple[float, Figures]] = field(default_factory=list)
    takes_seconds: float = 0.0

    async def publish(self, figures: Figures, within_seconds: float) -> None:
        self.told.append((self.clock.now(), figures))
        self.clock.advance(self.takes_seconds)


class EndingClock(FakeClock):
    """Cancels whoever sleeps past the end."""

    def __init__(self, end_at: float) -> None:
        super().__init__(0)
        self._end_at = end_at

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        if self.now() >= self._end_at:
            raise asyncio.CancelledError


async def keep_for(seconds: float, meter: Meter, *, takes_seconds: float = 0.0) -> Notes:
    clock = EndingClock(seconds)
    notes = Notes(clock, takes_seconds=takes_seconds)
    with pytest.raises(asyncio.CancelledError):
        await Reporter(meter, (notes,), clock).keep()
    return notes


async def test_once_a_minute() -> None:
    notes = await keep_for(200, Meter())
    assert [at for at, _ in notes.told] == [60, 120, 180]


async def test_slow_publisher_does_not_move_the_minutes() -> None:
    notes = await keep_for(250, Meter(), takes_seconds=14.5)
    assert [at for at, _ in notes.told] == [60, 120.5, 180, 240.5]


async def test_process_that_stood_still_tells_once_of_all_that_time() -> None:
    notes = await keep_for(1_000, Meter(), takes_seconds=400)
    assert [at for at, _ in notes.told] == [60, 461, 862]


async def test_tenants_change_with_the_first_minute_of_an_hour_that_cloudwatch_gets() -> None:
    meter = Meter()
    for number in range(10):
        meter.accepted(f"t{number}", 1)
    meter.accepted("busy", 100)
    clock = FakeClock(3_480)  # two minutes before the hour
    reporter = Reporter(meter, (), clock)
    counted = []
    for _ in range(3):
        meter.rejected("busy", 429)
        counted += [tenant for (_, tenant, kind) in meter._new.tenants if kind == "429"]
        await reporter.report(1)
        clock.advance(60)
    assert counted == ["other tenants", "other tenants", "busy"]


async def test_gauges_are_looked_at_every_second() -> None:
    meter = Meter()
    meter.watch(Metric.IN_FLIGHT, lambda: 3)
    notes = await keep_for(61, meter)
    [(_, figures)] = notes.told
    assert figures.samples[Metric.IN_FLIGHT] == {3: 60}


async def test_log_has_a_line_for_each_handler_that_did_something() -> None:
    meter = Meter()
    reporter = Reporter(meter, (), FakeClock())
    meter.succeeded("POST /b", 0.2)
    meter.failed("POST /a", 0.1)
    meter.retried("POST /a", 0.3)
    with capture_logs() as logs:
        await reporter.report(1)
        meter.succeeded("POST /b", 0.4)
        await reporter.report(1)
    lines = [(log["handler"], log["count"], log["succeeded"], log["failed"], log["retried"]) for log in logs]
    assert lines == [("POST /a", 2, 0, 1, 1), ("POST /b", 1, 1, 0, 0), ("POST /b", 1, 1, 0, 0)]
    first = logs[0]
    assert first["event"] == Event.HANDLER_FIGURES
    assert (first["mean_seconds"], first["max_seconds"]) == (0.2, 0.3)
    assert first["p50_seconds"] == pytest.approx(0.1, rel=0.05)
    assert first["p99_seconds"] == first["p95_seconds"] == pytest.approx(0.3, rel=0.05)
    assert first["peak_memory_bytes"] > 1_000_000


async def test_at_the_end_the_rest_is_told() -> None:
    meter = Meter()
    with capture_logs() as logs:
        async with reporting(meter, (), FakeClock()):
            meter.succeeded("POST /a", 0.1)
    assert [log["handler"] for log in logs if log["event"] == Event.HANDLER_FIGURES] == ["POST /a"]
    assert LAST_SEND_SECONDS <= 2


async def test_fault_of_ours_stops_the_figures_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_() -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr(reporting_module, "SAMPLE_SECONDS", 0)
    meter = Meter()
    meter.watch(Metric.IN_FLIGHT, break_)
    with capture_logs() as logs:
        async with reporting(meter, (), FakeClock()):

            async def has_said_so() -> bool:
                return Event.REPORTER_BROKE in [log["event"] for log in logs]

            await eventually(has_said_so)


async def test_fault_of_ours_in_the_last_report_ends_nothing_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_() -> Figures:
        raise RuntimeError("a fault")

    meter = Meter()
    monkeypatch.setattr(meter, "take", break_)
    with capture_logs() as logs:
        async with reporting(meter, (), FakeClock()):
            pass
    assert [log["event"] for log in logs] == [Event.REPORTER_BROKE]


async def test_endpoint_that_cannot_be_used_is_said_once_and_the_program_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", "no address")
    settings = build_settings(metrics="cloudwatch", aws_region="eu-central-1")
    meter = Meter()
    with capture_logs() as logs:
        async with (
            open_publisher(settings, Program.SERVICE, FakeClock()) as publisher,
            reporting(meter, (publisher,), FakeClock()),
        ):
            meter.succeeded("POST /a", 0.1)
    assert [log["event"] for log in logs] == [Event.METRICS_UNSENT, Event.HANDLER_FIGURES]
    assert "Invalid endpoint: no address" in logs[0]["error"]
