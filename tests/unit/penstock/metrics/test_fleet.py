"""What each process reports of its handlers, and how a reader adds it up."""

from structlog.testing import capture_logs

from penstock.errors import Unavailable
from penstock.metrics.fleet import (
    MINUTES,
    MOST_HANDLERS,
    FigureReport,
    FleetFigures,
    add_up,
    decode_handlers,
    encode_handlers,
)
from penstock.metrics.meter import Figures, HandlerFigures, Meter
from penstock.telemetry import Event
from penstock.testing import FakeClock, MemoryStore


def minute(*seconds: float, handler: str = "POST /a") -> Figures:
    meter = Meter()
    for one in seconds:
        meter.succeeded(handler, one)
    return meter.take()


def quantiles(figures: HandlerFigures) -> list[float]:
    return [figures.seconds.quantile(share) for share in (0.5, 0.99)]


async def test_process_reports_its_last_minutes() -> None:
    store, clock = MemoryStore(), FakeClock(1_000)
    figures = FleetFigures(store, "p", clock)
    for number in range(MINUTES + 2):
        await figures.publish(minute(*[0.1] * number), 1)
        clock.advance(60)
    [report] = await store.read_figures(0)
    assert (report.process, report.at) == ("p", clock.now() - 60)
    assert report.handlers["POST /a"].count == sum(range(2, MINUTES + 2))
    for _ in range(2 * MINUTES):  # in which nothing happens
        await figures.publish(Figures(), 1)
        clock.advance(60)
    [report] = await store.read_figures(0)
    assert report.at < clock.now() - MINUTES * 60
    assert await store.read_figures(clock.now() - MINUTES * 60) == []


async def test_table_that_does_not_answer_stops_nothing() -> None:
    class Away(MemoryStore):
        async def write_figures(self, report: FigureReport) -> None:
            raise Unavailable("AWS is away.")

    with capture_logs() as logs:
        await FleetFigures(Away(), "p", FakeClock()).publish(minute(1), 1)
    assert [line["event"] for line in logs] == [Event.FIGURES_UNSENT]


def test_sum_of_processes_is_that_of_their_attempts() -> None:
    both = add_up([minute(*[0.001] * 98).handlers, minute(5.0, 5.0).handlers])
    assert both["POST /a"].count == 100
    assert quantiles(both["POST /a"]) == quantiles(minute(*[0.001] * 98, 5.0, 5.0).handlers["POST /a"])


def test_only_the_busiest_handlers_are_reported() -> None:
    total = MOST_HANDLERS + 50
    many = [minute(*[1.0] * (1 + number % 2), handler=f"POST /{number:03}").handlers for number in range(total)]
    names = list(add_up(many))
    assert names == sorted(names)
    assert len(names) == MOST_HANDLERS
    assert {f"POST /{number:03}" for number in range(1, total, 2)} <= set(names)


def test_report_comes_back_as_it_was_written() -> None:
    handlers = minute(0.001, 0.5, 70.0).handlers
    read = decode_handlers(encode_handlers(handlers))["POST /a"]
    assert read.count == 3
    assert read.seconds.buckets == handlers["POST /a"].seconds.buckets
    assert (read.seconds.largest, read.seconds.total) == (70.0, 70.501)
