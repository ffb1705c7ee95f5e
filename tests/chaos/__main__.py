"""`python -m tests.chaos`, or `make chaos`: kill and stop real processes under load, and print a table of the results.

It starts ElasticMQ, with its storage on disk, and DynamoDB Local. The exit code is 1 if a promise was broken. Each
broken promise is printed with the folder of the logs.
"""

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from penstock.infra.local.servers import Server, running_servers
from tests.chaos.scenarios import SCENARIOS, Report, Scenario, run_scenario
from tests.chaos.stage import Options, open_stage

LOGS = Path(".run") / "chaos"
COLUMNS = (
    "operations",
    "faults",
    "seconds",
    "ran again",
    "outcomes",
    "succeeded",
    "failed",
    "dead letters",
    "batches abandoned",
    "chunks dropped",
)


def main() -> int:
    arguments = _read_arguments()
    options = Options(
        operations=arguments.operations,
        faults=arguments.faults,
        consumers=arguments.consumers,
        lease_seconds=arguments.lease,
        seed=arguments.seed,
        units=arguments.seconds,
    )
    chosen = [scenario for scenario in SCENARIOS if arguments.only in scenario.name]
    logs = arguments.logs / time.strftime("%Y%m%d-%H%M%S")
    with running_servers(logs, storage=logs) as (queue_server, table_server):
        reports = asyncio.run(_run_all(chosen, options, (queue_server, table_server), logs))
    Console(width=170).print(table(reports))
    broken = [f"{report.scenario}: {what}; see {report.logs}" for report in reports for what in report.verdict.broken]
    sys.stderr.write("".join(f"broken: {line}\n" for line in broken))
    return 1 if broken else 0


async def _run_all(
    scenarios: Sequence[Scenario], options: Options, servers: tuple[Server, Server], logs: Path
) -> list[Report]:
    reports = []
    for number, (terms, together) in enumerate(itertools.groupby(scenarios, key=lambda scenario: scenario.terms)):
        async with open_stage(terms, options, servers, logs / str(number)) as stage:
            for scenario in together:
                sys.stderr.write(f"{scenario.name} ...\n")
                report = await run_scenario(scenario, options, stage)
                word = "; ".join(report.verdict.broken) or "kept"
                again = report.verdict.ran_again
                sys.stderr.write(f"  {report.seconds:.0f} s, {report.kills} faults, {again} again: {word}\n")
                reports.append(report)
    return reports


def table(reports: Sequence[Report]) -> Table:
    made = Table("scenario", title="Chaos")
    for column in COLUMNS:
        made.add_column(column, justify="right")
    made.add_column("verdict")
    for report in reports:
        verdict = report.verdict
        numbers = (
            report.operations,
            report.kills,
            round(report.seconds),
            verdict.ran_again,
            verdict.outcomes,
            verdict.succeeded,
            verdict.failed,
            verdict.dead_letters,
            verdict.abandoned,
            verdict.dropped,
        )
        made.add_row(report.scenario, *(f"{number:,}" for number in numbers), "BROKEN" if verdict.broken else "kept")
    return made


def _read_arguments() -> argparse.Namespace:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--operations", type=int, default=defaults.operations, help="the operations of each scenario")
    parser.add_argument(
        "--faults", type=int, default=defaults.faults, help="the faults of a scenario; some use a quarter"
    )
    parser.add_argument("--consumers", type=int, default=defaults.consumers)
    parser.add_argument("--lease", type=int, default=defaults.lease_seconds, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--seconds", type=float, default=defaults.units, help="the time limit of a scenario")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="run only scenarios with these words in their names"
    )
    parser.add_argument("--logs", type=Path, default=LOGS, metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
