"""/metrics as its readers read it: Prometheus's own parsers, and JSON."""

import json
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from penstock.errors import NotAcceptable
from penstock.metrics.exposition import expose
from penstock.metrics.meter import Meter
from penstock.metrics.names import Metric, Program, Unit, metrics_of

SCRAPER = (  # what Prometheus 3 sends
    "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
HANDLER = "PUT /users/{user_id}"


@pytest.fixture
def meter() -> Meter:
    meter = Meter()
    for milliseconds in range(1, 101):
        meter.succeeded(HANDLER, milliseconds / 1000)
    meter.failed(HANDLER, 0.5)
    meter.retried(HANDLER, 0.5)
    meter.failed("unknown", None)
    meter.take()  # what was taken counts on
    meter.succeeded("GET /users", 2.0)
    meter.observe(Metric.CHUNK_SECONDS, 1.5)
    meter.count(Metric.DEAD_LETTERS, 4)
    meter.watch(Metric.IN_FLIGHT, lambda: 6)
    meter.accepted('shop"\\1', 5)
    meter.rejected('shop"\\1', 429)
    meter.rejected(None, 401)
    meter.acted("default", "revoke key")
    return meter


def samples(content: bytes, parse: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(content.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        (SCRAPER, "application/openmetrics-text; version=1.0.0; charset=utf-8", parse_openmetrics),
    ],
)
def test_prometheus_reads_the_figures(meter: Meter, accept: str | None, content_type: str, parse: Any) -> None:
    content, told = expose(meter, Program.CONSUMER, accept)
    found = samples(content, parse)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert told == content_type
    assert value("penstock_operations_succeeded_total", handler=HANDLER) == 100
    assert value("penstock_operations_failed_total", handler=HANDLER) == 1
    assert value("penstock_operations_retried_total", handler=HANDLER) == 1
    assert value("penstock_operations_failed_total", handler="unknown") == 1
    assert value("penstock_handler_seconds_count", handler=HANDLER) == 102
    assert value("penstock_handler_seconds_sum", handler=HANDLER) == pytest.approx(6.05)
    assert value("penstock_handler_seconds_bucket", handler=HANDLER, le="0.01") == 10
    assert value("penstock_handler_seconds_bucket", handler=HANDLER, le="+Inf") == 102
    assert value("penstock_handler_figure_seconds", handler=HANDLER, figure="p50") == pytest.approx(0.051, rel=0.05)
    assert value("penstock_handler_figure_seconds", handler=HANDLER, figure="max") == 0.5
    assert value("penstock_dead_letters_total") == 4
    assert value("penstock_in_flight") == 6
    assert value("penstock_chunk_seconds_sum") == 1.5
    assert value("penstock_peak_memory_bytes") > 1_000_000


@pytest.mark.parametrize("program", Program)
def test_every_metric_is_there_from_the_start(program: Program) -> None:
    families = {family.name for family in parse_text(expose(Meter(), program, None)[0].decode())}
    assert families >= {f"penstock_{metric.name.lower()}" for metric in metrics_of(program)}


@pytest.mark.parametrize(("accept", "parse"), [(None, parse_text), (SCRAPER, parse_openmetrics)])
def test_counters_by_tenant(meter: Meter, accept: str | None, parse: Any) -> None:
    found = samples(expose(meter, Program.SERVICE, accept)[0], parse)
    counted = {(name, *sorted(labels)): value for (name, labels), value in found.items() if name.endswith("_total")}
    tenant = ("tenant", 'shop"\\1')
    assert counted["penstock_tenant_operations_total", tenant] == 5
    assert counted["penstock_tenant_rejections_total", ("status", "429"), tenant] == 1
    assert counted["penstock_tenant_rejections_total", ("status", "401"), ("tenant", "no tenant")] == 1
    assert counted["penstock_tenant_actions_total", ("action", "revoke key"), ("tenant", "default")] == 1
    document = json.loads(expose(meter, Program.SERVICE, "application/json")[0])
    assert document["tenants"] == {
        "default": {"TenantActions": {"revoke key": 1}},
        "no tenant": {"TenantRejections": {"401": 1}},
        'shop"\\1': {"TenantOperations": 5, "TenantRejections": {"429": 1}},
    }


def test_buckets_grow_and_never_shrink(meter: Meter) -> None:
    [family] = [
        family
        for family in parse_text(expose(meter, Program.CONSUMER, None)[0].decode())
        if family.name == "penstock_handler_seconds"
    ]
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["handler"] == HANDLER
    ]
    assert buckets == sorted(buckets)
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)


def test_json_has_every_figure_of_every_handler(meter: Meter) -> None:
    content, content_type = expose(meter, Program.CONSUMER, "application/json")
    document = json.loads(content)
    assert content_type == "application/json"
    assert document["program"] == "consumer"
    assert document["peakMemoryBytes"] > 1_000_000
    figures = document["handlers"][HANDLER]
    counts = {name: figures[name] for name in ("count", "succeeded", "failed", "retried")}
    assert counts == {"count": 102, "succeeded": 100, "failed": 1, "retried": 1}
    assert figures["meanSeconds"] == pytest.approx(6.05 / 102, abs=1e-6)
    assert figures["p50Seconds"] == pytest.approx(0.051, rel=0.05)
    assert figures["p95Seconds"] == pytest.approx(0.097, rel=0.05)
    assert figures["p99Seconds"] == pytest.approx(0.5, rel=0.05)
    assert figures["maxSeconds"] == 0.5
    assert document["metrics"]["InFlight"] == 6
    assert document["metrics"]["DeadLetters"] == 4
    assert document["metrics"]["ChunkSeconds"]["count"] == 1
    assert document["metrics"]["BatchesSwept"] == 0


def test_other_types_are_refused_with_those_there_are(meter: Meter) -> None:
    with pytest.raises(NotAcceptable, match="text/plain or application/openmetrics-text or application/json"):
        expose(meter, Program.SERVICE, "image/png")


def test_units_are_said_by_names() -> None:
    """As Prometheus asks for it; the exposition goes by the unit."""
    assert all(metric.name.endswith("_SECONDS") is (metric.unit is Unit.SECONDS) for metric in Metric)
