"""Simulate how consumers scale with a burst of operations, by the scaling rules in infra/template.yaml.

    python -m penstock.infra.scaling --handler-ms 20 100 --parameter MaxConsumers=50 --plot .run/scaling.png

The properties of AWS that matter, such as the delay of its metrics, are constants in `rules.py` and `fleet.py`.
"""

import argparse
import math
import sys
from pathlib import Path

from rich.console import Console

from penstock.errors import PenstockError
from penstock.infra.scaling.fleet import Arrival, Fleet, Work
from penstock.infra.scaling.report import Case, Prices, burst_table, costs, draw, load_table, minute_table
from penstock.infra.scaling.rules import MINUTE_SECONDS, Rules, read_rules
from penstock.settings import read_settings

FASTEST = 11_700  # operations/s of one consumer with an empty handler: half of what the bench measures for two
BURST_AT_SECONDS = 300
LOAD_EVERY_SECONDS = 10
LOAD_SECONDS = 6 * 3600
LONGEST_SECONDS = 24 * 3600


def main() -> None:
    """Run the simulation as a program and print its tables."""
    arguments = _parser().parse_args()
    console = Console(width=170)
    try:
        settings, rules = read_settings(), read_rules(dict(arguments.parameter))
    except PenstockError as error:
        sys.exit(f"penstock.infra.scaling: {error}")
    prices = Prices(arguments.cpu_price, arguments.gib_price)
    works = [Work(one / 1000, arguments.fastest, settings) for one in arguments.handler_ms]
    bursts = [play(rules, work, [Arrival(BURST_AT_SECONDS, arguments.operations)]) for work in works]
    slow = [Work(one / 1000, arguments.fastest, settings) for one in arguments.load_handler_ms]
    loads = [play(rules, work, steady_load(rules, work, arguments.load)) for work in slow]
    console.print(
        f"{rules.min_tasks} to {rules.max_tasks} tasks; the target is {rules.target:g} waiting chunks for each task. "
        f"Burst: {arguments.operations:,} operations in minute {BURST_AT_SECONDS // MINUTE_SECONDS}. "
        f"Steady load: keeps {arguments.load:g} tasks busy for {LOAD_SECONDS // 3600} hours.\n"
        "If there are two figures, the first is for AWS scaling in all tasks at once, the second one task at a time.\n"
    )
    console.print(burst_table(bursts, rules, prices, BURST_AT_SECONDS))
    console.print(load_table(loads, rules))
    console.print(minute_table(bursts[min(2, len(bursts) - 1)]))
    for name, usd in costs(rules, prices).items():
        console.print(f"Consumers, {name}: {usd:,.0f} USD a month")
    if arguments.plot:
        draw(bursts, arguments.plot)


def play(rules: Rules, work: Work, trace: list[Arrival]) -> Case:
    """Simulate a fleet under a trace, once scaled in all at once and once one task at a time."""
    at_once, one_by_one = (Fleet(rules, work, at_once=once).run(trace, LONGEST_SECONDS) for once in (True, False))
    return Case(work, at_once, one_by_one)


def steady_load(rules: Rules, work: Work, tasks: float, seconds: int = LOAD_SECONDS) -> list[Arrival]:
    """Return batches that keep this number of tasks busy.

    With a fraction, such as 1.5, the fleet grows and shrinks while its tasks have work.
    """
    operations = math.ceil(tasks * rules.processes * work.per_second * LOAD_EVERY_SECONDS)
    return [Arrival(at, operations) for at in range(0, seconds, LOAD_EVERY_SECONDS)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m penstock.infra.scaling", description="How consumers scale with a burst."
    )
    parser.add_argument("--operations", type=int, default=1_000_000, help="the number of operations in the burst")
    parser.add_argument("--load", type=float, default=1.5, help="the number of tasks that the steady load keeps busy")
    parser.add_argument(
        "--handler-ms", type=float, nargs="+", default=[0, 5, 20, 100], help="the handler times of the burst, in ms"
    )
    parser.add_argument("--fastest", type=float, default=FASTEST, help="the maximum operations/s of one consumer")
    parser.add_argument(
        "--load-handler-ms",
        type=float,
        nargs="+",
        default=[20, 1_000, 60_000],
        help="the handler times of the steady load, in ms",
    )
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        type=_parameter,
        metavar="NAME=VALUE",
        help="a parameter of the template",
    )
    parser.add_argument("--cpu-price", type=float, default=0.04048, help="the price of a vCPU hour in USD")
    parser.add_argument("--gib-price", type=float, default=0.004445, help="the price of a GiB hour in USD")
    parser.add_argument("--plot", type=Path, help="the file for the picture")
    return parser


def _parameter(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark:
        raise argparse.ArgumentTypeError(f"{text!r} is invalid; write NAME=VALUE, such as MaxConsumers=50")
    return name, value


if __name__ == "__main__":
    main()
