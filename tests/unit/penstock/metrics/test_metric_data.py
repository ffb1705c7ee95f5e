"""A minute as calls of PutMetricData, within CloudWatch's limits."""

import json
from typing import Any

import pytest

from penstock.metrics.histogram import SMALLEST, upper_bound
from penstock.metrics.meter import Figures, Meter
from penstock.metrics.metric_data import CALL_BYTES, ENTRIES_IN_CALL, VALUES_IN_ENTRY, calls, entries
from penstock.metrics.names import GAUGES, Metric, Program, Unit

AT = 1_700_000_000.0


def entries_of(figures: Figures, program: Program = Program.CONSUMER) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for entry in entries(figures, program, "shop", AT):
        found.setdefault(entry["MetricName"], []).append(entry)
    return found


def total(entry: Any) -> float:
    """As CloudWatch's Sum says it."""
    return float(sum(value * count for value, count in zip(entry["Values"], entry["Counts"], strict=True)))


def test_what_was_gathered_is_all_there() -> None:
    meter = Meter()
    meter.succeeded("POST /a", 0.1)
    meter.succeeded("POST /b", 0.1)
    meter.succeeded("POST /b", 20)
    meter.failed("POST /a", 0.1)
    meter.failed("unknown", None)
    meter.retried("POST /a", 0.1)
    meter.observe(Metric.CHUNK_SECONDS, 2)
    meter.count(Metric.DEAD_LETTERS, 7)
    meter.watch(Metric.IN_FLIGHT, iter([3, 0, 3]).__next__)
    for _ in range(3):
        meter.sample()
    found = entries_of(meter.take())
    sums = {name: total(entry) for name, [entry] in found.items() if entry["Unit"] == "Count"}
    assert sums == {
        "OperationsSucceeded": 3,
        "OperationsFailed": 2,
        "OperationsRetried": 1,
        "InFlight": 6,
        "DeadLetters": 7,
        "BatchesSwept": 0,
        "WebhooksFailed": 0,
    }
    [in_flight] = found["InFlight"]
    assert (in_flight["Values"], in_flight["Counts"]) == ([0, 3], [1, 2])
    [seconds] = found["HandlerSeconds"]
    assert seconds["Counts"] == [4, 1]
    assert seconds["Values"] == pytest.approx([0.1, 20], rel=0.05)
    assert "ChunkAgeSeconds" not in found


@pytest.mark.parametrize("program", Program)
def test_idle_minute_says_that_nothing_was_counted(program: Program) -> None:
    counted = {
        metric for metric in Metric if program in metric.programs and metric.unit is Unit.COUNT and metric not in GAUGES
    }
    found = entries_of(Figures(), program)
    assert set(found) == counted
    assert all((entry["Values"], entry["Counts"]) == ([0], [1]) for [entry] in found.values())


@pytest.mark.parametrize("program", Program)
def test_dimensions_are_the_service_and_the_program(program: Program) -> None:
    told = [{"Name": "Service", "Value": "shop"}, {"Name": "Program", "Value": program.value}]
    for [entry] in entries_of(Figures(), program).values():
        assert entry["Dimensions"] == told
        assert entry["Timestamp"].timestamp() == AT


def test_more_values_than_an_entry_takes_go_in_several() -> None:
    meter = Meter()
    for bucket in range(2 * VALUES_IN_ENTRY + 1):
        meter.observe(Metric.CHUNK_SECONDS, max(upper_bound(bucket), SMALLEST))
    pieces = entries_of(meter.take())["ChunkSeconds"]
    assert [len(piece["Values"]) for piece in pieces] == [VALUES_IN_ENTRY, VALUES_IN_ENTRY, 1]
    assert all(len(piece["Counts"]) == len(piece["Values"]) for piece in pieces)
    values = [value for piece in pieces for value in piece["Values"]]
    assert values == sorted(set(values))


def entry_with(values: int) -> Any:
    # As long as names may be, and numbers are.
    dimensions = [{"Name": "Service", "Value": "s" * 40}, {"Name": "Program", "Value": "consumer"}]
    times = {"Timestamp": "2026-11-25T22:44:43.123456Z", "Unit": "Seconds"}
    numbers = {"Values": [0.00012345678901234567] * values, "Counts": [1234567.0] * values}
    return {"MetricName": "OperationsSucceeded", "Dimensions": dimensions, **times, **numbers}


@pytest.mark.parametrize(
    ("entry_count", "values", "most_in_call"),
    [
        (1, 1, 1),
        (ENTRIES_IN_CALL, 0, ENTRIES_IN_CALL),
        (ENTRIES_IN_CALL + 1, 0, ENTRIES_IN_CALL),
        (200, VALUES_IN_ENTRY, 62),  # by bytes
    ],
)
def test_calls_hold_all_entries_in_order_within_the_limits(entry_count: int, values: int, most_in_call: int) -> None:
    data = [entry_with(values) for _ in range(entry_count)]
    made = list(calls(data))
    assert [entry for call in made for entry in call] == data
    assert max(map(len, made)) == most_in_call
    assert all(len(call) <= ENTRIES_IN_CALL and len(json.dumps(call)) <= CALL_BYTES for call in made)


def test_nothing_makes_no_call() -> None:
    assert list(calls([])) == []
