"""What is taken is told once, and stays in the totals."""

from pathlib import Path

import pytest

from penstock.metrics import meter as meter_module
from penstock.metrics.meter import Meter, peak_memory_bytes
from penstock.metrics.names import Metric


def fill(meter: Meter) -> None:
    meter.succeeded("POST /a", 0.1)
    meter.retried("POST /a", 0.3)
    meter.count(Metric.DEAD_LETTERS, 2)
    meter.observe(Metric.CHUNK_SECONDS, 1.0)
    meter.sample()


def test_what_is_new_is_taken_once_and_the_totals_grow() -> None:
    meter = Meter()
    meter.watch(Metric.IN_FLIGHT, lambda: 3)
    for _ in range(2):
        fill(meter)
        new = meter.take()
        assert (new.handlers["POST /a"].count, new.counts[Metric.DEAD_LETTERS]) == (2, 2)
        assert new.spreads[Metric.CHUNK_SECONDS].count == 1
        assert new.samples[Metric.IN_FLIGHT] == {3: 1}
    assert meter.take().handlers == {}
    fill(meter)
    totals = meter.totals()
    assert (totals.handlers["POST /a"].succeeded, totals.handlers["POST /a"].retried) == (3, 3)
    assert totals.handlers["POST /a"].seconds.total == pytest.approx(1.2)
    assert totals.counts[Metric.DEAD_LETTERS] == 6
    assert totals.spreads[Metric.CHUNK_SECONDS].count == 3
    assert totals.samples[Metric.IN_FLIGHT] == {3: 3}


def test_totals_are_not_changed_by_what_comes_after() -> None:
    meter = Meter()
    fill(meter)
    totals = meter.totals()
    fill(meter)
    assert totals.handlers["POST /a"].count == 2


@pytest.mark.parametrize("status", ["Name:\tpython\n", None])
def test_peak_is_told_where_proc_does_not_tell_it(
    status: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "status"
    if status is not None:
        file.write_text(status)
    told = peak_memory_bytes()
    monkeypatch.setattr(meter_module, "_STATUS", file)
    assert peak_memory_bytes() >= 0.9 * told > 10_000_000
