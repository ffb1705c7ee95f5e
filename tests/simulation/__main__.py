"""Run many seeds (`python -m tests.simulation --seeds 0-499`), replay one (`--replay 377`), or check `--teeth`."""

import argparse
import sys
import time
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tests.simulation.mixes import LARGE_MIXES, MIXES, Mix, mix_named
from tests.simulation.scenario import Report, run_seed
from tests.simulation.teeth import check_teeth
from tests.simulation.world import PromiseBroken

SHOWN_WORDS = 3  # broken promises shown for each failed seed; a replay shows all


@dataclass
class Tally:
    """The totals of the runs of one mix."""

    runs: int = 0
    failed: int = 0
    handlers: int = 0
    virtual_seconds: float = 0.0
    excused: Counter[str] = field(default_factory=Counter)

    def add(self, report: Report) -> None:
        self.runs += 1
        self.handlers += report.handlers
        self.virtual_seconds += report.virtual_seconds
        self.excused += report.excused

    def __str__(self) -> str:
        hours = self.virtual_seconds / 3600
        words = (
            f"{self.runs:>5} runs, {self.failed} failed, {hours:>6.1f} h of virtual time, {self.handlers:>7} handlers"
        )
        return "; ".join([words, *(f"{count} {what}" for what, count in sorted(self.excused.items()))])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0-499", metavar="FIRST-LAST", help="the seeds to run (0-499)")
    parser.add_argument(
        "--mix",
        choices=[mix.name for mix in (*MIXES, *LARGE_MIXES)],
        help="use one fault mix; by default the seed chooses",
    )
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed and print what happens in it")
    parser.add_argument("--teeth", action="store_true", help="find a seed or a call for each fault in mutations.py")
    arguments = parser.parse_args()
    if arguments.teeth:
        sys.exit(_check_teeth())
    mix = None if arguments.mix is None else mix_named(arguments.mix)
    if arguments.replay is not None:
        sys.exit(_replay(arguments.replay, mix))
    sys.exit(_run(_parse_range(arguments.seeds), mix))


def _parse_range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def _replay(seed: int, mix: Mix | None) -> int:
    try:
        report = run_seed(seed, mix)
    except PromiseBroken as error:
        _say(str(error))
        return 1
    tally = Tally()
    tally.add(report)
    _say(report.trace, "", f"Every promise holds. {report.mix}: {tally}")
    return 0


def _run(seeds: range, mix: Mix | None) -> int:
    started_at = time.monotonic()
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for seed in seeds:
        used = mix or MIXES[seed % len(MIXES)]
        tally = tallies[used.name]
        try:
            tally.add(run_seed(seed, mix))
        except PromiseBroken as error:
            tally.failed += 1
            _say(f"Seed {seed} ({used.name}):", *error.broken[:SHOWN_WORDS], f"  again: {error.replay}", "")
        except Exception:  # noqa: BLE001 - a bug in the simulation: it is printed, and the other seeds run
            tally.failed += 1
            _say(f"Seed {seed} ({used.name}):", traceback.format_exc())
    for name, tally in tallies.items():
        _say(f"{name:<16} {tally}")
    failed = sum(tally.failed for tally in tallies.values())
    _say(f"{len(seeds) - failed:,} of {len(seeds):,} seeds hold every promise; {time.monotonic() - started_at:.0f} s.")
    return 1 if failed else 0


def _check_teeth() -> int:
    """Print what finds each fault. Return 1 if that differs from mutations.py, or if nothing finds a fault."""
    is_stored = True
    for name, found_by, is_as_stored in check_teeth():
        _say(f"{name:<40} {found_by}{'' if is_as_stored else '   <- differs from mutations.py'}")
        is_stored = is_stored and is_as_stored
    return 0 if is_stored else 1


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 - the output of this program


if __name__ == "__main__":
    main()
