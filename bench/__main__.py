"""`python -m bench` or `make bench`: measure Penstock and the floor that it is compared with; see bench/README.md."""

import argparse
import asyncio
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import BaseModel
from rich.console import Console

from bench.bodies import FOLDER
from bench.cases import QUICK, Plan, Round, rounds
from bench.figures import Figures
from bench.installation import open_installation
from bench.kinds import run_kinds
from bench.measure import Sample, measure
from bench.plot import draw
from bench.report import tables
from bench.servers import available_servers, start_servers
from penstock.cost import Prices


class Run(BaseModel):
    """The content of the JSON file of a run."""

    machine: dict[str, str]
    options: dict[str, Any]
    samples: list[Sample] = []


def main() -> None:
    options = _read_options()
    if options.kinds:
        run_kinds(options.output, options.repeat or Plan().repeat)
        return
    run = Run(machine=_machine(), options={key: str(value) for key, value in vars(options).items()})
    is_whole = True
    if options.report:
        run = Run.model_validate_json(options.report.read_bytes())
    else:
        is_whole = _run_all(options, run)
    _report(options, run)
    sys.exit(0 if is_whole else 1)


def _report(options: argparse.Namespace, run: Run) -> None:
    figures, prices = Figures(run.samples), Prices(options.sqs_price, options.write_price, options.read_price)
    Console(width=200 if not sys.stdout.isatty() else None).print(tables(figures, prices))
    samples = options.report or options.output / "run.json"
    plot = options.plot or samples.with_name("bench.png")
    draw(figures, prices, plot)
    _tell(f"Samples: {samples}; plot: {plot}")


def _run_all(options: argparse.Namespace, run: Run) -> bool:
    """Return False if a round failed. The other rounds are measured in any case."""
    failed = 0
    planned = [one for server in options.servers for one in rounds(_plan(options), server)]
    for number, one in enumerate(planned):
        _tell(f"{number + 1} of {len(planned)}: {one.name}, {one.server}")
        folder = options.output.resolve() / f"{number:02}"
        folder.mkdir(parents=True)
        try:
            asyncio.run(_measure(one, run, folder))
        except Exception as error:  # noqa: BLE001 - any error is reported, and the figures of the other rounds are kept
            _tell(f"  failed, see {folder}: {error!r}")
            failed += 1
        (options.output / "run.json").write_text(run.model_dump_json(indent=1))
    return failed == 0


def _plan(options: argparse.Namespace) -> Plan:
    asked = {name: getattr(options, name) for name in ("sizes", "consumers", "repeat")}
    return replace(QUICK if options.quick else Plan(), **{name: value for name, value in asked.items() if value})


async def _measure(one: Round, run: Run, folder: Path) -> None:
    with start_servers(one.server) as servers:
        async with (
            open_installation(
                servers, folder, one.consumers, latency_ms=one.latency_ms, with_bare=one.has_bare
            ) as installation,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http,
        ):
            for step in one.warm_up:
                await measure(installation, http, step)
            for step in one.steps:
                sample = await measure(installation, http, step)
                run.samples.append(sample)
                rate = step.case.size / sample.seconds
                _tell(f"  {step.case.size:,} {step.case.handler}, {step.contender}: {rate:,.0f} operations/s")


def _machine() -> dict[str, str]:
    return {
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": str(os.cpu_count()),
        "load": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _read_options() -> argparse.Namespace:
    prices, plan = Prices(), Plan()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every case small; takes about three minutes")
    parser.add_argument("--sizes", type=_numbers, metavar="N,N", help=f"the sizes of batches (default: {plan.sizes})")
    parser.add_argument("--consumers", type=int, help=f"the number of consumers (default: {plan.consumers})")
    parser.add_argument("--repeat", type=int, help=f"the repeats of a batch (default: {plan.repeat})")
    parser.add_argument("--servers", type=_servers, default=available_servers()[:1], metavar="embedded,real")
    parser.add_argument("--kinds", action="store_true", help="compare the kinds of handlers; see bench/kinds.md")
    parser.add_argument("--sqs-price", type=float, default=prices.sqs, metavar="USD", help="for a million requests")
    parser.add_argument("--write-price", type=float, default=prices.writes, metavar="USD", help="for a million units")
    parser.add_argument("--read-price", type=float, default=prices.reads, metavar="USD", help="for a million units")
    parser.add_argument("--output", type=Path, default=FOLDER / time.strftime("%Y%m%d-%H%M%S"), metavar="FOLDER")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="the file for the picture (default: bench.png in the output folder)"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="do not measure; show the tables and the plot of a run.json"
    )
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return sorted(int(number.replace("_", "")) for number in text.split(","))


def _servers(text: str) -> list[str]:
    known = dict(zip(("embedded", "real"), available_servers(), strict=False))
    return [known[word] for word in text.split(",")]


if __name__ == "__main__":
    main()
