"""How the progress of a batch is drawn."""

from typing import Any

from penstock.service.console.live import Point
from penstock.service.console.progress import chart_of, rate_of

RUNNING: dict[str, Any] = {
    "status": "processing",
    "startedAt": "2026-01-01T00:00:00Z",
    "finishedAt": None,
    "completed": 10,
}


def test_chart_needs_three_points() -> None:
    assert chart_of([]) is None
    assert chart_of([Point(0, 0), Point(0, 0), Point(2, 9)]) is None
    assert chart_of([Point(0, 0), Point(2, 4), Point(4, 4)]) == {
        "at": [0, 2, 4],
        "completed": [0, 4, 4],
        "rate": [2, 2, 1],
    }


def test_rate_in_the_chart_is_over_some_seconds() -> None:
    chart = chart_of([Point(at, 100 * (at // 4)) for at in range(0, 40, 2)])  # every second point has a chunk
    assert chart is not None
    assert max(chart["rate"][4:]) - min(chart["rate"][4:]) < 20  # between two points it is 0 or 50


def test_paused_batch_has_no_rate() -> None:
    assert rate_of(RUNNING, 3.0, 0) == 3.0
    assert rate_of({**RUNNING, "status": "paused"}, 3.0, 0) is None
