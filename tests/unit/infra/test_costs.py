"""The sums in `infra/README.md` add up, and are those of this template, these metrics and these prices."""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import pytest

from penstock.cost import Prices
from penstock.infra.cloudformation import read_template
from penstock.infra.provision import TEMPLATE
from penstock.metrics.names import Metric
from tests.unit.infra.template_rules import ALARM, resources

TEXT = TEMPLATE.with_name("README.md").read_text()
COSTS = TEXT[TEXT.index("## What it costs") :].split("\n## ")[0]
# A table's rows and its total: the last row, without words.
TABLES = [
    [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines()[2:]]
    for table in re.findall(r"(?:^\|.*\n)+", COSTS, re.MULTILINE)
]
TIMES = "\N{MULTIPLICATION SIGN}"
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], float]] = {
    ast.Add: operator.add,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def work_out(sum_: str) -> float:
    """A sum as people write it; words in it are its units."""
    plain = re.sub(r"[A-Za-z-]+|,|(?<=\d) s\b", "", sum_).replace(TIMES, "*").replace("÷", "/")
    return _value(ast.parse(plain.strip(), mode="eval").body)


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.BinOp():
            return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise AssertionError(ast.dump(node))


@pytest.mark.parametrize(("what", "sum_", "usd"), [row for rows in TABLES for row in rows if row[1]])
def test_a_sum_comes_to_what_is_said(what: str, sum_: str, usd: str) -> None:
    digits = len(usd.partition(".")[2])

    assert round(work_out(sum_), digits) == float(usd), what


@pytest.mark.parametrize("rows", TABLES)
def test_a_total_is_that_of_its_rows(rows: list[tuple[str, ...]]) -> None:
    total = float(rows[-1][2].strip("*"))

    assert sum(float(row[2]) for row in rows[:-1]) == pytest.approx(total, abs=0.005)


def test_what_is_counted_is_what_there_is() -> None:
    alarms = resources(read_template(TEMPLATE), ALARM).values()
    watched = sum(sum("MetricStat" in one for one in alarm.get("Metrics", ())) or 1 for alarm in alarms)
    metrics = sum(len(metric.programs) for metric in Metric)

    assert f"alarms, by metric: {watched}," in COSTS
    assert f"| our {metrics} metrics," in COSTS
    assert f"{TIMES} {Prices().sqs:.2f} ÷ 1,000,000" in COSTS
