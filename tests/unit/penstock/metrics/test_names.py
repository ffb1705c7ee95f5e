"""The list of metrics, and that operators read the same."""

from pathlib import Path

from penstock.metrics.names import Metric, Program, metrics_of

README = Path(__file__).parents[4] / "infra" / "README.md"


def test_operators_read_every_metric_with_its_unit_its_programs_and_its_meaning() -> None:
    text = README.read_text()
    start = text.index("| metric | unit | from | meaning |")
    table = text[start:].split("\n\n")[0].splitlines()[2:]
    assert table == [
        f"| `{metric.value}` | {metric.unit.value} | {' and '.join(metric.programs)} | {metric.meaning} |"
        for metric in Metric
    ]


def test_every_metric_is_somebodys() -> None:
    assert {metric for program in Program for metric in metrics_of(program)} == set(Metric)


def test_names_are_short_enough_for_cloudwatch_and_told_apart() -> None:
    assert len({metric.value for metric in Metric}) == len(Metric)
    assert all(metric.value.isalnum() and len(metric.value) <= 255 for metric in Metric)
