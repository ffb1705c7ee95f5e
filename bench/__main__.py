"""`python -m bench` or `make bench`: measure Penstock and the floors that it is compared with; see bench/README.md."""

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from bench.billing import Prices
from bench.bodies import FOLDER, operations_file
from bench.figures import Figures
from bench.installation import open_installation, open_watcher
from bench.kinds import run_kinds
from bench.measure import Bench, Case, Sample
from bench.plot import draw
from bench.reads import Reads, measure_reads
from bench.report import tables
from bench.servers import available_servers, start_servers

WARM_UP = 1_000
REPEATED_UP_TO = 100_000  # larger batches run once, since they average by themselves
QUICK = {"sizes": [1_000, 10_000], "consumers": [2], "repeat": 2}


class Run(BaseModel):
    """The content of the JSON file of a run."""

    machine: dict[str, str]
    options: dict[str, Any]
    samples: list[Sample] = []
    reads: list[Reads] = []


@dataclass(frozen=True, slots=True)
class Round:
    """The measurements that share one installation."""

    server: str
    consumers: int
    size: int
    handlers: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.server}, {self.size:,} operations, consumers: {self.consumers}, {', '.join(self.handlers)}"


def main() -> None:
    options = _read_options()
    if options.kinds:
        run_kinds(options.output, options.repeat)
        return
    prices = Prices(options.sqs_price, options.write_price, options.read_price)
    run = Run(machine=_machine(), options={key: str(value) for key, value in vars(options).items()})
    is_whole = True
    if options.report:
        run = Run.model_validate_json(options.report.read_bytes())
    else:
        is_whole = _run_all(options, run)
    figures = Figures(run.samples)
    Console(width=200 if not sys.stdout.isatty() else None).print(tables(figures, run.reads, prices))
    plot = options.plot or (options.report or options.output / "run.json").with_name("bench.png")
    draw(figures, prices, plot)
    _tell(f"Samples: {options.report or options.output / 'run.json'}; plot: {plot}")
    sys.exit(0 if is_whole else 1)


def _run_all(options: argparse.Namespace, run: Run) -> bool:
    """Return False if a round failed. The other rounds are measured in any case."""
    failed = 0
    for number, one in enumerate(_rounds(options)):
        _tell(one.name)
        folder = options.output.resolve() / f"{number:02}"
        folder.mkdir(parents=True)
        try:
            asyncio.run(_measure(one, options.repeat, run, folder))
        except Exception as error:  # noqa: BLE001 - any error is reported, and the figures of the other rounds are kept
            _tell(f"  failed, see {folder}: {error!r}")
            failed += 1
        (options.output / "run.json").write_text(run.model_dump_json(indent=1))
    return failed == 0


def _rounds(options: argparse.Namespace) -> Iterator[Round]:
    """Measure operations of 1 KB on one server only: requests and units are nearly the same on every server."""
    for server in options.servers:
        for size in options.sizes:
            for consumers in options.consumers:
                yield Round(server, consumers, size, tuple(options.handlers))
    priced = [size for size in options.sizes if size <= REPEATED_UP_TO]
    if priced:
        yield Round(options.servers[0], max(options.consumers), max(priced), ("order",))


async def _measure(one: Round, repeat: int, run: Run, folder: Path) -> None:
    for handler in one.handlers:
        operations_file(handler, one.size)  # create the file before anything is measured
    with start_servers(one.server) as servers:
        async with (
            open_installation(servers, one.consumers, folder) as installation,
            open_watcher(installation) as watcher,
        ):
            bench = Bench(installation, watcher)
            await _warm_up(bench, one)
            await _repeat(bench, one, repeat, run)
            if one.size > WARM_UP:
                run.reads.append(await measure_reads(watcher, one.server, bench.batch_ids))


async def _warm_up(bench: Bench, one: Round) -> None:
    """Warm up the programs, and let Penstock measure the handler times, which determine the size of its chunks."""
    for handler in {"noop", *one.handlers}:
        case = Case(server=one.server, size=WARM_UP, handler=handler, consumers=one.consumers)
        for contender in case.contenders():
            await bench.measure(case, contender)


async def _repeat(bench: Bench, one: Round, repeat: int, run: Run) -> None:
    """Measure all contenders in turn, so that other load on the machine affects all of them."""
    for _ in range(repeat if one.size <= REPEATED_UP_TO else 1):
        for handler in one.handlers:
            case = Case(server=one.server, size=one.size, handler=handler, consumers=one.consumers)
            for contender in case.contenders():
                sample = await bench.measure(case, contender)
                run.samples.append(sample)
                _tell(f"  {handler}, {contender}: {one.size / sample.seconds:,.0f} operations/s")


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
    prices = Prices()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--sizes", type=_numbers, default=[1_000, 10_000, 100_000, 1_000_000], metavar="N,N")
    parser.add_argument("--handlers", type=_words, default=["noop", "wait"], metavar="noop,wait")
    parser.add_argument(
        "--consumers", type=_numbers, default=[1, 2], metavar="N,N", help="the numbers of consumer processes"
    )
    parser.add_argument("--servers", type=_servers, default=available_servers(), metavar="embedded,real")
    parser.add_argument(
        "--repeat", type=int, default=3, help=f"the repeats of batches up to {REPEATED_UP_TO:,}; larger ones run once"
    )
    parser.add_argument("--quick", action="store_true", help="only up to 10,000 operations; takes about three minutes")
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
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


def _numbers(text: str) -> list[int]:
    return sorted(int(number.replace("_", "")) for number in text.split(","))


def _words(text: str) -> list[str]:
    return text.split(",")


def _servers(text: str) -> list[str]:
    known = dict(zip(("embedded", "real"), available_servers(), strict=False))
    return [known[word] for word in text.split(",")]


if __name__ == "__main__":
    main()
