"""The list of metrics, and that operators read the same."""

from pathlib import Path

from penstock.metrics.names import Metric, Program, TenantMetric, metrics_of, tenant_metrics_of

README = Path(__file__).parents[4] / "infra" / "README.md"


def test_operators_read_every_metric_with_its_unit_its_programs_and_its_meaning() -> None:
    text = README.read_text()
    start = text.index("| metric | unit | from | meaning |")
    table = text[start:].split("\n\n")[0].splitlines()[2:]
    assert table == [
        f"| `{metric.value}` | {metric.unit.value} | {' and '.join(metric.programs)} | {metric.meaning} |"
        for metric in Metric
    ]


def test_operators_read_every_metric_by_tenant() -> None:
    text = README.read_text()
    start = text.index("| metric by tenant | from | meaning |")
    assert text[start:].split("\n\n")[0].splitlines()[2:] == [
        f"| `{metric.value}` | {' and '.join(metric.programs)} | {metric.meaning} |" for metric in TenantMetric
    ]


def test_every_metric_is_somebodys() -> None:
    assert {metric for program in Program for metric in metrics_of(program)} == set(Metric)
    assert {metric for program in Program for metric in tenant_metrics_of(program)} == set(TenantMetric)


def test_names_are_short_enough_for_cloudwatch_and_told_apart() -> None:
    metrics = [*Metric, *TenantMetric]
    assert len({metric.value for metric in metrics}) == len(metrics)
    assert all(metric.value.isalnum() and len(metric.value) <= 255 for metric in metrics)
